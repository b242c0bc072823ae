"""The particles of a coarse-grained model: types, masses, molecules, charges, bonds."""

from __future__ import annotations

from dataclasses import dataclass, field

import mdtraj
import numpy as np

from openmm_cgkd.config.system import MOST_TYPES

_NO_CHARGES = np.zeros(0)  # stands for one zero per bead
_OF_EVERY_BEAD = ("types", "masses", "molecules", "charges")


@dataclass(frozen=True)
class BeadTopology:
    """What the coarse-grained model knows of its particles.

    Attributes
    ----------
    type_names : tuple of str
        Bead type names; `types` indexes them.
    types : ndarray, shape (n_beads,), int64
    masses : ndarray, shape (n_beads,), dalton
    molecules : ndarray, shape (n_beads,), int64
        Index of the molecule each bead belongs to.
    charges : ndarray, shape (n_beads,), elementary charge
        Sum of the atomic charges; zero if the force field was not read.
    bonds : ndarray, shape (n_bonds, 2), int64
        Pairs of beads of one molecule that are joined by a chemical bond, as
        `molecules.bead_bonds` gives.
    """

    type_names: tuple[str, ...]
    types: np.ndarray
    masses: np.ndarray
    molecules: np.ndarray
    charges: np.ndarray = field(default_factory=lambda: _NO_CHARGES)
    bonds: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))

    def __post_init__(self) -> None:
        if self.charges is _NO_CHARGES:
            object.__setattr__(self, "charges", np.zeros(len(self.types)))

    @property
    def n_beads(self) -> int:
        return len(self.types)

    def objection(self) -> str:
        """Why these cannot be the beads of a fluid, in words; empty if they can."""
        n, names = self.n_beads, self.type_names
        lengths = {name: np.shape(getattr(self, name)) for name in _OF_EVERY_BEAD}
        if any(shape != (n,) for shape in lengths.values()):
            return f"bead data have different lengths {lengths}"
        if n == 0:
            return "holds no beads"
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            return f"bead type names {names} are empty or repeated"
        if len(names) > MOST_TYPES:
            return f"has {len(names)} bead types, at most {MOST_TYPES} can be trained and exported"
        for name in ("types", "molecules", "bonds"):
            if getattr(self, name).dtype.kind not in "iu":
                return f"{name} of beads are not whole numbers but {getattr(self, name).dtype}"
        if not 0 <= self.types.min() <= self.types.max() < len(names):
            return f"bead types are not indices into the {len(names)} names {names}"
        good = (self.masses > 0) & (self.masses < np.inf)
        if not good.all():
            return f"bead {np.argmin(good)} has the mass {self.masses[np.argmin(good)]:g} dalton"
        good = np.isfinite(self.charges)
        if not good.all():
            return f"bead {np.argmin(good)} has the charge {self.charges[np.argmin(good)]:g}"
        if self.bonds.ndim != 2 or self.bonds.shape[1] != 2:
            return f"bonds have shape {self.bonds.shape}, not two beads each"
        if len(self.bonds) and not 0 <= self.bonds.min() <= self.bonds.max() < n:
            return f"has bonds of beads {self.bonds.min()} to {self.bonds.max()} of {n}"
        ends = self.molecules[self.bonds]
        if (ends[:, 0] != ends[:, 1]).any() or (self.bonds[:, 0] == self.bonds[:, 1]).any():
            return "has bonds between beads of two molecules, or of a bead with itself"
        return ""

    @property
    def names(self) -> list[str]:
        """Type name of every bead."""
        return [self.type_names[i] for i in self.types]

    def to_mdtraj(self) -> mdtraj.Topology:
        """MDTraj topology: one residue per molecule, one element-less atom per bead."""
        topology = mdtraj.Topology()
        chain = topology.add_chain()
        residue, last = None, None
        for name, molecule in zip(self.names, self.molecules, strict=True):
            if residue is None or molecule != last:
                residue, last = topology.add_residue(name, chain), molecule
            topology.add_atom(name, mdtraj.element.virtual, residue)
        for first, second in self.bonds:
            topology.add_bond(topology.atom(first), topology.atom(second))
        return topology
