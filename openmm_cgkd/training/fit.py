"""Train one network with Lightning, in this process or shared by several.

The result does not depend on interruptions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from openmm_cgkd.config.run import TrainingConfig
from openmm_cgkd.exceptions import ConfigError, TrainingError
from openmm_cgkd.execution.processes import free_port, run_together
from openmm_cgkd.potential.custom_network import build_network
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.progress import Report, log_to

from .batches import JointBatches
from .callbacks import EpochWriter
from .dataset import GraphDataset
from .graphs import thermal_energy
from .lightning_module import NetworkFit
from .resume import partial_work
from .task import BEST, LAST, METRICS, TENSORBOARD, TrainingTask

logger = logging.getLogger(__name__)


def fit(task: TrainingTask, report: Report) -> Path:
    """Train, or go on training; the result does not depend on interruptions.

    Parameters
    ----------
    task : TrainingTask
    report : callable
        Gets the share of the epochs that is done and a figure of merit as text, after every batch.

    Returns
    -------
    Path
        The checkpoint with the smallest validation loss.

    Raises
    ------
    TrainingError
        If there is nothing to train on or to validate with, memory runs out, loss or gradient are
        not finite, or a target does not vary.
    ConfigError
        If there are fewer GPUs than `devices`.
    """
    for name in ("training", "validation"):
        if len(getattr(task, name)) == 0:
            raise TrainingError(
                f"The {name} part has no frames; give more frames, or change the shares and the gap"
                " in split."
            )
    with locked(task.folder):
        return _fit(task, report)


def _fit(task: TrainingTask, report: Report) -> Path:
    last, best, world = task.folder / LAST, task.folder / BEST, task.settings.devices
    state = partial_work(task.folder, task.fingerprint)
    if state is None:
        for path in (last, best, task.folder / METRICS):
            path.unlink(missing_ok=True)
        shutil.rmtree(task.folder / TENSORBOARD, ignore_errors=True)
    elif state["finished"]:
        return best
    else:
        logger.info("%s: resuming after epoch %d", task.folder.name, state["epoch"] + 1)
    if world == 1:
        _optimize(task, state is not None, report)
        return best
    if len(task.training) < task.settings.batch_size:
        raise TrainingError(
            f"{len(task.training)} training frames do not fill one batch of"
            f" {task.settings.batch_size}; lower batch_size."
        )
    if torch.cuda.is_available() and torch.cuda.device_count() < world:
        raise ConfigError(
            f"training.devices is {world}, this machine has {torch.cuda.device_count()} GPUs; use"
            " at most as many."
        )
    port = free_port()
    run_together(
        [(_optimize_share, (task, state is not None, rank, port)) for rank in range(world)],
        report,
        torch.get_num_threads(),
    )
    return best


def _optimize_share(task: TrainingTask, resume: bool, rank: int, port: int, report: Report) -> None:
    """One of several processes that share every batch.

    Lightning learns from the environment which one it is.
    """
    os.environ.update(
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
        }
    )
    with log_to(task.folder / "train.log") if rank == 0 else contextlib.nullcontext():
        _optimize(task, resume, report if rank == 0 else _silent, rank)


def _silent(share: float, note: str) -> None:
    """The report of all processes but the first."""


def _optimize(task: TrainingTask, resume: bool, report: Report, rank: int = 0) -> None:
    settings, world, frames = task.settings, task.settings.devices, task.graphs.frames
    scale = thermal_energy(frames)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        network = build_network(task.model, len(frames.beads.type_names), scale)
    arguments = (
        task.weights,
        task.variances,
        settings,
        frames.beads.type_names,
        task.fingerprint,
        task.mean_forces,
    )
    module = NetworkFit(network.to(_dtype(settings)), *arguments)
    # it counts before the `EpochWriter` saves its count
    stopping = EarlyStopping(
        "validation_loss",
        patience=settings.patience,
        check_finite=False,
        check_on_train_epoch_end=False,
    )
    with _quiet_lightning(), _precision(settings), _memory(task):
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=world,
            # forces fix no energy zero, so that weights without a gradient exist
            strategy=DDPStrategy(find_unused_parameters=True) if world > 1 else "auto",
            use_distributed_sampler=False,
            max_epochs=settings.epochs,
            callbacks=[stopping, EpochWriter(task, scale, report)],
            default_root_dir=task.folder,
            inference_mode=False,  # forces need gradients during validation too
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(
                module,
                *_loaders(task, rank),
                ckpt_path=task.folder / LAST if resume else None,
                weights_only=True,
            )
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            # Lightning answers Ctrl-C with an exit and leaves it ignored; callers shall see the
            # interrupt itself
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)
            raise stop.__context__ from None


def _loaders(task: TrainingTask, rank: int) -> tuple[DataLoader, DataLoader]:
    """Batches of training and of validation.

    Of the former every process has its share; the latter each does in full.
    """
    settings = task.settings
    training = GraphDataset(task.graphs, task.targets, task.training, _dtype(settings))
    validation = GraphDataset(task.graphs, task.targets, task.validation, _dtype(settings))
    batches = JointBatches(len(training), settings.batch_size, task.seed, rank, settings.devices)
    return (
        DataLoader(training, batch_sampler=batches, collate_fn=training.collate),
        DataLoader(
            validation,
            max(1, settings.batch_size // settings.devices),
            collate_fn=validation.collate,
        ),
    )


def _dtype(settings: TrainingConfig) -> torch.dtype:
    return torch.float64 if settings.precision == "float64" else torch.float32


@contextlib.contextmanager
def _precision(settings: TrainingConfig) -> Iterator[None]:
    """Let matrix products on a GPU round to TF32 if that is asked for, and only then."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def _memory(task: TrainingTask) -> Iterator[None]:
    """Say what to do when memory runs out."""
    try:
        yield
    # torch.OutOfMemoryError on a GPU is a RuntimeError
    except (RuntimeError, MemoryError) as error:
        if not (
            isinstance(error, torch.OutOfMemoryError | MemoryError)
            or "can't allocate memory" in str(error)
        ):
            raise
        size, n_beads = task.settings.batch_size, task.graphs.frames.beads.n_beads
        cure = (
            f"try batch_size {size // 2}"
            if size > 1
            else "use fewer channels, fewer layers or a smaller cutoff"
        )
        raise TrainingError(
            f"Training ran out of memory with batch_size {size} and {n_beads} beads in a frame;"
            f" {cure}."
        ) from error


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
