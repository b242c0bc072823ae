"""One run at a time in a folder, across processes and machines.

A run holds a lock of the operating system on a small file in the folder. The system gives it up
when the process ends, however it ends, so a file that is left behind stops nobody. What the file
says is for the message to the one who comes second, and for file systems that have no locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from openmm_cgkd.exceptions import FolderInUseError

from .disk import disk_errors

logger = logging.getLogger(__name__)

LOCK = "cgkd.lock"
# seconds to wait for a process of a run that was killed; one on another machine hears of it late
ORPHAN = 120.0
# the last: NFS locks no file that is open for reading alone
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_LONGEST_COMMAND = 200  # characters
_POLL = 0.2  # seconds between tries of one who waits

# what the threads of this process hold; a forked process holds nothing
_held: dict[tuple[int, int, Path], _Lock] = {}


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as its file says.

    Attributes
    ----------
    user, host : str
    process : int
        Its number on the host.
    since : str
        Date and time of the host.
    command : str
    """

    user: str
    host: str
    process: int
    since: str
    command: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may know no name for the number
            user = str(os.getuid())
        command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
        return cls(
            user,
            socket.gethostname(),
            os.getpid(),
            time.strftime("%Y-%m-%d %H:%M:%S"),
            command[:_LONGEST_COMMAND],
        )

    @classmethod
    def read(cls, descriptor: int) -> Owner | None:
        """The owner in a lock file; None if the file says nothing, as when it was just made."""
        try:
            found = json.loads(os.pread(descriptor, 4096, 0))
            return cls(
                str(found["user"]),
                str(found["host"]),
                int(found["process"]),
                str(found["since"]),
                str(found["command"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended, which can be seen on its own host alone."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):  # of another user; no process number
            return False
        return False

    def __str__(self) -> str:
        return (
            f"'{self.command}' of user {self.user} (process {self.process} on {self.host}, since"
            f" {self.since})"
        )


class _Lock:
    """A held lock; the constructor takes it or raises `FolderInUseError`."""

    def __init__(self, file: Path) -> None:
        self.file, self.depth = file, 1
        self._made = _make_folders(file.parent)
        try:
            self._descriptor = self._take()
        except BaseException:
            self._remove_made()
            raise

    def _take(self) -> int:
        while True:
            descriptor, mine, writable = _open(self.file)
            try:
                owner = Owner.read(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise FolderInUseError(_in_use(self.file, owner)) from None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    if not mine and (owner is None or not owner.gone):
                        raise FolderInUseError(
                            f"{_in_use(self.file, owner)[:-1]}; the file system has no locks, so if"
                            f" that run has ended, remove {self.file}."
                        ) from None
                # the one who held it before may have removed the file in between
                if not _is_same(descriptor, self.file):
                    os.close(descriptor)
                    continue
                if not writable:  # left behind by another user
                    self.file.unlink()
                    os.close(descriptor)
                    continue
                if owner is not None:
                    logger.warning(
                        "%s: left behind by %s, which has ended; this run takes its place",
                        self.file,
                        owner,
                    )
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(Owner.here())).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def check(self) -> None:
        """Raise if the folder or the lock file is gone, so that another run may have begun."""
        if _is_same(self._descriptor, self.file):
            return
        if not self.file.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.file.parent))
        raise FolderInUseError(
            f"{self.file}: the lock of this run was removed or replaced while it ran, so another"
            " run may write into the folder, too; nothing more was written; let one of them end,"
            " then run the same command again."
        )

    def release(self) -> None:
        # removed before it is given up: afterwards it may be the file of another run
        with contextlib.suppress(OSError):
            if _is_same(self._descriptor, self.file):
                self.file.unlink()
        os.close(self._descriptor)
        self._remove_made()

    def _remove_made(self) -> None:
        """Remove the folders that were made for the lock if nothing was written into them."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; those that were not there before, innermost first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _open(file: Path) -> tuple[int, bool, bool]:
    """Open a lock file: descriptor, whether it was made here, and whether it can be written."""
    flags = os.O_RDWR | os.O_CLOEXEC
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666), True, True
        try:
            return os.open(file, flags), False, True
        except FileNotFoundError:
            continue  # given up in between
        except PermissionError:
            with contextlib.suppress(FileNotFoundError):
                return os.open(file, os.O_RDONLY | os.O_CLOEXEC), False, False


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _in_use(file: Path, owner: Owner | None) -> str:
    what = file.parent if file.name == LOCK else file.with_suffix("")
    who = "a run that has just begun" if owner is None else str(owner)
    end = "" if owner is None else f", end it (kill {owner.process} on {owner.host})"
    return f"{what}: in use by {who}; wait for it{end}, or name another folder."


@contextmanager
def locked(folder: Path | str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    A thread that holds it already may take it again. Errors of the disk within the block become a
    `DiskError`.

    Parameters
    ----------
    folder : path
    wait : float, seconds
        How long to wait for one who is about to end, such as a process whose parent was killed.

    Raises
    ------
    FolderInUseError
        If another process or thread holds it, with who that is and what to do.
    DiskError
        If the folder cannot be made or written, or a file within the block.
    """
    with _holding(Path(folder) / LOCK, wait):
        yield


@contextmanager
def locked_file(path: Path | str) -> Iterator[None]:
    """Hold the lock of one file that is to be written, as `locked` does of a folder."""
    path = Path(path)
    with _holding(path.with_name(f"{path.name}.lock"), 0.0):
        yield


@contextmanager
def _holding(file: Path, wait: float) -> Iterator[None]:
    with disk_errors(file.parent):
        key = os.getpid(), threading.get_ident(), file.parent.resolve() / file.name
        if key in _held:
            _held[key].depth += 1
        else:
            _held[key] = _take(key[2], wait)
        try:
            yield
        finally:
            lock = _held[key]
            lock.depth -= 1
            if lock.depth == 0:
                del _held[key]
                lock.release()


def _take(file: Path, wait: float) -> _Lock:
    end = time.monotonic() + wait
    while True:
        try:
            return _Lock(file)
        except FolderInUseError:
            if time.monotonic() > end:
                raise
        time.sleep(_POLL)


def check_locks(path: Path) -> None:
    """Check the locks that this process holds on the folders of a file that is to be written.

    Raises
    ------
    FileNotFoundError
        If such a folder is gone.
    FolderInUseError
        If its lock is.
    """
    folders = path.resolve().parents
    for (process, _, file), lock in list(_held.items()):
        if process == os.getpid() and file.parent in folders:
            lock.check()
