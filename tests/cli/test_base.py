"""Commands as processes: one at a time in a folder, asked to end, killed, on disks that fail."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.cases.cli import call
from tests.cases.training import CUTOFF, make_frames, write_frames

MAIN = "from openmm_cgkd.cli import main; main()"
# sends a signal when a module is imported for the first time
AT_IMPORT = """
import os, signal, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Watch())
"""


def start(*arguments, first="", **options) -> subprocess.Popen:
    """A command of its own; a shell in the background would have it ignore Ctrl-C."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if size := options.get("limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.Popen(
        [sys.executable, "-c", first + MAIN, *map(str, arguments)],
        stdout=options.get("stdout", subprocess.PIPE),
        stderr=options.get("stderr", subprocess.PIPE),
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error, which never holds a traceback."""
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors
    return process.returncode, errors


def wait_until(true) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def litter(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".lock", ".tmp")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Folder with frames and a run.yaml: the student on mapped forces, in the process itself."""
    folder = tmp_path_factory.mktemp("inputs")
    write_frames(folder / "frames.h5", make_frames(20, 12, noise=1.0)[0])
    run = {
        "system": "system.yaml",
        "folder": "run",
        "frames": "frames.h5",
        "split": {"gap": "0 ps"},
        "model": {"channels": 8, "layers": 1, "cutoff": f"{CUTOFF} nm", "radial_functions": 8},
        "student": {
            "targets": "noisy",
            "weights": {"energy": 0, "bead_energy": 0},
            "training": {"epochs": 40, "batch_size": 4, "patience": 99},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


@pytest.fixture(scope="module")
def whole(inputs) -> bytes:
    """Metrics of a training that nothing has disturbed; that nobody reads what it says does not."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("distill", inputs / "run.yaml", "--folder", inputs / "whole", stderr=writer)
    os.close(writer)
    assert process.wait(300) == 0
    assert not litter(inputs / "whole")
    return (inputs / "whole" / "student" / "metrics.csv").read_bytes()


@pytest.fixture
def run(inputs, tmp_path) -> Path:
    """A run.yaml of one's own."""
    shutil.copytree(inputs, tmp_path / "work", ignore=shutil.ignore_patterns("whole"))
    return tmp_path / "work" / "run.yaml"


def at_epoch(run: Path, process: subprocess.Popen) -> None:
    """Wait until a training has written its state once more."""
    state = run.parent / "run" / "student" / "last.ckpt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    wait_until(lambda: state.exists() and state.stat().st_mtime_ns > before)
    assert process.poll() is None


def assert_finishes(run: Path, whole: bytes, begins: str) -> None:
    code, errors = finish(start("distill", run))
    assert code == 0, errors
    assert begins in errors
    assert (run.parent / "run" / "student" / "metrics.csv").read_bytes() == whole
    assert not litter(run.parent / "run")


# --- one at a time --------------------------------------------------------------------------------


def test_second_command_is_refused_and_the_first_is_right(run, whole):
    folder = run.parent / "run"
    first = start("distill", run)
    at_epoch(run, first)
    first.send_signal(signal.SIGSTOP)  # slow, so that it is at work all the time
    other = run.with_name("other.yaml")
    other.write_text(yaml.safe_dump(yaml.safe_load(run.read_text()) | {"seed": 99}))
    for command in ("teach", "distill", "run"):
        result = call(command, other)
        assert result.exit_code == 2
        (sentence,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
        for word in (str(folder), f"process {first.pid}", "distill", f"kill {first.pid}"):
            assert word in sentence
    first.send_signal(signal.SIGCONT)
    code, errors = finish(first)
    assert code == 0, errors
    assert (folder / "student" / "metrics.csv").read_bytes() == whole
    assert yaml.safe_load((folder / "run.yaml").read_text())["seed"] != 99
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["distill.log"]
    assert not litter(folder)


# --- killed, asked to end ------------------------------------------------------------------------


def test_killed_and_asked_to_end_again_and_again(run, whole):
    folder = run.parent / "run"
    process = start("distill", run)
    at_epoch(run, process)
    process.kill()
    process.wait()
    assert json.loads((folder / "cgkd.lock").read_text())["process"] == process.pid
    begins = "left behind by"
    for number, times, words in (
        (signal.SIGTERM, 1, "ended by SIGTERM"),
        (signal.SIGHUP, 1, "ended by SIGHUP"),
        (signal.SIGINT, 2, "interrupted"),
    ):
        process = start("distill", run)
        at_epoch(run, process)
        for _ in range(times):
            os.killpg(process.pid, number)
            time.sleep(0.01)  # a signal that waits hides another of its kind
        code, errors = finish(process)
        # the second Ctrl-C may meet the interpreter at its very end, which then ends by the signal
        assert code in (128 + number, -number if times > 1 else 128 + number), errors
        assert begins in errors
        begins = "resuming after epoch"
        assert f"error: {words}" in errors
        assert "run the same command to resume" in errors
        assert number.name in (folder / "logs" / "distill.log").read_text()
        assert not litter(folder)
    assert_finishes(run, whole, begins)


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_interrupt_while_importing(run, module):
    code, errors = finish(start("distill", run, first=AT_IMPORT.format(module=module)))
    assert code == 130
    assert "interrupted" in errors
    assert not litter(run.parent)


def test_interrupt_at_the_end(run):
    late = (
        "import atexit, os, signal, time\n"
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9)))\n"
    )
    code, _ = finish(start("verify", run.with_name("frames.h5"), first=late))
    assert code == -signal.SIGINT


def test_nohup_keeps_a_command_alive(run):
    ignore = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    hang_up = AT_IMPORT.format(module="h5py").replace("SIGINT", "SIGHUP")
    code, _ = finish(start("verify", run.with_name("frames.h5"), first=ignore + hang_up))
    assert code == 0


def test_nobody_reads_the_results(run):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("verify", run.with_name("frames.h5"), stdout=writer)
    os.close(writer)
    assert finish(process) == (128 + signal.SIGPIPE, "")


# --- disks ----------------------------------------------------------------------------------------


def test_disk_that_takes_no_more(run, whole):
    folder = run.parent / "run"
    code, errors = finish(start("distill", run, limit=20_000))
    assert code == 2, errors
    sentence = errors.splitlines()[-1]
    assert sentence.startswith(f"error: {folder / 'student'}")
    assert "File too large; raise the limit" in sentence
    assert "run the same command again" in sentence
    assert not litter(folder)
    assert_finishes(run, whole, "student: epoch 1,")


def test_folder_that_is_removed(run):
    folder = run.parent / "run"
    process = start("distill", run)
    at_epoch(run, process)
    folder.rename(folder.with_name("moved"))
    code, errors = finish(process)
    assert code == 2
    assert f"error: {folder}: No such file or directory; put it back if it was moved" in errors
    assert not folder.exists()
    assert not list(folder.with_name("moved").rglob("*.tmp"))


def test_folder_that_cannot_be_made(run):
    """Root may write anywhere, but for the files that are no files."""
    result = call("distill", run, "--folder", "/sys/cgkd")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: /sys/cgkd: ")
    assert "name another folder" in result.stderr or "name a folder on a disk" in result.stderr
