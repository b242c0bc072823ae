"""Final states of phases, each with a record of its checksum and those of the phase's output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import openmm

from openmm_cgkd.exceptions import CGKDError, SimulationError
from openmm_cgkd.utils.appended import AppendedFile, check_written
from openmm_cgkd.utils.damaged import set_aside
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.records import read_record, write_record
from openmm_cgkd.utils.state_file import read_state


def write_finished(
    path: Path, record: Path, state: openmm.State, outputs: Sequence[Path] = ()
) -> None:
    """Write a state as XML, and its record.

    Parameters
    ----------
    path, record : path
    state : openmm.State
    outputs : sequence of path
        Files beside it whose checksums go into the record.
    """
    with replacing(path) as fresh:
        fresh.write_text(openmm.XmlSerializer.serialize(state))
        # the record first: a kill in between leaves the phase to be finished again
        files = {each.name: AppendedFile(each).summary() for each in outputs}
        write_record(record, {"state": file_hash(fresh), "files": files, "finished": True})


def read_finished(path: Path, record: Path) -> openmm.State | None:
    """The state that `write_finished` wrote; None if it is not there or damaged.

    What is damaged is moved aside, with a warning.
    """
    if not path.exists():
        return None
    try:
        if record.exists():  # version 0.1 wrote none
            content = read_record(record, "the phase starts over")
            for name in content["files"]:
                check_written(path.with_name(name), record)
            if file_hash(path) != content["state"]:
                raise SimulationError(f"{path}: was changed after it was written.")
        return read_state(path)
    except (CGKDError, openmm.OpenMMException, ValueError) as error:
        set_aside(f"{error} Its phase starts over.", path, record)
        return None
