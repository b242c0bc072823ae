"""Molecular dynamics of beads; resumable, and stopped when it explodes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.run import CommitteeConfig, SimulationConfig
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.platforms import hardware_of
from openmm_cgkd.utils.appended import RECORD
from openmm_cgkd.utils.damaged import set_aside
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.langevin import langevin_simulation
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.save_points import Progress, SavePoints, reseed
from openmm_cgkd.utils.seeds import derived_seed
from openmm_cgkd.utils.statistics import mean_of, numbers_of

from .cgpotential import CGPotential
from .committee import Committee, CommitteeReporter, SpreadRange
from .engines import cuda_graphs
from .ensemble import EnsemblePotential
from .explosion import ExplosionGuard, openmm_message, stop_error
from .outputs import is_begun, log_column, open_log, open_trajectory, write_topology
from .schedule import Schedule
from .start import FirstState, Known, check_start
from .topology import bead_molecules, bead_names

logger = logging.getLogger(__name__)

_FRAMES_PER_SAVE = 10
# seconds at least between saved states: a fast GPU needs a fifth of one for ten frames
SAVE_EVERY = 1.0


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
    potential: CGPotential | EnsemblePotential | None = None,
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
        ``topology.pdb``, ``state.csv``, ``state.xml`` and ``state.chk`` (last good state, and the
        one before), ``progress.json`` (checksums of these files), ``committee.csv`` and
        ``simulation.json`` (speed and mean temperature, once finished). After an error
        ``failure.xml`` is the state that was refused.
    simulation : SimulationConfig
        With a time step.
    temperature : float, kelvin
    seed : int
        Of velocities and of the thermostat. An interrupted run goes on bit for bit as if there had
        been no interruption, as far as the platform's forces are the same every time; with a
        barostat, or on another machine, its random numbers are others from there on.
    identity : str
        Anything that tells this potential and start from others. What a folder holds is continued
        when identity, temperature, seed and protocol are the same and no more than the asked
        production has been done; otherwise the run begins anew. It begins anew, too, with a
        warning, if its files are damaged; they are kept with ``.damaged`` behind their names.
    committee : Committee and SpreadRange, optional
        Watches the run as `simulation.committee` says, or with its defaults.
    potential : CGPotential or EnsemblePotential, optional
        Of the system: temperature and start are compared with what it was made for.

    Returns
    -------
    path
        The trajectory.

    Raises
    ------
    ConfigError
        If the intervals do not fit each other, there is no time step, or a pressure for beads
        without a box, or the potential was made for another temperature, or the platform is not
        there.
    SimulationError
        If the platform cannot run the system, the start is not in nm, or the run explodes;
        trajectory and last good state are kept.
    """
    started = np.asarray(positions, dtype=np.float64)
    known = Known.of(potential) if potential else None
    if known:
        known.check_temperature(
            temperature, "the simulation is to run at", simulation.other_temperature
        )
    check_start(topology, started, known)
    dynamics = Dynamics(
        system, topology, started, Path(folder), simulation, temperature, seed, identity, committee,
        known,
    )  # fmt: skip
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
        known: Known | None,
    ) -> None:
        self.system, self.topology, self.positions, self.known = system, topology, positions, known
        self.folder, self.protocol, self.committee = folder, protocol, committee
        self.temperature, self.seed = temperature, seed
        if protocol.pressure is not None and not system.usesPeriodicBoundaryConditions():
            raise ConfigError(
                "simulation.pressure: needs a periodic box, and these beads have none; remove the"
                " pressure."
            )
        schedule = Schedule.of(protocol)
        self.timestep, self.interval = schedule.timestep, schedule.interval
        self.total, self.warm_up, self.watch = schedule.total, schedule.warm_up, schedule.watch
        self.trajectory = folder / f"trajectory.{protocol.trajectory}"
        self.log, self.spread = folder / "state.csv", folder / "committee.csv"
        self.pdb, self.report = folder / "topology.pdb", folder / "simulation.json"
        # the last good state, and the one that was refused
        self.state, self.failed_state = folder / "state.xml", folder / "failure.xml"
        outputs = [self.trajectory, self.log, self.spread]
        self.saves = SavePoints(self.state, folder / RECORD, outputs, [self.pdb])
        inputs = {
            **protocol.model_dump(mode="json"),
            "temperature": temperature,
            "seed": seed,
            "identity": identity,
        }
        inputs.pop("production")  # a longer production continues a shorter one
        self.done: dict[str, Any] = {
            "inputs": inputs,
            "equilibrated": False,
            "steps": 0,
            "seconds": 0.0,
            "measured": 0,
        }
        self._saved = time.monotonic()
        self.guard = ExplosionGuard(self.interval, temperature, protocol.max_temperature_ratio)

    def run(self) -> Path:
        """Run, or continue; the path of the trajectory."""
        seed = derived_seed(self.seed, "dynamics", 0)
        simulation = langevin_simulation(
            self.system,
            self.topology,
            temperature=self.temperature,
            friction=self.protocol.friction,
            timestep=self.timestep,
            seed=seed,
            pressure=self.protocol.pressure,
            platform=self.protocol.platform,
        )
        resumed = self._resume(simulation)
        box = self.topology.getPeriodicBoxVectors()
        box = None if box is None else np.array(box.value_in_unit(unit.nanometer))
        write_topology(self.pdb, self.topology, self.positions, box)
        try:
            if not self.done["equilibrated"]:
                self._equilibrate(simulation, resumed)
            self._save(simulation)
            self._produce(simulation)
        except BaseException as error:
            if isinstance(error, SimulationError):
                logger.error("%s", error)
            self.rescue(simulation)
            raise
        self._summarize(simulation)
        return self.trajectory

    def _resume(self, simulation: app.Simulation) -> bool:
        """Go on with an interrupted run of the same inputs, or clear the folder for a new one."""
        self.failed_state.unlink(missing_ok=True)  # of an earlier start: nothing goes on from it
        saves, damage = self.saves.find()
        if saves and not self._continues(saves[0].record):
            logger.info("inputs have changed, simulating from the start")
            for path in self._made():
                path.unlink(missing_ok=True)
            return False
        saves = [save for save in saves if self._continues(save.record)]
        record = self.saves.restore(simulation, saves, lambda old: self._reseed(simulation, old))
        for message in damage:
            logger.warning("%s", message)
        if record is not None:
            self.done = {name: record[name] for name in self.done}
            logger.info(
                "resuming %sat %.4g ps",
                "" if record["equilibrated"] else "equilibration ",
                simulation.currentStep * self.timestep,
            )
            return True
        if any(path.exists() for path in self._made()):
            set_aside(
                f"{self.folder}: its simulation cannot be continued and starts over.", *self._made()
            )
        return False

    def _continues(self, record: dict[str, Any]) -> bool:
        same = record.get("inputs") == self.done["inputs"]
        return same and Progress.fits(record) and record["steps"] <= self.total

    def _made(self) -> list[Path]:
        """What a run leaves, except the topology, which every run writes."""
        trajectories = [self.trajectory.with_suffix(suffix) for suffix in (".dcd", ".xtc")]
        states = [*self.saves.files, self.folder / "equilibration.xml"]
        return [*trajectories, self.log, self.spread, self.report, *states]

    def _reseed(self, simulation: app.Simulation, record: dict[str, Any]) -> None:
        """Other random numbers from the step of a save on, so that noise does not repeat itself."""
        reseed(simulation, derived_seed(self.seed, "dynamics", record["step"]))

    def _equilibrate(self, simulation: app.Simulation, resumed: bool) -> None:
        if not resumed:
            self._place(simulation)
            simulation.context.setVelocitiesToTemperature(self.temperature * unit.kelvin, self.seed)
        simulation.reporters.append(self.guard)
        with progress(
            "CG equilibration",
            self.protocol.equilibration,
            "ps",
            simulation.currentStep * self.timestep,
        ) as meter:
            while simulation.currentStep < self.warm_up:
                self.step(simulation, self._piece(simulation.currentStep, self.warm_up))
                self.save(simulation, 0, 0.0)
                meter.update(simulation.currentStep * self.timestep)
        simulation.reporters.clear()
        if self.warm_up:
            self.guard.first = None  # production starts elsewhere
        simulation.currentStep = 0
        simulation.context.setTime(0)
        self.done["equilibrated"] = True

    def _place(self, simulation: app.Simulation) -> None:
        """Put the beads where they start."""
        simulation.context.setPositions(self.positions)
        try:
            self.guard.first = FirstState(simulation, bead_names(self.topology), self.known)
        except openmm.OpenMMException as error:
            raise stop_error(simulation, openmm_message(error)) from error
        self.guard.first.refuse_overlaps(bead_molecules(self.topology), self.temperature)

    def _produce(self, simulation: app.Simulation) -> None:
        # the guard first: frames that it refuses are not written
        simulation.reporters.extend([self.guard, *self.reporters()])
        with progress(
            "CG simulation",
            self.protocol.production,
            "ps",
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

    def reporters(self) -> list[Any]:
        """Reporters of the production, whose files are continued or begun."""
        density = self.protocol.pressure is not None
        found = [
            open_trajectory(self.trajectory, self.interval, is_begun(self.trajectory)),
            open_log(self.log, self.interval, is_begun(self.log), density),
        ]
        if self.committee:
            settings = self.protocol.committee or CommitteeConfig()
            committee, known = self.committee
            found.append(
                CommitteeReporter(
                    self.spread,
                    self.watch,
                    committee,
                    known,
                    settings.max_ratio,
                    settings.action,
                    is_begun(self.spread),
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
            raise self.guard.error(simulation, openmm_message(error)) from error

    def save(self, simulation: app.Simulation, steps: int, seconds: float) -> None:
        """Record that `steps` more took `seconds`, and save the state if it is time to."""
        self.done["measured"] += steps
        self.done["seconds"] += seconds
        if simulation.currentStep == self.total or time.monotonic() - self._saved >= SAVE_EVERY:
            self._save(simulation)

    def _save(self, simulation: app.Simulation) -> None:
        self._saved = time.monotonic()
        step = simulation.currentStep
        self.done["steps"] = step if self.done["equilibrated"] else 0
        since_start = step + (self.warm_up if self.done["equilibrated"] else 0)
        finished = self.done["steps"] == self.total
        self.saves.write(simulation, {**self.done, "step": since_start, "finished": finished})

    def rescue(self, simulation: app.Simulation) -> None:
        """After an error save the state: to resume from if it is good, to look at if it is not."""
        try:
            step = simulation.currentStep
            if not self.guard.accepts(simulation):
                save_state(simulation, self.failed_state)
                logger.info("state at step %d: %s", step, self.failed_state)
                logger.info("last good state: %s", self.state)
                return
            # it is unknown whether a reporter has written what belongs to this step; the last save
            # is not long ago
            writing = [self.interval, self.watch] if self.committee else [self.interval]
            if not self.done["equilibrated"] or all(step % interval for interval in writing):
                self._save(simulation)
                logger.info("state at step %d: %s", step, self.state)
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
            **numbers_of("mean_temperature", mean_of(log_column(self.log, "Temperature"))),
            "platform": simulation.context.getPlatform().getName(),
            "threads": torch.get_num_threads(),
            "hardware": hardware_of(simulation.context, torch.get_num_threads()),
            "use_cuda_graphs": cuda_graphs(self.system),
        }
        if self.protocol.pressure is not None:
            summary["pressure_bar"] = self.protocol.pressure
            summary |= numbers_of("mean_density", mean_of(log_column(self.log, "Density")))
        write_record(self.report, summary)
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
