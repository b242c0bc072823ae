"""Angle distributions against brute force, lattices and mdtraj."""

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.analysis.observables.angles import ADF, CDF
from openmm_cgkd.analysis.observables.neighbors import Neighbors
from tests.cases.observables import angle, arms, ideal_gas, lattice


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
