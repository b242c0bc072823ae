"""Diffusion of random walks."""

import numpy as np
import pytest

from openmm_cgkd.analysis.observables.diffusion import (
    diffusion,
    mean_squared_displacement,
    speed_up,
    time_factor,
    unwrapped,
)
from tests.cases.observables import TRICLINIC


def random_walk(
    n_frames: int, n_beads: int, coefficient: float, interval: float, seed: int = 9
) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(
        0, np.sqrt(2 * coefficient * interval), (n_frames, n_beads, 3)
    )
    return 5 + np.cumsum(steps, axis=0)


def test_diffusion_of_a_random_walk():
    walk = random_walk(2000, 40, 0.003, 0.5)
    result = diffusion([walk], 0.5)
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
    assert len(result.lag_times) == 116  # 580 // 5: three blocks before the gap, five after it


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


def test_images_of_a_box_that_breathes_do_not_move():
    """Positions at constant pressure, unwrapped by image numbers as LAMMPS writes them.

    Far from the box they swing with it; the walk itself is slow.
    """
    n = 400
    walk = random_walk(n, 30, 2e-4, 1.0)
    edges = 3.0 + 0.02 * np.random.default_rng(4).normal(size=n)
    boxes = edges[:, None, None] * np.eye(3)
    images = np.random.default_rng(5).integers(-20, 20, (1, 30, 3))
    inside = walk - walk.mean(axis=0) + 1.5  # never crosses a face
    assert np.abs(inside - 1.5).max() < 1.4
    swinging = inside + images * edges[:, None, None]
    found = diffusion([unwrapped(swinging, boxes)], 1.0)
    assert found.coefficient == pytest.approx(2e-4, rel=0.2)
    np.testing.assert_allclose(
        np.diff(unwrapped(swinging, boxes), axis=0), np.diff(inside, axis=0), atol=1e-9
    )
