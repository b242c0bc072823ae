"""Stage 1: pack, minimise, anneal, NPT, NVT at the mean density, and mapped frames; resumable."""

from __future__ import annotations

import logging
import platform
import sys
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd import __version__
from openmm_cgkd.config.section import dump
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.frames.last_frame import read_last_frame
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.utils.arrays import whole_arrays, write_arrays
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.damaged import set_aside
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.lock import LOCK, locked
from openmm_cgkd.utils.progress import log_to
from openmm_cgkd.utils.seeds import derived_seed
from openmm_cgkd.utils.units import DENSITY_UNIT
from openmm_cgkd.utils.yaml_file import parse_yaml

from .backmap import add_restraint, place_molecules, relax
from .build import build_topology, create_system, pack
from .equilibration import Volume, used_volumes
from .finished import read_finished, write_finished
from .force_field import atomic_charges, read_force_field
from .phases import Phases, Start, StartState, all_atom_simulation
from .reporter import MappedReporter

logger = logging.getLogger(__name__)

_RESTRAINT = 2e5  # kJ/mol/nm^2, holds beads to 0.004 nm while atoms relax around them
COOLING = 5.0  # ps at the target temperature before the restraints go


# relative difference of the mean volumes of two runs beyond which the box is in doubt
_VOLUME_DOUBT = 0.005
# and beyond which a run is not equilibrated: to press its molecules together would only hide that
_VOLUME_LIMIT = 0.05


def run_reference(
    config: SystemConfig,
    folder: Path,
    start: Path | None = None,
    independent_of: Path | None = None,
) -> Path:
    """Run all atoms once and return the path of the mapped frames.

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
    independent_of : path, optional
        Mapped frames of another run of this fluid. This run is packed anew; after NPT its box gets
        the volume of theirs, so that both sample the same state.

    Raises
    ------
    ConfigError
        If the folder holds a run with other settings or another start.
    SimulationError
        If the simulation fails, or its volume is far from that of `independent_of`.
    """
    with locked(folder), log_to(folder / "reference.log"):
        config = _as_begun(config, folder)
        _check_same_settings(config, folder)
        write_text(folder / "system.yaml", dump(config, folder))
        return _Reference(config, folder, start, independent_of).run()


def _as_begun(config: SystemConfig, folder: Path) -> SystemConfig:
    """The configuration with the annealing temperature of a run that has begun, unless it has one.

    Earlier versions had another default.
    """
    path = folder / "system.yaml"
    if config.reference.annealing_temperature or not path.exists() or not _has_begun(folder):
        return config
    before = load_system(path).reference.annealing_temperature
    reference = config.reference.model_copy(update={"annealing_temperature": before})
    return config.model_copy(update={"reference": reference})


def _check_same_settings(config: SystemConfig, folder: Path) -> None:
    """Refuse to continue a run with other settings.

    Only the length of an unfinished production may change.
    """
    path = folder / "system.yaml"
    if not path.exists():
        return
    free = {"force_field", "molecules", "reference", "platform", "threads", "runs"}
    if not (folder / "production.xml").exists():
        free.add("production")
    before, now = (_settings(each, folder) for each in (load_system(path), config))
    for field in sorted(now.keys() & before.keys() - free):
        if before[field] != now[field]:
            if not _has_begun(folder):  # a run that was refused binds nobody
                (folder / "box.npz").unlink(missing_ok=True)
                return
            raise ConfigError(
                f"{folder}: holds a run with {field} {before[field]}, got {now[field]}; put it back"
                " or use another folder."
            )


def _settings(config: SystemConfig, folder: Path) -> dict[str, Any]:
    """All settings as plain data, those of the protocol and the molecules' counts beside them."""
    plain = parse_yaml(dump(config, folder), folder / "system.yaml", ConfigError)
    counts = {molecule["name"]: molecule["count"] for molecule in plain["molecules"]}
    hot = f"{config.annealing_temperature:g} kelvin"  # also if it is the default
    return {**plain, **plain["reference"], "counts": counts, "annealing_temperature": hot}


def _has_begun(folder: Path) -> bool:
    """Whether there is more than what is written before the first step of a simulation."""
    first = {"system.yaml", "reference.log", "error.log", "box.npz", "box.pdb", LOCK}
    return not first.issuperset(path.name for path in folder.iterdir())


class _Reference:
    def __init__(
        self,
        config: SystemConfig,
        folder: Path,
        start: Path | None = None,
        independent_of: Path | None = None,
    ) -> None:
        self.config, self.protocol, self.folder = config, config.reference, folder
        self.start, self.independent_of = start, independent_of

    def run(self) -> Path:
        frames, protocol = self.folder / "frames.h5", self.protocol
        phases = Phases(self.config, self.folder)
        finished = self.folder / "production.xml"
        if finished.exists() and frames.exists():
            logger.info("all-atom stage is finished: %s", frames)
            return frames
        if finished.exists():
            set_aside(f"{frames}: is missing, production starts over.", finished)
        packed, backmapped = self.folder / "box.npz", self.folder / "backmapped.xml"
        if self.start and packed.exists():
            raise ConfigError(
                f"{self.folder}: holds a run that began from a packed box; leave out the start"
                " frames or use another folder."
            )
        temperature = self.config.temperature
        if self.start or any(self.folder.glob("backmapped.*")):  # a damaged one, too
            topology = build_topology(self.config)
            system, mapping, relaxed = self._backmapped(topology, backmapped, self.start)

            def begin() -> Start:
                return relaxed

        else:
            topology, positions = self._packed(packed)
            system, mapping = self._system(topology)
            hot = self.config.annealing_temperature

            # a phase that is finished does not ask for those before it
            def annealed() -> openmm.State:
                return phases.run(
                    "annealing", system, topology, protocol.annealing, hot,
                    barostat=True, start=positions,
                )  # fmt: skip

            def begin() -> Start:
                npt = phases.run(
                    "npt", system, topology, protocol.npt, temperature,
                    barostat=True, start=annealed,
                )  # fmt: skip
                return self._at_final_volume(npt, topology)

        def nvt() -> openmm.State:
            return phases.run(
                "nvt", system, topology, protocol.nvt, temperature, barostat=False, start=begin
            )

        interval = max(1, round(protocol.frame_interval / protocol.timestep))

        def mapped(simulation: app.Simulation) -> MappedReporter:
            return MappedReporter(
                frames,
                interval,
                mapping,
                self._provenance(simulation, mapping),
                after_step=simulation.currentStep,
            )

        phases.run(
            "production",
            system,
            topology,
            protocol.production,
            temperature,
            barostat=False,
            start=nvt,
            mapped=mapped,
            frames=(frames, interval),
        )
        return frames

    def _at_final_volume(self, npt: openmm.State, topology: app.Topology) -> StartState:
        """The end of NPT in the box of the production."""
        mean = mean_volume(npt, self.folder / "npt.csv", final=self.independent_of is None)
        if self.independent_of is None:
            return at_volume(npt, topology, mean)
        given = float(box_volume(read_last_frame(self.independent_of).box[0]))
        difference = (
            f"the mean volume of NPT, {mean:.4f} nm^3, and the box of {self.independent_of},"
            f" {given:.4f} nm^3, differ by {100 * (mean / given - 1):.1f} %"
        )
        if abs(mean / given - 1) > _VOLUME_LIMIT:
            raise SimulationError(
                f"{self.folder}: {difference}; at least one of the two runs is not equilibrated,"
                " set longer reference.annealing and reference.npt and use another folder."
            )
        if abs(mean / given - 1) > _VOLUME_DOUBT:
            logger.warning(
                "%s: %s; the density is known no better than that, set a longer reference.npt.",
                self.folder,
                difference,
            )
        return at_volume(npt, topology, given)

    def _system(self, topology: app.Topology) -> tuple[openmm.System, Mapping]:
        system = create_system(self.config, topology)
        mapping = mapping_from_config(
            self.config, mdtraj.Topology.from_openmm(topology), atomic_charges(system)
        )
        return system, mapping.for_system(system)

    def _backmapped(
        self, topology: app.Topology, path: Path, start: Path | None
    ) -> tuple[openmm.System, Mapping, openmm.State]:
        """Atoms around the beads of the last start frame, relaxed while the beads are held."""
        if (state := read_finished(path, path.with_suffix(".json"))) is not None:
            topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
            return *self._system(topology), state
        if start is None:
            raise SimulationError(
                f"{path}: is damaged; name the frames again that this run started from."
            )
        frame = read_last_frame(start)
        beads, box = frame.positions[0].astype(float), frame.box[0]
        topology.setPeriodicBoxVectors(box * unit.nanometer)
        system, mapping = self._system(topology)
        if (
            not np.array_equal(mapping.topology.types, frame.beads.types)
            or mapping.topology.type_names != frame.beads.type_names
        ):
            raise ConfigError(
                f"{start}: its beads are not those of {self.config.name}; start from frames of"
                " this system."
            )
        held = openmm.XmlSerializer.clone(system)
        add_restraint(held, mapping, beads, _RESTRAINT)
        protocol, seed = self.protocol, derived_seed(self.protocol.seed, "backmapped")
        logger.info("backmapping the last frame of %s", start)
        positions = place_molecules(self.config, topology, mapping, beads, box, seed)
        simulation = all_atom_simulation(self.config, held, topology, seed)
        hot = self.config.annealing_temperature
        relax(
            simulation, positions, hot, protocol.annealing, self.config.temperature, COOLING, seed
        )
        state = simulation.context.getState(positions=True, velocities=True)
        write_finished(path, path.with_suffix(".json"), state)
        return system, mapping, state

    def _packed(self, path: Path) -> tuple[app.Topology, np.ndarray]:
        if not whole_arrays(path):
            read_force_field(self.config)  # before Packmol takes its time
            topology, positions = pack(self.config)
            # the PDB is for looking; exact numbers come from the array
            with replacing(self.folder / "box.pdb") as fresh, open(fresh, "w") as file:
                app.PDBFile.writeFile(topology, positions * 10 * unit.angstrom, file, keepIds=False)
            box = topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)
            write_arrays(path, {"positions": positions, "box": box})
            logger.info("packed %d atoms", topology.getNumAtoms())
        with np.load(path) as data:
            positions, box = data["positions"], data["box"]
        topology = build_topology(self.config)
        topology.setPeriodicBoxVectors(box * unit.nanometer)
        return topology, positions

    def _provenance(self, simulation: app.Simulation, mapping: Mapping) -> dict[str, object]:
        box = simulation.context.getState().getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
        mass = mapping.topology.masses.sum() / DENSITY_UNIT
        return {
            "system": self.config.name,
            "temperature": self.config.temperature,
            "density": mass / box,
            **self._density_error(mass),
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

    def _density_error(self, mass: float) -> dict[str, object]:
        """Standard error of the density where NPT of this run has set it."""
        table = self.folder / "npt.csv"
        if self.independent_of is not None or not table.exists():
            return {}
        volumes = used_volumes(table)
        return {**Volume.of(volumes).density(mass)} if len(volumes) else {}


def mean_volume(npt: openmm.State, table: Path, final: bool = True) -> float:
    """Mean volume of the last two thirds of an NPT phase, nm^3.

    Parameters
    ----------
    npt : openmm.State
        The end of the phase.
    table : path
        Its thermodynamics.
    final : bool
        Whether the production gets this volume, so that a doubt about it deserves a warning.
    """
    volumes = used_volumes(table)
    if not len(volumes):  # a very short NPT run has no rows
        return float(box_volume(_box_of(npt)))
    found = Volume.of(volumes)
    if final and found.doubt:
        logger.warning(
            "%s: mean volume of NPT %s: %s, and all later runs stay at this density; set a longer"
            " reference.npt in system.yaml and use another folder.",
            table.parent,
            found.words,
            found.doubt,
        )
    else:
        logger.info("mean volume of NPT %s", found.words)
    return found.mean


def at_volume(state: openmm.State, topology: app.Topology, volume: float) -> StartState:
    """Scale molecule centers so that the box has another volume.

    Parameters
    ----------
    state : openmm.State
    topology
    volume : float, nm^3
    """
    box = _box_of(state)
    scale = (volume / box_volume(box)) ** (1 / 3)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    molecule = np.array([atom.residue.index for atom in topology.atoms()])
    count = np.bincount(molecule)
    centers = np.stack(
        [np.bincount(molecule, weights=positions[:, k]) / count for k in range(3)], axis=1
    )
    moved = positions + (scale - 1) * centers[molecule]
    logger.info("box edges scaled by %.5f", scale)
    return StartState(box * scale, moved, state.getVelocities(asNumpy=True))


def _box_of(state: openmm.State) -> np.ndarray:
    return state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
