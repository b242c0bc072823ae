"""Mean forces with the pair forces of fair samples, where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mean_forces.file import MeanForces
from openmm_cgkd.mean_forces.pair_correction import correct_pair_part, pair_forces

FRAMES, BEADS, BOX = 20, 120, 2.4
NOISE, FAIR_NOISE, BIAS = 30.0, 120.0, 1.2


@pytest.fixture(scope="module")
def case():
    """(truth, its pair part, estimates, fair samples) of beads at random.

    What is no pair force is random, too.
    """
    random = np.random.default_rng(4)
    positions = random.uniform(0, BOX, (FRAMES, BEADS, 3))
    beads = BeadTopology(("A", "B"), np.arange(BEADS) % 2, np.ones(BEADS), np.arange(BEADS))
    box = np.tile(BOX * np.eye(3), (FRAMES, 1, 1))
    empty = MeanForces(
        positions,
        positions * 0,
        positions * 0,
        box,
        np.arange(FRAMES) * 10.0,
        beads,
        {"system": "known"},
    )
    candidates = pair_forces(empty, 1.0)
    knots = candidates.shape[-1] // 3
    weights = np.concatenate([height * np.exp(-np.arange(knots) / 5) for height in (90, -60, 130)])
    pair = candidates @ np.resize(weights, candidates.shape[-1])
    many = random.normal(0, 70, pair.shape)
    design = candidates.reshape(pair.size, -1)
    many -= (design @ np.linalg.lstsq(design, many.ravel(), rcond=None)[0]).reshape(pair.shape)
    forces = BIAS * pair + many + random.normal(0, NOISE, pair.shape)
    estimates = MeanForces(
        positions, forces, np.full(pair.shape, NOISE), box, empty.time, beads, {"system": "known"}
    )
    return pair + many, pair, estimates, pair + many + random.normal(0, FAIR_NOISE, pair.shape)


def test_pair_forces_are_those_of_the_fair_samples(case):
    truth, pair, estimates, fair = case
    found = correct_pair_part(estimates, fair)
    assert found.ratio == pytest.approx(1 / BIAS, abs=4 * found.error)
    assert 0.002 < found.error < 0.05
    along = [
        ((forces - truth) * pair).sum() / (pair**2).sum()
        for forces in (estimates.forces, found.mean_forces.forces)
    ]
    assert along[0] == pytest.approx(BIAS - 1, abs=0.04)
    assert abs(along[1]) < 0.08
    assert found.mean_forces.attributes == {"system": "known"}


def test_standard_errors_hold_the_noise_that_gets_in(case):
    truth, _, estimates, fair = case
    found = correct_pair_part(estimates, fair).mean_forces
    z = (found.forces - truth) / found.standard_error
    assert (z**2).mean() == pytest.approx(1, abs=0.06)  # 7200 components
    assert (found.standard_error > NOISE).all()


def test_unbiased_estimates_stay(case):
    truth, _, estimates, _ = case
    random = np.random.default_rng(9)
    unbiased = replace(estimates, forces=truth + random.normal(0, NOISE, truth.shape))
    found = correct_pair_part(unbiased, truth + random.normal(0, FAIR_NOISE, truth.shape))
    assert found.ratio == pytest.approx(1, abs=4 * found.error)


def test_too_few_to_fit(case):
    _, _, estimates, fair = case
    arrays = {
        name: getattr(estimates, name)[:3]
        for name in ("positions", "forces", "standard_error", "box", "time")
    }
    assert correct_pair_part(replace(estimates, **arrays), fair[:3]) is None
