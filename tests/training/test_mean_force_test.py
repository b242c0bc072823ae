"""Errors against mean forces, where truth and errors of the estimates are known."""

import dataclasses

import numpy as np
import pytest

from openmm_cgkd.config.run import PriorConfig
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.mean_forces.file import MeanForces, write_mean_forces
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.training.mean_force_test import MeanForceTest, load_mean_force_test
from tests.cases.training import CUTOFF, make_frames


@pytest.fixture(scope="module")
def case():
    return make_frames(60, 12, noise=1.0)


def estimates(case, seed: int, error: float) -> MeanForces:
    frames, truth = case
    noisy = truth + np.random.default_rng(seed).normal(scale=error, size=truth.shape)
    errors = np.full(truth.shape, error, dtype=np.float32)
    return MeanForces(
        frames.positions,
        noisy.astype("f4"),
        errors,
        frames.box,
        frames.time,
        frames.beads,
        {"temperature": 300.0},
    )


def test_rmse_is_free_of_the_error_of_the_estimates(case):
    frames, truth = case
    test = MeanForceTest(
        estimates(case, 0, error=6.0), frames, CUTOFF, fit_prior(frames, PriorConfig())
    )
    # wrong by 3 on A and by 4 on B, with estimates that are off by more
    wrong = np.where(frames.beads.types[None, :, None] == 0, 3.0, 4.0) * np.random.default_rng(
        1
    ).choice([-1, 1], size=truth.shape)
    found = []
    for seed in range(40):
        test.graphs.frames = dataclasses.replace(
            frames, forces=estimates(case, seed, error=6.0).forces
        )
        found.append(test.errors(truth - test.graphs.prior_forces + wrong))
    for suffix, expected in (("", np.sqrt(12.5)), ("_A", 3.0), ("_B", 4.0)):
        values = np.array([errors[f"mean_force_rmse{suffix}"] for errors in found])
        given = np.mean([errors[f"mean_force_rmse_se{suffix}"] for errors in found])
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))
        assert given == pytest.approx(values.std(ddof=1), rel=0.4)


def test_unresolved_error_is_zero_within_its_bound(case):
    frames, truth = case
    test = MeanForceTest(
        estimates(case, 0, error=6.0), frames, CUTOFF, fit_prior(frames, PriorConfig())
    )
    errors = test.errors(truth - test.graphs.prior_forces)
    assert 0 <= errors["mean_force_rmse"] < 4 * errors["mean_force_rmse_se"] < 6


def test_configurations_that_are_held_out_are_counted_apart(case, caplog):
    """Mean forces of all frames: errors by part are those of the frames of that part."""
    frames, truth = case
    split, prior = split_frames(frames.time, 0.2, 0.1, 1.0), fit_prior(frames, PriorConfig())
    test = MeanForceTest(estimates(case, 0, error=6.0), frames, CUTOFF, prior, split)
    test.warn()
    assert test.counts == {"training": 41, "validation": 11, "test": 6, "outside": 2}
    wrong = np.linspace(3, 9, len(frames))[:, None, None] * np.ones_like(truth)
    forces = truth - test.graphs.prior_forces + wrong
    squares = (truth + wrong - test.graphs.frames.forces).astype(float) ** 2 - 36
    gap = np.setdiff1d(np.arange(len(frames)), np.concatenate(list(vars(split).values())))
    for name, chosen in (vars(split) | {"outside": gap}).items():
        found = test.by_part(forces)[name]
        assert found["configurations"] == len(chosen)
        assert found["rmse"] == pytest.approx(np.sqrt(squares[chosen].mean()), rel=1e-4)
    errors, held_out = test.errors(forces), np.concatenate([split.test, gap])
    for suffix, beads in (("", slice(None)), ("_B", frames.beads.types == 1)):
        assert errors[f"mean_force_rmse{suffix}"] == pytest.approx(
            np.sqrt(squares[:, beads].mean()), rel=1e-4
        )
        assert errors[f"held_out_mean_force_rmse{suffix}"] == pytest.approx(
            np.sqrt(squares[held_out][:, beads].mean()), rel=1e-4
        )
    assert "41 lie in the training part, which the network has seen, and 11 lie" in caplog.text
    caplog.clear()
    alone = MeanForceTest(estimates(case, 0, error=6.0), frames, CUTOFF, prior)
    alone.warn()
    assert not caplog.records
    assert "held_out_mean_force_rmse" not in alone.errors(forces)


def test_noise_floor_is_the_noise_put_in(case):
    frames, truth = case
    test = MeanForceTest(
        estimates(case, 0, error=6.0), frames, CUTOFF, fit_prior(frames, PriorConfig())
    )
    noise = frames.forces - truth
    for suffix, beads in (
        ("", slice(None)),
        ("_A", frames.beads.types == 0),
        ("_B", frames.beads.types == 1),
    ):
        assert test.noise_floor[f"noise_floor_rmse{suffix}"] == pytest.approx(
            np.sqrt(np.mean(noise[:, beads] ** 2)), rel=0.05
        )


def test_file_of_mean_forces(tmp_path, case, caplog):
    frames, _ = case
    prior = fit_prior(frames, PriorConfig())
    assert load_mean_force_test(None, frames, CUTOFF, prior) is None
    path = tmp_path / "mean_forces.h5"
    with pytest.raises(FramesError, match=r"mean_forces\.h5: no such file"):
        load_mean_force_test(path, frames, CUTOFF, prior)
    ours = estimates(case, 0, error=1.0)
    write_mean_forces(tmp_path / "mean_forces.h5", ours)
    caplog.set_level("INFO")
    assert len(load_mean_force_test(path, frames, CUTOFF, prior).graphs) == 60
    assert "noise floor of all beads" in caplog.text
    write_mean_forces(
        tmp_path / "mean_forces.h5", dataclasses.replace(ours, attributes={"temperature": 400.0})
    )
    with pytest.raises(FramesError, match="at 400 K, the frames at 300 K"):
        load_mean_force_test(path, frames, CUTOFF, prior)
