"""Errors of disks and folders as one sentence that names the path, what is wrong and the cure."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openmm_cgkd.exceptions import CGKDError, DiskError

_GO_ON = "then run the same command again: what is whole is kept"
_SPACE = f"free some space, or move to a disk that has more, {_GO_ON}"
_PERMIT = f"get the permission to write there, or name another folder, {_GO_ON}"
_CURES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: f"free some of your quota, {_GO_ON}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {_GO_ON}",
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOENT: f"put it back if it was moved or removed, {_GO_ON}",
    errno.ENOTDIR: "name a folder that is no file",
    errno.EEXIST: "name a folder that is no file",
    errno.EISDIR: f"remove or rename that folder, {_GO_ON}",
    errno.ESTALE: f"see that the file system is mounted, {_GO_ON}",
    errno.EIO: f"see that the disk is well, {_GO_ON}",
    errno.ENAMETOOLONG: "use shorter names",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {_GO_ON}",
    errno.ENFILE: f"close other programs, {_GO_ON}",
    errno.ENODEV: f"see that the file system is mounted, {_GO_ON}",
    errno.ENXIO: f"see that the disk is well, {_GO_ON}",
}
# HDF5 puts the number of the system's error and the file into its text
_NUMBER = re.compile(r"\berrno = (\d+)")
_NAME = re.compile(r"\b(?:file)?name = '([^']+)'")
# what libraries in C++ say when the system lets them write no more; they do not pass on why
_CANNOT_WRITE = re.compile(
    r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|basic_ios::clear|iostream error"
    r"|file write failed|could not write frame|[Xx][Tt][Cc].{0,20}write.{0,20}(error|fail)"
)


def describe_disk_error(error: BaseException, path: Path) -> str | None:
    """Path, fault and cure of an error of the file system; None if it is something else.

    Parameters
    ----------
    error : exception
        Of Python, HDF5, PyTorch or another library.
    path : path
        The file or folder at work, for errors that name none.
    """
    if not isinstance(error, OSError | RuntimeError):
        return None
    text = str(error)
    number = getattr(error, "errno", None)
    if number is None and (found := _NUMBER.search(text)):
        number = int(found[1])
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if name is None and (found := _NAME.search(text)):
        name = found[1]
    if number in _CURES:
        what = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else path
        if str(what) == f"{path}.tmp":  # see `files.replacing`
            what = path
        return f"{what}: {os.strerror(number)}; {_CURES[number]}."
    if _CANNOT_WRITE.search(text):
        return (
            f"{path}: could not be written; see that the disk has space and that files may be as"
            f" large (ulimit -f), {_GO_ON}."
        )
    return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system within the block into a `DiskError`.

    Parameters
    ----------
    path : path
        The file or folder at work, for errors that name none.
    """
    try:
        yield
    except CGKDError:
        raise
    except (OSError, RuntimeError) as error:
        message = describe_disk_error(error, path)
        if message is None:
            raise
        raise DiskError(message) from error
