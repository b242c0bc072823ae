"""Comparison of structures: what it can see, and RDFs with known answers."""

import numpy as np
import pytest

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.simulation.timestep.same_structure import (
    compare_sampling,
    lowest_p_value,
    time_block_rdfs,
)
from tests.cases.wells import MASS, STIFFNESS, wells


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 8])
def test_lowest_p_value_is_what_runs_as_different_as_can_be_get(blocks):
    first, second = np.zeros((blocks, 1, 4)), np.ones((blocks, 1, 4))
    found = compare_sampling(first, second).p_value
    assert found == pytest.approx(lowest_p_value(blocks), rel=1e-6) or blocks == 8
    assert lowest_p_value(blocks) <= found < 1e-3 or blocks < 8
    assert (found < 0.01) == (blocks > 4)


def test_what_is_detectable_is_found():
    """Of runs that differ by so much, more than half; of equal runs, one in twenty."""
    rng, shape = np.random.default_rng(0), (10, 3, 20)
    found, differ = [], []
    for _ in range(12):
        first, second = rng.normal(size=shape), rng.normal(size=shape)
        equal = compare_sampling(first, second, 0.05)
        found.append(equal.p_value < 0.05)
        other = compare_sampling(first, second + equal.detectable, 0.05)
        differ.append(other.p_value < 0.05)
    assert sum(found) <= 3
    assert sum(differ) > 8


def test_structure_is_the_same_with_a_long_step_and_other_at_another_stiffness():
    """BAOAB samples a harmonic well exactly at any stable step; a softer well differs."""
    names, box, curves = ["A", "B"] * 15, 4 * np.eye(3), {}
    for stiffness in (20 * STIFFNESS, 10 * STIFFNESS):
        integration, middles = wells(f"{stiffness / 2}*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
        integration.begin(middles)
        longest = 1.0 / np.sqrt(stiffness / MASS)
        start = integration.equilibrated(longest / 5, 5.0)
        for share in (0.5, 1):
            frames = integration.sample(start, share * longest, 100.0)[1]
            curves[stiffness, share] = time_block_rdfs(frames, box, names, 2.0, 8)
    stiff, long_step, softer = (
        curves[key] for key in ((20 * STIFFNESS, 0.5), (20 * STIFFNESS, 1), (10 * STIFFNESS, 1))
    )
    same, other = compare_sampling(stiff, long_step), compare_sampling(stiff, softer)
    assert same.p_value > 1e-3
    assert same.difference < same.detectable * 1.5
    assert other.p_value < 1e-3
    assert other.difference > 1.2 * other.detectable


def test_time_block_rdfs_of_an_ideal_gas():
    positions = np.random.default_rng(3).uniform(0, 3, (300, 40, 3)).astype(np.float32)
    curves = time_block_rdfs(positions, 3 * np.eye(3), ["A"] * 20 + ["B"] * 20, 1.5, 3)
    assert curves.shape == (3, 3, 75)
    np.testing.assert_allclose(curves[:, :, 30:].mean(axis=(0, 2)), 1.0, atol=0.03)
    with pytest.raises(SimulationError, match="300 frames do not make 301 time blocks"):
        time_block_rdfs(positions, 3 * np.eye(3), ["A"] * 40, 1.5, 301)
