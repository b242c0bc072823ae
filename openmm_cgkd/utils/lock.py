"""One writer at a time in a folder, or any number of readers, across processes and machines.

A run holds a lock of the operating system on a small file in the folder: an exclusive one where it
writes, a shared one where it only reads what others must not change meanwhile. The system gives it
up when the process ends, however it ends, so a file that is left behind stops nobody. What the file
says, one line for each who holds it, is for the message to the one who is refused, and for file
systems that have no locks.

Nobody waits for a lock while another one could wait for theirs: who waits does so for a search of
the time step, for the last writer of run.yaml, or for an orphan, and these wait for nothing.
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
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from openmm_cgkd.exceptions import FolderInUseError

from .disk import disk_errors
from .text_file import shown

logger = logging.getLogger(__name__)

LOCK = "cgkd.lock"
# seconds to wait for a process of a run that was killed; one on another machine hears of it late
ORPHAN = 120.0
# the last: NFS locks no file that is open for reading alone
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_LONGEST_COMMAND, _LONGEST_NAME = 200, 64  # characters
_LARGEST = 2**16  # bytes of a lock file that are read
_POLL = 0.2  # seconds between tries of one who waits
# seconds that a reader tries: another reader who ends holds the lock alone for a moment
_READER_WAITS = 0.5

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
    def of_line(cls, line: bytes) -> Owner | None:
        """The owner in a line of a lock file; None if it says nothing, or what cannot be."""
        try:
            found = json.loads(line)
            process = int(found["process"])
            texts = [str(found[name]) for name in ("user", "host", "since", "command")]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        # 'kill' takes a number that is not positive for a whole group
        if not 0 < process < 2**31:
            return None
        user, host, since, command = texts
        return cls(user, host, process, since, command)

    @classmethod
    def read(cls, descriptor: int) -> list[Owner]:
        """The owners in a lock file; none if it says nothing, as when it was just made."""
        lines = os.pread(descriptor, _LARGEST, 0).splitlines()
        return [owner for line in lines if (owner := cls.of_line(line)) is not None]

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
        # anybody may have written the file: no control characters, nothing long
        user, host, since = (
            shown(text, _LONGEST_NAME)[1:-1] for text in (self.user, self.host, self.since)
        )
        command = shown(self.command, _LONGEST_COMMAND)
        return f"{command} of user {user} (process {self.process} on {host}, since {since})"


class _Lock:
    """A held lock; the constructor takes it or raises `FolderInUseError`."""

    def __init__(self, file: Path, shared: bool) -> None:
        self.file, self.shared, self.depth = file, shared, 1
        self._real = True  # whether the file system has locks
        self._line: tuple[int, int] | None = None  # where it begins and how long it is
        self._made = _make_folders(file.parent)
        try:
            self._descriptor = self._take()
        except BaseException:
            self._remove_made()
            raise

    def _take(self) -> int:
        how = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        while True:
            descriptor, mine, writable = _open(self.file)
            try:
                owners = Owner.read(descriptor)
                try:
                    fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise FolderInUseError(_in_use(self.file, owners)) from None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    self._real = False
                    if not mine and not (owners and all(owner.gone for owner in owners)):
                        raise FolderInUseError(
                            f"{_in_use(self.file, owners)[:-1]}; the file system has no locks, so"
                            f" if that run has ended, remove {self.file}."
                        ) from None
                # the one who held it before may have removed the file in between
                if not _is_same(descriptor, self.file):
                    os.close(descriptor)
                    continue
                alone = not (self.shared and self._real)
                if alone and not writable:  # left behind by another user
                    self.file.unlink()
                    os.close(descriptor)
                    continue
                if owners and (alone or all(owner.gone for owner in owners)):
                    logger.warning(
                        "%s: left behind by %s, which has ended; this run takes its place",
                        self.file,
                        owners[-1],
                    )
                if alone:
                    os.ftruncate(descriptor, 0)
                if writable:
                    self._sign(Owner.here())
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _sign(self, owner: Owner) -> None:
        """Append who holds the lock to its file; others may do so at the same time."""
        line = json.dumps(asdict(owner)).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.file, flags)
        try:
            length = os.write(descriptor, line)
            self._line = os.lseek(descriptor, 0, os.SEEK_CUR) - length, length
        finally:
            os.close(descriptor)

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
        with contextlib.suppress(OSError):
            if self.shared and self._real:
                if self._line is not None:
                    begin, length = self._line
                    os.pwrite(self._descriptor, b" " * (length - 1), begin)
                # refused while there are other readers, the last of whom removes the file
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # removed before it is given up: afterwards it may be the file of another run
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
    # not through a link, which somebody else may have put there, nor into what is no file
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    kinds = stat.S_IFREG, stat.S_IFDIR  # opening a folder fails by itself
    if os.path.lexists(file) and stat.S_IFMT(file.lstat().st_mode) not in kinds:
        raise FolderInUseError(f"{file}: is a link, or no file; remove it.")
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666), True, True
        try:
            return os.open(file, flags), False, True
        except FileNotFoundError:
            continue  # given up in between
        except PermissionError:
            with contextlib.suppress(FileNotFoundError):
                return os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), False, False


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _in_use(file: Path, owners: list[Owner]) -> str:
    what = file.parent if file.name == LOCK else file.with_suffix("")
    # lines of readers that were killed stay until the last one ends
    there = [owner for owner in owners if not owner.gone] or owners
    if not there:
        return f"{what}: in use by a run that has just begun; wait for it, or name another folder."
    who = " and ".join(map(str, there[:2])) + (" and others" if len(there) > 2 else "")
    it, end = "it" if len(there) == 1 else "them", ""
    if len(there) == 1:
        host = shown(there[0].host, _LONGEST_NAME)[1:-1]
        end = f", end it (kill {there[0].process} on {host})"
    return f"{what}: in use by {who}; wait for {it}{end}, or name another folder."


@contextmanager
def locked(folder: Path | str, wait: float = 0.0, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there.

    A thread that holds it already may take it again. Errors of the disk within the block become a
    `DiskError`.

    Parameters
    ----------
    folder : path
    wait : float, seconds
        How long to wait for one who is about to end, such as a process whose parent was killed.
    shared : bool
        Whether others may hold it, too, who share it: for a folder whose files are only read.
        Within the block the thread cannot have the folder for itself.

    Raises
    ------
    FolderInUseError
        If another process or thread holds it, with who that is and what to do.
    DiskError
        If the folder cannot be made or written, or a file within the block.
    """
    with _holding(Path(folder) / LOCK, wait, shared):
        yield


@contextmanager
def locked_file(path: Path | str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of one file that is to be written, as `locked` does of a folder."""
    path = Path(path)
    with _holding(path.with_name(f"{path.name}.lock"), wait, False):
        yield


@contextmanager
def _holding(file: Path, wait: float, shared: bool) -> Iterator[None]:
    with disk_errors(file.parent):
        key = os.getpid(), threading.get_ident(), file.parent.resolve() / file.name
        if key not in _held:
            _held[key] = _take(key[2], wait, shared)
        elif _held[key].shared and not shared:
            raise FolderInUseError(
                f"{file.parent}: this command reads here and must not write; name another folder."
            )
        else:
            _held[key].depth += 1
        try:
            yield
        finally:
            lock = _held[key]
            lock.depth -= 1
            if lock.depth == 0:
                del _held[key]
                lock.release()


def _take(file: Path, wait: float, shared: bool) -> _Lock:
    end, told = time.monotonic() + max(wait, _READER_WAITS if shared else 0.0), False
    while True:
        try:
            return _Lock(file, shared)
        except FolderInUseError as error:
            if time.monotonic() > end:
                raise
            if wait and not told:
                logger.info("%s Waiting for up to %.3g s.", error, wait)
                told = True
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
