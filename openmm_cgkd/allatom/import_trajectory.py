"""Mapped frames from an existing all-atom trajectory with forces."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import openmm

from openmm_cgkd import __version__
from openmm_cgkd.config.section import dump
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import FramesError, MappingError
from openmm_cgkd.frames.correlation import ForceAutocorrelation
from openmm_cgkd.frames.frames import Frames, frames_header, set_attributes, write_stream
from openmm_cgkd.frames.thinning import write_independent
from openmm_cgkd.mapping.force_maps import OptimalForceMap
from openmm_cgkd.mapping.mapping import Mapping, atomic_masses, mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from openmm_cgkd.mapping.openmscg import mapping_from_cgmap
from openmm_cgkd.mapping.rigid import RigidDistancesBetweenBeads
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.lock import locked_file
from openmm_cgkd.utils.progress import log_to, progress
from openmm_cgkd.utils.units import DENSITY_UNIT

from .atom_frame import AtomFrame
from .bond_check import BondCheck
from .equilibration import Volume
from .identity_check import check_identity
from .match_topology import match_topology
from .mdanalysis import AtomTrajectory, open_topology, open_trajectory

logger = logging.getLogger(__name__)

_SAME_VOLUME = 1e-6  # relative: trajectories hold boxes in single precision
_PIECE = 64  # frames mapped before they are written


def map_trajectory(
    system: SystemConfig,
    trajectory: Path,
    topology: Path,
    output: Path,
    *,
    units: str | None = None,
    timestep: float | None = None,
    mapping: Path | None = None,
    thin: bool = False,
) -> Path:
    """Map every frame of an all-atom trajectory and write a file of mapped frames.

    Memory does not grow with the number of frames. With ``force_map: optimal`` the trajectory is
    read twice, and the attribute ``force_map`` of the file holds the coefficients.

    Parameters
    ----------
    system : SystemConfig
        Molecules, temperature and beads. Masses, atom names and bonds come from its molecule files.
    trajectory : path
        All-atom trajectory with positions and forces at the same steps: GROMACS ``.trr``, Amber
        NetCDF ``.nc``, ``.h5md``, or a LAMMPS dump of any name, also compressed (``.gz``).
        Molecules may be broken across the periodic box, which may be triclinic.
    topology : path
        The same atoms with names and one residue per molecule, in a format MDAnalysis reads (PDB,
        GRO, TPR).
    output : path
        HDF5 file of mapped frames; complete or absent. If it holds the frames of this trajectory
        already, nothing is done. A log with the same name and ending ``.log`` stands beside it.
    units : str, optional
        Unit style of a LAMMPS run (``real``, ``metal``, ``electron``, ``si``); other formats have
        units of their own.
    timestep : float, optional
        Time step of a LAMMPS run whose dump has no times, ps.
    mapping : path, optional
        Mapping file of OpenMSCG's ``cgmap``, used in place of the beads of `system`.
    thin : bool
        Keep only frames that are independent by the measured autocorrelation of the forces.

    Returns
    -------
    path
        `output`.

    Raises
    ------
    CompatibilityError
        If MDAnalysis is not installed.
    ConfigError
        If `units` or `timestep` are missing, not needed or contradict the trajectory.
    FramesError
        If a file is missing or unreadable, a frame has no forces or no positions, a value is not
        finite, lengths are in other units than the format says, or `output` is another file.
    MappingError
        If the atoms or molecules differ from the configuration, a distance between atoms of two
        beads never varies or the frames are too few to tell, or no optimal force map exists.
    BoxError
        If a frame has no periodic box.
    AnalysisError
        If `thin` is asked for and the frames are too few or not evenly spaced in time.

    Notes
    -----
    Constraints are not in a trajectory, nor are their forces. A distance that never varies is taken
    as constrained: a sum of forces is refused if it joins two beads, an optimal force map treats
    both atoms alike.
    """
    with warnings.catch_warnings(), locked_file(output), log_to(output.with_suffix(".log")):
        # guesses about fields that are not read here
        warnings.filterwarnings("ignore", module="MDAnalysis")
        universe = open_topology(topology)
        source = open_trajectory(trajectory, universe, topology, units, timestep)
        atoms = match_topology(system, universe, topology)
        masses = atomic_masses(system, atoms)
        bonds = bond_order(atoms, masses == 0)
        if len(bonds) != atoms.n_atoms - atoms.n_residues:
            raise MappingError(
                "Some atoms of a molecule are not bonded to the rest of it; add CONECT records to"
                " its molecule file."
            )
        beads = _mapping(system, mapping, atoms, getattr(universe.atoms, "charges", None))
        _log_masses(beads)
        molecules = WholeMolecules(bonds, atoms.n_atoms)
        whole = _WholeFrames(source, trajectory, atoms, masses, molecules, BondCheck(system, atoms))
        options: dict[str, object] = {
            "units": units,
            "timestep": timestep,
            "thin": thin,
            "mapping": mapping and file_hash(mapping),
        }
        attributes = _provenance(system, trajectory, topology, atoms, options)
        if output.exists():
            return _existing(output, attributes)
        constraints = None
        if system.force_map == "optimal":
            beads, attributes["force_map"] = _fit_force_map(whole, beads, atoms)
        else:
            constraints = RigidDistancesBetweenBeads(beads, atoms)
        mapped = _MappedFrames(whole, beads, attributes, constraints)
        with replacing(output) as fresh:
            n = write_stream(fresh, mapped.beads, attributes, mapped)
            if n == 0:
                raise FramesError(
                    f"{trajectory}: holds no frames; give a trajectory with positions and forces."
                )
            density = mapped.density()
            attributes |= density
            set_attributes(fresh, density)
            if thin:
                n = write_independent(
                    fresh, fresh, mapped.beads, mapped.attributes, mapped.correlation
                )
    logger.info(
        "mapped %d frames of %d atoms onto %d beads: %s",
        n,
        atoms.n_atoms,
        mapped.beads.n_beads,
        output,
    )
    return output


class _WholeFrames:
    """Frames of a trajectory, checked, with whole molecules; can be gone through several times."""

    def __init__(
        self,
        source: AtomTrajectory,
        path: Path,
        atoms: mdtraj.Topology,
        masses: np.ndarray,
        whole: WholeMolecules,
        bonds: BondCheck,
    ) -> None:
        self._source, self._path, self._atoms, self._masses = source, path, atoms, masses
        self._whole, self._check_bonds = whole, bonds

    def each(self, task: str) -> Iterator[AtomFrame]:
        """All frames, with a progress bar of this name."""
        last, last_time = -1, -np.inf
        with progress(task, len(self._source), "frames") as meter:
            for k, frame in enumerate(self._source):
                if frame.step <= last:
                    raise FramesError(
                        f"{self._path}: frame {k} is at step {frame.step}, not after {last}; remove"
                        " repeated frames, and map the parts of joined runs one by one."
                    )
                if not frame.time > last_time:
                    raise FramesError(
                        f"{self._path}: frame {k} is at {frame.time:.8g} ps, not after"
                        f" {last_time:.8g} ps; map the parts of joined runs one by one, and where"
                        " single precision cannot tell so late times apart, write them from 0 on."
                    )
                last, last_time = frame.step, frame.time
                if k == 0:
                    check_identity(frame, self._atoms, self._masses, self._path)
                yield replace(frame, positions=self._placed(frame))
                meter.update(k + 1)

    def _placed(self, frame: AtomFrame) -> np.ndarray:
        """Positions with whole molecules, whose bonds are those of the molecule files."""
        positions = self._whole(frame.positions, frame.box)
        self._check_bonds(positions, f"{self._path}: step {frame.step}")
        return positions


def _fit_force_map(
    frames: _WholeFrames, mapping: Mapping, atoms: mdtraj.Topology
) -> tuple[Mapping, str]:
    """The mapping with the optimal force map of all frames, and the record of its coefficients."""
    optimal = OptimalForceMap(mapping, atoms)
    for frame in frames.each("force map"):
        optimal.add(frame.positions, frame.forces)
    return optimal.solve()


class _MappedFrames:
    """Mapped frames in pieces; measures the force autocorrelation on the way."""

    def __init__(
        self,
        frames: _WholeFrames,
        mapping: Mapping,
        attributes: dict[str, object],
        constraints: RigidDistancesBetweenBeads | None,
    ) -> None:
        self.beads, self.attributes, self.correlation = (
            mapping.topology,
            attributes,
            ForceAutocorrelation(),
        )
        self._frames, self._mapping = frames, mapping
        # an optimal force map has found the constraints itself
        self._constraints = constraints
        self._volumes: list[float] = []

    def density(self) -> dict[str, object]:
        """Mass over the mean volume of the frames so far, g/cm^3, as attributes.

        With its standard error where the box changes.
        """
        volumes, mass = np.array(self._volumes), self.beads.masses.sum() / DENSITY_UNIT
        density = {"density": float(mass / volumes.mean())}
        if np.ptp(volumes) <= _SAME_VOLUME * volumes.mean():
            return {**density}
        found = Volume.of(volumes)
        if found.doubt:
            logger.warning(
                "mean volume of the frames %s: the box of the trajectory changes, and %s; give a"
                " longer trajectory, or one at the constant volume of its mean.",
                found.words,
                found.doubt,
            )
        else:
            logger.info("mean volume of the frames %s", found.words)
        return {**density, **found.density(mass)}

    def __iter__(self) -> Iterator[Frames]:
        piece: list[AtomFrame] = []
        for frame in self._frames.each("map"):
            piece.append(frame)
            if self._constraints:
                self._constraints.add(frame.positions)
            if len(piece) == _PIECE:
                yield self._checked(piece)
                piece = []
        if piece:
            yield self._checked(piece)
        if self._constraints:
            self._constraints.check(complete=True)

    def _checked(self, piece: list[AtomFrame]) -> Frames:
        if self._constraints:
            self._constraints.check(complete=False)
        return self._map(piece)

    def _map(self, piece: list[AtomFrame]) -> Frames:
        positions = [self._mapping.map_positions(frame.positions) for frame in piece]
        forces = [self._mapping.map_forces(frame.forces) for frame in piece]
        box, time, step = (
            [getattr(frame, name) for frame in piece] for name in ("box", "time", "step")
        )
        # in the precision of the file, which the checksums are taken in
        arrays = (
            np.array(positions, "f4"),
            np.array(forces, "f4"),
            np.array(box),
            np.array(time),
            np.array(step),
        )
        frames = Frames(*arrays, beads=self.beads, attributes=self.attributes)
        self._volumes.extend(box_volume(frames.box))
        self.correlation.compute(frames)
        return frames


def _mapping(
    system: SystemConfig, file: Path | None, atoms: mdtraj.Topology, charges: np.ndarray | None
) -> Mapping:
    """Atoms to beads; charges where the topology file has them."""
    optimal = system.force_map == "optimal"
    if file:
        mapping = mapping_from_cgmap(file, atoms, optimal, atomic_masses(system, atoms))
        return mapping if charges is None else mapping.with_charges(charges)
    return mapping_from_config(system, atoms, charges, calibrate=optimal)


def _log_masses(mapping: Mapping) -> None:
    """Say what the beads weigh, so that a wrong element is seen."""
    names, masses = np.array(mapping.topology.names), mapping.topology.masses
    atoms = np.bincount(mapping.bead_of_atom[mapping.bead_of_atom >= 0], minlength=len(names))
    for name in mapping.topology.type_names:
        k = int(np.argmax(names == name))
        logger.info("bead %s: %.3f dalton, %d atoms", name, masses[k], atoms[k])


def _existing(output: Path, attributes: dict[str, object]) -> Path:
    """Accept a file that holds the same frames; refuse to replace any other."""
    try:
        found = frames_header(output).attributes
    except FramesError as error:
        raise FramesError(
            f"{output}: exists and is not a file of mapped frames; remove it or choose another"
            " --output."
        ) from error
    if any(
        found.get(key) != attributes[key]
        for key in ("configuration", "trajectory_sha256", "options")
    ) or any(
        # earlier versions did not write them
        found.get(key, attributes[key]) != attributes[key]
        for key in ("topology_sha256", "molecules_sha256")
    ):
        cure = "remove it or choose another --output"
        raise FramesError(
            f"{output}: exists and holds frames of another trajectory, topology or system, or made"
            f" with other options; {cure}."
        )
    logger.info("%s: finished before, skipped", output)
    return output


def _provenance(
    system: SystemConfig,
    trajectory: Path,
    topology: Path,
    atoms: mdtraj.Topology,
    options: dict[str, object],
) -> dict[str, object]:
    return {
        "system": system.name,
        "temperature": system.temperature,
        "n_atoms": atoms.n_atoms,
        "command": " ".join(["cgkd", *sys.argv[1:]]),
        "configuration": dump(system),
        "trajectory": trajectory.name,
        "trajectory_sha256": file_hash(trajectory),
        "topology": topology.name,
        "topology_sha256": file_hash(topology),
        "molecules_sha256": json.dumps(
            {
                molecule.name: file_hash(system.path(molecule.structure))
                for molecule in system.molecules
            }
        ),
        "options": json.dumps(options),
        "versions": f"openmm_cgkd {__version__}, openmm {openmm.__version__}",
    }
