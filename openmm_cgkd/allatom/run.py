"""Stage 1: pack, minimise, anneal, NPT, NVT at the mean density, and mapped frames; resumable."""

from __future__ import annotations

import csv
import logging
import platform
import sys
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import yaml
from openmm import app, unit

from openmm_cgkd import __version__
from openmm_cgkd.config.run import SystemConfig, dump, load_system
from openmm_cgkd.exceptions import CGKDError, ConfigError, SimulationError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.platforms import choose_platform, platforms
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.progress import log_to, progress

from .backmap import add_restraint, place_molecules, relax
from .build import atomic_charges, build_topology, create_system, pack
from .reporter import MappedReporter

logger = logging.getLogger(__name__)

_SAVE_INTERVAL = 10.0  # ps between times when a phase may save its state
# seconds at least between saved states: a fast GPU needs half a second for 10 ps
_SAVE_EVERY = 10.0
_WARM_UP = 5.0  # ps with a quarter of the time step after packing
_RESTRAINT = 2e5  # kJ/mol/nm^2, holds beads to 0.004 nm while atoms relax around them
_COOLING = 5.0  # ps at the target temperature before the restraints go


def run_reference(config: SystemConfig, folder: Path, start: Path | None = None) -> Path:
    """Run the all-atom stage and return the path of the mapped frames.

    Every phase saves its state regularly; a second call with the same folder continues where the
    first stopped.

    Parameters
    ----------
    config : SystemConfig
    folder : path
        Holds ``box.pdb``, ``<phase>.xml`` states, ``<phase>.csv`` thermodynamics, ``frames.h5`` and
        ``reference.log``.
    start : path, optional
        Mapped frames. Instead of packing, annealing and NPT, atoms are put back on the beads of the
        last frame, in its box; they are annealed for the same time while the beads are held. NVT
        and production follow as usual.

    Raises
    ------
    ConfigError
        If the folder holds a run with other settings or another start.
    SimulationError
        If the simulation fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with log_to(folder / "reference.log"):
        _check_same_settings(config, folder)
        write_text(folder / "system.yaml", dump(config, folder))
        return _Reference(config, folder, start).run()


def _check_same_settings(config: SystemConfig, folder: Path) -> None:
    """A run is continued with the settings it was started with; only the length of an
    unfinished production may change.
    """
    path = folder / "system.yaml"
    if not path.exists():
        return
    free = {"force_field", "molecules", "reference", "platform", "threads"}
    if not (folder / "production.xml").exists():
        free.add("production")
    before, now = (yaml.safe_load(dump(each, folder)) for each in (load_system(path), config))
    for each in (before, now):
        each["counts"] = {molecule["name"]: molecule["count"] for molecule in each["molecules"]}
        each.update(each["reference"])
    for field in sorted(now.keys() & before.keys() - free):
        if before[field] != now[field]:
            raise ConfigError(
                f"{folder}: holds a run with {field} {before[field]}, got {now[field]}; put it back"
                " or use another folder."
            )


class _Reference:
    def __init__(self, config: SystemConfig, folder: Path, start: Path | None = None) -> None:
        self.config, self.protocol, self.folder, self.start = (
            config,
            config.reference,
            folder,
            start,
        )

    def run(self) -> Path:
        frames, protocol = self.folder / "frames.h5", self.protocol
        if (self.folder / "production.xml").exists():
            logger.info("all-atom stage is finished: %s", frames)
            return frames
        packed, backmapped = self.folder / "box.npz", self.folder / "backmapped.xml"
        if self.start and packed.exists():
            raise ConfigError(
                f"{self.folder}: holds a run that began from a packed box; leave out the start"
                " frames or use another folder."
            )
        temperature = self.config.temperature
        if self.start or backmapped.exists():
            topology = build_topology(self.config)
            system, mapping, begin = self._backmapped(topology, backmapped)
        else:
            topology, positions = self._packed(packed)
            system, mapping = self._system(topology)
            hot = protocol.annealing_temperature
            annealed = self._phase(
                "annealing",
                system,
                topology,
                protocol.annealing,
                hot,
                barostat=True,
                start=positions,
            )
            npt = self._phase(
                "npt", system, topology, protocol.npt, temperature, barostat=True, start=annealed
            )
            begin = self._at_mean_volume(npt, topology)
        nvt = self._phase(
            "nvt", system, topology, protocol.nvt, temperature, barostat=False, start=begin
        )
        reporter = (frames, max(1, round(protocol.frame_interval / protocol.timestep)), mapping)
        self._phase(
            "production",
            system,
            topology,
            protocol.production,
            temperature,
            barostat=False,
            start=nvt,
            reporter=reporter,
        )
        return frames

    def _system(self, topology: app.Topology) -> tuple[openmm.System, Mapping]:
        system = create_system(self.config, topology)
        mapping = mapping_from_config(
            self.config, mdtraj.Topology.from_openmm(topology), atomic_charges(system)
        )
        mapping.check_constraints(system)
        return system, mapping

    def _backmapped(
        self, topology: app.Topology, path: Path
    ) -> tuple[openmm.System, Mapping, openmm.State]:
        """Atoms around the beads of the last start frame, relaxed while the beads are held."""
        if path.exists():
            state = openmm.XmlSerializer.deserialize(path.read_text())
            topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
            return *self._system(topology), state
        frame = read_frames(self.start)[-1:]
        beads, box = frame.positions[0].astype(float), frame.box[0]
        topology.setPeriodicBoxVectors(box * unit.nanometer)
        system, mapping = self._system(topology)
        if (
            not np.array_equal(mapping.topology.types, frame.beads.types)
            or mapping.topology.type_names != frame.beads.type_names
        ):
            raise ConfigError(
                f"{self.start}: its beads are not those of {self.config.name}; start from frames of"
                " this system."
            )
        held = openmm.XmlSerializer.clone(system)
        add_restraint(held, mapping, beads, _RESTRAINT)
        protocol, seed = self.protocol, phase_seed(self.protocol.seed, "backmapped", 0)
        logger.info("backmapping the last frame of %s", self.start)
        positions = place_molecules(self.config, topology, mapping, beads, box, seed)
        simulation = self._simulation(held, topology, self.config.temperature, False, seed)
        hot = protocol.annealing_temperature
        relax(
            simulation, positions, hot, protocol.annealing, self.config.temperature, _COOLING, seed
        )
        state = simulation.context.getState(positions=True, velocities=True)
        write_text(path, openmm.XmlSerializer.serialize(state))
        return system, mapping, state

    def _packed(self, path: Path) -> tuple[app.Topology, np.ndarray]:
        if not path.exists():
            topology, positions = pack(self.config)
            # the PDB is for looking; exact numbers come from the array
            with replacing(self.folder / "box.pdb") as fresh, open(fresh, "w") as file:
                app.PDBFile.writeFile(topology, positions * 10 * unit.angstrom, file, keepIds=False)
            with replacing(path) as fresh, open(fresh, "wb") as file:
                np.savez(
                    file,
                    positions=positions,
                    box=topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer),
                )
            logger.info("packed %d atoms", topology.getNumAtoms())
        with np.load(path) as data:
            positions, box = data["positions"], data["box"]
        topology = build_topology(self.config)
        topology.setPeriodicBoxVectors(box * unit.nanometer)
        return topology, positions

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

    def _phase(
        self, name, system, topology, duration, temperature, barostat, start, reporter=None
    ) -> openmm.State:
        """Run one phase to its end, or read its result if it has ended before."""
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
                name, simulation, round(duration / self.protocol.timestep), partial, reporter
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

    def _advance(
        self, name: str, simulation: app.Simulation, total: int, partial: Path, reporter=None
    ) -> None:
        """Step to the end of a phase, saving the state at intervals."""
        timestep = self.protocol.timestep
        piece = max(1, round(_SAVE_INTERVAL / timestep))
        simulation.reporters.append(self._thermodynamics(name, simulation))
        with ExitStack() as stack:
            if reporter is not None:
                path, interval, mapping = reporter
                mapped = MappedReporter(
                    path,
                    interval,
                    mapping,
                    self._provenance(simulation),
                    after_step=simulation.currentStep,
                )
                stack.callback(mapped.close)
                simulation.reporters.append(mapped)
                simulation.reporters.append(self._snapshots(simulation))
            meter = stack.enter_context(
                progress(f"all-atom {name}", total * timestep, simulation.currentStep * timestep)
            )
            saved = time.monotonic()
            while simulation.currentStep < total:
                simulation.step(
                    min(piece - simulation.currentStep % piece, total - simulation.currentStep)
                )
                if time.monotonic() - saved >= _SAVE_EVERY:
                    with replacing(partial) as fresh:
                        simulation.saveState(str(fresh))
                    saved = time.monotonic()
                meter.update(simulation.currentStep * timestep)

    def _start(self, simulation: app.Simulation, start, temperature: float, seed: int) -> None:
        context = simulation.context
        # packed, not yet equilibrated: remove overlaps, then small steps
        if isinstance(start, np.ndarray):
            context.setPositions(start * unit.nanometer)
            simulation.minimizeEnergy()
            context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
            timestep = simulation.integrator.getStepSize()
            simulation.integrator.setStepSize(timestep / 4)
            simulation.step(round(_WARM_UP / (self.protocol.timestep / 4)))
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
            _drop_rows_after(path, simulation.currentStep)
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
            _keep_snapshots(path, keep)
        else:
            path.unlink(missing_ok=True)
        return app.XTCReporter(str(path), steps, append=keep > 0, enforcePeriodicBox=False)

    def _at_mean_volume(self, npt: openmm.State, topology: app.Topology) -> openmm.State:
        """Scale molecule centres so that the box has the mean volume of the last two thirds of
        NPT.
        """
        with open(self.folder / "npt.csv") as file:
            volume = np.array([float(row["Box Volume (nm^3)"]) for row in csv.DictReader(file)])
        box = npt.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        # a very short NPT run has no rows
        mean = volume[len(volume) // 3 :].mean() if len(volume) else np.linalg.det(box)
        scale = (mean / np.linalg.det(box)) ** (1 / 3)
        positions = npt.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        molecule = np.array([atom.residue.index for atom in topology.atoms()])
        count = np.bincount(molecule)
        centers = np.stack(
            [np.bincount(molecule, weights=positions[:, k]) / count for k in range(3)], axis=1
        )
        moved = positions + (scale - 1) * centers[molecule]
        logger.info("mean volume of NPT %.4f nm^3, box edges scaled by %.5f", mean, scale)
        return _State(box * scale, moved, npt.getVelocities(asNumpy=True))

    def _provenance(self, simulation: app.Simulation) -> dict[str, object]:
        box = simulation.context.getState().getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
        mass = sum(
            atom.element.mass.value_in_unit(unit.dalton) for atom in simulation.topology.atoms()
        )
        return {
            "system": self.config.name,
            "temperature": self.config.temperature,
            "density": mass / box / 602.214076,
            "n_atoms": simulation.topology.getNumAtoms(),
            "seed": self.protocol.seed,
            "command": " ".join(["cgkd", *sys.argv[1:]]),
            "configuration": dump(self.config),
            "force_field_sha256": file_hash(self.config.path(self.config.force_field)),
            "versions": (
                f"openmm_cgkd {__version__}, openmm {openmm.__version__}, python"
                f" {platform.python_version()}"
            ),
            "platform": simulation.context.getPlatform().getName(),
        }


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


def _drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of a thermodynamics file that a resumed phase will write again, and a
    torn last one.
    """
    header, *rows = path.read_text().splitlines()
    kept = [
        row
        for row in rows
        if row.count(",") == header.count(",") and int(row.split(",", 1)[0]) <= step
    ]
    write_text(path, "\n".join([header, *kept]) + "\n")


def _keep_snapshots(path: Path, count: int) -> None:
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


class _State:
    """The part of an `openmm.State` that a phase starts from."""

    def __init__(self, box: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        self._box, self._positions, self._velocities = box, positions, velocities

    def getPeriodicBoxVectors(self) -> np.ndarray:
        return self._box * unit.nanometer

    def getPositions(self, asNumpy: bool = True) -> np.ndarray:
        return self._positions * unit.nanometer

    def getVelocities(self, asNumpy: bool = True) -> np.ndarray:
        return self._velocities
