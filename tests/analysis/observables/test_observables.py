"""Observables against analytic limits, lattices and independent programs."""

import re

import mdtraj
import numpy as np
import openmm
import pytest
from scipy.special import sph_harm_y
from scipy.stats import binom

from openmm_cgkd.analysis.observables.angles import ADF, CDF
from openmm_cgkd.analysis.observables.base import accumulate_blocks
from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.analysis.observables.diffusion import (
    diffusion,
    mean_squared_displacement,
    speed_up,
    time_factor,
    unwrapped,
)
from openmm_cgkd.analysis.observables.neighbors import Frame, Neighbors
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from openmm_cgkd.analysis.observables.pressure import virial_pressure
from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from openmm_cgkd.exceptions import AnalysisError, BoxError
from openmm_cgkd.frames.frames import read_frames, write_frames
from tests.cases.fluids import ETHALINE
from tests.cases.paths import ROOT

TRICLINIC = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.5, 0.6, 2.1]])
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def ideal_gas(
    n_frames: int, counts: dict[str, int], box: np.ndarray = TRICLINIC, seed: int = 1
) -> list[Frame]:
    """Independent uniform points, several boxes away from the origin."""
    names = np.repeat(list(counts), list(counts.values()))
    fractions = np.random.default_rng(seed).uniform(-2, 3, (n_frames, len(names), 3))
    return [Frame(points @ box, box, names) for points in fractions]


def lattice(basis: list, cells: int = 4, constant: float = 0.5) -> Frame:
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3), axis=-1).reshape(-1, 1, 3)
    positions = constant * (grid + np.array(basis)).reshape(-1, 3)
    return Frame(positions, constant * cells * np.eye(3), np.array(["X"] * len(positions)))


def arms(frame: Frame, cutoff: float) -> list[tuple[int, int, np.ndarray]]:
    """All (bead, neighbour, vector), by trying 27 images of beads in the box."""
    images = (
        np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
        @ frame.box
    )
    inside = frame.positions - np.floor(frame.positions @ np.linalg.inv(frame.box)) @ frame.box
    found = []
    for i, x in enumerate(inside):
        for j, y in enumerate(inside):
            found += [(i, j, v) for v in y - x + images if i != j and np.linalg.norm(v) < cutoff]
    return found


def angle(v: np.ndarray, w: np.ndarray) -> float:
    return float(
        np.degrees(np.arccos(np.clip(v @ w / np.linalg.norm(v) / np.linalg.norm(w), -1, 1)))
    )


# --- angles ---


@pytest.mark.parametrize(
    ("types", "cutoffs"),
    [(("A", "B", "A"), (0.8, 0.8)), (("A", "A", "B"), (0.7, 0.85)), (("B", "A", "C"), (0.85, 0.6))],
)
def test_adf_and_cdf_against_brute_force(types, cutoffs):
    frames = ideal_gas(3, {"A": 8, "B": 7, "C": 5})
    adf, cdf = ADF(types, cutoffs, bins=12), CDF(types, cutoffs, bins=(4, 6))
    angles, cells = [], []
    for frame in frames:
        adf.compute(frame, reset=False)
        cdf.compute(frame, reset=False)
        near = arms(frame, max(cutoffs))
        for k, (i, j, v) in enumerate(near):
            for m, (i2, j2, w) in enumerate(near):
                right = (frame.types[j], frame.types[i], frame.types[j2]) == types
                if (
                    k != m
                    and i == i2
                    and right
                    and np.linalg.norm(v) < cutoffs[0]
                    and np.linalg.norm(w) < cutoffs[1]
                ):
                    cells.append((np.linalg.norm(v), angle(v, w)))
                    if types[0] != types[2] or k < m:
                        angles.append(angle(v, w))
    histogram = np.histogram(angles, np.linspace(0, 180, 13), density=True)[0]
    np.testing.assert_allclose(adf.values, histogram, rtol=1e-9)
    assert adf.n_triples == pytest.approx(len(angles) / 3)
    assert len(angles) > 20
    expected = np.histogram2d(
        *np.array(cells).T, bins=(cdf.r_edges, cdf.angle_edges), density=True
    )[0]
    np.testing.assert_allclose(cdf.density, expected, rtol=1e-9)
    assert cdf.n_triples == pytest.approx(len(cells) / 3)


def test_cdf_of_equal_ends_contains_the_adf():
    frames = ideal_gas(5, {"A": 10, "B": 10}, seed=2)
    adf, cdf = (
        ADF(("A", "B", "A"), (0.8, 0.8), bins=18),
        CDF(("A", "B", "A"), (0.8, 0.8), bins=(10, 18)),
    )
    for frame in frames:
        neighbors = Neighbors(frame, {("A", "B"): 0.8})  # shared between both
        adf.compute(frame, reset=False, neighbors=neighbors)
        cdf.compute(frame, reset=False, neighbors=neighbors)
    np.testing.assert_allclose(cdf.density.sum(axis=0) * 0.08, adf.values, rtol=1e-12)


@pytest.mark.parametrize(
    "types", [("A", "B", "A"), ("A", "A", "A"), ("A", "B", "C"), ("A", "B", "B"), ("B", "B", "A")]
)
def test_angles_of_an_ideal_gas(types):
    frames = ideal_gas(150, {"A": 6, "B": 9, "C": 25}, seed=3)
    adf, cdf = ADF(types, (0.85, 0.85), bins=9), CDF(types, (0.85, 0.85), bins=(3, 4))
    for frame in frames:
        adf.compute(frame, reset=False)
        cdf.compute(frame, reset=False)
    expected = -np.diff(np.cos(np.radians(np.linspace(0, 180, 10)))) / 2
    n = adf.n_triples * 150
    # triples of one frame share beads, so counts spread somewhat more than Poisson
    np.testing.assert_allclose(adf.values * 20, expected, atol=6 * np.sqrt(expected.max() / n))
    np.testing.assert_allclose(cdf.values[1:], 1, atol=0.35)
    # with no correction for beads in use, A-A-A would give 6 * 5 / (4 * 5) = 1.5
    weights = np.diff(cdf.r_edges**3)[:, None] * -np.diff(np.cos(np.radians(cdf.angle_edges)))
    assert np.average(cdf.values, weights=weights) == pytest.approx(1, abs=6 / np.sqrt(n))


def test_angles_of_a_simple_cubic_lattice():
    adf = ADF(("X", "X", "X"), (0.6, 0.6), bins=90).compute(lattice([[0, 0, 0]]))
    assert adf.n_triples == 64 * 15  # six neighbours: 12 right angles and 3 straight ones
    filled = {float(x): p for x, p in zip(adf.bin_centers, adf.values * 2, strict=True) if p}
    assert filled.pop(179.0) == pytest.approx(3 / 15)
    assert sum(filled.values()) == pytest.approx(12 / 15)
    assert set(filled) <= {89.0, 91.0}  # 90 degrees is an edge


def test_water_like_angle_against_mdtraj():
    frames = ideal_gas(1, {"A": 9, "B": 4}, box=2.2 * np.eye(3), seed=4)
    trajectory = mdtraj.Trajectory(
        frames[0].positions[None], None, unitcell_lengths=[[2.2] * 3], unitcell_angles=[[90.0] * 3]
    )
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(13):
        topology.add_atom("X", mdtraj.element.virtual, residue)
    trajectory.topology = topology
    triples = [(a, b, c) for b in range(9, 13) for a in range(9) for c in range(a)]
    distances = {
        pair: mdtraj.compute_distances(trajectory, [pair])[0, 0]
        for pair in {(a, b) for b in range(9, 13) for a in range(9)}
    }
    near = [t for t in triples if max(distances[t[0], t[1]], distances[t[2], t[1]]) < 1.0]
    angles = np.degrees(mdtraj.compute_angles(trajectory, np.array(near)))[0]
    adf = ADF(("A", "B", "A"), (1.0, 1.0), bins=36).compute(frames[0])
    np.testing.assert_allclose(
        adf.values, np.histogram(angles, np.linspace(0, 180, 37), density=True)[0]
    )


# --- coordination ---


def test_coordination_numbers_of_a_lattice_and_of_two_kinds_of_bead():
    coordination = CoordinationNumbers(("X", "X"), 0.4).compute(lattice(FCC))
    assert coordination.values[12] == 1
    assert (coordination.mean, coordination.std) == (12, 0)
    frame = Frame(
        np.array([[0.5, 0.5, 0.5], [0.8, 0.5, 0.5], [0.5, 0.85, 0.5], [2.5, 2.5, 2.5]]),
        3 * np.eye(3),
        np.array(["A", "B", "B", "B"]),
    )
    assert CoordinationNumbers(("A", "B"), 0.5).compute(frame).mean == 2
    np.testing.assert_allclose(
        CoordinationNumbers(("B", "A"), 0.5, largest=3).compute(frame).values, [1 / 3, 2 / 3, 0, 0]
    )
    capped = CoordinationNumbers(("X", "X"), 0.4, largest=5).compute(lattice(FCC))
    assert capped.values[5] == 1


def test_coordination_numbers_of_an_ideal_gas_are_binomial():
    coordination = CoordinationNumbers(("A", "B"), 0.8)
    for frame in ideal_gas(200, {"A": 5, "B": 20}, seed=5):
        coordination.compute(frame, reset=False)
    share = 4 / 3 * np.pi * 0.8**3 / np.linalg.det(TRICLINIC)
    expected = binom(20, share).pmf(coordination.numbers)
    np.testing.assert_allclose(coordination.values, expected, atol=4 * np.sqrt(0.25 / 1000))
    assert coordination.mean == pytest.approx(20 * share, rel=0.05)


# --- order ---


def test_order_parameter_of_fcc_and_of_a_rotated_box():
    frame = lattice(FCC)
    assert SteinhardtOrder("X").compute(frame).mean == pytest.approx(0.57452, abs=1e-4)
    assert SteinhardtOrder("X", degree=4).compute(frame).mean == pytest.approx(0.19094, abs=1e-4)
    # all in the bin from 0.56 to 0.58
    assert SteinhardtOrder("X").compute(frame).values[28] == pytest.approx(50)
    # the primitive cell of the same crystal is triclinic
    primitive = 0.25 * np.array(
        [[2.0, 0, 0], [1.0, np.sqrt(3), 0], [1.0, np.sqrt(3) / 3, np.sqrt(8 / 3)]]
    )
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3)
    skewed = Frame(grid @ primitive, 5 * primitive, np.array(["X"] * 125))
    assert SteinhardtOrder("X").compute(skewed).mean == pytest.approx(0.57452, abs=1e-4)


def test_order_parameter_against_spherical_harmonics():
    (frame,) = ideal_gas(1, {"A": 10, "B": 10}, seed=6)
    order = []
    near = arms(frame, 3.0)
    for i in range(10):
        mine = sorted((v for k, _, v in near if k == i), key=np.linalg.norm)[:5]
        theta = [np.arccos(v[2] / np.linalg.norm(v)) for v in mine]
        phi = [np.arctan2(v[1], v[0]) for v in mine]
        sums = [np.mean(sph_harm_y(6, m, theta, phi)) for m in range(-6, 7)]
        order.append(np.sqrt(4 * np.pi / 13 * np.sum(np.abs(sums) ** 2)))
    assert SteinhardtOrder("A", nearest=5).compute(frame).mean == pytest.approx(
        np.mean(order), rel=1e-4
    )


# --- structure factor ---


def test_structure_factor_of_an_ideal_gas():
    factor = StructureFactor(("A", "B"), q_max=15, bins=5)
    for frame in ideal_gas(200, {"A": 10, "B": 20}, seed=7):
        factor.compute(frame, reset=False)
    assert factor.pairs == [("A", "A"), ("A", "B"), ("B", "B")]
    np.testing.assert_allclose(factor.values[[0, 2], 1:], 1, atol=0.1)
    np.testing.assert_allclose(factor.values[1, 1:], 0, atol=0.05)


def test_structure_factor_of_a_lattice_has_its_bragg_peaks():
    factor = StructureFactor(("X",), q_max=22, bins=220).compute(lattice(FCC))
    peaks = factor.bin_centers[np.nan_to_num(factor.values[0]) > 1]
    unit = 2 * np.pi / 0.5
    # 111; 100 and 110 are extinct, 200 is beyond
    np.testing.assert_allclose(peaks, [unit * np.sqrt(3)], atol=0.1)
    assert np.nansum(factor.values[0]) == pytest.approx(
        256 * 8 / factor.n_vectors[int(unit * np.sqrt(3) * 10)] / 2
    )


def test_structure_factor_of_a_triclinic_box_against_all_vectors():
    (frame,) = ideal_gas(1, {"A": 12, "B": 9}, seed=15)
    factor = StructureFactor(("A", "B"), q_max=12, bins=6).compute(frame)
    sums, n = np.zeros((3, 6)), np.zeros(6)
    a, b = frame.positions[:12], frame.positions[12:]
    for index in np.ndindex(21, 21, 21):
        q = np.linalg.solve(TRICLINIC, 2 * np.pi * (np.array(index) - 10))  # q . a_i = 2 pi n_i
        length = np.linalg.norm(q)
        if 0 < length < 12:
            k = int(length / 2)
            n[k] += 1
            for row, (x, y) in zip(sums, ((a, a), (a, b), (b, b)), strict=True):
                row[k] += np.cos((x[:, None] - y[None]) @ q).sum() / np.sqrt(len(x) * len(y))
    assert n.sum() > 200
    np.testing.assert_allclose(
        factor.values, np.where(n > 0, sums / np.maximum(n, 1), np.nan), atol=1e-9
    )


# --- dynamics ---


def random_walk(
    n_frames: int, n_beads: int, coefficient: float, interval: float, seed: int = 9
) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(
        0, np.sqrt(2 * coefficient * interval), (n_frames, n_beads, 3)
    )
    return 5 + np.cumsum(steps, axis=0)


def test_diffusion_of_a_random_walk():
    walk = random_walk(2000, 40, 0.003, 0.5)
    result = diffusion([walk], 0.5, blocks=5)
    assert result.coefficient == pytest.approx(0.003, rel=0.1)
    assert 0 < result.coefficient_se < 0.15 * 0.003
    assert abs(result.coefficient - 0.003) < 4 * result.coefficient_se
    assert result.exponent == pytest.approx(1, abs=0.1)
    assert result.diffusive
    np.testing.assert_allclose(result.msd[1:20], 6 * 0.003 * result.lag_times[1:20], rtol=0.05)
    faster = diffusion([random_walk(1000, 40, 0.012, 0.2, seed=10)], 0.2)
    ratio, error = speed_up(faster, result)
    assert ratio == pytest.approx(4, abs=5 * error)
    assert error < 0.8
    assert time_factor(faster, result) == pytest.approx(4, rel=0.15)


def test_gaps_in_time_do_not_count_as_motion():
    walk = random_walk(1000, 30, 0.003, 0.5, seed=16)
    walk[420:] += 50.0
    result = diffusion([walk[:420], walk[420:]], 0.5)
    assert result.coefficient == pytest.approx(0.003, rel=0.15)
    assert len(result.lag_times) == 193  # 580 // 3: two blocks before the gap, three after it


def test_ballistic_motion_is_not_called_diffusion():
    velocities = np.random.default_rng(11).normal(size=(30, 3))
    result = diffusion([np.arange(100)[:, None, None] * 0.1 * velocities], 0.1)
    assert result.exponent == pytest.approx(2, abs=1e-6)
    assert not result.diffusive
    assert not diffusion([np.zeros((100, 3, 3))], 0.1).diffusive


def test_msd_against_the_double_sum():
    walk = random_walk(30, 4, 0.01, 1.0)
    expected = [np.mean(np.sum((walk[lag:] - walk[: 30 - lag]) ** 2, axis=-1)) for lag in range(30)]
    np.testing.assert_allclose(mean_squared_displacement(walk), expected, atol=1e-6)


def test_wrapped_trajectories_are_unwrapped():
    walk = random_walk(300, 20, 0.01, 1.0)
    assert np.ptp(walk, axis=0).max() > 5
    boxes = np.repeat(TRICLINIC[None], 300, axis=0)
    wrapped = walk - np.floor(walk @ np.linalg.inv(TRICLINIC)) @ TRICLINIC
    assert np.abs(np.diff(wrapped, axis=0)).max() > 1
    np.testing.assert_allclose(
        np.diff(unwrapped(wrapped, boxes), axis=0), np.diff(walk, axis=0), atol=1e-12
    )
    np.testing.assert_allclose(unwrapped(walk, boxes), walk, atol=1e-12)


# --- pressure ---


def soft_system(n: int, box: np.ndarray, strength: float) -> openmm.System:
    """Repulsion that goes smoothly to 0 at 0.8 nm."""
    force = openmm.CustomNonbondedForce(f"{strength}*(1-r/0.8)^3*step(0.8-r)")
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.8)
    system = openmm.System()
    for _ in range(n):
        system.addParticle(40.0)
        force.addParticle([])
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*box)
    return system


def test_pressure_of_pair_forces_is_their_virial():
    frames = ideal_gas(2, {"A": 40}, seed=12)
    positions, boxes = np.array([f.positions for f in frames]), np.array([f.box for f in frames])
    found = virial_pressure(soft_system(40, TRICLINIC, 30.0), positions, boxes, 300.0, "Reference")
    for frame, pressure in zip(frames, found, strict=True):
        r = np.array([np.linalg.norm(v) for _, _, v in arms(frame, 0.8)])
        virial = np.sum(r * 3 * 30.0 / 0.8 * (1 - r / 0.8) ** 2) / 2  # each pair is listed twice
        volume = np.linalg.det(TRICLINIC)
        pascal = (40 * 1.380649e-23 * 300 + virial * 1e3 / 6.02214076e23 / 3) / (volume * 1e-27)
        assert pressure == pytest.approx(pascal * 1e-5, rel=1e-4)
        assert virial > 200


def test_pressure_without_forces_is_the_ideal_one():
    (frame,) = ideal_gas(1, {"A": 10})
    (found,) = virial_pressure(
        soft_system(10, TRICLINIC, 0.0), frame.positions[None], frame.box[None], 250.0, "Reference"
    )
    assert found == pytest.approx(
        10 * 1.380649e-23 * 250 / (np.linalg.det(TRICLINIC) * 1e-27) * 1e-5, rel=1e-6
    )


# --- what all share ---

MAKERS = {
    "ADF": lambda: ADF(("A", "B", "A"), (0.8, 0.8), bins=9),
    "CDF": lambda: CDF(("A", "B", "A"), (0.8, 0.8), bins=(3, 4)),
    "coordination": lambda: CoordinationNumbers(("A", "B"), 0.8),
    "order": lambda: SteinhardtOrder("A", bins=5),
    "structure factor": lambda: StructureFactor(("A", "B"), q_max=10, bins=5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_frames_add_up_and_reset(name):
    frames, make = ideal_gas(5, {"A": 10, "B": 9}, seed=13), MAKERS[name]
    with pytest.raises(AnalysisError, match="holds no frame"):
        _ = make().values
    whole = make()
    for frame in frames:
        whole.compute(frame, reset=False)
    done = []
    (parts,) = accumulate_blocks(lambda: [make()], frames, 2, 0.85, done.append)
    assert done == [3, 5]
    np.testing.assert_allclose(type(whole).merged(parts).values, whole.values, equal_nan=True)
    last = make().compute(frames[-1]).values
    assert not np.array_equal(last, whole.values)
    np.testing.assert_array_equal(whole.compute(frames[-1]).values, last)
    with pytest.raises(AnalysisError, match="0 parts"):
        type(whole).merged([])


def test_bad_input_is_refused():
    (frame,) = ideal_gas(1, {"A": 10, "B": 1}, seed=14)
    with pytest.raises(AnalysisError, match="no triple B-A-B: the frame holds 1 beads B"):
        ADF(("B", "A", "B"), (0.5, 0.5)).compute(frame)
    with pytest.raises(AnalysisError, match="no triple A-A-C: the frame holds 0 beads C"):
        CDF(("A", "A", "C"), (0.5, 0.5)).compute(frame)
    with pytest.raises(AnalysisError, match="equal ends need equal cutoffs"):
        ADF(("A", "B", "A"), (0.5, 0.6))
    with pytest.raises(AnalysisError, match="cutoffs above 0"):
        CDF(("A", "B", "A"), (0.5, 0.0))
    with pytest.raises(BoxError, match="r_max of 1"):
        ADF(("A", "B", "A"), (1.2, 1.2)).compute(frame)
    with pytest.raises(AnalysisError, match="no bead C"):
        CoordinationNumbers(("A", "C"), 0.5).compute(frame)
    with pytest.raises(AnalysisError, match="both must be above 0"):
        CoordinationNumbers(("A", "B"), 0.0)
    with pytest.raises(AnalysisError, match="more than 12 in all"):
        SteinhardtOrder("A").compute(frame)
    with pytest.raises(AnalysisError, match="all must be above 0"):
        SteinhardtOrder("A", degree=0)
    with pytest.raises(AnalysisError, match="no bead C"):
        StructureFactor(("A", "C")).compute(frame)
    with pytest.raises(AnalysisError, match="q_max=0 1/nm"):
        StructureFactor(("A",), q_max=0.0)
    with pytest.raises(AnalysisError, match="holds no frame, or no vector up to 1"):
        _ = StructureFactor(("A",), q_max=1.0).compute(frame).values
    with pytest.raises(
        AnalysisError,
        match=r"10 frames 1 ps apart of 4 beads make 5 unbroken blocks with 0 lag times",
    ):
        diffusion([np.zeros((10, 4, 3))], 1.0)
    with pytest.raises(AnalysisError, match="1 frames cannot be cut into 2"):
        accumulate_blocks(lambda: [], [frame], 2, None)
    with pytest.raises(AnalysisError, match="periodic system"):
        virial_pressure(openmm.System(), np.zeros((1, 0, 3)), np.eye(3)[None], 300.0)


def test_example_of_the_documentation(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "observables.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write_frames(read_frames(ETHALINE / "frames.h5")[:5], tmp_path / "frames.h5")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(example, "observables.md", "exec"), scope)
    assert scope["adf"].values.sum() * 3 == pytest.approx(1)
    assert scope["adf"].n_triples > 50
