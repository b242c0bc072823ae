"""Python code in the files of a force field, which OpenMM runs."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.etree import ElementTree

logger = logging.getLogger(__name__)

_told: set[Path] = set()


def tell_of_scripts(path: Path) -> None:
    """Log, once in a process, which files of a force field hold code that is about to run.

    Parameters
    ----------
    path : path
        XML file of the force field.
    """
    for file in files_with_scripts(path):
        if file not in _told:
            _told.add(file)
            logger.warning(
                "%s: holds Python code in a <Script>, and OpenMM runs it now, with your rights; use"
                " this force field only if you trust its maker",
                file,
            )


def files_with_scripts(path: Path) -> list[Path]:
    """The files among a force field and those it includes that hold code.

    Files of OpenMM itself are left out.

    Parameters
    ----------
    path : path
        XML file of the force field.
    """
    files, found = [path.resolve()], []
    for file in files:  # grows
        try:
            root = ElementTree.parse(file).getroot()
        except (OSError, ElementTree.ParseError):  # OpenMM will say what is wrong
            continue
        if root.find("Script") is not None or root.find("InitializationScript") is not None:
            found.append(file)
        for include in root.iter("Include"):
            inner = (file.parent / include.get("file", "")).resolve()
            if inner.is_file() and inner not in files:
                files.append(inner)
    return found
