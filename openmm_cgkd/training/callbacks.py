"""What an optimisation leaves on disk after every epoch.

Metrics, the best network, and the state to resume from.
"""

from __future__ import annotations

import csv
import io
import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.potential.checkpoint import save_checkpoint
from openmm_cgkd.utils.files import replacing, write_text
from openmm_cgkd.utils.progress import Report

from .lightning_module import NetworkFit
from .task import BEST, LAST, METRICS, TENSORBOARD

if TYPE_CHECKING:
    from .task import TrainingTask

logger = logging.getLogger(__name__)


class EpochWriter(Callback):
    """Write files and report progress.

    Of several processes only the first one does; the others take part.

    Parameters
    ----------
    task : TrainingTask
    scale : float
        Factor of the network's output, kJ/mol.
    report : callable
        Gets the share of the epochs that is done and a figure of merit.
    """

    def __init__(self, task: TrainingTask, scale: float, report: Report) -> None:
        self._task, self._scale, self._report = task, scale, report
        self._rows: list[dict[str, float]] = []
        self._best = float("inf")
        self._note = ""
        self._writer: Any = None
        self._on_terminate = signal.getsignal(signal.SIGTERM)

    @property
    def state_key(self) -> str:
        """Name of this state in Lightning's checkpoints; version 0.1 called the class Keeper."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows, self._best = state["rows"], state["best"]

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # Lightning swallows SIGTERM; the state of the last epoch is on disk, so ending at once is
        # safe and is what was asked for
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)
        if self._task.tensorboard and trainer.is_global_zero:
            self._writer = tensorboard_writer(
                self._task.folder / TENSORBOARD, trainer.current_epoch + 1
            )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        index: int,
    ) -> None:
        epochs = trainer.current_epoch + (index + 1) / trainer.num_training_batches
        self._report(epochs / self._task.settings.epochs, self._note)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        assert isinstance(module, NetworkFit)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._rows.append(
            {"epoch": trainer.current_epoch + 1, "learning_rate": rate, **module.metrics}
        )
        better = module.metrics["validation_loss"] < self._best
        self._best = min(self._best, module.metrics["validation_loss"])
        last = self._task.folder / LAST
        if not trainer.is_global_zero:
            trainer.save_checkpoint(last)  # writes nothing, but the first process waits for it
            return
        self._write_metrics()
        self._note = f"force loss {1 - module.metrics['noisy_r2']:.3f} of label variance"
        logger.info(
            "%s: epoch %d, %s",
            self._task.folder.name,
            trainer.current_epoch + 1,
            _figures(module.metrics),
        )
        if better:
            self._save_best(module)
        with replacing(last) as fresh:
            trainer.save_checkpoint(fresh)

    def teardown(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write_metrics(self) -> None:
        row = self._rows[-1]
        text = io.StringIO(newline="")
        # rows from before an interruption may lack columns, when mean forces were named after it
        names = dict.fromkeys(name for earlier in self._rows for name in earlier)
        table = csv.DictWriter(text, list(names), restval="")
        table.writeheader()
        table.writerows(self._rows)
        write_text(self._task.folder / METRICS, text.getvalue())
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

    def _save_best(self, module: NetworkFit) -> None:
        task, frames = self._task, self._task.graphs.frames
        facts = {
            **task.metadata,
            "weights": task.weights.model_dump(mode="json"),
            "settings": task.settings.model_dump(mode="json"),
            "variances": vars(task.variances),
            "seed": task.seed,
            "best": self._rows[-1],
        }
        save_checkpoint(
            task.folder / BEST,
            module.averaged.module,
            task.model,
            self._scale,
            task.identity,
            frames.beads.type_names,
            facts,
        )


def tensorboard_writer(folder: Path, first_epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise CompatibilityError(
            "tensorboard: true needs TensorBoard; install it with: pip install 'tensorboard>=2.18'."
        ) from error
    # forgets epochs that an interrupted process wrote and this one repeats
    return SummaryWriter(str(folder), purge_step=first_epoch)


def _figures(metrics: dict[str, float]) -> str:
    text = (
        f"loss {metrics['training_loss']:.4g} (validation {metrics['validation_loss']:.4g}), force"
        f" RMSE {metrics['label_rmse']:.1f} against labels and {metrics['noisy_rmse']:.1f}"
        f" kJ/mol/nm against mapped forces, {1 - metrics['noisy_r2']:.4f} of their variance"
    )
    if "mean_force_rmse" in metrics:
        text += (
            f", {metrics['mean_force_rmse']:.1f} +- {metrics['mean_force_rmse_se']:.1f} against"
            " mean forces"
        )
    return text
