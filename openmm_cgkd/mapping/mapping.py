"""Linear map from atoms to beads.

Positions map to centres of mass with the true atomic masses; forces sum over the atoms of the bead,
which is the consistent force map for centre-of-mass beads (Noid et al., J. Chem. Phys. 2008, 128,
244114) and stays valid when constraints lie inside one bead, because constraint forces are internal
and cancel. Other consistent force maps come from `force_maps`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
from scipy.sparse import csr_matrix, diags

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError, MappingError

from .beads import BeadTopology
from .molecules import bead_bonds
from .selection import select_atoms

_TOLERANCE = 1e-6  # of force-map coefficients, which are of order one


class Mapping:
    """Centre-of-mass map of a whole system.

    The force on a bead is the sum over its atoms unless `with_force_map` says otherwise.

    Parameters
    ----------
    bead_atoms : list of ndarray of int
        Atom indices of every bead.
    atom_masses : ndarray, shape (n_atoms,), dalton
        True masses, without hydrogen-mass repartitioning.
    topology : BeadTopology
        Bead types and molecules; its masses are those of the atoms in each bead.
    partial : bool
        Atoms may be in no bead. There is no simple force map then: get one from `force_maps`.
    sites : ndarray of bool, shape (n_atoms,), optional
        Virtual sites; those without mass if absent. What acts on a site acts on the atoms that it
        depends on, and programs leave in the site's force what they have handed on to those, so it
        counts nowhere.

    Attributes
    ----------
    bead_of_atom : ndarray, shape (n_atoms,)
        -1 for atoms in no bead.
    sites : ndarray of bool, shape (n_atoms,)

    Raises
    ------
    MappingError
        If an atom is in two beads, or in none without `partial`, or a bead is empty or massless.
    """

    def __init__(
        self,
        bead_atoms: list[np.ndarray],
        atom_masses: np.ndarray,
        topology: BeadTopology,
        partial: bool = False,
        sites: np.ndarray | None = None,
    ) -> None:
        n_atoms, n_beads = len(atom_masses), len(bead_atoms)
        owner = np.full(n_atoms, -1)
        for bead, atoms in enumerate(bead_atoms):
            if len(atoms) == 0:
                raise MappingError(
                    f"Bead {bead} ({topology.names[bead]}) has no atoms; check its selection."
                )
            taken = owner[atoms] >= 0
            if taken.any():
                atom = atoms[np.argmax(taken)]
                raise MappingError(
                    f"Atom {atom} is in beads {owner[atom]} and {bead}; put every atom in one bead."
                )
            owner[atoms] = bead
        if (owner < 0).any() and not partial:
            missing = np.flatnonzero(owner < 0)
            raise MappingError(
                f"{len(missing)} atoms are in no bead (first: atom {missing[0]}); forces on them"
                " would be lost, add them to a bead."
            )
        inside = np.flatnonzero(owner >= 0)
        self.sites = np.asarray(atom_masses) == 0 if sites is None else sites
        atom_masses = np.where(self.sites, 0.0, atom_masses)
        masses = np.bincount(owner[inside], weights=atom_masses[inside], minlength=n_beads)
        if (masses <= 0).any():
            raise MappingError(
                f"Bead {np.argmin(masses)} has mass {masses.min()} dalton; atoms need their true"
                " masses."
            )
        self.bead_of_atom = owner
        self.atom_masses = np.asarray(atom_masses, dtype=float)
        self.topology = replace(topology, masses=masses)
        places = (owner[inside], inside)
        self._sum = csr_matrix((np.ones(len(inside)), places), shape=(n_beads, n_atoms))
        self._mean = csr_matrix(
            (atom_masses[inside] / masses[owner[inside]], places), shape=(n_beads, n_atoms)
        )
        counted = inside[~self.sites[inside]]
        self._force = None
        if len(inside) == n_atoms:
            ones = np.ones(len(counted))
            self._force = csr_matrix((ones, (owner[counted], counted)), shape=(n_beads, n_atoms))
        self._partial, self._fitted = partial, False

    @property
    def n_atoms(self) -> int:
        return len(self.bead_of_atom)

    def with_bonds(self, atoms: mdtraj.Topology) -> Mapping:
        """The same map with bonds between beads.

        Beads are bonded where bonds of an all-atom topology cross from one to another.
        """
        bonds = np.array([(a.index, b.index) for a, b in atoms.bonds], dtype=int).reshape(-1, 2)
        other = copy.copy(self)
        other.topology = replace(self.topology, bonds=bead_bonds(self.bead_of_atom, bonds))
        return other

    def with_charges(self, charges: np.ndarray) -> Mapping:
        """The same map with charges of beads, from those of the atoms, shape (n_atoms,)."""
        other = copy.copy(self)
        # rounding removes the summation noise of float charges; force fields give at most five
        # decimals
        other.topology = replace(self.topology, charges=np.round(self._sum @ charges, 6))
        return other

    @property
    def position_map(self) -> csr_matrix:
        """Weights of the atoms in the bead positions, shape (n_beads, n_atoms)."""
        return self._mean

    def with_force_map(self, coefficients: csr_matrix) -> Mapping:
        """The same beads with another linear force map.

        Parameters
        ----------
        coefficients : csr_matrix, shape (n_beads, n_atoms)
            B in F = B f. With the position map M it must satisfy B M^T = 1: displacing the atoms
            along a row of B moves that bead alone (Ciccotti et al., ChemPhysChem 2005, 6, 1809;
            Noid et al. 2008).

        Raises
        ------
        MappingError
            If it does not.
        """
        wrong = abs(coefficients @ self._mean.T - csr_matrix(np.eye(self.topology.n_beads))).max()
        if wrong > _TOLERANCE:
            raise MappingError(
                "The force map is not consistent with the positions of the beads: B M^T differs"
                f" from 1 by {wrong:.1e}."
            )
        other = copy.copy(self)
        other._force, other._fitted = csr_matrix(coefficients), True
        return other

    def map_positions(self, positions: np.ndarray) -> np.ndarray:
        """Centres of mass (n_beads, 3), nm, from `positions` (n_atoms, 3) of whole molecules."""
        self._check_shape(positions, "positions")
        return self._mean @ positions

    def map_forces(self, forces: np.ndarray) -> np.ndarray:
        """Mapped forces, shape (n_beads, 3), kJ/mol/nm, from atomic `forces` (n_atoms, 3)."""
        self._check_shape(forces, "forces")
        if self._force is None:
            missing = np.flatnonzero(self.bead_of_atom < 0)
            raise MappingError(
                f"{len(missing)} atoms are in no bead (first: atom {missing[0]}); such beads need"
                " force_map: optimal."
            )
        return self._force @ forces

    def for_system(self, system: openmm.System) -> Mapping:
        """The same map for the forces that OpenMM gives of a system.

        ``State.getForces`` leaves on a virtual site the force that it has handed on to the
        particles the site depends on. So that no force counts twice, those on sites do not count.

        Raises
        ------
        MappingError
            If the system has other particles, holds one in its place, or has a constraint across
            beads.
        """
        n = system.getNumParticles()
        if n != self.n_atoms:
            raise MappingError(
                f"The mapping is of {self.n_atoms} atoms, the system has {n} particles; build both"
                " from one topology."
            )
        sites = np.array([system.isVirtualSite(k) for k in range(n)])
        masses = np.array([system.getParticleMass(k)._value for k in range(n)])
        held = np.flatnonzero((masses == 0) & ~sites & (self.bead_of_atom >= 0))
        if len(held):
            raise MappingError(
                f"Particle {held[0]} has no mass in the system and is not a virtual site, so"
                " OpenMM holds it in its place, and its bead has no mean force; give it its mass."
            )
        mapping = self
        if not np.array_equal(sites, self.sites):
            beads = self.topology
            atoms = [np.flatnonzero(self.bead_of_atom == k) for k in range(beads.n_beads)]
            mapping = Mapping(atoms, self.atom_masses, beads, self._partial, sites)
            if self._fitted:
                mapping = mapping.with_force_map(self._force @ diags((~sites).astype(float)))
        mapping.check_constraints(system)
        mapping._check_masses(masses)
        return mapping

    def _check_masses(self, masses: np.ndarray) -> None:
        """Compare molecules with those of a system, whose hydrogens may be heavy."""
        if self._partial:
            return
        molecule = self.topology.molecules[self.bead_of_atom]
        found, expected = (np.bincount(molecule, x) for x in (masses, self.atom_masses))
        wrong = np.flatnonzero(np.abs(found - expected) > 0.1 + 0.005 * expected)
        if len(wrong):
            k = wrong[0]
            raise MappingError(
                f"Molecule {k} weighs {found[k]:.2f} dalton in the system and {expected[k]:.2f} by"
                " the elements of its atoms; give the masses of united atoms in system.yaml"
                " (masses), or the mapping the masses of the system."
            )

    def check_constraints(self, system: openmm.System) -> None:
        """Refuse a constraint between atoms that enter the mapped forces with different weights.

        Atoms of two beads are such atoms. The constraint's force would act on beads, and
        ``State.getForces`` leaves constraint forces out.
        """
        pairs = np.array(
            [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())],
            dtype=int,
        ).reshape(-1, 2)
        columns = (self._sum if self._force is None else self._force).tocsc()
        differences = abs(columns[:, pairs[:, 0]] - columns[:, pairs[:, 1]]).tocoo()
        wrong = differences.col[differences.data > _TOLERANCE]
        if len(wrong):
            i, j = pairs[wrong.min()]
            raise MappingError(
                f"The constraint between atoms {i} and {j} crosses beads {self.bead_of_atom[i]} and"
                f" {self.bead_of_atom[j]}; its force is missing from the mapped forces, so"
                " constrain only inside beads."
            )

    def _check_shape(self, values: np.ndarray, name: str) -> None:
        if values.shape != (self.n_atoms, 3):
            raise MappingError(
                f"Expected {name} of shape ({self.n_atoms}, 3), got {values.shape}; the topology"
                " does not fit."
            )


def atomic_masses(config: SystemConfig, topology: mdtraj.Topology) -> np.ndarray:
    """Masses by element, or as the configuration gives them, shape (n_atoms,), dalton.

    Zero for particles without an element, which are virtual sites.
    """
    given = {molecule.name: molecule.masses for molecule in config.molecules}
    return np.array(
        [
            given.get(atom.residue.name, {}).get(atom.name, atom.element.mass)
            for atom in topology.atoms
        ]
    )


def _check_connected(config: SystemConfig, beads: BeadTopology) -> None:
    """Refuse beads of one molecule that no bond joins: they would drift apart."""
    n_bonds = np.bincount(beads.molecules[beads.bonds[:, 0]], minlength=beads.molecules[-1] + 1)
    lacking = np.flatnonzero(n_bonds < np.bincount(beads.molecules) - 1)
    if len(lacking):
        names = [beads.names[k] for k in np.flatnonzero(beads.molecules == lacking[0])]
        raise MappingError(
            f"No bonds join the beads {', '.join(names)} of molecule {lacking[0]}; give a topology"
            " with all bonds (PDB files: CONECT records)."
        )


def mapping_from_config(
    config: SystemConfig,
    topology: mdtraj.Topology,
    charges: np.ndarray | None = None,
    calibrate: bool = False,
) -> Mapping:
    """Build the map of a system from the bead definitions of its configuration.

    Parameters
    ----------
    config : SystemConfig
    topology : mdtraj.Topology
        One residue per molecule, residue names as in the configuration.
    charges : ndarray, shape (n_atoms,), optional
        Atomic charges in elementary charges.
    calibrate : bool
        The caller sees all frames before it maps the first one, so that it can fit an optimal force
        map.

    Raises
    ------
    ConfigError
        If the configuration asks for an optimal force map and the caller cannot fit one.
    MappingError
        If a molecule is unknown, miscounted or has other atoms than its like, or a selection is not
        valid.
    """
    optimal = config.force_map == "optimal"
    if optimal and not calibrate:
        raise ConfigError(
            "force_map: optimal is fitted to the atomic forces of many frames before the first one"
            " is mapped, which a running simulation cannot do; save a trajectory with forces and"
            " map it with 'cgkd map', or set force_map: basic."
        )
    found: dict[str, int] = {}
    for residue in topology.residues:
        found[residue.name] = found.get(residue.name, 0) + 1
    for molecule in config.molecules:
        if found.pop(molecule.name, 0) != molecule.count:
            n = sum(residue.name == molecule.name for residue in topology.residues)
            hint = ""
            if n == 0 and "HOH" in found:
                hint = "; OpenMM's reader of PDB files calls water HOH, so name the molecule HOH"
            raise MappingError(
                f"The topology holds {n} molecules of {molecule.name}, the configuration says"
                f" {molecule.count}{hint}."
            )
    if found:
        raise MappingError(
            f"The topology holds molecules that the configuration does not name: {sorted(found)}."
        )

    type_names = tuple(dict.fromkeys(bead.type for bead in config.beads))
    bead_atoms, types, molecules = [], [], []
    local: dict[str, list[tuple[int, np.ndarray]]] = {}
    atom_names: dict[str, list[str]] = {}
    for index, residue in enumerate(topology.residues):
        if residue.name not in local:
            part = topology.subset([atom.index for atom in residue.atoms])
            atom_names[residue.name] = [atom.name for atom in part.atoms]
            local[residue.name] = [
                (type_names.index(bead.type), select_atoms(part, bead.selection))
                for bead in config.beads
                if bead.molecule == residue.name
            ]
        if [atom.name for atom in residue.atoms] != atom_names[residue.name]:
            raise MappingError(
                f"Molecule {index} ({residue.name}) has other atoms, or in another order, than the"
                f" first {residue.name}."
            )
        first = residue.atom(0).index
        for bead_type, atoms in local[residue.name]:
            bead_atoms.append(atoms + first)
            types.append(bead_type)
            molecules.append(index)
    masses = atomic_masses(config, topology)
    beads = BeadTopology(type_names, np.array(types), np.zeros(len(types)), np.array(molecules))
    mapping = Mapping(bead_atoms, masses, beads, partial=optimal).with_bonds(topology)
    _check_connected(config, mapping.topology)
    return mapping if charges is None else mapping.with_charges(charges)
