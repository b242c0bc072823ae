"""The student on the test part: errors, their errors and what they imply, where all is known."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import PriorConfig, SplitConfig, TrainingConfig
from openmm_cgkd.mean_forces.file import MeanForces, write_mean_forces
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import fit_prior, read_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.distill import train_student
from openmm_cgkd.stages.inputs import split_run
from openmm_cgkd.training import held_out
from openmm_cgkd.training.distillation import distill
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.mean_force_test import MeanForceTest
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.task import TEST
from openmm_cgkd.utils.files import file_hash
from tests.cases.training import CUTOFF, SMALL, make_frames

WRONG = np.array([6.0, 8.0])  # RMS error of the model on beads of type A and B, kJ/mol/nm
NOISE = 15.0  # RMS noise of the mapped forces


def series(n: int, memory: float, random: np.random.Generator, shape: tuple = ()) -> np.ndarray:
    """Autoregressive series of variance 1 and autocorrelation memory^k."""
    fresh = random.normal(size=(n, *shape)) * np.sqrt(1 - memory**2)
    fresh[0] /= np.sqrt(1 - memory**2)
    for k in range(1, n):
        fresh[k] += memory * fresh[k - 1]
    return fresh


N_TEST, N_MEANS, FORCE = 200, 60, 12.0  # frames, configurations, RMS mean force


@pytest.fixture(scope="module")
def places():
    """Configurations, of which the truth below asks nothing, and their graphs."""
    frames, _ = make_frames(N_TEST + N_MEANS, 12, noise=0.0)
    prior = fit_prior(frames, PriorConfig())
    return frames, prior, FrameGraphs(frames[np.arange(N_TEST)], CUTOFF, prior)


def realisation(places, seed: int, scale: float = 1.0, memory: float = 0.0):
    """A model that is wrong by `WRONG`, frames with noise, mean forces with errors of their own.

    `scale`: of the mean forces, as if of another fluid; `memory`: of the noise, between frames.
    """
    frames, prior, graphs = places
    random, error = np.random.default_rng(seed), 6.0
    truth = random.normal(scale=FORCE, size=frames.forces.shape)
    noisy = truth + NOISE * series(len(frames), memory, random, truth.shape[1:])
    mean = scale * truth[N_TEST:] + random.normal(scale=error, size=truth[N_TEST:].shape)
    estimates = MeanForces(
        frames.positions[N_TEST:],
        mean.astype("f4"),
        np.full(mean.shape, error, "f4"),
        frames.box[N_TEST:],
        frames.time[N_TEST:],
        frames.beads,
        {"temperature": 300.0},
    )
    whole = dataclasses.replace(frames, forces=noisy.astype("f4"))
    against = MeanForceTest(estimates, whole, CUTOFF, prior)
    test = copy.copy(graphs)
    test.frames = whole[np.arange(N_TEST)]
    wrong = WRONG[frames.beads.types][None, :, None] * random.choice([-1, 1], size=truth.shape)
    model = truth + wrong
    means = model[N_TEST:] - against.graphs.prior_forces
    return model[:N_TEST] - graphs.prior_forces, test, means, against


def test_loss_less_noise_is_the_error_against_the_mean_force(places):
    """sqrt((loss - noise) variance) with its error, over 40 noises and truths."""
    expected = {"all": float((WRONG**2).mean()), "A": WRONG[0] ** 2, "B": WRONG[1] ** 2}
    results = []
    for seed in range(40):
        forces, test, at_means, against = realisation(places, seed)
        result = held_out.compare_with_mean_forces(forces, test, at_means, against)
        mapped = held_out.mapped_errors(forces, test)
        assert mapped["all"]["rmse"] == pytest.approx(np.sqrt(expected["all"] + NOISE**2), rel=0.03)
        # what docs/physics.md says, term by term
        variance = float(np.mean(test.frames.forces.astype(float) ** 2))
        loss = mapped["all"]["rmse"] ** 2 / variance
        noise = 1 - against.floors[""].mean_force / variance
        assert result["implied"]["all"]["rmse"] == pytest.approx(
            np.sqrt(max((loss - noise) * variance, 0)), rel=1e-4, abs=1e-3
        )
        results.append(result)
    for name, square in expected.items():
        implied = [result["implied"][name] for result in results]
        off = [
            (each["rmse"] ** 2 - square) / (2 * each["rmse"] * each["rmse_se"])
            for each in implied
            if each["rmse"] > 1
        ]
        assert len(off) > 35
        assert abs(np.mean(off)) < 0.5
        assert 0.7 < np.std(off) < 1.3
    measured = [result["measured"] for result in results]
    off = [(each["rmse"] ** 2 - 50) / (2 * each["rmse"] * each["rmse_se"]) for each in measured]
    assert abs(np.mean(off)) < 0.5
    assert 0.7 < np.std(off) < 1.3
    # chance finds a difference at the one per cent in one case of a hundred
    assert sum(result["p_value"] < 0.01 for result in results) <= 2


def test_a_single_frame_has_no_error(places):
    forces, test, at_means, against = realisation(places, 0)
    one = copy.copy(test)
    one.frames, one.prior_forces = test.frames[np.arange(1)], test.prior_forces[:1]
    result = held_out.compare_with_mean_forces(forces[:1], one, at_means, against)
    assert result["p_value"] is result["implied"]["all"]["rmse_se"] is None
    mapped = held_out.mapped_errors(forces[:1], one)["all"]
    assert mapped["rmse_se"] is None
    assert mapped["rmse"] > 0


@pytest.mark.parametrize(("scale", "warnings"), [(1.0, 0), (1.3, 1)])
def test_mean_forces_of_another_fluid_are_told(places, caplog, scale, warnings):
    caplog.set_level("INFO", logger="openmm_cgkd")
    forces, test, at_means, against = realisation(places, 0, scale=scale)
    found = {
        "frames": N_TEST,
        "time_ps": [0.0, N_TEST - 1.0],
        "mapped": held_out.mapped_errors(forces, test),
        "mean_forces": held_out.compare_with_mean_forces(forces, test, at_means, against),
    }
    held_out.log_result(found)
    told = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert len(told) == warnings == sum("differ by more than chance" in text for text in told)
    assert (found["mean_forces"]["p_value"] < 1e-3) == bool(warnings)


def test_noise_that_remembers_widens_the_error(places):
    """The squares of forces with the memory 0.9 remember by 0.81."""
    found = []
    for memory in (0.0, 0.9):
        each = [
            held_out.mapped_errors(*realisation(places, seed, memory=memory)[:2])["all"]
            for seed in range(20)
        ]
        scatter = np.std([one["rmse"] for one in each], ddof=1)
        found.append(np.mean([one["rmse_se"] for one in each]) / scatter)
    assert found == pytest.approx([1.1, 0.9], abs=0.4)  # 0.35 for the second without the memory


# --- of a trained student -------------------------------------------------------------------------


@pytest.fixture
def student(own_labeled_run):
    run, frames = own_labeled_run
    return run, frames, train_student(run)


def test_distill_compares_the_student_with_the_test_part(student, caplog):
    run, frames, best = student
    found = json.loads((best.parent / TEST).read_text())
    split, prior = split_run(run, frames), read_prior(RunFolder(run).prior)
    assert found["frames"] == len(split.test) == 2
    assert found["time_ps"] == [frames.time[-2], frames.time[-1]]
    assert found["checkpoint_sha256"] == file_hash(best)
    graphs = FrameGraphs(frames, CUTOFF, prior)
    forces = predict(load_checkpoint(best)[0], graphs, split.test)[0].astype(float)
    wrong = {
        "mapped": forces + graphs.prior_forces[split.test] - frames.forces[split.test],
        "teachers": forces - load_labels(RunFolder(run).labels, frames).forces[split.test],
    }
    for name, errors in wrong.items():
        for kind, beads in (("all", slice(None)), ("A", frames.beads.types == 0)):
            rmse = found[name][kind]["rmse"]
            assert rmse == pytest.approx(np.sqrt(np.mean(errors[:, beads] ** 2)), rel=1e-4)
    assert "mean_forces" not in found


def test_mean_forces_that_come_after_the_training(student, monkeypatch, caplog):
    """Only the comparison runs again, with a warning for what is not held out."""
    run, frames, best = student
    monkeypatch.setattr("openmm_cgkd.training.fit.fit", lambda *_: pytest.fail("trained again"))
    chosen = np.array([0, 16, 17, 18, 19])  # training, validation, test
    path = RunFolder(run).root / "mean_forces.h5"
    part = frames[chosen]
    known = MeanForces(
        part.positions, part.forces, 0 * part.forces, part.box, part.time, part.beads, {}
    )
    write_mean_forces(path, known)
    caplog.set_level("INFO")
    train_student(run.model_copy(update={"mean_forces": path}))
    found = json.loads((best.parent / TEST).read_text())["mean_forces"]
    assert {name: part["configurations"] for name, part in found["by_part"].items()} == {
        "training": 1,
        "validation": 2,
        "test": 2,
        "outside": 0,
    }
    assert found["measured"]["held_out"]
    assert found["measured"]["configurations"] == 2
    # a mapped force is its own mean force here
    test = json.loads((best.parent / TEST).read_text())["mapped"]["all"]["rmse"]
    assert found["measured"]["rmse"] == pytest.approx(test, rel=1e-5)
    (warning,) = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert "of 5 configurations, 1 lies in the training part, which the network has seen" in warning
    assert "2 lie in the validation part, which chooses the epoch" in warning
    assert "implied by the test part" in caplog.text


def test_training_does_not_look_at_the_test_part(tmp_path):
    """With other forces in the test part the weights are the same, to the last bit."""
    frames, _ = make_frames(20, 12, noise=1.0)
    other = frames.forces.copy()
    other[18:] *= 3
    states, errors = [], []
    for name, forces in (("one", frames.forces), ("two", other)):
        changed = dataclasses.replace(frames, forces=forces)
        prior = fit_prior(frames[np.arange(16)], PriorConfig())
        best = distill(
            changed, [], tmp_path / name, prior, SMALL, TrainingConfig(epochs=1, batch_size=4),
            split=SplitConfig(gap="0 ps"), targets="noisy",
        )  # fmt: skip
        states.append(load_checkpoint(best)[1]["state"])
        errors.append(json.loads((best.parent / TEST).read_text())["mapped"]["all"]["rmse"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert errors[1] > 1.5 * errors[0]
