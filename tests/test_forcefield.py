"""The ethaline force field against the published numbers, with energies from NumPy, and what incomplete input says."""

from itertools import combinations
from pathlib import Path

import numpy as np
import openmm
import pytest
import yaml
from openmm import app, unit
from small_ethaline import ETHALINE, small_config

from openmm_cgkd.config import SystemConfig, load_system
from openmm_cgkd.exceptions import ForceFieldError
from openmm_cgkd.reference.build import atomic_charges, build_topology, create_system, load_molecule, pack

HERE = Path(__file__).parent
TABLE = yaml.safe_load((HERE / "data" / "oplsdes_ethaline.yaml").read_text())
COULOMB = 138.935456  # kJ mol^-1 nm e^-2
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
        self.torsions = [(i, j, k, m) for j, k in self.bonds for i in around[j] - {k} for m in around[k] - {j}]
        self.impropers = [(*(index[atom] for atom in row[:4]), row[4]) for row in TABLE["impropers"].get(name, [])]
        near = {frozenset(pair) for path in (*self.bonds, *self.angles, *self.torsions) for pair in combinations(path, 2)}
        self.excluded = near | {frozenset((index[a], index[b])) for a, b in TABLE["excluded"].get(name, [])}

    def bonded(self, x: np.ndarray) -> dict[str, float]:
        """Energies of bonds, angles and torsions at positions `x`, shape (n_atoms, 3), nm."""
        energy = dict.fromkeys(("bond", "angle", "torsion"), 0.0)
        for i, j in self.bonds:
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
                energy["torsion"] += (v1 * (1 + np.cos(p)) + v2 * (1 - np.cos(2 * p)) + v3 * (1 + np.cos(3 * p))) / 2
        for *path, v2 in self.impropers:
            energy["torsion"] += v2 / 2 * (1 - np.cos(2 * dihedral_of(*x[path])))
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

    def bonded(self, x: np.ndarray) -> dict[str, float]:
        parts = [m.bonded(x[a:b]) for m, a, b in zip(self.molecules, self.first, self.first[1:], strict=False)]
        return {term: sum(part[term] for part in parts) for term in ("bond", "angle", "torsion")}

    def pair_coefficients(self, i, j):
        """A and B of A / r^12 - B / r^6, with geometric mixing."""
        sigma, epsilon = np.sqrt(self.sigma[i] * self.sigma[j]), np.sqrt(self.epsilon[i] * self.epsilon[j])
        return 4 * epsilon * sigma**12, 4 * epsilon * sigma**6

    def lennard_jones(self, x: np.ndarray, edge: float = np.inf, cutoff: float = np.inf) -> float:
        delta = x[self.i] - x[self.j]
        if np.isfinite(edge):
            delta -= edge * np.round(delta / edge)
        r = np.linalg.norm(delta, axis=1)
        A, B = self.pair_coefficients(self.i, self.j)
        return float((A / r**12 - B / r**6)[r < cutoff].sum())

    def tail(self, edge: float, cutoff: float) -> float:
        """Long-range correction, g(r) = 1 beyond the cutoff: 2 pi N^2 / V <int r^2 U dr>, mean over all i <= j."""
        n = self.first[-1]
        A, B = self.pair_coefficients(*np.triu_indices(n))
        return 2 * np.pi * n**2 / edge**3 * (A / (9 * cutoff**9) - B / (3 * cutoff**3)).mean()

    def coulomb(self, x: np.ndarray) -> float:
        r = np.linalg.norm(x[self.i] - x[self.j], axis=1)
        return COULOMB * float((self.charge[self.i] * self.charge[self.j] / r).sum())


def energies(system: openmm.System, x: np.ndarray) -> dict[str, float]:
    """OpenMM's energy of each force, kJ/mol."""
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    return {
        TERMS[type(force)]: context.getState(getEnergy=True, groups={group}).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        for group, force in enumerate(system.getForces())
        if type(force) in TERMS
    }


def distorted(config: SystemConfig, name: str, seed: int) -> np.ndarray:
    """The molecule's structure, shaken so that no term is zero."""
    x = load_molecule(config, name).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return x + np.random.default_rng(seed).normal(scale=0.006, size=x.shape)


def free_system(config: SystemConfig) -> tuple[openmm.System, app.Topology]:
    topology = build_topology(config)
    force_field = app.ForceField(str(config.path(config.force_field)))
    return force_field.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False), topology


@pytest.mark.parametrize("name", ["CHO", "CL", "EGL"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_single_molecule(name, seed):
    config = small_config({name: 1})
    x = distorted(config, name, seed)
    system, _ = free_system(config)
    cluster = Cluster([name])
    expected = {**cluster.bonded(x), "lennard-jones": cluster.lennard_jones(x), "coulomb": cluster.coulomb(x)}
    assert energies(system, x) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    zero = {term for term, value in expected.items() if abs(value) < 1e-3}  # a term that is zero tests nothing
    assert zero == {"CHO": set(), "CL": set(expected), "EGL": {"lennard-jones"}}[name]


def test_cluster_has_every_pair_of_kinds():
    config = small_config({"CHO": 2, "CL": 2, "EGL": 2})
    system, topology = free_system(config)
    names = [residue.name for residue in topology.residues()]
    x = np.concatenate([distorted(config, name, k) + 0.6 * np.array([k % 2, k // 2 % 2, k // 4]) for k, name in enumerate(names)])
    cluster = Cluster(names)
    expected = {**cluster.bonded(x), "lennard-jones": cluster.lennard_jones(x), "coulomb": cluster.coulomb(x)}
    assert energies(system, x) == pytest.approx(expected, rel=1e-6)


def test_masses_and_charges():
    config = small_config({"CHO": 1, "CL": 1, "EGL": 1})
    system, topology = free_system(config)
    types = [t for name in ("CHO", "CL", "EGL") for t in Molecule(name).types]
    mass = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    assert mass == pytest.approx([TABLE["types"][t][0] for t in types])
    assert atomic_charges(system) == pytest.approx([TABLE["types"][t][1] for t in types])
    assert [atom.name for atom in topology.atoms()] == [a for name in ("CHO", "CL", "EGL") for a in Molecule(name).atoms]


def test_periodic_box():
    """Cutoff, minimum image and long-range correction of the simulated system; bonds to hydrogen are constrained."""
    cutoff = 0.6
    config = small_config({"CHO": 3, "CL": 3, "EGL": 6}, initial_density="0.6 gram/centimeter**3", nonbonded_cutoff=f"{cutoff} nanometer")
    topology, x = pack(config)
    edge = topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    system = create_system(config, topology)
    cluster = Cluster([residue.name for residue in topology.residues()])
    found, bonded = energies(system, x), cluster.bonded(x)
    assert found["angle"] == pytest.approx(bonded["angle"], rel=1e-4)
    assert found["torsion"] == pytest.approx(bonded["torsion"], rel=1e-4)
    assert found["lennard-jones"] == pytest.approx(cluster.lennard_jones(x, edge, cutoff) + cluster.tail(edge, cutoff), rel=1e-4)
    assert found["coulomb"] == pytest.approx(ewald(cluster, x, edge), rel=1e-3)  # accuracy of OpenMM's PME defaults
    to_hydrogen = [b for b in topology.bonds() if "H" in (b.atom1.element.symbol, b.atom2.element.symbol)]
    assert system.getNumConstraints() == len(to_hydrogen)


def ewald(cluster: Cluster, x: np.ndarray, edge: float) -> float:
    """Coulomb energy of a periodic cube by a converged Ewald sum, without the excluded pairs."""
    from scipy.special import erf, erfc

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
    reciprocal = 2 * np.pi / edge**3 * (np.exp(-square / (4 * alpha**2)) / square * np.abs(phase) ** 2).sum()
    itself = alpha / np.sqrt(np.pi) * (q**2).sum()
    counted = set(zip(cluster.i, cluster.j, strict=True))
    out = np.array([(a, b) not in counted for a, b in zip(i, j, strict=True)])
    # excluded pairs belong to one molecule, which packing leaves whole
    near = np.linalg.norm(x[i[out]] - x[j[out]], axis=1)
    excluded = (q[i[out]] * q[j[out]] * erf(alpha * near) / near).sum()
    # the direct sum above holds excluded pairs screened; remove those too
    screened = (q[i[out]] * q[j[out]] * erfc(alpha * near) / near).sum()
    return COULOMB * float(real - screened + reciprocal - itself - excluded)


def edited(tmp_path: Path, old: str, new: str, counts: dict[str, int]) -> SystemConfig:
    """Ethaline whose force field has one passage replaced."""
    text = (ETHALINE / "forcefield.xml").read_text()
    assert old in text
    tmp_path.joinpath("forcefield.xml").write_text(text.replace(old, new))
    config = small_config(counts)
    config = config.model_copy(update={"force_field": tmp_path / "forcefield.xml"})
    config._folder = ETHALINE
    return config


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (
            '<Angle class1="egC" class2="egO" class3="egHO" angle="1.8936822384" k="460.24"/>',
            "no angle parameter for C1-O1-HO1 of EGL; add it",
        ),
        ('<Bond class1="egC" class2="egC" length="0.1529" k="224262.0"/>', "no bond parameter for C1-C2 of EGL; add it"),
        ('<Atom type="egO" charge="-0.56" sigma="1" epsilon="0"/>', "cannot parametrise EGL .*egO"),
        ('<Atom name="O2" type="egO"/>', "cannot parametrise|not a valid OpenMM force field"),
    ],
)
def test_missing_parameter_is_named(tmp_path, old, message):
    config = edited(tmp_path, old, "", {"EGL": 2})
    with pytest.raises(ForceFieldError, match=message):
        create_system(config, build_topology(config))


def test_charged_box():
    config = small_config({"CHO": 2, "CL": 1})
    topology = build_topology(config)
    topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    with pytest.raises(ForceFieldError, match=r"charge of \+0\.8000 e; change the molecule counts"):
        create_system(config, topology)


def test_missing_files():
    config = small_config({"EGL": 1})
    broken = config.model_copy(update={"force_field": Path("absent.xml")})
    broken._folder = ETHALINE
    with pytest.raises(ForceFieldError, match=r"absent\.xml: no such file"):
        create_system(broken, build_topology(config))
    molecule = config.molecules[0].model_copy(update={"structure": Path("absent.pdb")})
    broken = config.model_copy(update={"molecules": [molecule]})
    broken._folder = ETHALINE
    with pytest.raises(ForceFieldError, match=r"absent\.pdb: no such file; molecule EGL needs a PDB structure"):
        build_topology(broken)


def test_force_field_that_is_none(tmp_path):
    tmp_path.joinpath("other.xml").write_text("this is not XML")
    config = small_config({"EGL": 1}).model_copy(update={"force_field": tmp_path / "other.xml"})
    with pytest.raises(ForceFieldError, match="not a valid OpenMM force field"):
        create_system(config, build_topology(small_config({"EGL": 1})))


def test_shipped_system_loads():
    config = load_system(ETHALINE / "system.yaml")
    assert [(m.name, m.count) for m in config.molecules] == [("CHO", 60), ("CL", 60), ("EGL", 120)]
    assert config.temperature == pytest.approx(363.15)
