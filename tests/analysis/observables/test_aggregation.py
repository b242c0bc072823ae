"""Smallest distances, clusters, and what counts as aggregation."""

import numpy as np
import pytest
from scipy.special import ndtr

from openmm_cgkd.analysis.observables.aggregation import (
    AggregationLimits,
    Clusters,
    clusters_of,
    evenly_spaced,
    extreme_limit,
)
from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.exceptions import AnalysisError, BoxError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.beads import BeadTopology
from tests.cases.paths import SYSTEMS

BOX = 3.0 * np.eye(3)
BEADS = BeadTopology(("A", "B"), np.repeat([0, 1], [30, 60]), np.full(90, 20.0), np.arange(90))


def fluid(n_frames: int, seed: int, diameter: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Random insertion of 90 beads without overlap."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        placed = np.empty((0, 3))
        while len(placed) < 90:
            point = rng.uniform(0, 3, 3)
            delta = placed - point
            if np.all(np.linalg.norm(delta - 3 * np.round(delta / 3), axis=1) > diameter):
                placed = np.vstack([placed, point])
        frames.append(placed)
    return np.array(frames), np.repeat(BOX[None], n_frames, axis=0)


def test_clusters_of_a_known_configuration():
    # a chain of three across the boundary, a pair of unlike beads, and a loner
    positions = np.array(
        [[0.1, 1, 1], [2.9, 1, 1], [2.6, 1, 1], [1.0, 2, 2], [1.0, 2.25, 2], [1.8, 0.2, 0.2]]
    )
    types = np.array(["A", "A", "A", "A", "B", "B"])
    clusters = Clusters({("A", "A"): 0.35, ("A", "B"): 0.28}).compute(Frame(positions, BOX, types))
    assert clusters.largest.tolist() == [3]
    assert clusters.size_distribution[:5].tolist() == [0, 1, 1, 1, 0]
    assert clusters.smallest_distances["A", "A"][0] == pytest.approx(0.2)
    assert clusters.smallest_distances["A", "B"][0] == pytest.approx(0.25)
    # only the pair is left, of like beads now
    clusters.compute(Frame(positions + 0.7, BOX, types[::-1]), reset=False)
    assert clusters.largest.tolist() == [3, 2]
    assert clusters.smallest_distances["A", "A"][1] == pytest.approx(0.25)
    assert clusters.smallest_distances["A", "B"][1] == np.inf
    assert clusters.compute(Frame(positions, BOX, types)).largest.tolist() == [3]


def test_clusters_in_a_skewed_box_do_not_depend_on_the_image():
    box = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.5, 0.6, 2.1]])
    rng = np.random.default_rng(0)
    points, types = rng.uniform(0, 1, (40, 3)) @ box, np.array(["A"] * 40)
    here = Clusters({("A", "A"): 0.4}).compute(Frame(points, box, types))
    there = Clusters({("A", "A"): 0.4}).compute(
        Frame(points + rng.integers(-2, 3, (40, 3)) @ box, box, types)
    )
    np.testing.assert_allclose(there.size_distribution, here.size_distribution)
    assert here.largest[0] > 2


def test_limits_are_those_of_the_frames():
    positions, boxes = fluid(30, seed=1)
    limits = AggregationLimits.of(positions, boxes, BEADS, 1.4)
    assert set(limits.contacts) == {("A", "A"), ("A", "B"), ("B", "B")}
    for pair, (n, count) in {("A", "A"): (30, 2), ("A", "B"): (30, 1), ("B", "B"): (60, 2)}.items():
        names = np.array(BEADS.names)
        a, b = (np.flatnonzero(names == name) for name in pair)
        delta = positions[:, a, None] - positions[:, None, b]
        distances = np.linalg.norm(delta - 3 * np.round(delta / 3), axis=-1)
        distances = distances[distances > 0]
        assert limits.smallest[pair] == pytest.approx(distances.min())
        # within the contact distance a bead of the rarer type has 0.1 neighbours; like pairs stand
        # in the matrix twice
        assert np.count_nonzero(distances < limits.contacts[pair]) / 30 / n == pytest.approx(
            0.1, abs=0.02
        ), count
    clusters = clusters_of(limits.contacts, positions, boxes, BEADS.names)
    assert limits.largest_cluster == clusters.largest.max()
    assert not limits.aggregated(clusters).any()
    other = clusters_of(limits.contacts, *fluid(30, seed=2), BEADS.names)
    assert limits.first_aggregated(other) is None


def test_aggregation_is_found_when_it_lasts():
    positions, boxes = fluid(30, seed=3)
    limits = AggregationLimits.of(positions, boxes, BEADS, 1.4)
    many = int(limits.allowed_cluster) + 2
    contact = 0.98 * limits.contacts["B", "B"]
    clump = positions.copy()
    line = (
        1.0
        + contact * np.arange(8)[:, None, None] * np.eye(3)[0]
        + contact * np.arange(8)[None, :, None] * np.eye(3)[1]
    )
    line = line.reshape(-1, 3)[:many]
    outside = fluid(1, seed=4, diameter=0.29)[0][0]
    for k in range(12, 30):
        far = outside[
            np.linalg.norm(outside - line.mean(axis=0), axis=1).argsort()[::-1][: 90 - many]
        ]
        clump[k] = np.concatenate([far[:30], line, far[30:]])
    clusters = clusters_of(limits.contacts, clump, boxes, BEADS.names)
    assert limits.aggregated(clusters)[12:].all()
    assert limits.first_aggregated(clusters) == 12
    assert (
        f"A cluster holds {clusters.largest[12]} beads, the largest all-atom one"
        f" {limits.largest_cluster}" in limits.describe(clusters, 12)
    )
    # four frames of it are no aggregation
    short = positions.copy()
    short[5:9] = clump[12:16]
    clusters = clusters_of(limits.contacts, short, boxes, BEADS.names)
    assert limits.aggregated(clusters).sum() == 4
    assert limits.first_aggregated(clusters) is None


def test_beads_closer_than_all_atom_shows():
    positions, boxes = fluid(30, seed=5)
    limits = AggregationLimits.of(positions, boxes, BEADS, 1.4)
    close = positions.copy()
    close[20:, 0] = close[20:, 1] + [0.5 * limits.closest["A", "A"], 0, 0]
    clusters = clusters_of(limits.contacts, close, boxes, BEADS.names)
    assert limits.first_aggregated(clusters) == 20
    assert limits.describe(clusters, 20).startswith("Beads A-A come as close as 0.1")


def walls(n: int, seed: int, softness: float, memory: float) -> np.ndarray:
    """Closest of some distances of a steep repulsion, frame by frame, that remember each other."""
    noise = np.random.default_rng(seed).normal(size=(n + 200, 40))
    for k in range(1, len(noise)):
        noise[k] = memory * noise[k - 1] + np.sqrt(1 - memory**2) * noise[k]
    # log of an exponential variable: Gumbel's distribution, as of a repulsion linear in r
    return 0.35 + softness * np.log(-np.log(ndtr(noise[200:]))).min(axis=1)


@pytest.mark.parametrize("softness", [0.005, 0.02])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_limit_is_passed_by_hardly_any_other_run(softness, memory):
    """The smallest of a sample, even a tenth below it, is passed where the wall is soft."""
    passed, below_tenth = 0, 0
    for seed in range(60):
        series = walls(3000, seed, softness, memory)
        seen, later = series[:300], series[300:]
        passed += (later < extreme_limit(seen)).any()
        below_tenth += (later < 0.9 * seen.min()).any()
    assert passed <= 4
    assert softness < 0.01 or below_tenth > 10
    # it is not far out: a spurious minimum at two thirds of the distance is found
    assert extreme_limit(seen) > 0.66 * seen.min() or softness > 0.01


def test_limit_of_few_or_unknown_values():
    assert extreme_limit(np.array([0.3])) == np.inf
    assert extreme_limit(np.full(50, np.inf)) == np.inf
    assert extreme_limit(np.array([0.3, 0.3])) == pytest.approx(0.3)
    assert extreme_limit(np.array([np.inf, 0.3, 0.32])) < 0.25


@pytest.mark.parametrize("share", [slice(0, 75), slice(75, 150)], ids=["first", "second"])
def test_half_of_an_all_atom_run_does_not_aggregate(share):
    """The shipped frames, whose two halves are independent runs: a part sets limits for all."""
    frames = read_frames(SYSTEMS / "ethaline" / "frames.h5")[::7][:150]
    positions, boxes = frames.positions, frames.box
    limits = AggregationLimits.of(positions[share], boxes[share], frames.beads, 1.0)
    clusters = clusters_of(limits.contacts, positions, boxes, frames.beads.names)
    assert not limits.aggregated(clusters).any()
    # any stretch of 25 frames, too
    for first in range(0, 126, 5):
        part = slice(first, first + 25)
        for values in clusters.smallest_distances.values():
            allowed = min(0.9 * values[part].min(), extreme_limit(values[part]))
            assert (values < allowed).sum() < 5
    # a chloride in a chloride is found
    close = positions.copy()
    first, second = np.flatnonzero(np.array(frames.beads.names) == "CL")[:2]
    close[100:, first] = close[100:, second] + [0.2, 0, 0]
    found = clusters_of(limits.contacts, close[95:], boxes[95:], frames.beads.names)
    assert limits.first_aggregated(found) == 5


def test_evenly_spaced():
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]


def test_bad_input_is_refused():
    positions, boxes = fluid(2, seed=6)
    with pytest.raises(AnalysisError, match="at least one, all above 0"):
        Clusters({})
    with pytest.raises(AnalysisError, match="hold no frame"):
        _ = Clusters({("A", "A"): 0.3}).largest
    with pytest.raises(BoxError, match="r_max of 1"):
        Clusters({("A", "A"): 1.6}).compute(Frame(positions[0], BOX, np.array(BEADS.names)))
    with pytest.raises(AnalysisError, match="too dilute"):
        AggregationLimits.of(positions, boxes, BEADS, 0.31)
