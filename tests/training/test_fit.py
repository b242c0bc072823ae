"""One optimisation: does it find the truth under noise, does it survive interruptions, does it
fail well.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openmm_cgkd.config.run import LossWeights, ModelConfig, PriorConfig, TrainingConfig
from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.execution.processes import Worker
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.mean_forces.file import MeanForces
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.training import callbacks
from openmm_cgkd.training.fit import fit
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.lightning_module import NetworkFit
from openmm_cgkd.training.mean_force_test import MeanForceTest
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.targets import Targets, mapped_targets
from openmm_cgkd.training.task import BEST, LAST, METRICS, TENSORBOARD, TrainingTask
from openmm_cgkd.utils.progress import Report
from tests.cases.training import CUTOFF, SMALL, ignore, make_frames, make_task


@pytest.fixture(scope="module")
def case():
    return make_frames(20, 12, noise=1.0)


@pytest.fixture(scope="module")
def frames(case):
    return case[0]


@pytest.fixture(scope="module")
def graphs(frames):
    return FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))


def rows_of(folder: Path) -> list[dict[str, float]]:
    with open(folder / METRICS) as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_finds_the_truth_under_noise_three_times_the_signal(tmp_path):
    frames, truth = make_frames(200, 24, noise=3.0)
    graphs = FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))
    model = ModelConfig(channels=8, layers=0, cutoff=f"{CUTOFF} nm", radial_functions=16)
    settings = TrainingConfig(epochs=8, batch_size=8, learning_rate=0.01)
    network, _ = load_checkpoint(
        fit(make_task(tmp_path, graphs, model=model, settings=settings), ignore)
    )
    test = split_frames(frames.time, 0.1, 0.1, 0).test
    error = predict(network, graphs, test)[0] + graphs.prior_forces[test] - truth[test]
    signal_size = np.sqrt(np.mean(truth[test] ** 2))
    # the labels are noise, mostly
    assert np.sqrt(np.mean((frames.forces - truth) ** 2)) > 2.5 * signal_size
    assert np.sqrt(np.mean(error**2)) < 0.4 * signal_size


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_interrupted_training_equals_uninterrupted(tmp_path, graphs, monkeypatch, schedule):
    random = np.random.default_rng(0)
    targets = Targets(
        mapped_targets(graphs).forces, random.normal(size=graphs.prior_forces.shape[:2])
    )
    weights = LossWeights(force=1, energy=0.5, bead_energy=0.5)
    # so reckless that the plateau schedule lowers the rate
    settings = TrainingConfig(
        epochs=5, batch_size=5, learning_rate=0.2, patience=3, schedule=schedule, warm_up=0.1
    )
    whole = make_task(tmp_path / "whole", graphs, targets, weights=weights, settings=settings)
    fit(whole, ignore)

    pieces = dataclasses.replace(whole, folder=tmp_path / "pieces")
    per_epoch = -(-len(whole.training) // whole.settings.batch_size)
    # dies within the first epoch, in the second one after, in the next
    for epochs in (0.4, 1.7, 1.0):
        step, left = NetworkFit.training_step, iter(range(round(epochs * per_epoch)))

        def dying(self, batch, index, step=step, left=left):
            if next(left, None) is None:
                raise OSError("the machine went down")
            return step(self, batch, index)

        with monkeypatch.context() as patch:
            patch.setattr(NetworkFit, "training_step", dying)
            with pytest.raises(OSError, match="went down"):
                fit(pieces, ignore)
    assert len(rows_of(pieces.folder)) == 2
    fit(pieces, ignore)

    assert (pieces.folder / METRICS).read_text() == (whole.folder / METRICS).read_text()
    assert_equal(state_of(whole.folder), state_of(pieces.folder))
    assert_equal(*(load_checkpoint(task.folder / BEST)[0].state_dict() for task in (whole, pieces)))
    end = state_of(whole.folder)
    assert not torch.equal(
        build_tensornet(SMALL, 2, 2.5).linear.weight, end["network.linear.weight"]
    )
    assert not torch.equal(end["averaged.module.linear.weight"], end["network.linear.weight"])
    assert int(end["averaged.n_averaged"]) == per_epoch * len(rows_of(whole.folder))
    if schedule == "plateau":
        assert rows_of(whole.folder)[-1]["learning_rate"] < settings.learning_rate


def kill_while_saving(task: TrainingTask, epoch: int, report: Report) -> None:
    """Train until half of the given epoch's checkpoint is on disk, then die at once."""
    save = lightning.Trainer.save_checkpoint

    def half(trainer, path):
        save(trainer, path)
        if trainer.current_epoch == epoch - 1:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    lightning.Trainer.save_checkpoint = half
    fit(task, report)


def test_killed_in_the_middle_of_a_checkpoint(tmp_path, graphs):
    whole = make_task(tmp_path / "whole", graphs)
    fit(whole, ignore)
    task = dataclasses.replace(whole, folder=tmp_path / "killed")
    task.folder.mkdir()
    worker = Worker(kill_while_saving, (task, 3), threads=torch.get_num_threads())
    while not worker.ended():
        worker.connection.poll(1.0)
    assert "was killed" in str(worker.error)
    assert "smaller batch_size" in str(worker.error)
    assert torch.load(task.folder / LAST, weights_only=True)["epoch"] == 1  # the second, whole
    load_checkpoint(task.folder / BEST)
    fit(task, ignore)
    assert_equal(state_of(whole.folder), state_of(task.folder))
    assert not list(task.folder.glob("*.tmp"))


def test_partial_work_of_other_inputs_or_damaged_is_not_resumed(tmp_path, graphs, caplog):
    task = make_task(tmp_path, graphs, settings=TrainingConfig(epochs=1, batch_size=5))
    fit(task, ignore)
    expected = (tmp_path / METRICS).read_text()
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:500])
    fit(task, ignore)
    assert "starts over" in caplog.text
    assert (tmp_path / METRICS).read_text() == expected
    fit(dataclasses.replace(task, seed=8, fingerprint="other inputs"), ignore)
    assert (tmp_path / METRICS).read_text() != expected


# --- what it leaves -------------------------------------------------------------------------------


def test_best_checkpoint_and_metrics(tmp_path, case, graphs):
    frames, truth = case
    # a reckless learning rate makes the validation loss go up and down, so that best and last
    # differ
    settings = TrainingConfig(epochs=6, batch_size=2, learning_rate=0.1, patience=2)
    energies = np.random.default_rng(0).normal(size=frames.forces.shape[:2])
    targets = Targets(mapped_targets(graphs).forces * 0.5, energies)
    exact = MeanForces(
        frames.positions, truth, 0 * truth, frames.box, frames.time, frames.beads, {}
    )
    mean_forces = MeanForceTest(exact, frames, CUTOFF, fit_prior(frames, PriorConfig()))
    task = make_task(
        tmp_path, graphs, targets, settings=settings, mean_forces=mean_forces, tensorboard=True
    )
    notes = []
    network, content = load_checkpoint(fit(task, lambda share, note: notes.append((share, note))))
    rows = rows_of(tmp_path)
    losses = [row["validation_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert content["training"]["best"]["epoch"] == best + 1
    assert len(rows) == min(6, best + 1 + settings.patience)
    assert notes[-1][0] == len(rows) / settings.epochs
    assert "of label variance" in notes[-1][1]
    assert fit(task, ignore) == tmp_path / BEST  # finished, though before the last epoch
    assert len(rows_of(tmp_path)) == len(rows)
    assert content["frames"] == frames.identity
    assert content["type_names"] == ["A", "B"]
    json.dumps(content["training"])

    held_out = task.validation
    forces, predicted_energies = predict(network, graphs, held_out)
    of_b = frames.beads.types == 1
    mapped = frames.forces[held_out]
    cases = {
        "noisy": (forces + graphs.prior_forces[held_out], mapped),
        "label": (forces, targets.forces[held_out]),
    }
    cases["energy"] = (predicted_energies, energies[held_out])
    for name, (predicted, labels) in cases.items():
        for suffix, chosen in (("", of_b | True), ("_B", of_b)):
            error = (predicted - labels)[:, chosen]
            assert rows[best][f"{name}_rmse{suffix}"] == pytest.approx(
                np.sqrt(np.mean(error**2)), rel=1e-4
            )
            assert rows[best][f"{name}_mae{suffix}"] == pytest.approx(
                np.abs(error).mean(), rel=1e-4
            )
            assert rows[best][f"{name}_r2{suffix}"] == pytest.approx(
                1 - np.mean(error**2) / labels[:, chosen].var(), rel=1e-3, abs=1e-4
            )
    everywhere = (
        predict(network, mean_forces.graphs, range(len(frames)))[0] + graphs.prior_forces - truth
    )
    assert rows[best]["mean_force_rmse_B"] == pytest.approx(
        np.sqrt(np.mean(everywhere[:, of_b] ** 2)), rel=1e-4
    )
    assert rows[best]["mean_force_rmse_se"] > 0
    assert rows[best]["noise_floor_rmse_B"] == pytest.approx(
        np.sqrt(np.mean((frames.forces - truth)[:, of_b] ** 2)), rel=0.1
    )
    error = forces - targets.forces[held_out]
    assert rows[best]["validation_loss"] == pytest.approx(
        np.mean(error**2) / task.variances.force, rel=1e-4
    )

    board = EventAccumulator(str(tmp_path / TENSORBOARD))
    board.Reload()
    assert [event.step for event in board.Scalars("validation_loss")] == [
        int(row["epoch"]) for row in rows
    ]
    assert [event.value for event in board.Scalars("label_rmse_A")] == pytest.approx(
        [row["label_rmse_A"] for row in rows]
    )


def test_precision(tmp_path, graphs, monkeypatch):
    """TF32 only where it is asked for; double precision in weights and batches."""
    step, seen = NetworkFit.training_step, []

    def watched(self, batch, index):
        loss = step(self, batch, index)
        seen.append(
            (
                torch.backends.cuda.matmul.allow_tf32,
                loss.dtype,
                next(self.network.parameters()).dtype,
            )
        )
        return loss

    monkeypatch.setattr(NetworkFit, "training_step", watched)
    losses = {}
    for precision in ("float32", "tf32", "float64"):
        task = make_task(
            tmp_path / precision,
            graphs,
            settings=TrainingConfig(epochs=1, batch_size=16, precision=precision),
        )
        fit(task, ignore)
        losses[precision] = rows_of(task.folder)[0]["validation_loss"]
    assert seen == [
        (False, torch.float32, torch.float32),
        (True, torch.float32, torch.float32),
        (False, torch.float64, torch.float64),
    ]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert losses["float64"] == pytest.approx(losses["float32"], rel=1e-4)
    assert losses["float64"] != losses["float32"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["training", "validation"])
def test_empty_part_is_refused(tmp_path, graphs, part):
    with pytest.raises(TrainingError, match=f"The {part} part has no frames"):
        fit(make_task(tmp_path, graphs, **{part: np.array([], dtype=int)}), ignore)


def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path, graphs, monkeypatch):
    step = NetworkFit.training_step

    def spoiled(self, batch, index):
        if self.current_epoch == 2:
            batch.forces[batch.frame == 0] = 1e30
        return step(self, batch, index)

    monkeypatch.setattr(NetworkFit, "training_step", spoiled)
    with pytest.raises(
        TrainingError,
        match=(
            r"The loss is inf at frame \d+ in epoch 3; lower the learning_rate or remove the frame"
        ),
    ):
        fit(make_task(tmp_path, graphs), ignore)
    assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 1
    assert all(torch.isfinite(values).all() for values in state_of(tmp_path).values())
    network, content = load_checkpoint(tmp_path / BEST)
    assert content["training"]["best"]["epoch"] <= 2
    assert all(torch.isfinite(values).all() for values in network.state_dict().values())


@pytest.mark.parametrize("where", ["CPU", "GPU"])
def test_out_of_memory_says_what_to_try(tmp_path, graphs, monkeypatch, where):
    def greedy(self, batch, index):
        if where == "GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 EiB.")
        return torch.empty(2**60).sum()

    monkeypatch.setattr(NetworkFit, "training_step", greedy)
    message = "ran out of memory with batch_size {} and 12 beads in a frame; {}"
    with pytest.raises(TrainingError, match=message.format(5, "try batch_size 2")):
        fit(make_task(tmp_path, graphs), ignore)
    with pytest.raises(TrainingError, match=message.format(1, "use fewer channels")):
        fit(make_task(tmp_path, graphs, settings=TrainingConfig(epochs=1, batch_size=1)), ignore)


def test_missing_tensorboard_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install 'tensorboard"):
        callbacks.tensorboard_writer(tmp_path, 1)


# --- several processes ----------------------------------------------------------------------------


def test_two_processes_equal_one_with_the_joint_batch(tmp_path, graphs):
    random = np.random.default_rng(0)
    targets = Targets(
        mapped_targets(graphs).forces, random.normal(size=graphs.prior_forces.shape[:2])
    )
    weights = LossWeights(force=1, energy=0.5, bead_energy=0.5)
    settings = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01, precision="float64")
    task = make_task(tmp_path / "one", graphs, targets, weights=weights, settings=settings)
    assert len(task.training) == 16
    fit(task, ignore)
    shared = dataclasses.replace(
        task, folder=tmp_path / "two", settings=settings.model_copy(update={"devices": 2})
    )
    reports = []
    fit(shared, lambda epochs, note: reports.append(epochs))
    assert reports == [0.25, 0.5, 0.75, 1.0]
    one, two = state_of(task.folder), state_of(shared.folder)
    assert one.keys() == two.keys()
    start = build_tensornet(SMALL, 2, 2.5).state_dict()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-7, atol=1e-9)
    assert not torch.equal(start["linear.weight"], one["network.linear.weight"].float())
    for row, other in zip(rows_of(task.folder), rows_of(shared.folder), strict=True):
        assert other == pytest.approx(row, rel=1e-6, abs=1e-9)
    assert "epoch 2" in (shared.folder / "train.log").read_text()
    few = dataclasses.replace(shared, folder=tmp_path / "few", training=shared.training[:7])
    with pytest.raises(TrainingError, match="7 training frames do not fill one batch of 8"):
        fit(few, ignore)
