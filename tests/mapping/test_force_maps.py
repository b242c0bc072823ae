"""Optimal force maps.

Against closed forms and a free energy by quadrature, on the real fluid, and what is refused.
"""

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import yaml
from scipy.linalg import hadamard
from scipy.sparse import csr_matrix

from openmm_cgkd.allatom.build import build_topology, create_system, pack
from openmm_cgkd.allatom.import_trajectory import map_trajectory
from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError, MappingError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.force_maps import OptimalForceMap
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from tests.cases.all_atom import Case, Recorder
from tests.cases.fluids import COUNTS, ETHALINE, simulation_of, small_config

MASSES = np.array([12.0, 16.0, 12.0, 1.0])


def molecules(n: int, n_atoms: int) -> mdtraj.Topology:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(n):
        residue = topology.add_residue("MOL", chain)
        for k in range(n_atoms):
            topology.add_atom(f"C{k}", mdtraj.element.carbon, residue)
    return topology


def mapping_of(n: int, masses: np.ndarray, beads: list[list[int]], partial: bool = True) -> Mapping:
    """The same beads of n molecules, by the atoms within the molecule."""
    atoms = [np.array(bead) + k * len(masses) for k in range(n) for bead in beads]
    types, owner = np.tile(np.arange(len(beads)), n), np.repeat(np.arange(n), len(beads))
    names = tuple("ABC"[: len(beads)])
    return Mapping(
        atoms, np.tile(masses, n), BeadTopology(names, types, np.zeros(len(types)), owner), partial
    )


def coefficients(record: str) -> np.ndarray:
    return np.array([bead["coefficients"] for bead in json.loads(record)["molecules"][0]["beads"]])


@pytest.mark.parametrize(
    "beads",
    [[[0]], [[0, 1]], [[0, 1, 2, 3]], [[0, 3], [1, 2]]],
    ids=["slice", "part", "whole", "two beads"],
)
def test_harmonic_molecule(beads):
    """For U = r K r / 2 the best map is (M K^-1 M^T)^-1 M K^-1 (Gauss and Markov).

    Its force is the mean force without any noise.
    """
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(4, 4))
    stiffness = 100 * (factor @ factor.T + 0.5 * np.eye(4))
    # eight molecules whose coordinates have the covariance kT K^-1 exactly, along x, y and z
    design = np.stack(
        [hadamard(8)[rows] for rows in ([1, 2, 4, 7], [1, 3, 5, 7], [2, 3, 6, 5])], axis=-1
    )
    # (8, 4, 3)
    r = np.einsum("ij,jmk->mik", np.linalg.cholesky(2.5 * np.linalg.inv(stiffness)), design)
    f = -np.einsum("ij,mjk->mik", stiffness, r)
    mapping = mapping_of(8, MASSES, beads)
    optimal = OptimalForceMap(mapping, molecules(8, 4))
    for k in range(5):  # every molecule has the coordinates of another one in every frame
        optimal.add(*(np.roll(values, k, axis=0).reshape(-1, 3) for values in (r, f)))
    fitted, record = optimal.solve()
    weights = np.zeros((len(beads), 4))
    for k, bead in enumerate(beads):
        weights[k, bead] = MASSES[bead] / MASSES[bead].sum()
    flexible = np.linalg.inv(stiffness)
    # W(R) = R effective R / 2, by the Gaussian integral
    effective = np.linalg.inv(weights @ flexible @ weights.T)
    assert coefficients(record) == pytest.approx(effective @ weights @ flexible, abs=1e-8)
    positions = fitted.map_positions(r.reshape(-1, 3)).reshape(8, -1, 3)
    mean_force = -np.einsum("IJ,mJk->mIk", effective, positions)
    assert fitted.map_forces(f.reshape(-1, 3)).reshape(8, -1, 3) == pytest.approx(
        mean_force, abs=1e-6
    )


def test_rigid_dumbbell_in_a_field():
    """Springs k1 and k2 from the origin to the ends of a rigid rod; the bead is its first end.

    Mean force by quadrature.
    """
    thermal, length, k1, k2 = 2.5, 0.2, 30.0, 200.0
    rng, n = np.random.default_rng(5), 3000

    def free_energy(distance: float) -> float:
        cosine = np.linspace(-1, 1, 20001)
        far = distance**2 + length**2 + 2 * distance * length * cosine
        return 0.5 * k1 * distance**2 - thermal * np.log(
            np.trapezoid(np.exp(-0.5 * k2 * far / thermal), cosine)
        )

    optimal = OptimalForceMap(mapping_of(n, np.ones(2), [[0]]), molecules(n, 2))
    frames = []
    for distance in (0.1, 0.3):
        # of exp(steepness cosine), sampled by its inverse distribution
        steepness = -k2 * distance * length / thermal
        low, high = np.exp(-steepness), np.exp(steepness)
        cosine = np.log(low + rng.random(n) * (high - low)) / steepness
        turn = rng.uniform(0, 2 * np.pi, n)
        sine = np.sqrt(1 - cosine**2)
        first = np.tile([0, 0, distance], (n, 1))
        second = first + length * np.stack(
            [sine * np.cos(turn), sine * np.sin(turn), cosine], axis=1
        )
        r = np.stack([first, second], axis=1).reshape(-1, 3)
        frames.append((distance, r, -np.tile([k1, k2], n)[:, None] * r))
        optimal.add(*frames[-1][1:])
    fitted, record = optimal.solve()
    # the rod is found, and its ends share their coefficient
    assert coefficients(record) == pytest.approx(np.array([[1.0, 1.0]]))
    alone = fitted.with_force_map(
        csr_matrix((np.ones(n), (np.arange(n), 2 * np.arange(n))), shape=(n, 2 * n))
    )
    for distance, _, f in frames:
        expected = -(free_energy(distance + 1e-4) - free_energy(distance - 1e-4)) / 2e-4
        mapped = fitted.map_forces(f)[:, 2]
        assert mapped.mean() == pytest.approx(expected, abs=4 * mapped.std() / np.sqrt(n))
        # without its partner the constraint force is missing
        assert abs(alone.map_forces(f)[:, 2].mean() - expected) > 1


def test_rigid_molecule_of_two_beads():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(20, 2, 3))
    ends[:, 1] = (
        ends[:, 0]
        + 0.1 * (ends[:, 1] - ends[:, 0]) / np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)[:, None]
    )
    optimal = OptimalForceMap(mapping_of(20, np.ones(2), [[0], [1]]), molecules(20, 2))
    optimal.add(ends.reshape(-1, 3), rng.normal(size=(40, 3)))
    with pytest.raises(
        MappingError,
        match=(
            "Atoms of MOL whose distance is fixed are in different beads; put such atoms in one"
            " bead"
        ),
    ):
        optimal.solve()


def test_inconsistent_force_map():
    mapping = mapping_of(1, MASSES, [[0, 1]])
    with pytest.raises(
        MappingError,
        match=r"not consistent with the positions of the beads: B M\^T differs from 1 by 5\.7e-01",
    ):
        # 12/28 of the position is that of the first atom
        mapping.with_force_map(csr_matrix([[1.0, 0.0, 5.0, 0.0]]))
    with pytest.raises(
        MappingError,
        match=r"2 atoms are in no bead \(first: atom 2\); such beads need force_map: optimal",
    ):
        mapping.map_forces(np.zeros((4, 3)))


def test_constraints_need_equal_coefficients():
    import openmm

    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addConstraint(0, 2, 0.1)
    mapping = mapping_of(1, np.ones(4), [[0, 1]])
    mapping.with_force_map(csr_matrix([[1.0, 1.0, 1.0, 0.0]])).check_constraints(system)
    with pytest.raises(MappingError, match="constraint between atoms 0 and 2"):
        mapping.with_force_map(csr_matrix([[1.0, 1.0, 0.5, 0.0]])).check_constraints(system)


# --- the real fluid -------------------------------------------------------------------------------


def fluid(beads: list[dict], **more) -> SystemConfig:
    """Ethaline with other beads of ethylene glycol."""
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    data["molecules"] = [dict(m, count=COUNTS[m["name"]]) for m in data["molecules"]]
    data["beads"][2:] = [{"molecule": "EGL", **bead} for bead in beads]
    return parse(SystemConfig, data | more, "fluid", ETHALINE)


HALVES = [
    {"type": "E", "selection": "name C1 O1 HO1 H11 H12"},
    {"type": "E", "selection": "name C2 O2 HO2 H21 H22"},
]


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory) -> tuple[Path, Path, list[dict]]:
    """Topology, TRR and raw frames of 1 ps of ethaline with constrained bonds to hydrogen."""
    folder = tmp_path_factory.mktemp("fluid")
    case, config = Case(folder, skew=False), small_config()
    topology, positions = pack(config)
    simulation = simulation_of(config, create_system(config, topology), topology, positions)
    simulation.step(1000)  # the packed molecules cool down
    recorder = Recorder()
    simulation.reporters = [recorder]
    simulation.step(1000)
    return case.topology, case.write(folder / "long.trr", recorder.frames), recorder.frames


@pytest.mark.parametrize(
    ("beads", "least", "most"),
    [
        # median and range over 15 runs
        ([{"type": "E", "selection": "name C1"}], 5, 200),  # 25, 11 to 56
        (HALVES, 1.15, 2.3),  # 1.5, 1.37 to 1.81
        # 0.99, 0.95 to 1.01: forces inside the molecule cancel in the sum
        ([{"type": "E"}], 0.85, 1.15),
    ],
    ids=["slice", "halves", "whole"],
)
def test_noise_of_ethylene_glycol(trajectory, beads, least, most):
    """Mean square force on the beads of ethylene glycol, basic over optimal.

    On frames that were not fitted to.
    """
    raw = trajectory[2]
    config = fluid(beads, force_map="optimal")
    atoms = mdtraj.Topology.from_openmm(build_topology(config))
    mapping = mapping_from_config(config, atoms, calibrate=True)
    optimal = OptimalForceMap(mapping, atoms)
    for frame in raw[:50]:
        optimal.add(frame["positions"], frame["forces"])
    fitted, record = optimal.solve()
    glycol = next(kind for kind in json.loads(record)["molecules"] if kind["name"] == "EGL")
    b = dict(zip(glycol["atoms"], glycol["beads"][0]["coefficients"], strict=True))
    assert b["C1"] == pytest.approx(b["H11"]) == pytest.approx(b["H12"])  # constrained
    assert b["O1"] == pytest.approx(b["HO1"])
    # the basic force: of the bead's atoms and of the hydrogens that are constrained to them
    names = [atom.name for atom in atoms.atoms]
    sums = []
    for bead in np.flatnonzero(mapping.topology.types == mapping.topology.type_names.index("E")):
        inside = np.flatnonzero(mapping.bead_of_atom == bead)
        if beads[0].get("selection") == "name C1":
            inside = inside[0] + np.array([0, 6, 7])
            assert [names[k] for k in inside] == ["C1", "H11", "H12"]
        sums.append((bead, inside))
    basic = np.mean(
        [
            [np.square(frame["forces"][inside].sum(axis=0)) for _, inside in sums]
            for frame in raw[50:]
        ]
    )
    best = np.mean(
        [
            np.square(fitted.map_forces(frame["forces"])[[bead for bead, _ in sums]])
            for frame in raw[50:]
        ]
    )
    print(
        f"RMS force component: {np.sqrt(basic):.0f} kJ/mol/nm with the basic map,"
        f" {np.sqrt(best):.0f} with the optimal one"
    )
    assert least < basic / best < most
    # what no map can take away is the force on the whole molecule
    if beads[0].get("selection") == "name C1":
        whole = np.mean(
            [
                [np.square(frame["forces"][c1 : c1 + 10].sum(axis=0)) for _, (c1, _, _) in sums]
                for frame in raw[50:]
            ]
        )
        assert best == pytest.approx(whole, rel=0.2)


def test_mapped_file(trajectory, tmp_path):
    topology, path, raw = trajectory
    basic = read_frames(map_trajectory(fluid(HALVES), path, topology, tmp_path / "basic.h5"))
    best = read_frames(
        map_trajectory(fluid(HALVES, force_map="optimal"), path, topology, tmp_path / "best.h5")
    )
    assert "force_map" not in basic.attributes
    record = json.loads(best.attributes["force_map"])
    assert record["kind"] == "optimal"
    assert [kind["name"] for kind in record["molecules"]] == ["CHO", "CL", "EGL"]
    assert record["molecules"][1]["beads"][0]["coefficients"] == [1.0]
    assert np.array_equal(best.positions, basic.positions)
    assert best.beads.bonds.tolist() == [[k, k + 1] for k in range(6, 18, 2)]
    # the recorded coefficients give the forces of the file
    glycol = record["molecules"][2]
    first = np.array([bead["coefficients"] for bead in glycol["beads"]]) @ raw[7]["forces"][66:76]
    assert best.forces[7, 6:8] == pytest.approx(first, rel=1e-3, abs=0.5)
    halves = best.beads.types == 2
    rms = [np.sqrt(np.mean(frames.forces[:, halves] ** 2)) for frames in (best, basic)]
    assert rms == pytest.approx(
        [
            np.sqrt(np.mean([bead[name] ** 2 for bead in glycol["beads"]]))
            for name in ("rms", "rms_basic")
        ],
        rel=1e-3,
    )
    assert "RMS force component" in (tmp_path / "best.log").read_text()


def test_refused(trajectory, tmp_path):
    topology, path, raw = trajectory
    config = fluid([{"type": "E", "selection": "name C1"}])
    with pytest.raises(MappingError, match=r"54 atoms are in no bead"):
        map_trajectory(config, path, topology, tmp_path / "a.h5")
    config = fluid([{"type": "E"}], force_map="optimal")
    few = Case.write(None, tmp_path / "few.trr", raw[:1])
    with pytest.raises(
        MappingError,
        match=(
            r"optimal force map of CHO needs at least .* molecules over all frames, there are 3;"
            r" give more"
        ),
    ):
        map_trajectory(config, few, topology, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text()) | {"force_map": "best"}
    with pytest.raises(
        ConfigError, match="force_map: got 'best': input should be 'basic' or 'optimal'"
    ):
        parse(SystemConfig, data, "system.yaml", ETHALINE)


def test_running_simulation_is_refused(tmp_path):
    """A reporter cannot know the coefficients before the run."""
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text()) | {
        "force_map": "optimal",
        "force_field": str(ETHALINE / "forcefield.xml"),
    }
    data["molecules"] = [
        {"name": m["name"], "structure": str(ETHALINE / m["structure"]), "count": COUNTS[m["name"]]}
        for m in data["molecules"]
    ]
    (tmp_path / "system.yaml").write_text(yaml.safe_dump(data))
    config = small_config()
    topology, positions = pack(config)
    simulation = simulation_of(config, create_system(config, topology), topology, positions)
    simulation.reporters = [MappedReporter(tmp_path / "frames.h5", 5, tmp_path / "system.yaml")]
    with pytest.raises(
        ConfigError,
        match=(
            r"force_map: optimal is fitted to the atomic forces of many frames .* map it with 'cgkd"
            r" map'"
        ),
    ):
        simulation.step(5)
    assert not (tmp_path / "frames.h5").exists()
