"""Energies of a fluid from the published table of its force field.

Summed with NumPy, to hold OpenMM's against.
"""

from itertools import combinations, pairwise

import numpy as np
import openmm
import yaml
from openmm import app, unit
from scipy.special import erf, erfc

from tests.cases.paths import DATA

TABLE = yaml.safe_load((DATA / "oplsdes.yaml").read_text())
COULOMB = 138.935456  # kJ mol^-1 nm e^-2
BONDED = ("bond", "angle", "torsion", "improper")
TERMS = {
    openmm.HarmonicBondForce: "bond",
    openmm.HarmonicAngleForce: "angle",
    openmm.PeriodicTorsionForce: "torsion",
    openmm.NonbondedForce: "coulomb",
    openmm.CustomNonbondedForce: "lennard-jones",
}


def published(section: str, types: list[str]) -> list[float] | None:
    """Row of the table for a chain of types, in either direction."""
    return TABLE[section].get("~".join(types), TABLE[section].get("~".join(reversed(types))))


def angle_of(a, b, c):
    u, v = a - b, c - b
    return np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


def dihedral_of(a, b, c, d):
    """IUPAC dihedral: 0 for cis."""
    first, second = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return np.arctan2(np.linalg.norm(c - b) * (b - a) @ second, first @ second)


class Molecule:
    """Names, types and bonded paths of one molecule of the table."""

    def __init__(self, name: str) -> None:
        self.name, self.atoms = name, list(TABLE["atoms"][name])
        self.types = [TABLE["atoms"][name][atom] for atom in self.atoms]
        index = {atom: k for k, atom in enumerate(self.atoms)}
        around: dict[int, set[int]] = {k: set() for k in index.values()}
        for a, b in TABLE["connected"][name]:
            around[index[a]].add(index[b])
            around[index[b]].add(index[a])
        self.bonds = [(i, j) for i in around for j in around[i] if i < j]
        self.angles = [(i, j, k) for j in around for i in around[j] for k in around[j] if i < k]
        self.torsions = [
            (i, j, k, m) for j, k in self.bonds for i in around[j] - {k} for m in around[k] - {j}
        ]
        self.impropers = [
            (*(index[atom] for atom in row[:4]), row[4]) for row in TABLE["impropers"].get(name, [])
        ]
        near = {
            frozenset(pair)
            for path in (*self.bonds, *self.angles, *self.torsions)
            for pair in combinations(path, 2)
        }
        self.excluded = near | {
            frozenset((index[a], index[b])) for a, b in TABLE["excluded"].get(name, [])
        }

    def bonded(self, x: np.ndarray, constrained: bool = False) -> dict[str, float]:
        """Energies of bonds, angles, torsions and impropers at positions `x`, (n_atoms, 3), nm.

        `constrained` leaves out the bonds to hydrogen.
        """
        energy = dict.fromkeys(BONDED, 0.0)
        for i, j in self.bonds:
            if constrained and "H" in (self.atoms[i][0], self.atoms[j][0]):
                continue
            length, k = published("bonds", [self.types[i], self.types[j]])
            energy["bond"] += k / 2 * (np.linalg.norm(x[i] - x[j]) - length) ** 2
        for path in self.angles:
            angle, k = published("angles", [self.types[i] for i in path])
            energy["angle"] += k / 2 * (angle_of(*x[list(path)]) - np.radians(angle)) ** 2
        for path in self.torsions:
            row = published("torsions", [self.types[i] for i in path])
            if row is not None:
                v1, v2, v3 = row
                p = dihedral_of(*x[list(path)])
                energy["torsion"] += (
                    v1 * (1 + np.cos(p)) + v2 * (1 - np.cos(2 * p)) + v3 * (1 + np.cos(3 * p))
                ) / 2
        for *path, v2 in self.impropers:
            energy["improper"] += v2 / 2 * (1 - np.cos(2 * dihedral_of(*x[path])))
        return energy


class Cluster:
    """Several molecules; non-bonded pairs within and between them."""

    def __init__(self, names: list[str]) -> None:
        self.molecules = [Molecule(name) for name in names]
        self.first = np.cumsum([0, *(len(m.atoms) for m in self.molecules)])
        parameters = np.array([TABLE["types"][t] for m in self.molecules for t in m.types])
        self.charge, self.sigma, self.epsilon = parameters[:, 1], parameters[:, 2], parameters[:, 3]
        i, j = np.triu_indices(self.first[-1], k=1)
        keep = np.ones(len(i), dtype=bool)
        for first, molecule in zip(self.first, self.molecules, strict=False):
            for a, b in map(sorted, molecule.excluded):
                keep &= ~((i == first + a) & (j == first + b))
        self.i, self.j = i[keep], j[keep]

    def bonded(self, x: np.ndarray, constrained: bool = False) -> dict[str, float]:
        parts = [
            m.bonded(x[a:b], constrained)
            for m, a, b in zip(self.molecules, self.first, self.first[1:], strict=False)
        ]
        return {term: sum(part[term] for part in parts) for term in BONDED}

    def pair_coefficients(self, i, j):
        """A and B of A / r^12 - B / r^6, with geometric mixing."""
        sigma, epsilon = (
            np.sqrt(self.sigma[i] * self.sigma[j]),
            np.sqrt(self.epsilon[i] * self.epsilon[j]),
        )
        return 4 * epsilon * sigma**12, 4 * epsilon * sigma**6

    def lennard_jones(self, x: np.ndarray, edge: float = np.inf, cutoff: float = np.inf) -> float:
        delta = x[self.i] - x[self.j]
        if np.isfinite(edge):
            delta -= edge * np.round(delta / edge)
        r = np.linalg.norm(delta, axis=1)
        A, B = self.pair_coefficients(self.i, self.j)
        return float((A / r**12 - B / r**6)[r < cutoff].sum())

    def tail(self, edge: float, cutoff: float) -> float:
        """Long-range correction, g(r) = 1 beyond the cutoff.

        2 pi N^2 / V <int r^2 U dr>, mean over all i <= j.
        """
        n = self.first[-1]
        A, B = self.pair_coefficients(*np.triu_indices(n))
        return 2 * np.pi * n**2 / edge**3 * (A / (9 * cutoff**9) - B / (3 * cutoff**3)).mean()

    def coulomb(self, x: np.ndarray) -> float:
        r = np.linalg.norm(x[self.i] - x[self.j], axis=1)
        return COULOMB * float((self.charge[self.i] * self.charge[self.j] / r).sum())


def energies(system: openmm.System, topology: app.Topology, x: np.ndarray) -> dict[str, float]:
    """OpenMM's energy of every term, kJ/mol.

    Impropers are the torsions over atoms that are no chain of bonds.
    """
    system = openmm.XmlSerializer.clone(system)
    impropers = _move_impropers(system, topology)
    names = {group: TERMS.get(type(force)) for group, force in enumerate(system.getForces())} | {
        impropers: "improper"
    }
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    values = {
        group: context.getState(getEnergy=True, groups={group}).getPotentialEnergy()
        for group in names
    }
    return {
        name: values[group].value_in_unit(unit.kilojoule_per_mole)
        for group, name in names.items()
        if name
    }


def _move_impropers(system: openmm.System, topology: app.Topology) -> int:
    """Give impropers a force of their own; return its index."""
    bonds = {frozenset((a.index, b.index)) for a, b in topology.bonds()}
    (torsions,) = (
        force for force in system.getForces() if isinstance(force, openmm.PeriodicTorsionForce)
    )
    impropers = openmm.PeriodicTorsionForce()
    for t in range(torsions.getNumTorsions()):
        *atoms, periodicity, phase, k = torsions.getTorsionParameters(t)
        if not all(frozenset(pair) in bonds for pair in pairwise(atoms)):
            impropers.addTorsion(*atoms, periodicity, phase, k)
            torsions.setTorsionParameters(t, *atoms, periodicity, phase, 0.0)
    return system.addForce(impropers)


def ewald(cluster: Cluster, x: np.ndarray, edge: float) -> float:
    """Coulomb energy of a periodic cube by a converged Ewald sum, without the excluded pairs."""
    q, alpha, n_max = cluster.charge, 10.0 / edge, 12
    i, j = np.triu_indices(len(q), k=1)
    delta = x[i] - x[j]
    delta -= edge * np.round(delta / edge)
    shifts = edge * np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 1, 3)
    r = np.linalg.norm(delta + shifts, axis=-1)
    real = (q[i] * q[j] * erfc(alpha * r) / r).sum()
    n = np.arange(-n_max, n_max + 1)
    k = 2 * np.pi / edge * np.stack(np.meshgrid(n, n, n), axis=-1).reshape(-1, 3)
    k = k[np.any(k != 0, axis=1)]
    square = (k**2).sum(axis=1)
    phase = np.exp(1j * k @ x.T) @ q
    reciprocal = (
        2 * np.pi / edge**3 * (np.exp(-square / (4 * alpha**2)) / square * np.abs(phase) ** 2).sum()
    )
    itself = alpha / np.sqrt(np.pi) * (q**2).sum()
    counted = set(zip(cluster.i, cluster.j, strict=True))
    out = np.array([(a, b) not in counted for a, b in zip(i, j, strict=True)])
    # excluded pairs belong to one molecule, which packing leaves whole
    near = np.linalg.norm(x[i[out]] - x[j[out]], axis=1)
    excluded = (q[i[out]] * q[j[out]] * erf(alpha * near) / near).sum()
    # the direct sum above holds excluded pairs screened; remove those too
    screened = (q[i[out]] * q[j[out]] * erfc(alpha * near) / near).sum()
    return COULOMB * float(real - screened + reciprocal - itself - excluded)
