"""Saved states of a simulation, with checksums of everything that it goes on from.

A save is the checkpoint of OpenMM, from which a simulation goes on bit for bit; the state as XML,
which other machines, platforms and versions read, too; and a record that names both and the output
files by their checksums. The save before stays until the new one is complete, so that a kill or a
damaged file costs the work since then at most.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import openmm
from openmm import app
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openmm_cgkd.exceptions import CGKDError, SimulationError

from .appended import AppendedFile, fits
from .files import file_hash, replacing
from .records import read_record, write_record
from .state_file import read_state

logger = logging.getLogger(__name__)

_EMPTY = {"size": 0, "sha256": "", "head": ""}


@dataclass(frozen=True)
class Save:
    """A save that a simulation can go on from.

    Attributes
    ----------
    record : dict
        What the simulation has told, and checksums.
    checkpoint, state : path or None
        None if the file is lost.
    """

    record: dict[str, Any]
    checkpoint: Path | None
    state: Path | None


class SavePoints:
    """The saves of one simulation.

    Parameters
    ----------
    state : path
        XML file of the state. The checkpoint is beside it, with the suffix ``.chk``; files of the
        save before have ``.previous`` in their names.
    record : path
        JSON file.
    outputs : sequence of path
        Files that the simulation appends to.
    others : sequence of path
        Files for later readers alone: the record has their checksums, too.
    """

    def __init__(
        self,
        state: Path,
        record: Path,
        outputs: Sequence[Path] = (),
        others: Sequence[Path] = (),
    ) -> None:
        self._state, self._checkpoint, self._record = state, state.with_suffix(".chk"), record
        self._outputs = {path.name: AppendedFile(path) for path in outputs}
        self._others = others
        self._kept = True  # whether the latest save has been put by as the one before

    @property
    def files(self) -> list[Path]:
        """Every file that saves consist of."""
        latest = [self._record, self._checkpoint, self._state]
        return latest + [_previous(path) for path in latest]

    @property
    def all_files(self) -> list[Path]:
        """These and the output files."""
        return [*self.files, *(output.path for output in self._outputs.values())]

    def find(self) -> tuple[list[Save], list[str]]:
        """Saves with whole record, state and output files, the latest first; and what is damaged.

        Without saves and without damage there has been no simulation.
        """
        found: list[Save] = []
        damage: list[str] = []
        for path in (self._record, _previous(self._record)):
            if not path.exists():
                continue
            try:
                found.append(self._check(path, read_record(path), damage))
            except CGKDError as error:
                damage.append(str(error))
            if not damage:
                break  # the one before is for damage alone
        return found, damage

    def _check(self, path: Path, record: dict[str, Any], damage: list[str]) -> Save:
        try:
            saved = _Saved.model_validate(record)
        except ValidationError as error:
            raise SimulationError(f"{path}: has no checksums of what was saved.") from error
        files = {name: summary.model_dump() for name, summary in saved.files.items()}
        hashes = saved.checkpoint, saved.state
        for name, output in self._outputs.items():
            if not fits(output.path, files.get(name, _EMPTY)):
                raise SimulationError(
                    f"{output.path}: is missing, or was changed after {path.name} was written."
                )
        checkpoint, state = map(_whole, (self._checkpoint, self._state), hashes)
        for kept, each in ((checkpoint, self._checkpoint), (state, self._state)):
            if kept is None:
                damage.append(f"{each}: is missing, or was changed after {path.name} was written.")
        return Save(record, checkpoint, state)

    def restore(
        self,
        simulation: app.Simulation,
        saves: list[Save],
        renew: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any] | None:
        """Put a simulation into the state of the best save, and cut its output files to that.

        Parameters
        ----------
        simulation : openmm.app.Simulation
        saves : list of Save
            As `find` gives them.
        renew : callable
            Gives the simulation other random numbers, from the record of a save: a state, unlike a
            checkpoint, does not know which ones come next.

        Returns
        -------
        dict or None
            The record of the save; None if there is none that fits.
        """
        forces = simulation.system.getForces()
        # whose random numbers are not in a checkpoint
        barostat = any(isinstance(force, openmm.MonteCarloBarostat) for force in forces)
        for save in saves:
            if save.checkpoint is None:
                continue
            if barostat:
                renew(save.record)
            try:
                simulation.context.loadCheckpoint(save.checkpoint.read_bytes())
            except openmm.OpenMMException as error:
                logger.warning(
                    "%s: is of another machine, platform or version of OpenMM (%s); going on from"
                    " %s, with other random numbers",
                    save.checkpoint, error, self._state.name,
                )  # fmt: skip
            else:
                return self._go_on(save)
        for save in saves:
            if save.state is not None:
                renew(save.record)
                simulation.context.setState(read_state(save.state))
                return self._go_on(save)
        return None

    def _go_on(self, save: Save) -> dict[str, Any]:
        """Make a save the latest one. A kill meanwhile leaves it, or one before it, whole."""
        for name, output in self._outputs.items():
            output.cut(save.record["files"].get(name, _EMPTY))
        for kept, path in ((save.checkpoint, self._checkpoint), (save.state, self._state)):
            if kept is not None and kept != path:
                os.replace(kept, path)
        write_record(self._record, save.record)
        self._kept = False
        return save.record

    def write(self, simulation: app.Simulation, data: dict[str, Any]) -> None:
        """Save a simulation.

        Parameters
        ----------
        simulation : openmm.app.Simulation
        data : dict
            For the record.
        """
        context = simulation.context
        state = context.getState(
            positions=True, velocities=True, parameters=True, integratorParameters=True
        )
        contents = {
            self._checkpoint: context.createCheckpoint(),
            self._state: openmm.XmlSerializer.serialize(state).encode(),
        }
        checkpoint, xml = (hashlib.sha256(content).hexdigest() for content in contents.values())
        outputs = [*self._outputs.values(), *map(AppendedFile, self._others)]
        files = {output.path.name: output.summary() for output in outputs}
        if not self._kept:
            for path in (self._record, *contents):
                if path.exists():
                    os.replace(path, _previous(path))
            self._kept = True
        for path, content in contents.items():
            with replacing(path) as fresh:
                fresh.write_bytes(content)
        write_record(self._record, {**data, "files": files, "checkpoint": checkpoint, "state": xml})
        self._kept = False

    def clear(self) -> None:
        """Remove all saves."""
        for path in self.files:
            path.unlink(missing_ok=True)
        self._kept = True


class _Summary(BaseModel):
    """Of an output file, as `AppendedFile.summary` gives it."""

    model_config = ConfigDict(strict=True)

    size: int = Field(ge=0)
    sha256: str
    head: str


class _Saved(BaseModel):
    """What a record says of the files of a save."""

    model_config = ConfigDict(strict=True)

    steps: int = Field(ge=0, lt=2**53)
    files: dict[str, _Summary]
    checkpoint: str
    state: str


class Progress(BaseModel):
    """How far a simulation has come, as its record says.

    Attributes
    ----------
    equilibrated : bool
    step : int
        Of the context, to which it is reset.
    steps : int
        Of the production.
    measured : int
        Steps whose time is known.
    seconds : float
        Which they took.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    equilibrated: bool
    step: int = Field(ge=0, lt=2**53)
    steps: int = Field(ge=0, lt=2**53)
    measured: int = Field(ge=0, lt=2**53)
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _time_is_known(self) -> Self:
        if self.steps and not (self.measured and self.seconds):
            raise ValueError("the time of the steps is missing")
        return self

    @classmethod
    def fits(cls, record: dict[str, Any]) -> bool:
        """Whether a record says so."""
        try:
            cls.model_validate(record)
        except ValidationError:
            return False
        return True


def reseed(simulation: app.Simulation, seed: int) -> None:
    """Give a simulation other random numbers; its positions and velocities are lost."""
    simulation.integrator.setRandomNumberSeed(seed)
    for force in simulation.system.getForces():
        if isinstance(force, openmm.MonteCarloBarostat):
            force.setRandomNumberSeed(seed)
    simulation.context.reinitialize()


def _whole(path: Path, wanted: str) -> Path | None:
    """The file, or that of the save before, whichever has the wanted SHA-256."""
    for each in (path, _previous(path)):
        if each.exists() and file_hash(each) == wanted:
            return each
    return None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")
