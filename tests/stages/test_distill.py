"""Students of every kind."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch

from openmm_cgkd.exceptions import BoxError
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.distill import train_student
from openmm_cgkd.stages.inputs import split_run
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.targets import label_targets, spread_weights
from openmm_cgkd.training.task import CONSISTENCY, METRICS
from tests.cases.training import change_student

TINY = {"channels": 4, "layers": 0, "cutoff": "0.8 nm", "radial_functions": 8}
MIXES = {"F": (1, 0, 0), "F+E": (1, 1, 0), "F+e": (1, 0, 1)}
VARIANTS = [
    ("noisy", "F"),
    *((targets, mix) for targets in ("single", "ensemble") for mix in MIXES),
]


@pytest.mark.parametrize(("targets", "mix"), VARIANTS)
def test_every_variant_of_the_student_trains(own_labeled_run, targets, mix):
    run, frames = own_labeled_run
    weights = dict(zip(("force", "energy", "bead_energy"), MIXES[mix], strict=True))
    run = change_student(run, targets=targets, weights=weights, model=TINY)
    best = train_student(run)
    network, content = load_checkpoint(best)
    assert network.channels == 4
    assert content["training"]["targets"] == targets
    assert content["training"]["weights"] == weights
    assert content["frames"] == frames.identity
    assert json.loads((best.parent / CONSISTENCY).read_text())["max_error"] < 1e-4
    with open(best.parent / METRICS) as file:
        (row,) = csv.DictReader(file)
    labels = load_labels(RunFolder(run).labels, frames)
    graphs = FrameGraphs(frames, 0.8, read_prior(RunFolder(run).prior))
    split = split_run(run, frames)
    wanted = {
        "noisy": frames.forces - graphs.prior_forces,
        "single": labels.single_forces,
        "ensemble": labels.forces,
    }[targets]
    error = predict(network, graphs, split.validation)[0] - wanted[split.validation]
    assert float(row["label_rmse"]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)

    before = best.stat().st_mtime_ns
    train_student(run)
    assert best.stat().st_mtime_ns == before


def test_damaged_student_of_a_finished_stage_is_trained_again(own_labeled_run, caplog):
    run, _ = own_labeled_run
    run = change_student(run, model=TINY)
    best = train_student(run)
    whole = best.read_bytes()
    best.write_bytes(whole[: len(whole) // 2])
    assert train_student(run) == best
    assert f"{best}: is not a checkpoint" in caplog.text
    assert best.with_name("best.pt.damaged").read_bytes() == whole[: len(whole) // 2]
    first, second = load_checkpoint(best)[0].state_dict(), torch.load(io.BytesIO(whole))["state"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_student_cutoff_is_checked(labeled_run):
    with pytest.raises(BoxError, match="cutoff of 2 nm"):
        train_student(change_student(labeled_run[0], model={"cutoff": "2 nm"}))


def test_weights_follow_the_spread(labeled_run):
    """Weights are the inverse variance of a common and an individual error, to a constant
    factor that makes their mean 1.
    """
    random = np.random.default_rng(0)
    spread, training = random.gamma(2.0, 20.0, size=(30, 12)), np.arange(20)
    weights = spread_weights(spread, training)
    assert weights[training].mean() == pytest.approx(1)
    common = np.mean(spread[training] ** 2)
    ratio = weights * (common + spread**2)
    np.testing.assert_allclose(ratio, ratio[0, 0])
    np.testing.assert_array_equal(spread_weights(np.zeros((3, 2)), np.arange(3)), 1)

    run, frames = labeled_run
    labels = load_labels(RunFolder(run).labels, frames)
    split = split_run(run, frames)
    plain = label_targets([labels], split.training)
    assert plain.force_weights is plain.energy_weights is None
    weighted = label_targets([labels], split.training, use_spread=True)
    np.testing.assert_allclose(
        weighted.force_weights, spread_weights(labels.force_spread, split.training)
    )
    np.testing.assert_allclose(
        weighted.energy_weights, spread_weights(labels.energy_spread, split.training)
    )
