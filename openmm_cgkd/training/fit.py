"""Train one network with Lightning: best checkpoint, exact resume, metrics, progress."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader

from ..config import LossWeights, ModelConfig, TrainingConfig
from ..files import replacing, write_text
from ..potential.tensornet import build_tensornet
from .checkpoint import save_checkpoint
from .data import FrameGraphs, GraphDataset, SeededShuffle, Targets, Variances, thermal_energy
from .module import Distillation

logger = logging.getLogger(__name__)

BEST, LAST, METRICS = "best.pt", "last.ckpt", "metrics.csv"
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Task:
    """One optimisation.

    Attributes
    ----------
    folder : path
        Receives ``best.pt``, ``last.ckpt`` and ``metrics.csv``.
    graphs : FrameGraphs
    targets : Targets
    training, validation : ndarray of int
        Frame indices; those of `training` may repeat.
    variances : Variances
        Scales of the loss terms.
    model : ModelConfig
    weights : LossWeights
    settings : TrainingConfig
    seed : int
        Decides initial weights and the order of the frames.
    fingerprint : str
        Identity of the inputs; partial work of other inputs is discarded.
    metadata : dict
        JSON-ready; goes into the checkpoint.
    """

    folder: Path
    graphs: FrameGraphs
    targets: Targets
    training: np.ndarray
    validation: np.ndarray
    variances: Variances
    model: ModelConfig
    weights: LossWeights
    settings: TrainingConfig
    seed: int
    fingerprint: str
    metadata: dict[str, Any]


def fit(task: Task, report: Report) -> Path:
    """Train, or go on training; the result does not depend on interruptions.

    Parameters
    ----------
    task : Task
    report : callable
        Gets the epochs done, as a float, and a figure of merit as text, after every batch.

    Returns
    -------
    Path
        The checkpoint with the smallest validation loss.

    Raises
    ------
    TrainingError
        If the loss is not finite or a target does not vary.
    """
    last, best = task.folder / LAST, task.folder / BEST
    task.folder.mkdir(parents=True, exist_ok=True)
    state = _partial_work(last, task.fingerprint)
    if state is None:
        for path in (last, best, task.folder / METRICS):
            path.unlink(missing_ok=True)
    elif state["finished"] and best.exists():
        return best
    else:
        logger.info("%s: resuming after epoch %d", task.folder.name, state["epoch"] + 1)
    frames = task.graphs.frames
    scale = thermal_energy(frames)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        network = build_tensornet(task.model, len(frames.beads.type_names), scale)
    labels = task.targets.forces[task.validation] + task.graphs.prior_forces[task.validation]
    module = Distillation(
        network, task.weights, task.variances, float(np.var(labels, dtype=float)), task.settings, frames.beads.type_names, task.fingerprint
    )
    stopping = EarlyStopping("validation_loss", patience=task.settings.patience, check_finite=False)
    with _quiet_lightning():
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=1,
            max_epochs=task.settings.epochs,
            gradient_clip_val=task.settings.gradient_clip,
            callbacks=[stopping, _Keeper(task, scale, report)],
            default_root_dir=task.folder,
            inference_mode=False,  # forces need gradients during validation too
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, *_loaders(task), ckpt_path=last if state else None, weights_only=True)
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            # Lightning answers Ctrl-C with an exit and leaves it ignored; callers shall see the interrupt itself
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
    return best


def _partial_work(last: Path, fingerprint: str) -> dict[str, Any] | None:
    """State of interrupted work, if there is any and it has the same inputs."""
    if not last.exists():
        return None
    try:
        state = torch.load(last, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        logger.warning("%s: is damaged; training starts over", last)
        return None
    return state if state.get("fingerprint") == fingerprint else None


def _loaders(task: Task) -> tuple[DataLoader, DataLoader]:
    training = GraphDataset(task.graphs, task.targets, task.training)
    validation = GraphDataset(task.graphs, task.targets, task.validation)
    size = task.settings.batch_size
    shuffle = SeededShuffle(len(training), task.seed)
    return (
        DataLoader(training, size, sampler=shuffle, collate_fn=training.collate),
        DataLoader(validation, size, collate_fn=validation.collate),
    )


class _Keeper(Callback):
    """After every epoch writes the metrics, the best network and the state to resume from."""

    def __init__(self, task: Task, scale: float, report: Report) -> None:
        self._task, self._scale, self._report = task, scale, report
        self._rows: list[dict[str, float]] = []
        self._best = float("inf")
        self._note = ""
        self._on_terminate = signal.getsignal(signal.SIGTERM)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows, self._best = state["rows"], state["best"]

    def on_train_start(self, trainer: lightning.Trainer, module: Distillation) -> None:
        # Lightning swallows SIGTERM; the state of the last epoch is on disk, so ending at once is safe and is what was asked for
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Distillation, outputs: Any, batch: Any, index: int) -> None:
        self._report(trainer.current_epoch + (index + 1) / trainer.num_training_batches, self._note)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Distillation) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._rows.append({"epoch": trainer.current_epoch + 1, "learning_rate": rate, **module.metrics})
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(self._rows[0]))
        table.writeheader()
        table.writerows(self._rows)
        write_text(self._task.folder / METRICS, text.getvalue())
        self._note = f"force loss {module.metrics['force_ratio']:.3f} of label variance"
        logger.info("%s: epoch %d, %s", self._task.folder.name, trainer.current_epoch + 1, _figures(module.metrics))
        if module.metrics["validation_loss"] < self._best:
            self._best = module.metrics["validation_loss"]
            self._save_best(module)
        with replacing(self._task.folder / LAST) as fresh:
            trainer.save_checkpoint(fresh)

    def _save_best(self, module: Distillation) -> None:
        task, frames = self._task, self._task.graphs.frames
        facts = {
            **task.metadata,
            "weights": task.weights.model_dump(mode="json"),
            "settings": task.settings.model_dump(mode="json"),
            "variances": vars(task.variances),
            "seed": task.seed,
            "best": self._rows[-1],
        }
        save_checkpoint(task.folder / BEST, module.network, task.model, self._scale, frames.identity, frames.beads.type_names, facts)


def _figures(metrics: dict[str, float]) -> str:
    return (
        f"loss {metrics['training_loss']:.4g} (validation {metrics['validation_loss']:.4g}), "
        f"force RMSE {metrics['force_rmse']:.1f} kJ/mol/nm, {metrics['force_ratio']:.4f} of label variance"
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's banners, tips and hints about loaders are not for our users."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
