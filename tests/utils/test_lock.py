"""One run at a time in a folder: real processes, real kills."""

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmm_cgkd.exceptions import DiskError, FolderInUseError
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.lock import LOCK, locked, locked_file

_HOLD = """
import sys, time
from openmm_cgkd.utils.lock import locked
with locked(sys.argv[1], shared=sys.argv[2] == "True"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, shared: bool = False) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of a folder until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder), str(shared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_second_process_is_refused_and_told_by_whom(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as process:
        found = json.loads((folder / LOCK).read_text())
        assert found["process"] == process.pid
        assert found["host"] == socket.gethostname()
        with pytest.raises(FolderInUseError) as caught, locked(folder):
            raise AssertionError
        message = str(caught.value)
        for word in (str(folder), found["user"], found["host"], found["since"], str(process.pid)):
            assert word in message
        assert f"kill {process.pid}" in message
        assert [path.name for path in folder.iterdir()] == [LOCK]
        assert json.loads((folder / LOCK).read_text()) == found
        process.communicate()
    assert process.returncode == 0
    assert not folder.exists()  # made for the lock, and nothing was written
    with locked(folder):
        write_text(folder / "result", "whole")
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_lock_of_a_killed_process_is_taken_over(tmp_path, caplog):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert "left behind by" in caplog.text
    assert f"process {process.pid}" in caplog.text
    assert not list(tmp_path.iterdir())


def test_lock_that_says_nothing_of_its_owner(tmp_path):
    """Empty or damaged, as a full disk may leave it: the system's lock alone counts."""
    (tmp_path / LOCK).write_text("{")
    with locked(tmp_path):
        pass
    with holder(tmp_path):
        (tmp_path / LOCK).write_bytes(b"")
        with pytest.raises(FolderInUseError, match="a run that has just begun"), locked(tmp_path):
            pass


def test_readers_work_side_by_side_and_keep_writers_out(tmp_path, caplog):
    folder = tmp_path / "run"
    with holder(folder, shared=True) as first, holder(folder, shared=True) as second:
        with locked(folder, shared=True):
            numbers = [json.loads(line)["process"] for line in (folder / LOCK).open()]
        assert numbers == [first.pid, second.pid, os.getpid()]
        with pytest.raises(FolderInUseError) as caught, locked(folder):
            raise AssertionError
        for process in (first, second):
            assert f"process {process.pid} on" in str(caught.value)
        assert f"process {os.getpid()} on" not in str(caught.value)  # has ended
        first.kill()
        first.wait()
        with pytest.raises(FolderInUseError, match=f"kill {second.pid} on") as caught:
            in_thread(lambda: locked(folder))
        assert f"process {first.pid} on" not in str(caught.value)
        second.communicate()
    assert not list(folder.iterdir())  # the last one has removed the file
    assert "left behind" not in caplog.text


def test_lock_of_a_killed_reader(tmp_path, caplog):
    with holder(tmp_path, shared=True) as process:
        process.kill()
        process.wait()
    with locked(tmp_path, shared=True):
        assert f"process {process.pid}" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_writer_keeps_readers_out(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path, shared=True):  # who may write may read
            pass
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
            in_thread(lambda: locked(tmp_path, shared=True))
    assert not list(tmp_path.iterdir())


def test_a_reader_does_not_become_a_writer(tmp_path):
    """Two that wait for each other's end would wait for ever."""
    with (
        locked(tmp_path, shared=True),
        pytest.raises(FolderInUseError, match="reads here and must not write"),
        locked(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("process", [-1, 0, 2**40, float("inf"), "x", None, [[]]])
def test_lock_file_with_an_impossible_process(tmp_path, process):
    """A message that says 'kill -1' would be fatal advice."""
    owner = {"user": "u", "host": "h", "process": process, "since": "s", "command": "c"}
    with holder_of(tmp_path, json.dumps(owner)), pytest.raises(FolderInUseError) as caught:
        in_thread(lambda: locked(tmp_path))
    assert "kill" not in str(caught.value)


def test_text_of_another_user_is_printed_safely(tmp_path, caplog):
    evil = "\x1b[2J\x07" + 1000 * "a" + "\n\u202e"
    owner = {"user": evil, "host": evil, "process": 2**31 - 1, "since": evil, "command": evil}
    text = json.dumps(owner)
    with holder_of(tmp_path, text), pytest.raises(FolderInUseError) as caught:
        in_thread(lambda: locked(tmp_path))
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path):
        pass
    for message in (str(caught.value), caplog.records[-1].getMessage()):
        assert "\\x1b[2J" in message
        assert message.isprintable()
        assert len(message) < 700 + len(str(tmp_path))


@contextmanager
def holder_of(folder: Path, text: str) -> Iterator[None]:
    """A held lock whose file has another text."""
    with locked(folder):
        (folder / LOCK).write_text(text)
        yield


def test_same_thread_enters_again_and_another_is_refused(tmp_path):
    refused = []

    def enter() -> None:
        try:
            with locked(tmp_path):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    with locked(tmp_path):
        with locked(tmp_path / "." / "..", 0), locked(f"{tmp_path}/../{tmp_path.name}"):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert str(os.getpid()) in refused[0]


def test_forked_child_does_not_share_the_lock(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with locked(tmp_path):
                    pass
            except FolderInUseError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / LOCK).exists()


def test_waiting_for_one_who_is_about_to_end(tmp_path):
    with holder(tmp_path) as process:
        threading.Timer(0.5, process.kill).start()
        with locked(tmp_path, wait=60):
            pass


def test_many_at_once_never_overlap(tmp_path):
    """Between giving up a lock and its file, others come and go; every other time to read."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from openmm_cgkd.exceptions import FolderInUseError\n"
        "from openmm_cgkd.utils.lock import locked\n"
        "folder, inside, done = Path(sys.argv[1]), Path(sys.argv[1], 'inside'), 0\n"
        "while done < 200:\n"
        "    try:\n"
        "        with locked(folder, shared=bool(done % 2)):\n"
        "            if done % 2:\n"
        "                assert not inside.exists()\n"
        "            else:\n"
        "                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))\n"
        "                os.unlink(inside)\n"
        "            done += 1\n"
        "    except FolderInUseError:\n"
        "        pass\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert not list(tmp_path.iterdir())


def test_lock_removed_by_hand_ends_the_run_before_it_writes(tmp_path):
    def lose_the_lock() -> None:
        with locked(tmp_path):
            (tmp_path / LOCK).unlink()
            with holder(tmp_path):
                write_text(tmp_path / "sub" / "result", "of the first run")

    with pytest.raises(FolderInUseError, match="removed or replaced"):
        lose_the_lock()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]  # of the one that was killed


def test_removed_folder_is_not_made_anew(tmp_path):
    folder = tmp_path / "run"

    def lose_the_folder() -> None:
        with locked(folder):
            shutil.rmtree(folder)
            write_text(folder / "sub" / "result", "lost")

    with pytest.raises(DiskError, match=r"run: No such file or directory; put it back"):
        lose_the_folder()
    assert not folder.exists()


def test_file_system_without_locks(tmp_path, monkeypatch):
    """The file itself is the lock then; only on its own host can its owner be known to be gone."""

    def no_locks(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        text = (tmp_path / LOCK).read_text()
        with pytest.raises(FolderInUseError, match=f"no locks, .* remove {tmp_path}"):
            # another thread would come here; the same one would enter again
            in_thread(lambda: locked(tmp_path))
    with locked(tmp_path, shared=True), pytest.raises(FolderInUseError, match="no locks"):
        in_thread(lambda: locked(tmp_path))
    assert not list(tmp_path.iterdir())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = json.loads(text) | {"process": gone.pid}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(FolderInUseError, match="on elsewhere"), locked(tmp_path):
        pass


def in_thread(context) -> None:
    """Enter a context in another thread and raise here what it raises there."""
    found: list[BaseException] = []

    def enter() -> None:
        try:
            with context():
                pass
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if found:
        raise found[0]


def test_lock_of_another_user_that_cannot_be_written(tmp_path, monkeypatch):
    """Left behind by somebody else, in a folder that both may write; tests may run as root, whom
    no permission binds, so the refusal to open the file for writing is played.
    """
    (tmp_path / LOCK).write_text("{}")
    real = os.open

    def refuse(path, flags, *mode, **options):
        if flags & os.O_RDWR and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_lock_of_a_file(tmp_path):
    path = tmp_path / "frames.h5"
    with locked_file(path):
        assert [each.name for each in tmp_path.iterdir()] == ["frames.h5.lock"]
        with pytest.raises(FolderInUseError, match=rf"{path}: in use by"):
            in_thread(lambda: locked_file(path))
        in_thread(lambda: locked_file(tmp_path / "other.h5"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_file_is_refused(tmp_path, kind):
    """What a link leads to would be emptied."""
    other, folder = tmp_path / "thesis.txt", tmp_path / "run"
    other.write_text("years")
    folder.mkdir()
    if kind == "link":
        (folder / LOCK).symlink_to(other)
    else:
        os.mkfifo(folder / LOCK)
    with pytest.raises(FolderInUseError, match="is a link, or no file; remove it"), locked(folder):
        pass
    assert other.read_text() == "years"
