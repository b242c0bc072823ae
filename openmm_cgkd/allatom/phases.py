"""Phases of an all-atom run: each saves its state regularly and continues where it stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeAlias

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import CGKDError, SimulationError
from openmm_cgkd.frames.frames import iterate_frames
from openmm_cgkd.utils.damaged import set_aside
from openmm_cgkd.utils.files import cut_table, replacing
from openmm_cgkd.utils.langevin import langevin_simulation
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.save_points import Save, SavePoints, reseed
from openmm_cgkd.utils.seeds import derived_seed
from openmm_cgkd.utils.signals import held_back
from openmm_cgkd.utils.state_file import read_state

from .finished import read_finished, write_finished
from .reporter import MappedReporter

logger = logging.getLogger(__name__)

PIECE = 50  # time steps between looks at the clock and for signals
SAVE_EVERY = 10.0  # seconds between saved states
WARM_UP = 5.0  # ps with a quarter of the time step after packing


class StartState:
    """The part of an `openmm.State` that a phase starts from.

    Parameters
    ----------
    box : ndarray, shape (3, 3), nm
    positions : ndarray, shape (n_atoms, 3), nm
    velocities : Quantity, shape (n_atoms, 3)
    """

    def __init__(self, box: np.ndarray, positions: np.ndarray, velocities: Any) -> None:
        self._box, self._positions, self._velocities = box, positions, velocities

    def getPeriodicBoxVectors(self) -> Any:
        return self._box * unit.nanometer

    def getPositions(self, asNumpy: bool = True) -> Any:
        return self._positions * unit.nanometer

    def getVelocities(self, asNumpy: bool = True) -> Any:
        return self._velocities


Start: TypeAlias = np.ndarray | openmm.State | StartState


class Phases:
    """Runs the phases of one all-atom run.

    Parameters
    ----------
    config : SystemConfig
    folder : path
        For ``<phase>.xml`` states, ``<phase>.csv`` thermodynamics and ``production.xtc``.
    """

    def __init__(self, config: SystemConfig, folder: Path) -> None:
        self.config, self.protocol, self.folder = config, config.reference, folder

    def run(
        self,
        name: str,
        system: openmm.System,
        topology: app.Topology,
        duration: float,
        temperature: float,
        *,
        barostat: bool,
        start: Start | Callable[[], Start],
        mapped: Callable[[app.Simulation], MappedReporter] | None = None,
        frames: tuple[Path, int] | None = None,
    ) -> openmm.State:
        """Run one phase to its end, or read its result if it has ended before.

        A phase goes on from its last saved state. What is damaged is moved aside, with a warning:
        then the phase goes on from the save before, or starts over.

        Parameters
        ----------
        name : str
            Of the phase and its files.
        system, topology
        duration : float, ps
        temperature : float, kelvin
        barostat : bool
            Keep the pressure of the protocol.
        start : ndarray, shape (n_atoms, 3), nm, or state, or a callable that makes one of them
            Positions as packed, or the end of the phase before.
        mapped : callable, optional
            Makes the reporter of mapped frames for the simulation, which begins or resumes; with it
            configurations of all atoms are written, too.
        frames : path and int, optional
            Their file, and the time steps between them.

        Raises
        ------
        SimulationError
            If the simulation fails.
        """
        outputs = [self.folder / f"{name}.csv", *([self._snapshot_file] if mapped else [])]
        done, record = self.folder / f"{name}.xml", self.folder / f"{name}.json"
        if (finished := read_finished(done, record)) is not None:
            return finished
        partial = self.folder / f"{name}.partial.xml"
        saves = SavePoints(partial, partial.with_suffix(".json"), outputs)
        found = self._usable(name, saves, frames)
        begun = bool(found) or partial.exists()
        # before the simulation is made, because it may be the work of another one
        given = None if begun else start() if callable(start) else start
        seed = derived_seed(self.protocol.seed, name, 0)
        try:
            simulation = all_atom_simulation(
                self.config, system, topology, seed, temperature, barostat
            )
            if given is not None:
                for path in outputs:
                    path.unlink(missing_ok=True)
                self._start(simulation, given, temperature, seed)
            elif found:
                self._resume(name, simulation, saves, found)
            else:
                self._resume_older(name, simulation)
            if begun:
                now = simulation.currentStep * self.protocol.timestep
                logger.info("%s: resuming at %.1f ps", name, now)
            self._advance(name, simulation, round(duration / self.protocol.timestep), saves, mapped)
        except CGKDError:
            raise
        # OpenMM's reporters raise ValueError when the energy is NaN
        except (openmm.OpenMMException, ValueError) as error:
            raise SimulationError(
                f"The all-atom run failed in phase {name}: {error}; lower the time step or"
                " initial_density."
            ) from error
        context = simulation.context
        state = context.getState(
            positions=True, velocities=True, parameters=True, integratorParameters=True
        )
        write_finished(done, record, state, outputs)
        saves.clear()
        # with its rounding, so that a run that is interrupted here goes on in the same way
        return read_state(done)

    def _usable(self, name: str, saves: SavePoints, frames: tuple[Path, int] | None) -> list[Save]:
        """Saves to go on from; damage without any is moved aside."""
        found, damage = saves.find()
        usable = [
            save
            for save in found
            if (save.checkpoint or save.state)
            and (frames is None or _reach(*frames, save.record["steps"]))
        ]
        if frames is not None and not usable and not damage and found:
            damage.append(f"{frames[0]}: lacks frames before the saved state.")
        for message in damage:
            logger.warning("%s: %s", name, message)
        if damage and not usable:
            left = [*saves.all_files, *([frames[0]] if frames else [])]
            set_aside(f"{name}: cannot be continued and starts over.", *left)
        return usable

    def _resume(
        self, name: str, simulation: app.Simulation, saves: SavePoints, found: list[Save]
    ) -> None:
        """Put a simulation where the phase stopped."""

        def other_noise(record: dict[str, Any]) -> None:
            reseed(simulation, derived_seed(self.protocol.seed, name, record["steps"]))

        saves.restore(simulation, found, other_noise)

    def _resume_older(self, name: str, simulation: app.Simulation) -> None:
        """Go on with a phase that version 0.1 has begun, which kept no checksums."""
        partial = self.folder / f"{name}.partial.xml"
        state = read_state(partial)
        reseed(simulation, derived_seed(self.protocol.seed, name, state.getStepCount()))
        simulation.context.setState(state)
        table, keep = self.folder / f"{name}.csv", simulation.currentStep // self._snapshot_steps
        if table.exists():
            cut_table(table, simulation.currentStep)
        if self._snapshot_file.exists() and keep:
            keep_snapshots(self._snapshot_file, keep)

    def _advance(
        self,
        name: str,
        simulation: app.Simulation,
        total: int,
        saves: SavePoints,
        mapped: Callable[[app.Simulation], MappedReporter] | None,
    ) -> None:
        """Step to the end of a phase, saving the state at intervals and when a signal asks to end.

        In between, a signal could meet a reporter that has written half of its frame.
        """
        timestep = self.protocol.timestep
        simulation.reporters.append(self._thermodynamics(name))
        with ExitStack() as stack:
            if mapped is not None:
                simulation.reporters.append(stack.enter_context(closing(mapped(simulation))))
                simulation.reporters.append(self._snapshots())
            meter = stack.enter_context(
                progress(
                    f"all-atom {name}", total * timestep, "ps", simulation.currentStep * timestep
                )
            )
            asked_to_end = stack.enter_context(held_back())
            saved, ending = time.monotonic(), False
            while simulation.currentStep < total and not ending:
                step = simulation.currentStep
                simulation.step(min(PIECE - step % PIECE, total - step))
                ending = asked_to_end()
                if ending or time.monotonic() - saved >= SAVE_EVERY:
                    saves.write(simulation, {"steps": simulation.currentStep})
                    saved = time.monotonic()
                meter.update(simulation.currentStep * timestep)
            if ending:
                logger.info("%s: saved at %.4g ps", name, simulation.currentStep * timestep)

    def _start(
        self,
        simulation: app.Simulation,
        start: Start,
        temperature: float,
        seed: int,
    ) -> None:
        context = simulation.context
        # packed, not yet equilibrated: remove overlaps, then small steps
        if isinstance(start, np.ndarray):
            context.setPositions(start * unit.nanometer)
            simulation.minimizeEnergy()
            context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
            timestep = simulation.integrator.getStepSize()
            simulation.integrator.setStepSize(timestep / 4)
            simulation.step(round(WARM_UP / (self.protocol.timestep / 4)))
            simulation.integrator.setStepSize(timestep)
        else:
            context.setPeriodicBoxVectors(*start.getPeriodicBoxVectors())
            context.setPositions(start.getPositions(asNumpy=True))
            context.setVelocities(start.getVelocities(asNumpy=True))
        simulation.currentStep = 0
        context.setTime(0)

    def _thermodynamics(self, name: str) -> app.StateDataReporter:
        path = self.folder / f"{name}.csv"
        append = path.exists() and path.stat().st_size > 0
        return app.StateDataReporter(
            str(path),
            max(1, round(max(0.2, self.protocol.frame_interval / 10) / self.protocol.timestep)),
            step=True,
            time=True,
            potentialEnergy=True,
            temperature=True,
            volume=True,
            density=True,
            speed=True,
            append=append,
        )

    @property
    def _snapshot_file(self) -> Path:
        return self.folder / "production.xtc"

    @property
    def _snapshot_steps(self) -> int:
        return max(1, round(self.protocol.snapshot_interval / self.protocol.timestep))

    def _snapshots(self) -> app.XTCReporter:
        """All atoms, rarely: to look at, and to start restrained runs from."""
        path = self._snapshot_file
        append = path.exists() and path.stat().st_size > 0
        return app.XTCReporter(
            str(path), self._snapshot_steps, append=append, enforcePeriodicBox=False
        )


def _reach(path: Path, interval: int, step: int) -> bool:
    """Whether a file has all mapped frames up to a time step."""
    if step < interval:
        return True
    parts = iterate_frames(path, torn_tail=True) if path.exists() else ()
    return sum(int((part.step <= step).sum()) for part in parts) == step // interval


def all_atom_simulation(
    config: SystemConfig,
    system: openmm.System,
    topology: app.Topology,
    seed: int,
    temperature: float | None = None,
    barostat: bool = False,
) -> app.Simulation:
    """Simulation with the thermostat, time step and platform of the all-atom protocol.

    Parameters
    ----------
    temperature : float, optional
        Kelvin; that of the configuration if absent.
    barostat : bool
        Keep the pressure of the protocol.

    Raises
    ------
    ConfigError, SimulationError
        As `langevin_simulation`.
    """
    protocol = config.reference
    return langevin_simulation(
        system,
        topology,
        temperature=temperature or config.temperature,
        friction=protocol.friction,
        timestep=protocol.timestep,
        seed=seed,
        pressure=protocol.pressure if barostat else None,
        platform=protocol.platform,
        threads=protocol.threads,
        section="reference",
    )


def keep_snapshots(path: Path, count: int) -> None:
    """Keep the first snapshots; a resumed production will write the later ones again."""
    try:
        with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
            xyz, time, step, box = file.read(n_frames=count)
    except (OSError, RuntimeError) as error:
        raise SimulationError(
            f"{path}: cannot be read ({error}); restore it, or start the run again in another"
            " folder."
        ) from error
    with replacing(path) as fresh, mdtraj.formats.XTCTrajectoryFile(str(fresh), "w") as file:
        file.write(xyz, time, step, box)
