"""Phases of an all-atom run: each saves its state regularly and continues where it stopped."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import CGKDError, ConfigError, SimulationError
from openmm_cgkd.platforms import choose_platform, platforms
from openmm_cgkd.utils.files import cut_table, replacing
from openmm_cgkd.utils.progress import progress

from .reporter import MappedReporter

logger = logging.getLogger(__name__)

SAVE_INTERVAL = 10.0  # ps between times when a phase may save its state
# seconds at least between saved states: a fast GPU needs half a second for 10 ps
SAVE_EVERY = 10.0
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
        start: np.ndarray | openmm.State | StartState,
        mapped: Callable[[app.Simulation], MappedReporter] | None = None,
    ) -> openmm.State:
        """Run one phase to its end, or read its result if it has ended before.

        Parameters
        ----------
        name : str
            Of the phase and its files.
        system, topology
        duration : float, ps
        temperature : float, kelvin
        barostat : bool
            Keep the pressure of the protocol.
        start : ndarray, shape (n_atoms, 3), nm, or state
            Positions as packed, or the end of the phase before.
        mapped : callable, optional
            Makes the reporter of mapped frames for the simulation, which begins or resumes; with it
            configurations of all atoms are written, too.

        Raises
        ------
        SimulationError
            If the simulation fails.
        """
        done, partial = self.folder / f"{name}.xml", self.folder / f"{name}.partial.xml"
        if done.exists():
            return openmm.XmlSerializer.deserialize(done.read_text())
        saved = openmm.XmlSerializer.deserialize(partial.read_text()) if partial.exists() else None
        seed = phase_seed(self.protocol.seed, name, saved.getStepCount() if saved else 0)
        try:
            simulation = self._simulation(system, topology, temperature, barostat, seed)
            if saved:
                simulation.context.setState(saved)
                logger.info(
                    "%s: resuming at %.1f ps", name, saved.getTime().value_in_unit(unit.picosecond)
                )
            else:
                self._start(simulation, start, temperature, seed)
            self._advance(
                name, simulation, round(duration / self.protocol.timestep), partial, mapped
            )
        except CGKDError:
            raise
        # OpenMM's reporters raise ValueError when the energy is NaN
        except (openmm.OpenMMException, ValueError) as error:
            raise SimulationError(
                f"The all-atom run failed in phase {name}: {error}; lower the time step or"
                " initial_density."
            ) from error
        with replacing(done) as fresh:
            simulation.saveState(str(fresh))
        partial.unlink(missing_ok=True)
        return openmm.XmlSerializer.deserialize(done.read_text())

    def _simulation(
        self,
        system: openmm.System,
        topology: app.Topology,
        temperature: float,
        barostat: bool,
        seed: int,
    ) -> app.Simulation:
        system = openmm.XmlSerializer.clone(system)
        if barostat:
            force = openmm.MonteCarloBarostat(
                self.protocol.pressure * unit.bar, temperature * unit.kelvin
            )
            force.setRandomNumberSeed(seed)
            system.addForce(force)
        return langevin_simulation(self.config, system, topology, seed, temperature)

    def _advance(
        self,
        name: str,
        simulation: app.Simulation,
        total: int,
        partial: Path,
        mapped: Callable[[app.Simulation], MappedReporter] | None,
    ) -> None:
        """Step to the end of a phase, saving the state at intervals."""
        timestep = self.protocol.timestep
        piece = max(1, round(SAVE_INTERVAL / timestep))
        simulation.reporters.append(self._thermodynamics(name, simulation))
        with ExitStack() as stack:
            if mapped is not None:
                simulation.reporters.append(stack.enter_context(closing(mapped(simulation))))
                simulation.reporters.append(self._snapshots(simulation))
            meter = stack.enter_context(
                progress(f"all-atom {name}", total * timestep, simulation.currentStep * timestep)
            )
            saved = time.monotonic()
            while simulation.currentStep < total:
                simulation.step(
                    min(piece - simulation.currentStep % piece, total - simulation.currentStep)
                )
                if time.monotonic() - saved >= SAVE_EVERY:
                    with replacing(partial) as fresh:
                        simulation.saveState(str(fresh))
                    saved = time.monotonic()
                meter.update(simulation.currentStep * timestep)

    def _start(
        self,
        simulation: app.Simulation,
        start: np.ndarray | openmm.State | StartState,
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

    def _thermodynamics(self, name: str, simulation: app.Simulation) -> app.StateDataReporter:
        path = self.folder / f"{name}.csv"
        append = simulation.currentStep > 0 and path.exists()
        if append:
            cut_table(path, simulation.currentStep)
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

    def _snapshots(self, simulation: app.Simulation) -> app.XTCReporter:
        """All atoms, rarely: to look at, and to start restrained runs from."""
        path = self.folder / "production.xtc"
        steps = max(1, round(self.protocol.snapshot_interval / self.protocol.timestep))
        keep = simulation.currentStep // steps
        if keep:
            keep_snapshots(path, keep)
        else:
            path.unlink(missing_ok=True)
        return app.XTCReporter(str(path), steps, append=keep > 0, enforcePeriodicBox=False)


def langevin_simulation(
    config: SystemConfig,
    system: openmm.System,
    topology: app.Topology,
    seed: int,
    temperature: float | None = None,
) -> app.Simulation:
    """Simulation with the thermostat, time step and platform of the all-atom protocol.

    Parameters
    ----------
    temperature : float, optional
        Kelvin; that of the configuration if absent.
    """
    protocol = config.reference
    integrator = openmm.LangevinMiddleIntegrator(
        (temperature or config.temperature) * unit.kelvin,
        protocol.friction / unit.picosecond,
        protocol.timestep * unit.picosecond,
    )
    integrator.setRandomNumberSeed(seed)
    name, present = protocol.platform, platforms()
    if name is not None and name not in present:
        raise ConfigError(
            f"reference.platform: got {name}, but this OpenMM has {', '.join(present)}; name one of"
            " these or leave it out."
        )
    found = choose_platform(system, name)
    properties = (
        {"Threads": str(protocol.threads)} if protocol.threads and found.getName() == "CPU" else {}
    )
    return app.Simulation(topology, system, integrator, found, properties)


def phase_seed(seed: int, phase: str, step: int) -> int:
    """Seed of the thermostat from `step` on.

    Every phase and every resumed piece gets its own noise: Langevin trajectories that are restarted
    with the same noise synchronise (Cerutti et al., J. Chem. Theory Comput. 2009, 5, 1624).
    """
    return 1 + zlib.crc32(f"{seed} {phase} {step}".encode()) % (2**31 - 2)


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
