"""Training: data, loss, restart, ensemble, and whether it finds the truth under noise."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import CUTOFF, make_frames, make_run, true_forces, write_frames

from openmm_cgkd.config import LossWeights, ModelConfig, PriorConfig, TrainingConfig
from openmm_cgkd.exceptions import BoxError, FramesError, ModelFileError, TrainingError
from openmm_cgkd.frames import split_frames
from openmm_cgkd.potential.model import energies_and_forces
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.potential.tensornet import build_tensornet
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.checkpoint import load_checkpoint, save_checkpoint
from openmm_cgkd.training.data import (
    Batch,
    FrameGraphs,
    GraphDataset,
    SeededShuffle,
    Targets,
    Variances,
    load_frames,
    load_prior,
    mapped_targets,
    resample_blocks,
    target_variances,
)
from openmm_cgkd.training.fit import BEST, LAST, METRICS, Task, fit
from openmm_cgkd.training.label import predict
from openmm_cgkd.training.module import Distillation, distillation_loss
from openmm_cgkd.training.teach import FORCES_ONLY, train_teachers

SMALL = ModelConfig(channels=8, layers=1, cutoff=f"{CUTOFF} nm", radial_functions=8)


@pytest.fixture(scope="module")
def frames():
    return make_frames(20, 12, noise=1.0)[0]


@pytest.fixture(scope="module")
def graphs(frames):
    return FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))


def make_task(folder: Path, graphs: FrameGraphs, targets: Targets | None = None, model: ModelConfig = SMALL, **changes) -> Task:
    targets = targets or mapped_targets(graphs)
    split = split_frames(graphs.frames.time, 0.1, 0.1, 0)
    task = Task(
        folder=folder,
        graphs=graphs,
        targets=targets,
        training=split.training,
        validation=split.validation,
        variances=target_variances(targets, split.training),
        model=model,
        weights=FORCES_ONLY,
        settings=TrainingConfig(epochs=4, batch_size=5),
        seed=7,
        fingerprint="these inputs",
        metadata={"targets": "noisy"},
    )
    return dataclasses.replace(task, **changes)


def ignore(epochs: float, note: str) -> None:
    """A report that nobody reads."""


# --- data -------------------------------------------------------------------------------------------------------------


def test_batch_of_frames_equals_single_frames(frames, graphs):
    network = build_tensornet(SMALL, 2, 2.5)
    forces, energies = predict(network, graphs, np.array([3, 7, 8]))
    e, f = energies_and_forces(network, *graphs.batch([3, 7, 8]).graph)
    np.testing.assert_allclose(f.numpy().reshape(3, -1, 3), forces, rtol=1e-4, atol=1e-4 * np.abs(forces).max())
    np.testing.assert_allclose(e.detach().numpy().reshape(3, -1), energies, rtol=1e-4, atol=1e-5)


def test_positions_of_any_image_give_the_same_graph(frames, graphs):
    image = np.random.default_rng(0).integers(-300, 300, size=(1, frames.beads.n_beads, 3))
    moved = frames.positions.astype(float) + image @ frames.box[0]
    network = build_tensornet(SMALL, 2, 2.5)
    expected, _ = predict(network, graphs, np.array([0]))
    elsewhere = FrameGraphs(dataclasses.replace(frames, positions=moved), CUTOFF, fit_prior(frames, PriorConfig()))
    got, _ = predict(network, elsewhere, np.array([0]))
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_targets_plus_prior_are_the_mapped_forces(frames, graphs):
    prior = fit_prior(frames, PriorConfig())
    a, scale = np.log(1 / prior.p) / prior.distance, prior.force * prior.p
    k, box = 4, frames.box[4]
    delta = frames.positions[k][:, None].astype(float) - frames.positions[k][None]
    delta -= np.round(delta @ np.linalg.inv(box)) @ box
    distance = np.linalg.norm(delta, axis=-1) + 10 * np.eye(len(delta))
    types = frames.beads.types
    size = np.where(distance < CUTOFF, scale * np.exp(a * (np.array(prior.contact)[types[:, None], types[None]] - distance)), 0)
    expected = frames.forces[k] - (size[..., None] * delta / distance[..., None]).sum(1)
    np.testing.assert_allclose(mapped_targets(graphs).forces[k], expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_order_depends_on_seed_and_epoch_only():
    shuffle, again, other = SeededShuffle(50, 3), SeededShuffle(50, 3), SeededShuffle(50, 4)
    orders = []
    for epoch in range(3):
        shuffle.set_epoch(epoch)
        orders.append(list(shuffle))
    again.set_epoch(2)
    assert list(again) == orders[2]
    assert orders[0] != orders[1]
    assert sorted(orders[1]) == list(range(50))
    assert list(other) != orders[0]


def test_bootstrap_draws_whole_blocks():
    indices = np.arange(100, 200)
    drawn = resample_blocks(indices, 10, seed=5)
    blocks = drawn.reshape(10, 10)
    assert len(drawn) == 100
    assert (blocks[:, 0] % 10 == 0).all()
    np.testing.assert_array_equal(blocks, blocks[:, :1] + np.arange(10))
    assert len(np.unique(blocks[:, 0])) < 10  # with replacement
    assert not np.array_equal(drawn, resample_blocks(indices, 10, seed=6))
    np.testing.assert_array_equal(drawn, resample_blocks(indices, 10, seed=5))
    with pytest.raises(TrainingError, match=r"teachers\.blocks is 10, but training has only 4 frames"):
        resample_blocks(indices[:4], 10, seed=5)


def test_max_frames_thins_evenly(tmp_path, frames):
    run = make_run(tmp_path, frames, max_frames=5)
    np.testing.assert_array_equal(load_frames(run).step, [0, 5, 10, 14, 19])


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 0, 0), (1.5, 0.3, 0), (0.7, 0, 2.0), (1, 2, 3), (0, 1, 0)])
def test_loss_against_numpy(frames, graphs, weights):
    random = np.random.default_rng(1)
    targets = Targets(random.normal(size=frames.forces.shape) * 80, random.normal(size=frames.forces.shape[:2]) * 3 + 1)
    indices = [2, 9, 11]
    batch = GraphDataset(graphs, targets, indices).collate(indices)
    n = frames.beads.n_beads
    forces, energies = random.normal(size=(3, n, 3)) * 70, random.normal(size=(3, n)) * 2
    variances = target_variances(targets, np.arange(5, 15))
    assert variances.force == pytest.approx(targets.forces[5:15].var())
    w_force, w_energy, w_bead = weights
    expected = w_force * np.mean((forces - targets.forces[indices]) ** 2) / targets.forces[5:15].var()
    totals, wanted = energies.sum(1) / n, targets.energies.sum(1) / n
    expected += w_energy * np.mean((totals - wanted[indices]) ** 2) / wanted[5:15].var()
    expected += w_bead * np.mean((energies - targets.energies[indices]) ** 2) / targets.energies[5:15].var()
    got = distillation_loss(
        torch.tensor(energies.reshape(-1)),
        torch.tensor(forces.reshape(-1, 3)),
        batch,
        LossWeights(force=w_force, energy=w_energy, bead_energy=w_bead),
        variances,
    )
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["force", "energy", "bead_energy"])
def test_constant_targets_are_refused(name):
    variances = dataclasses.replace(Variances(1.0), **{name: 0.0})
    weights = LossWeights(**{"force": 0, "energy": 0, "bead_energy": 0, name: 1})
    network = build_tensornet(SMALL, 2, 2.5)
    with pytest.raises(TrainingError, match=rf"{name} targets have variance 0 over training; set weights\.{name}"):
        Distillation(network, weights, variances, 1.0, TrainingConfig(), ("A", "B"), "")


# --- one optimisation -------------------------------------------------------------------------------------------------


def test_finds_the_truth_under_noise_three_times_the_signal(tmp_path):
    frames, truth = make_frames(200, 24, noise=3.0)
    graphs = FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))
    model = ModelConfig(channels=8, layers=0, cutoff=f"{CUTOFF} nm", radial_functions=16)
    settings = TrainingConfig(epochs=8, batch_size=8, learning_rate=0.01)
    network, _ = load_checkpoint(fit(make_task(tmp_path, graphs, model=model, settings=settings), ignore))
    test = split_frames(frames.time, 0.1, 0.1, 0).test
    error = predict(network, graphs, test)[0] + graphs.prior_forces[test] - truth[test]
    signal = np.sqrt(np.mean(truth[test] ** 2))
    assert np.sqrt(np.mean((frames.forces - truth) ** 2)) > 2.5 * signal  # the labels are noise, mostly
    assert np.sqrt(np.mean(error**2)) < 0.4 * signal


def test_true_forces_of_the_test_case_are_a_gradient():
    """Guards the known truth itself: a curl-free field has a symmetric Jacobian."""
    frames, _ = make_frames(1, 6, noise=0.0)
    start, types, step = frames.positions[0].astype(float), frames.beads.types, 1e-5
    rows = []
    for component in range(start.size):
        shift = np.zeros(start.size)
        shift[component] = step
        shift = shift.reshape(start.shape)
        rows.append(((true_forces(start + shift, types) - true_forces(start - shift, types)) / (2 * step)).reshape(-1))
    jacobian = np.array(rows)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-4 * np.abs(jacobian).max())


def test_interrupted_training_equals_uninterrupted(tmp_path, graphs, monkeypatch):
    random = np.random.default_rng(0)
    targets = Targets(mapped_targets(graphs).forces, random.normal(size=graphs.prior_forces.shape[:2]))
    weights = LossWeights(force=1, energy=0.5, bead_energy=0.5)
    whole = make_task(tmp_path / "whole", graphs, targets, weights=weights)
    fit(whole, ignore)

    pieces = dataclasses.replace(whole, folder=tmp_path / "pieces")
    per_epoch = -(-len(whole.training) // whole.settings.batch_size)
    for epochs in (0.4, 1.7, 1.0):  # dies within the first epoch, in the second one after, in the next
        step, left = Distillation.training_step, iter(range(round(epochs * per_epoch)))

        def dying(self, batch, index, step=step, left=left):
            if next(left, None) is None:
                raise OSError("the machine went down")
            return step(self, batch, index)

        with monkeypatch.context() as patch:
            patch.setattr(Distillation, "training_step", dying)
            with pytest.raises(OSError, match="went down"):
                fit(pieces, ignore)
    assert len((pieces.folder / METRICS).read_text().splitlines()) == 1 + 2
    fit(pieces, ignore)

    assert (pieces.folder / METRICS).read_text() == (whole.folder / METRICS).read_text()
    ends = [torch.load(task.folder / LAST, weights_only=True)["state_dict"] for task in (whole, pieces)]
    bests = [load_checkpoint(task.folder / BEST)[0].state_dict() for task in (whole, pieces)]
    for one, other in (ends, bests):
        assert all(torch.equal(one[name], other[name]) for name in one)
    start = build_tensornet(SMALL, 2, 2.5).state_dict()
    assert not torch.equal(start["linear.weight"], ends[0]["network.linear.weight"])


def test_partial_work_of_other_inputs_or_damaged_is_not_resumed(tmp_path, graphs, caplog):
    task = make_task(tmp_path, graphs, settings=TrainingConfig(epochs=1, batch_size=5))
    fit(task, ignore)
    expected = (tmp_path / METRICS).read_text()
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:500])
    fit(task, ignore)
    assert "is damaged" in caplog.text
    assert (tmp_path / METRICS).read_text() == expected
    fit(dataclasses.replace(task, seed=8, fingerprint="other inputs"), ignore)
    assert (tmp_path / METRICS).read_text() != expected


def test_best_checkpoint_and_metrics(tmp_path, frames, graphs):
    # a reckless learning rate makes the validation loss go up and down, so that best and last differ
    settings = TrainingConfig(epochs=6, batch_size=2, learning_rate=0.1, patience=2)
    task = make_task(tmp_path, graphs, settings=settings)
    notes = []
    network, content = load_checkpoint(fit(task, lambda epochs, note: notes.append((epochs, note))))
    with open(tmp_path / METRICS) as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    losses = [row["validation_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert content["training"]["best"]["epoch"] == best + 1
    assert len(rows) == min(6, best + 1 + settings.patience)
    assert notes[-1][0] == len(rows)
    assert "of label variance" in notes[-1][1]
    assert content["frames"] == frames.identity
    assert content["type_names"] == ["A", "B"]
    json.dumps(content["training"])

    held_out = task.validation
    error = predict(network, graphs, held_out)[0] - task.targets.forces[held_out]
    assert rows[best]["force_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert rows[best]["force_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    of_b = error[:, frames.beads.types == 1]
    assert rows[best]["force_rmse_B"] == pytest.approx(np.sqrt(np.mean(of_b**2)), rel=1e-4)
    assert rows[best]["force_mae_B"] == pytest.approx(np.abs(of_b).mean(), rel=1e-4)
    assert rows[best]["force_ratio"] == pytest.approx(np.mean(error**2) / frames.forces[held_out].var(), rel=1e-4)
    assert rows[best]["validation_loss"] == pytest.approx(np.mean(error**2) / task.variances.force, rel=1e-4)


def test_nan_is_an_error_that_names_the_frame(tmp_path, frames, graphs):
    for name, message in (("positions", "positions of frame 6"), ("forces", "target forces of frame 6")):
        values = getattr(frames, name).copy()
        values[6, 2, 1] = np.nan
        broken = dataclasses.replace(frames, **{name: values})
        with pytest.raises(TrainingError, match=message):
            mapped_targets(FrameGraphs(broken, CUTOFF, fit_prior(frames, PriorConfig())))
    energies = np.zeros(frames.forces.shape[:2])
    energies[9, 0] = np.inf
    with pytest.raises(TrainingError, match="target energies of frame 9"):
        Targets(frames.forces, energies)


def test_diverging_training_stops(tmp_path, graphs):
    settings = TrainingConfig(epochs=3, batch_size=5, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at frame \d+ in epoch 1; lower the learning_rate"):
        fit(make_task(tmp_path, graphs, settings=settings), ignore)


def test_first_frame_with_a_bad_force_is_named(graphs):
    network = build_tensornet(SMALL, 2, 2.5)
    module = Distillation(network, FORCES_ONLY, Variances(1.0), 1.0, TrainingConfig(), ("A", "B"), "")
    dataset = GraphDataset(graphs, mapped_targets(graphs), [3, 5, 8])
    batch: Batch = dataset.collate([3, 5, 8])
    batch.positions[batch.frame == 1] = 1e30
    with pytest.raises(TrainingError, match="at frame 5 "):
        module.training_step(batch, 0)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path, graphs):
    network = build_tensornet(SMALL, 2, 2.5)
    save_checkpoint(tmp_path / "a.pt", network, SMALL, 2.5, "abc", ("A", "B"), {"seed": 1})
    state = torch.get_rng_state()
    again, content = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(state, torch.get_rng_state())
    assert content["training"] == {"seed": 1}
    assert ModelConfig.model_validate(content["model"]) == SMALL
    for one, other in zip(predict(network, graphs, np.array([0])), predict(again, graphs, np.array([0])), strict=True):
        np.testing.assert_array_equal(one, other)


def test_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    torch.save({"weights": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    network = build_tensornet(SMALL, 2, 2.5)
    save_checkpoint(tmp_path / "a.pt", network, SMALL.model_copy(update={"channels": 16}), 2.5, "abc", ("A", "B"), {})
    with pytest.raises(ModelFileError, match="do not fit the model"):
        load_checkpoint(tmp_path / "a.pt")


# --- ensemble ---------------------------------------------------------------------------------------------------------


def test_ensemble_survives_a_failing_member(tmp_path, frames):
    """Member 1 cannot write its folder at first; the obstacle goes away before the second attempt."""
    run = make_run(tmp_path, frames)
    folder = RunFolder(run)
    obstacle = folder.teacher(1)
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    first_time = {}

    class Helper(logging.Handler):
        def emit(self, record):
            if "trying again" in record.getMessage():
                first_time[0] = (folder.teacher(0) / BEST).stat().st_mtime_ns
                obstacle.unlink()

    helper = Helper()
    log = logging.getLogger("openmm_cgkd.training.teach")
    log.addHandler(helper)
    try:
        best = train_teachers(run)
    finally:
        log.removeHandler(helper)
    assert best[0].stat().st_mtime_ns == first_time[0]  # trained once
    one, other = (load_checkpoint(path) for path in best)
    assert one[1]["training"]["seed"] != other[1]["training"]["seed"]
    assert not torch.equal(one[0].linear.weight, other[0].linear.weight)
    assert len(load_prior(folder.prior).contact) == 2
    assert "epoch 1" in (folder.teacher(0) / "train.log").read_text()

    times = [path.stat().st_mtime_ns for path in best]
    assert train_teachers(run) == best  # finished: nothing is touched
    assert [path.stat().st_mtime_ns for path in best] == times
    assert "finished before" in folder.log("teach").read_text()


def test_bad_input_stops_before_any_work(tmp_path, frames):
    wide = make_run(tmp_path, frames, model={"channels": 8, "cutoff": "1.2 nm"})
    with pytest.raises(BoxError, match=r"cutoff of 1\.2 nm"):
        train_teachers(wide)
    with pytest.raises(TrainingError, match=r"teachers\.blocks is 17"):
        train_teachers(make_run(tmp_path, frames, teachers={"count": 1, "blocks": 17}))
    (tmp_path / "frames.h5").unlink()
    with pytest.raises(FramesError, match="no such file"):
        train_teachers(wide)
    assert not RunFolder(wide).teacher(0).exists()


def test_damaged_prior_is_refused(tmp_path, frames):
    write_frames(tmp_path / "frames.h5", frames)
    (tmp_path / "prior.json").write_text("{}")
    with pytest.raises(TrainingError, match="run 'cgkd teach' first"):
        load_prior(tmp_path / "prior.json")
