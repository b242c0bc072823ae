"""Intermediate scattering functions: Brownian motion, free flight, and a slow double sum."""

from itertools import pairwise

import numpy as np
import pytest

from openmm_cgkd.analysis.observables.scattering import (
    Scattering,
    half_time,
    intermediate_scattering,
    lag_grid,
)
from openmm_cgkd.exceptions import AnalysisError
from tests.cases.observables import TRICLINIC

BOX = 3.0 * np.eye(3)


def ideal(moves: np.ndarray, box: np.ndarray = BOX, seed: int = 3) -> np.ndarray:
    """Beads that start anywhere and move as told, shape (n_frames, n_beads, 3)."""
    return np.random.default_rng(seed).uniform(0, 1, moves.shape[1:]) @ box + moves


def of_gas(positions: np.ndarray, box: np.ndarray = BOX) -> Scattering:
    boxes = np.broadcast_to(box, (len(positions), 3, 3))
    types = np.zeros(positions.shape[1], dtype=int)
    return intermediate_scattering(positions, boxes, types, ("A",), k_range=(6, 7), bins=1)


def test_brownian_particles():
    rng, step = np.random.default_rng(1), 0.05
    moves = np.cumsum(step * rng.standard_normal((1500, 50, 3)), axis=0)
    found = of_gas(ideal(moves))
    expected = np.exp(-(found.k[0] ** 2) * step**2 / 2 * found.lags)  # exp(-k^2 D t)
    collective, alone = found.band
    early = slice(0, 30)
    np.testing.assert_allclose(alone[early], expected[early], atol=0.02)
    # an ideal gas has no other arrangement than that of its beads
    np.testing.assert_allclose(collective[early], expected[early], atol=0.05)
    exact = np.log(2) / (found.k[0] ** 2 * step**2 / 2)
    assert half_time(found.lags * 1.0, alone) == pytest.approx(exact, rel=0.03)


def test_free_flight():
    velocities = np.random.default_rng(2).standard_normal((1500, 3))
    moves = 0.03 * np.arange(40)[:, None, None] * velocities
    found = of_gas(ideal(moves))
    expected = np.exp(-((found.k[0] * 0.03 * found.lags) ** 2) / 2)  # exp(-k^2 v^2 t^2 / 2)
    np.testing.assert_allclose(found.band[1], expected, atol=0.02)
    np.testing.assert_allclose(found.band[0], expected, atol=0.1)


def test_against_a_double_sum_over_vectors_beads_and_times():
    """In boxes that change, with a gap in time, two types, charges and several parts."""
    rng = np.random.default_rng(4)
    moves = np.cumsum(0.04 * rng.standard_normal((24, 5, 3)), axis=0)
    boxes = TRICLINIC * rng.uniform(0.99, 1.01, (24, 1, 1))
    positions = np.einsum("fbi,fij->fbj", ideal(moves, np.eye(3)) + 5, boxes)
    types, charges = np.array([0, 1, 0, 1, 1]), np.array([0.8, -0.5, 0.8, -0.6, -0.5])
    found = intermediate_scattering(
        positions,
        boxes,
        types,
        ("A", "B"),
        charges,
        [slice(0, 15), slice(15, 24)],
        starts=(0, 7, 14, 20),
        k_range=(3, 7),
        bins=2,
    )
    assert found.names == [
        ("collective", "A"),
        ("collective", "B"),
        ("charge", "all"),
        ("self", "A"),
        ("self", "B"),
    ]
    expected, weights = np.zeros((5, 2, 5)), [types == 0, types == 1, charges]
    n_vectors = 0
    for index in np.ndindex(13, 13, 13):
        n = np.array(index) - 6
        length = np.linalg.norm(np.linalg.solve(boxes.mean(axis=0), 2 * np.pi * n))
        if not 3 <= length < 7:
            continue
        n_vectors += 1
        bin_ = int(length >= 5)
        waves = np.exp(2j * np.pi * positions @ np.linalg.inv(boxes) @ n)
        for lag in range(5):
            pairs = [(t, t + lag) for t in range(24 - lag) if (t < 15) == (t + lag < 15)]
            for t, later in pairs:
                for row, weight in enumerate(weights):
                    product = (weight @ waves[later]) * np.conj(weight @ waves[t])
                    expected[row, bin_, lag] += product.real / len(pairs)
                each = (waves[later] * np.conj(waves[t])).real
                for row in range(2):
                    expected[3 + row, bin_, lag] += each[types == row].sum() / len(pairs)
    assert n_vectors > 40
    np.testing.assert_array_equal(found.lags, range(5))
    np.testing.assert_allclose(found.values, expected / expected[..., :1], atol=2e-5)
    band = expected.sum(axis=1)
    np.testing.assert_allclose(found.band, band / band[:, :1], atol=2e-5)
    np.testing.assert_allclose(found.in_bin(1).band, found.values[:, 1], atol=1e-12)
    # parts add up, and one that is left out takes its earlier times along
    assert found.counts.sum(axis=0).tolist() == [24, 22, 20, 18, 16]
    assert found.counts[:, 4].tolist() == [7, 4, 5, 0]
    rest = found.products[1:].sum(axis=(0, 2)) / found.counts[1:].sum(axis=0)
    np.testing.assert_allclose(found.band_left_out[0], rest / rest[:, :1])


def test_wrapping_changes_nothing():
    rng = np.random.default_rng(5)
    moves = np.cumsum(0.1 * rng.standard_normal((30, 10, 3)), axis=0)
    positions = ideal(moves)
    np.testing.assert_allclose(
        of_gas(positions).band, of_gas(positions % 3.0).band, rtol=0, atol=1e-4
    )


def test_lags():
    assert lag_grid(3).tolist() == [0, 1, 2, 3]
    lags = lag_grid(128)
    assert lags[:18].tolist() == [*range(17), 17]
    assert lags[-9:].tolist() == [64, 70, 76, 83, 91, 99, 108, 117, 128]
    assert lag_grid(20)[-3:].tolist() == [17, 19, 20]
    assert lag_grid(0).tolist() == [0, 1]


def test_lags_end_where_few_stretches_are_as_long():
    """A lag is known from half of the frames at least."""
    moves = np.zeros((160, 2, 3))
    for lengths, last in (([40] + 10 * [12], 7), ([100, 30, 30], 26), ([160], 32), (80 * [2], 1)):
        edges = np.cumsum([0, *lengths])
        stretches = [slice(*pair) for pair in pairwise(edges.tolist())]
        boxes = np.broadcast_to(BOX, (160, 3, 3))
        found = intermediate_scattering(
            moves, boxes, np.zeros(2, int), ("A",), None, stretches, k_range=(6, 7), bins=1
        )
        assert found.lags[-1] == last
        origins = [sum(max(n - lag, 0) for n in lengths) for lag in (last, last + 1)]
        assert found.counts[0, -1] == origins[0] >= 80
        assert origins[1] < 80 or last == 160 // 5
    stretches = [slice(k, k + 1) for k in range(160)]
    with pytest.raises(AnalysisError, match="No two frames follow each other"):
        intermediate_scattering(moves, boxes, np.zeros(2, int), ("A",), None, stretches)


def test_half_times():
    times = np.array([0.0, 1.0, 2.0, 4.0])
    assert half_time(times, np.exp(-times / 2)) == pytest.approx(2 * np.log(2))
    assert half_time(times, np.array([1, 0.9, 0.1, -0.1])) == pytest.approx(
        1 + np.log(0.9 / 0.5) / np.log(9)
    )
    assert 1 < half_time(times, np.array([1, 0.9, -0.2, 0])) < 2
    # not fallen yet: as an exponential through the last value
    assert half_time(times, np.exp(-times / 40)) == pytest.approx(40 * np.log(2))
    assert half_time(times, np.ones(4)) == np.inf


def test_a_box_too_small_for_any_wave():
    with pytest.raises(
        AnalysisError, match=r"0\.4, 0\.4, 0\.4.* has no wave with k between 6 and 7"
    ):
        of_gas(ideal(np.zeros((10, 2, 3)), 0.4 * np.eye(3)), 0.4 * np.eye(3))
