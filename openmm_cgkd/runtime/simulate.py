"""Stage 6: coarse-grained molecular dynamics; resumable, and stopped when it explodes."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from ..config import RunConfig, SimulationConfig
from ..exceptions import ConfigError, SimulationError
from ..files import file_hash, replacing, write_text
from ..frames import read_frames, split_frames
from ..progress import log_to, progress
from ..run_folder import RunFolder, Stage
from .cgpotential import CGPotential, bead_topology_to_openmm
from .compatibility import platforms
from .guard import ExplosionGuard, cause_of, stopped
from .trajectory import cut_log, cut_trajectory, log_column, open_log, open_trajectory, write_topology

logger = logging.getLogger(__name__)

_FRAMES_PER_SAVE = 10


def simulate(run: RunConfig) -> Path:
    """Run the exported student from the last training frame, in that frame's box, and return the trajectory's path.

    Raises
    ------
    SimulationError
        If the run explodes; trajectory and last good state are kept.
    """
    folder = RunFolder(run)
    with log_to(folder.log("simulate")):
        potential = CGPotential(folder.model)
        frames = read_frames(folder.frames)
        start = split_frames(frames.time, run.split.validation, run.split.test, run.split.gap).training[-1]
        identity = {"model": file_hash(folder.model), "frames": frames.identity, "start": int(start)}
        trajectory = folder.simulation / f"trajectory.{run.simulation.trajectory}"
        outputs = [trajectory, folder.simulation / "topology.pdb", folder.simulation / "simulation.json"]
        stage = Stage(folder, "simulate", {**identity, "simulation": run.simulation, "seed": run.seed}, outputs)
        if not stage.finished:
            topology = bead_topology_to_openmm(frames.beads, frames.box[start])
            system, positions = potential.createSystem(topology), frames.positions[start]
            run_dynamics(
                system, topology, positions, folder.simulation, run.simulation, frames.temperature, run.seed, json.dumps(identity)
            )
            stage.finish()
    return trajectory


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray,
    folder: Path,
    simulation: SimulationConfig,
    temperature: float,
    seed: int = 1,
    identity: str = "",
) -> Path:
    """Langevin dynamics of any system: equilibrate, then write a trajectory; call again to continue after an interruption.

    Parameters
    ----------
    system : openmm.System
        In its default box; not changed.
    topology : openmm.app.Topology
        With box vectors if the system is periodic.
    positions : ndarray, shape (n_beads, 3), nm
    folder : path
        Gets ``trajectory.dcd`` or ``.xtc`` (not wrapped, step 0 is the end of equilibration), ``topology.pdb``, ``state.csv``,
        ``state.xml`` (last saved state) and ``simulation.json`` (speed and mean temperature, once finished).
    simulation : SimulationConfig
    temperature : float, kelvin
    seed : int
        Of velocities and of the thermostat. After an interruption the thermostat gets another one, so that it does not repeat itself.
    identity : str
        Anything that tells this potential and start from others. What a folder holds is continued when identity, temperature,
        seed and protocol are the same and no more than the asked production has been done; otherwise the run begins anew.

    Returns
    -------
    path
        The trajectory.

    Raises
    ------
    ConfigError
        If the intervals do not fit each other.
    SimulationError
        If the platform is not available or the run explodes; trajectory and last good state are kept.
    """
    return _Dynamics(system, topology, np.asarray(positions, dtype=np.float64), Path(folder), simulation, temperature, seed, identity).run()


class _Dynamics:
    def __init__(self, system, topology, positions, folder, protocol, temperature, seed, identity) -> None:
        self.system, self.topology, self.positions, self.folder = system, topology, positions, folder
        self.protocol, self.temperature, self.seed = protocol, temperature, seed
        self.interval, self.total = round(protocol.frame_interval / protocol.timestep), round(protocol.production / protocol.timestep)
        spacing = f"simulation.frame_interval: {protocol.frame_interval:g} ps"
        if self.interval < 1:
            raise ConfigError(f"{spacing} is below the time step of {protocol.timestep:g} ps; lengthen it.")
        if self.total < self.interval:
            raise ConfigError(f"{spacing} is above the production of {protocol.production:g} ps, which then has no frame; shorten it.")
        self.trajectory = folder / f"trajectory.{protocol.trajectory}"
        self.log, self.state, self.record = folder / "state.csv", folder / "state.xml", folder / "progress.json"
        inputs = {**protocol.model_dump(mode="json"), "temperature": temperature, "seed": seed, "identity": identity}
        inputs.pop("production")  # a longer production continues a shorter one
        self.done = {"inputs": inputs, "steps": 0, "seconds": 0.0, "measured": 0}

    def run(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        box = self.topology.getPeriodicBoxVectors()
        box = None if box is None else np.array(box.value_in_unit(unit.nanometer))
        beads = write_topology(self.folder / "topology.pdb", self.topology, self.positions, box)
        self._read_progress()
        simulation = self._simulation()
        frames = self.done["steps"] // self.interval
        if self.done["steps"]:
            simulation.loadState(str(self.state))
            cut_trajectory(self.trajectory, self.topology, beads, frames, self.protocol.timestep, self.interval)
            cut_log(self.log, self.done["steps"])
            logger.info("resuming at %.4g ps", self.done["steps"] * self.protocol.timestep)
        else:
            self._equilibrate(simulation)
        self._produce(simulation, append=frames > 0)
        self._summarise(simulation)
        return self.trajectory

    def _read_progress(self) -> None:
        """Take over what an interrupted run of the same inputs has done, or clear the folder of another run."""
        if self.record.exists() and self.state.exists():
            found = json.loads(self.record.read_text())
            # the state is saved first, so its own step count is the one to trust
            found["steps"] = openmm.XmlSerializer.deserialize(self.state.read_text()).getStepCount()
            if found["inputs"] == self.done["inputs"] and found["steps"] <= self.total:
                self.done = found
                return
            logger.info("inputs have changed, simulating from the start")
        for path in (self.record, self.state, self.log, self.folder / "simulation.json", *self.folder.glob("trajectory.*")):
            path.unlink(missing_ok=True)

    def _simulation(self) -> app.Simulation:
        integrator = openmm.LangevinMiddleIntegrator(
            self.temperature * unit.kelvin, self.protocol.friction / unit.picosecond, self.protocol.timestep * unit.picosecond
        )
        integrator.setRandomNumberSeed((self.seed + self.done["steps"]) % (2**31 - 2) + 1)  # 0 would mean a random seed
        try:
            wanted = (openmm.Platform.getPlatformByName(self.protocol.platform),) if self.protocol.platform else ()
            return app.Simulation(self.topology, self.system, integrator, *wanted)
        except openmm.OpenMMException as error:
            wanted = f"simulation.platform: {self.protocol.platform or 'none named'}"
            raise SimulationError(f"{wanted}, cannot run the system ({cause_of(error)}); loaded here: {', '.join(platforms())}.") from error

    def _guard(self) -> ExplosionGuard:
        return ExplosionGuard(self.interval, self.temperature, self.protocol.max_temperature_ratio)

    def _equilibrate(self, simulation: app.Simulation) -> None:
        simulation.context.setPositions(self.positions)
        simulation.context.setVelocitiesToTemperature(self.temperature * unit.kelvin, self.seed)
        simulation.reporters.append(self._guard())
        steps = round(self.protocol.equilibration / self.protocol.timestep)
        with progress("CG equilibration, ps", self.protocol.equilibration) as meter:
            while simulation.currentStep < steps:
                self._step(simulation, min(self.interval, steps - simulation.currentStep))
                meter.update(simulation.currentStep * self.protocol.timestep)
        simulation.reporters.clear()
        simulation.currentStep = 0
        simulation.context.setTime(0)

    def _produce(self, simulation: app.Simulation, append: bool) -> None:
        reporters = [self._guard(), open_trajectory(self.trajectory, self.interval, append), open_log(self.log, self.interval, append)]
        simulation.reporters.extend(reporters)  # the guard first: frames that it refuses are not written
        piece = self.interval * _FRAMES_PER_SAVE
        with progress("CG simulation, ps", self.protocol.production, self.done["steps"] * self.protocol.timestep) as meter:
            try:
                while simulation.currentStep < self.total:
                    steps = min(piece - simulation.currentStep % piece, self.total - simulation.currentStep)
                    begin = time.perf_counter()
                    self._step(simulation, steps)
                    self._save(simulation, steps, time.perf_counter() - begin)
                    meter.update(simulation.currentStep * self.protocol.timestep)
            except SimulationError as error:
                logger.error("%s", error)
                raise
            finally:
                simulation.reporters.clear()  # closes their files

    def _step(self, simulation: app.Simulation, steps: int) -> None:
        try:
            simulation.step(steps)
        except SimulationError:
            raise
        except (openmm.OpenMMException, ValueError) as error:  # reporters raise ValueError on coordinates that are not finite
            raise stopped(simulation, cause_of(error)) from error

    def _save(self, simulation: app.Simulation, steps: int, seconds: float) -> None:
        with replacing(self.state) as fresh:
            simulation.saveState(str(fresh))
        self.done["steps"] = simulation.currentStep
        self.done["measured"] += steps
        self.done["seconds"] += seconds
        write_text(self.record, json.dumps(self.done, indent=1))

    def _summarise(self, simulation: app.Simulation) -> None:
        import torch

        seconds, measured = self.done["seconds"], self.done["measured"]
        summary: dict[str, Any] = {
            "ns_per_day": measured * self.protocol.timestep * 1e-3 / seconds * 86400,
            "step_time_ms": seconds / measured * 1e3,
            "seconds": seconds,
            "steps": self.done["steps"],
            "frames": self.done["steps"] // self.interval,
            "timestep_ps": self.protocol.timestep,
            "temperature": self.temperature,
            "mean_temperature": float(log_column(self.log, "Temperature").mean()),
            "platform": simulation.context.getPlatform().getName(),
            "threads": torch.get_num_threads(),
        }
        write_text(self.folder / "simulation.json", json.dumps(summary, indent=1))
        logger.info("%.4g ps done, %.4g ns/day, mean %.1f K", self.protocol.production, summary["ns_per_day"], summary["mean_temperature"])
