"""Signals as one exception, in processes of their own."""

import signal
import subprocess
import sys

import pytest

_SETUP = """
import os, signal, sys, time
from openmm_cgkd.utils.signals import (
    StopRequest, end_silently, handle_stop_requests, held_back,
)

signal.signal(signal.SIGINT, signal.default_int_handler)
handle_stop_requests()

def send(name):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0.01)
"""


def run(script: str) -> tuple[int, str, str]:
    # the tests may themselves run under nohup, which children inherit
    command = ["env", "--default-signal=HUP", sys.executable, "-c", _SETUP + script]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_is_an_interrupt_that_knows_its_number(name):
    script = f"""
try:
    send({name!r})
except KeyboardInterrupt as stop:
    print(type(stop).__name__, stop.number, stop)
"""
    number = int(getattr(signal, name))
    assert run(script) == (0, f"StopRequest {number} {name}\n", "")


def test_more_signals_while_saving():
    """Only a third Ctrl-C ends what the first has begun."""
    script = """
try:
    send("SIGTERM")
except StopRequest:
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        send(name)
    print("saved", flush=True)
    send("SIGINT")
print("never")
"""
    code, output, errors = run(script)
    assert code == 128 + signal.SIGINT
    assert output == "saved\n"
    assert errors == "saving and ending; a third Ctrl-C ends at once\n"


def test_signal_in_a_destructor_comes_again():
    """Python drops exceptions there."""
    script = """
class Resource:
    def __del__(self):
        send("SIGTERM")

try:
    Resource()
    time.sleep(60)
except StopRequest as stop:
    print(stop)
"""
    assert run(script) == (0, "SIGTERM\n", "")


def test_disk_error_in_a_destructor_is_no_traceback():
    script = """
class Resource:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error

Resource(OSError(28, "No space left on device"))
Resource(ValueError("a mistake"))
"""
    code, _, errors = run(script)
    assert code == 0
    assert "No space" not in errors
    assert "a mistake" in errors


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_waits_for_the_end_of_a_piece_of_work(name):
    script = f"""
try:
    with held_back() as asked:
        assert not asked()
        send({name!r})
        assert asked()
        send("SIGHUP")  # sessions end with two signals
        print("saved")
except StopRequest as stop:
    print(stop)
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM)
"""
    assert run(script) == (0, f"saved\n{name}\n", "")


@pytest.mark.parametrize(
    ("name", "code", "end"),
    [("SIGTERM", -signal.SIGTERM, ""), ("SIGINT", 0, "KeyboardInterrupt\n")],
)
def test_signal_of_a_script_that_handles_none(name, code, end):
    """What it does without us it does when the work is saved."""
    script = f"""
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
try:
    with held_back() as asked:
        send({name!r})
        print("saved", asked(), flush=True)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""
    assert run(script) == (code, f"saved True\n{end}", "")


def test_ignored_signals_and_other_threads():
    script = """
import threading
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with held_back() as asked:
    send("SIGHUP")
    print(asked())

def work():
    with held_back() as asked:
        print(asked())

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert run(script) == (0, "False\nFalse\n", "")


def test_third_interrupt_ends_work_that_does_not():
    script = """
with held_back():
    for _ in range(3):
        send("SIGINT")
print("never")
"""
    note = "saving and ending; a third Ctrl-C ends at once\n"
    assert run(script) == (128 + signal.SIGINT, "", note)


def test_end_is_silent():
    assert run("end_silently()\nsend('SIGINT')\n") == (-signal.SIGINT, "", "")


def test_signal_that_another_thread_takes_while_handlers_are_put_back():
    """It raises at once; all handlers are as before, and no signal stays blocked."""
    script = """
import threading
sent = []

def put(number, handler, original=signal.signal):
    original(number, handler)
    if handler in before.values() and not sent:
        sent.append(number)
        os.kill(os.getpid(), number)
        time.sleep(0.01)

numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
before = {number: signal.getsignal(number) for number in numbers}
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.signal = put
try:
    with held_back():
        pass
except StopRequest as stop:
    print("stopped", stop.number == sent[0])
print(before == {number: signal.getsignal(number) for number in numbers})
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    assert run(script) == (0, "stopped True\nTrue\nset()\n", "")
