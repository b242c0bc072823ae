"""Text files of users: read whole, but only regular files of bounded size in UTF-8."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

from openmm_cgkd.exceptions import CGKDError

MEGABYTE = 2**20
_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def shown(value: object, most: int = 80) -> str:
    """A value as Python writes it, in one line; the middle of a long one is left out."""
    text = " ".join(line.strip() for line in repr(value).splitlines())
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def check_regular(path: Path, what: str, error: type[CGKDError]) -> int:
    """Refuse what is no regular file: reading a pipe or a device could wait or go on for ever.

    Parameters
    ----------
    path : path
    what : str
        What to give instead, for messages.
    error : type of CGKDError
        What is raised.

    Returns
    -------
    int
        Size in bytes.
    """
    try:
        found = path.stat()
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file; give {what}.") from cause
    except (OSError, ValueError) as cause:  # ValueError: a zero byte in the name
        raise error(f"{path}: cannot be read ({_reason(cause)}); give {what}.") from cause
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{path}: is a folder; give {what}.")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: is a device or a pipe and no file; give {what}.")
    return found.st_size


def read_text(path: Path, what: str, error: type[CGKDError], most: int = MEGABYTE) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, such as "a mapping file of OpenMSCG", for messages.
    error : type of CGKDError
        What is raised.
    most : int
        Largest size, bytes.

    Raises
    ------
    CGKDError
        Of the type `error`: if the file is missing, is a folder or a device, cannot be read, is
        too large, holds NUL characters, or is not in UTF-8.
    """
    check_regular(path, what, error)
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({_reason(cause)}); give {what}.") from cause
    if len(data) > most:
        raise error(f"{path}: is larger than {most // MEGABYTE} MB; give {what}.")
    if data.startswith(_OTHER_ENCODINGS):
        raise error(f"{path}: is text in UTF-16; save it in UTF-8.")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise error(f"{path}, line {line}: holds a NUL character, so it is no text; give {what}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = data[: cause.start].count(b"\n") + 1
        raise error(
            f"{path}, line {line}: holds a character that is not UTF-8; save the file in UTF-8, or"
            f" give {what}."
        ) from cause


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
