"""Molecular dynamics of beads; resumable, and stopped when it explodes."""

from __future__ import annotations

import copy
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.run import CommitteeConfig, SimulationConfig
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.platforms import choose_platform, platforms
from openmm_cgkd.utils.files import cut_table, replacing, write_text
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.seeds import derived_seed

from .committee import Committee, CommitteeReporter, SpreadRange
from .engines import cuda_graphs
from .explosion import ExplosionGuard, openmm_message, stop_error
from .resume import cut_trajectory, log_column, open_log, open_trajectory, write_topology

logger = logging.getLogger(__name__)

_FRAMES_PER_SAVE = 10


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray,
    folder: Path,
    simulation: SimulationConfig,
    temperature: float,
    seed: int = 1,
    identity: str = "",
    committee: tuple[Committee, SpreadRange] | None = None,
) -> Path:
    """Langevin dynamics of any system: equilibrate, then write a trajectory.

    Call it again to continue after an interruption. At constant volume, or with a Monte Carlo
    barostat if `simulation` names a pressure.

    Parameters
    ----------
    system : openmm.System
        In its default box; not changed.
    topology : openmm.app.Topology
        With box vectors if the system is periodic.
    positions : ndarray, shape (n_beads, 3), nm
    folder : path
        Gets ``trajectory.dcd`` or ``.xtc`` (not wrapped, step 0 is the end of equilibration),
        ``topology.pdb``, ``state.csv``, ``state.xml`` (last good state), ``committee.csv`` and
        ``simulation.json`` (speed and mean temperature, once finished). After an error
        ``failure.xml`` is the state that was refused.
    simulation : SimulationConfig
        With a time step.
    temperature : float, kelvin
    seed : int
        Of velocities and of the thermostat. After an interruption the thermostat gets another one,
        so that it does not repeat itself.
    identity : str
        Anything that tells this potential and start from others. What a folder holds is continued
        when identity, temperature, seed and protocol are the same and no more than the asked
        production has been done; otherwise the run begins anew.
    committee : Committee and SpreadRange, optional
        Watches the run as `simulation.committee` says, or with its defaults.

    Returns
    -------
    path
        The trajectory.

    Raises
    ------
    ConfigError
        If the intervals do not fit each other, there is no time step, or a pressure for beads
        without a box.
    SimulationError
        If the platform is not available or the run explodes; trajectory and last good state are
        kept.
    """
    started = np.asarray(positions, dtype=np.float64)
    dynamics = Dynamics(
        system, topology, started, Path(folder), simulation, temperature, seed, identity, committee
    )
    with locked(folder):
        return dynamics.run()


class Dynamics:
    """One run of `run_dynamics`, with the same arguments; `run` does it."""

    def __init__(
        self,
        system: openmm.System,
        topology: app.Topology,
        positions: np.ndarray,
        folder: Path,
        protocol: SimulationConfig,
        temperature: float,
        seed: int,
        identity: str,
        committee: tuple[Committee, SpreadRange] | None,
    ) -> None:
        self.system, self.topology, self.positions = system, topology, positions
        self.folder, self.protocol, self.committee = folder, protocol, committee
        self.temperature, self.seed = temperature, seed
        if protocol.timestep is None:
            raise ConfigError(
                "simulation.timestep: is absent; write one, or let 'cgkd timestep' find one."
            )
        if protocol.pressure is not None and not system.usesPeriodicBoundaryConditions():
            raise ConfigError(
                "simulation.pressure: needs a periodic box, and these beads have none; remove the"
                " pressure."
            )
        self.timestep = protocol.timestep
        self.interval = round(protocol.frame_interval / protocol.timestep)
        self.total = round(protocol.production / protocol.timestep)
        self.warm_up = round(protocol.equilibration / protocol.timestep)
        spacing = f"simulation.frame_interval: {protocol.frame_interval:g} ps"
        if self.interval < 1:
            raise ConfigError(
                f"{spacing} is below the time step of {protocol.timestep:g} ps; lengthen it."
            )
        if self.total < self.interval:
            raise ConfigError(
                f"{spacing} is above the production of {protocol.production:g} ps, which then has"
                " no frame; shorten it."
            )
        self.trajectory = folder / f"trajectory.{protocol.trajectory}"
        self.log, self.spread = folder / "state.csv", folder / "committee.csv"
        self.record = folder / "progress.json"
        # states of production, of equilibration, and the one that was refused
        self.state, self.warm_state = folder / "state.xml", folder / "equilibration.xml"
        self.failed_state = folder / "failure.xml"
        inputs = {
            **protocol.model_dump(mode="json"),
            "temperature": temperature,
            "seed": seed,
            "identity": identity,
        }
        inputs.pop("production")  # a longer production continues a shorter one
        self.done: dict[str, Any] = {"inputs": inputs, "steps": 0, "seconds": 0.0, "measured": 0}
        self.guard = ExplosionGuard(self.interval, temperature, protocol.max_temperature_ratio)

    def run(self) -> Path:
        """Run, or continue; the path of the trajectory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        box = self.topology.getPeriodicBoxVectors()
        box = None if box is None else np.array(box.value_in_unit(unit.nanometer))
        beads = write_topology(self.folder / "topology.pdb", self.topology, self.positions, box)
        self._read_progress()
        write_text(self.record, json.dumps(self.done, indent=1))
        simulation = self._simulation()
        frames = self.done["steps"] // self.interval
        try:
            if self.state.exists():
                simulation.loadState(str(self.state))
                logger.info("resuming at %.4g ps", self.done["steps"] * self.timestep)
            else:
                self._equilibrate(simulation)
            if frames:
                cut_trajectory(
                    self.trajectory,
                    self.topology,
                    beads,
                    frames,
                    self.timestep,
                    self.interval,
                )
                for table in (self.log, self.spread) if self.committee else (self.log,):
                    cut_table(table, self.done["steps"])
            self._produce(simulation, append=frames > 0)
        except BaseException as error:
            if isinstance(error, SimulationError):
                logger.error("%s", error)
            self.rescue(simulation)
            raise
        self._summarize(simulation)
        return self.trajectory

    def _read_progress(self) -> None:
        """Continue an interrupted run of the same inputs, or clear the folder of another run."""
        if self.record.exists():
            found = json.loads(self.record.read_text())
            # the state is saved before the record, so its own step count is the one to trust
            found["steps"] = _steps_of(self.state)
            if found["inputs"] == self.done["inputs"] and found["steps"] <= self.total:
                self.done = found
                return
            logger.info("inputs have changed, simulating from the start")
        made = (
            self.record,
            self.state,
            self.warm_state,
            self.failed_state,
            self.log,
            self.spread,
            self.folder / "simulation.json",
        )
        for path in (*made, *self.folder.glob("trajectory.*")):
            path.unlink(missing_ok=True)

    def _simulation(self) -> app.Simulation:
        integrator = openmm.LangevinMiddleIntegrator(
            self.temperature * unit.kelvin,
            self.protocol.friction / unit.picosecond,
            self.timestep * unit.picosecond,
        )
        done = self.done["steps"] + (
            self.warm_up if self.state.exists() else _steps_of(self.warm_state)
        )
        seed = derived_seed(self.seed, "dynamics", done)
        integrator.setRandomNumberSeed(seed)
        try:
            system = self._system(seed)
            return app.Simulation(
                self.topology, system, integrator, choose_platform(system, self.protocol.platform)
            )
        except openmm.OpenMMException as error:
            wanted = f"simulation.platform: {self.protocol.platform or 'none named'}"
            raise SimulationError(
                f"{wanted}, cannot run the system ({openmm_message(error)}); loaded here:"
                f" {', '.join(platforms())}."
            ) from error

    def _system(self, seed: int) -> openmm.System:
        """The system, with a barostat if there is a pressure."""
        if self.protocol.pressure is None:
            return self.system
        system = copy.deepcopy(self.system)
        barostat = openmm.MonteCarloBarostat(
            self.protocol.pressure * unit.bar, self.temperature * unit.kelvin
        )
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
        return system

    def _equilibrate(self, simulation: app.Simulation) -> None:
        if self.warm_state.exists():
            simulation.loadState(str(self.warm_state))
            logger.info("resuming equilibration at %.4g ps", simulation.currentStep * self.timestep)
        else:
            simulation.context.setPositions(self.positions)
            simulation.context.setVelocitiesToTemperature(self.temperature * unit.kelvin, self.seed)
        simulation.reporters.append(self.guard)
        with progress(
            "CG equilibration, ps",
            self.protocol.equilibration,
            simulation.currentStep * self.timestep,
        ) as meter:
            while simulation.currentStep < self.warm_up:
                self.step(simulation, self._piece(simulation.currentStep, self.warm_up))
                save_state(simulation, self.warm_state)
                meter.update(simulation.currentStep * self.timestep)
        simulation.reporters.clear()
        simulation.currentStep = 0
        simulation.context.setTime(0)
        save_state(simulation, self.state)
        self.warm_state.unlink(missing_ok=True)

    def _produce(self, simulation: app.Simulation, append: bool) -> None:
        # the guard first: frames that it refuses are not written
        simulation.reporters.extend([self.guard, *self.reporters(append)])
        with progress(
            "CG simulation, ps",
            self.protocol.production,
            self.done["steps"] * self.timestep,
        ) as meter:
            try:
                while simulation.currentStep < self.total:
                    steps = self._piece(simulation.currentStep, self.total)
                    begin = time.perf_counter()
                    self.step(simulation, steps)
                    self.save(simulation, steps, time.perf_counter() - begin)
                    meter.update(simulation.currentStep * self.timestep)
            finally:
                simulation.reporters.clear()  # closes their files

    def reporters(self, append: bool) -> list[Any]:
        """Reporters of the production, whose files are continued or begun."""
        density = self.protocol.pressure is not None
        found = [
            open_trajectory(self.trajectory, self.interval, append),
            open_log(self.log, self.interval, append, density),
        ]
        if self.committee:
            settings = self.protocol.committee or CommitteeConfig()
            committee, known = self.committee
            every = max(1, round(settings.interval / self.timestep))
            found.append(
                CommitteeReporter(
                    self.spread,
                    every,
                    committee,
                    known,
                    settings.max_ratio,
                    settings.action,
                    append,
                )
            )
        return found

    def _piece(self, step: int, last: int) -> int:
        """Steps to the next save."""
        piece = self.interval * _FRAMES_PER_SAVE
        return min(piece - step % piece, last - step)

    def step(self, simulation: app.Simulation, steps: int) -> None:
        """Advance; what goes wrong becomes a `SimulationError`."""
        try:
            simulation.step(steps)
        except SimulationError:
            raise
        # reporters raise ValueError on coordinates that are not finite
        except (openmm.OpenMMException, ValueError) as error:
            raise stop_error(simulation, openmm_message(error)) from error

    def save(self, simulation: app.Simulation, steps: int, seconds: float) -> None:
        """Save the state, and record that `steps` more took `seconds`."""
        save_state(simulation, self.state)
        self.done["steps"] = simulation.currentStep
        self.done["measured"] += steps
        self.done["seconds"] += seconds
        write_text(self.record, json.dumps(self.done, indent=1))

    def rescue(self, simulation: app.Simulation) -> None:
        """After an error save the state: to resume from if it is good, to look at if it is not."""
        try:
            good, producing = self.guard.accepts(simulation), self.state.exists()
            if good and producing and simulation.currentStep % self.interval == 0:
                # it is unknown whether the frame of this step has been written; the last save is at
                # most ten frames ago
                return
            path = self.failed_state if not good else self.state if producing else self.warm_state
            save_state(simulation, path)
            logger.info(
                "state at step %d: %s%s",
                simulation.currentStep,
                path,
                "" if good else f"; last good state: {self.state}",
            )
        # must not hide the error that ended the run
        except (OSError, openmm.OpenMMException) as error:
            logger.warning("the state at the error could not be saved: %s", openmm_message(error))

    def _summarize(self, simulation: app.Simulation) -> None:
        import torch

        seconds, measured = self.done["seconds"], self.done["measured"]
        summary: dict[str, Any] = {
            "ns_per_day": measured * self.timestep * 1e-3 / seconds * 86400,
            "step_time_ms": seconds / measured * 1e3,
            "seconds": seconds,
            "steps": self.done["steps"],
            "frames": self.done["steps"] // self.interval,
            "timestep_ps": self.timestep,
            "temperature": self.temperature,
            "mean_temperature": float(log_column(self.log, "Temperature").mean()),
            "platform": simulation.context.getPlatform().getName(),
            "threads": torch.get_num_threads(),
            "use_cuda_graphs": cuda_graphs(self.system),
        }
        if self.protocol.pressure is not None:
            summary["pressure_bar"] = self.protocol.pressure
            summary["mean_density"] = float(log_column(self.log, "Density").mean())
        write_text(self.folder / "simulation.json", json.dumps(summary, indent=1))
        logger.info(
            "%.4g ps done, %.4g ns/day, mean %.1f K",
            self.protocol.production,
            summary["ns_per_day"],
            summary["mean_temperature"],
        )


def save_state(simulation: app.Simulation, path: Path) -> None:
    """Save the state of a simulation; the file is complete or unchanged."""
    with replacing(path) as fresh:
        simulation.saveState(str(fresh))


def _steps_of(state: Path) -> int:
    """Step count of a saved state, 0 if there is none."""
    return (
        openmm.XmlSerializer.deserialize(state.read_text()).getStepCount() if state.exists() else 0
    )
