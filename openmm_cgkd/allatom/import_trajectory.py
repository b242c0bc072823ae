"""Mapped frames from an existing all-atom trajectory with forces."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mdtraj
import numpy as np
import openmm

from openmm_cgkd import __version__
from openmm_cgkd.config.section import dump
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import FramesError, MappingError
from openmm_cgkd.frames.correlation import ForceAutocorrelation
from openmm_cgkd.frames.frames import Frames, frames_header, write_stream
from openmm_cgkd.frames.thinning import write_independent
from openmm_cgkd.mapping.force_maps import OptimalForceMap
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from openmm_cgkd.mapping.openmscg import mapping_from_cgmap
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.progress import log_to, progress

from .build import build_topology
from .lammps import AtomFrame
from .mdanalysis import AtomTrajectory, open_topology, open_trajectory

if TYPE_CHECKING:
    import MDAnalysis

logger = logging.getLogger(__name__)

_PIECE = 64  # frames mapped before they are written
_BOND_LENGTHS = 0.05, 0.3  # nm, wider than the mean bond length of any molecule


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
        NetCDF ``.nc``, ``.h5md``, LAMMPS ``.dump`` or ``.lammpstrj``, or another format that
        MDAnalysis reads forces of. Molecules may be broken across the periodic box, which may be
        triclinic.
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
        If the atoms or molecules differ from the configuration, a bead ends at a bond to hydrogen,
        or no optimal force map exists.
    BoxError
        If a frame has no periodic box.
    AnalysisError
        If `thin` is asked for and the frames are too few or not evenly spaced in time.

    Notes
    -----
    Constraints are not in a trajectory and cannot be checked: they must lie inside one bead. Those
    on bonds to hydrogen are so common that no such bond may cross beads. An optimal force map takes
    distances that do not vary as constrained.
    """
    with warnings.catch_warnings(), log_to(output.with_suffix(".log")):
        # guesses about fields that are not read here
        warnings.filterwarnings("ignore", module="MDAnalysis")
        universe = open_topology(topology)
        source = open_trajectory(trajectory, universe, topology, units, timestep)
        atoms = _atoms(system, universe, topology)
        bonds = bond_order(atoms)
        if len(bonds) != atoms.n_atoms - atoms.n_residues:
            raise MappingError(
                "Some atoms of a molecule are not bonded to the rest of it; add CONECT records to"
                " its molecule file."
            )
        beads = _mapping(system, mapping, atoms)
        whole = _WholeFrames(source, trajectory, bonds, atoms.n_atoms)
        options: dict[str, object] = {
            "units": units,
            "timestep": timestep,
            "thin": thin,
            "mapping": mapping and file_hash(mapping),
        }
        attributes = _provenance(system, trajectory, topology, atoms, options)
        if output.exists():
            return _existing(output, attributes)
        if system.force_map == "optimal":
            beads, attributes["force_map"] = _fit_force_map(whole, beads, atoms)
        mapped = _MappedFrames(whole, beads, attributes)
        with replacing(output) as fresh:
            n = write_stream(fresh, mapped.beads, attributes, mapped)
            if n == 0:
                raise FramesError(
                    f"{trajectory}: holds no frames; give a trajectory with positions and forces."
                )
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

    def __init__(self, source: AtomTrajectory, path: Path, bonds: np.ndarray, n_atoms: int) -> None:
        self._source, self._path, self._whole = source, path, WholeMolecules(bonds, n_atoms)

    def each(self, task: str) -> Iterator[AtomFrame]:
        """All frames, with a progress bar of this name."""
        last = -1
        with progress(task, len(self._source)) as meter:
            for k, frame in enumerate(self._source):
                for name in ("positions", "forces"):
                    if not np.isfinite(getattr(frame, name)).all():
                        raise FramesError(
                            f"{self._path}: {name} of frame {k} are not finite; remove that frame"
                            " or run again with a smaller time step."
                        )
                if frame.step <= last:
                    raise FramesError(
                        f"{self._path}: frame {k} is at step {frame.step}, not after {last}; remove"
                        " repeated frames."
                    )
                last = frame.step
                yield replace(frame, positions=self._placed(frame))
                meter.update(k + 1)

    def _placed(self, frame: AtomFrame) -> np.ndarray:
        """Positions with whole molecules; wrong units show in the bond lengths."""
        positions = self._whole(frame.positions, frame.box)
        length = self._whole.mean_bond_length(positions)
        if length is not None and not _BOND_LENGTHS[0] < length < _BOND_LENGTHS[1]:
            raise FramesError(
                f"{self._path}: bonds are {length:.3g} nm long on average at step {frame.step}; the"
                " positions are in other units than the file or --units says, or the topology is"
                " of other atoms."
            )
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
        self, frames: _WholeFrames, mapping: Mapping, attributes: dict[str, object]
    ) -> None:
        self.beads, self.attributes, self.correlation = (
            mapping.topology,
            attributes,
            ForceAutocorrelation(),
        )
        self._frames, self._mapping = frames, mapping

    def __iter__(self) -> Iterator[Frames]:
        piece: list[AtomFrame] = []
        for frame in self._frames.each("map"):
            piece.append(frame)
            if len(piece) == _PIECE:
                yield self._map(piece)
                piece = []
        if piece:
            yield self._map(piece)

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
        self.correlation.compute(frames)
        return frames


def _mapping(system: SystemConfig, file: Path | None, atoms: mdtraj.Topology) -> Mapping:
    """Atoms to beads.

    Sums of forces are checked against the bonds to hydrogen; an optimal force map finds the
    constraints itself.
    """
    optimal = system.force_map == "optimal"
    mapping = (
        mapping_from_cgmap(file, atoms, optimal)
        if file
        else mapping_from_config(system, atoms, calibrate=optimal)
    )
    if optimal:
        return mapping
    for first, second in atoms.bonds:
        i, j = first.index, second.index
        if (
            "H" in (first.element.symbol, second.element.symbol)
            and mapping.bead_of_atom[i] != mapping.bead_of_atom[j]
        ):
            raise MappingError(
                f"The bond to hydrogen between atoms {i} and {j} crosses beads"
                f" {mapping.bead_of_atom[i]} and {mapping.bead_of_atom[j]}; such bonds are"
                " constrained in most runs and trajectories lack constraint forces, so put both"
                " atoms in one bead."
            )
    return mapping


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
    ):
        cure = "remove it or choose another --output"
        raise FramesError(
            f"{output}: exists and holds frames of another trajectory or system, or made with other"
            f" options; {cure}."
        )
    logger.info("%s: finished before, skipped", output)
    return output


def _atoms(system: SystemConfig, universe: MDAnalysis.Universe, path: Path) -> mdtraj.Topology:
    """Topology with elements and bonds of the molecule files, in the order of the trajectory."""
    if not (hasattr(universe.atoms, "names") and hasattr(universe.atoms, "resnames")):
        raise MappingError(f"{path}: has no atom or residue names; give a PDB, GRO or TPR file.")
    names = [str(name) for name in universe.residues.resnames]
    unknown = set(names) - {molecule.name for molecule in system.molecules}
    if unknown:
        raise MappingError(
            f"{path}: holds molecules that the configuration does not name: {sorted(unknown)}."
        )
    atoms = mdtraj.Topology.from_openmm(build_topology(system, names))
    for expected, found in zip(atoms.residues, universe.residues, strict=True):
        expected_names, found_names = (
            [atom.name for atom in expected.atoms],
            [str(name) for name in found.atoms.names],
        )
        if expected_names != found_names:
            raise MappingError(
                f"{path}: molecule {expected.index} ({expected.name}) has atoms"
                f" {' '.join(found_names)}, its molecule file has {' '.join(expected_names)}; use"
                " the same names and order."
            )
    return atoms


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
        "options": json.dumps(options),
        "versions": f"openmm_cgkd {__version__}, openmm {openmm.__version__}",
    }
