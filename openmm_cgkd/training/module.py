"""The optimisation of one network, teacher or student: loss, metrics, optimiser."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from ..config import LossWeights, TrainingConfig
from ..exceptions import TrainingError
from ..potential.model import energies_and_forces
from ..potential.tensornet import TensorNetEnergies
from .data import Batch, Variances

_WARM_UP = 0.05  # share of all steps with a rising learning rate


def distillation_loss(energies: Tensor, forces: Tensor, batch: Batch, weights: LossWeights, variances: Variances) -> Tensor:
    """L = w_F MSE(F) / var(F) + w_E MSE(E/n) / var(E/n) + w_e MSE(e_i) / var(e_i).

    Targets are centred per-bead energies and their sums; the network is free to choose its zero, so it learns theirs.

    Parameters
    ----------
    energies : Tensor, shape (n_beads,), kJ/mol
    forces : Tensor, shape (n_beads, 3), kJ/mol/nm
        Of the network.
    batch : Batch
        With the targets.
    weights : LossWeights
    variances : Variances
    """
    loss = weights.force / variances.force * torch.mean((forces - batch.forces) ** 2) if weights.force else forces.new_zeros(())
    if weights.bead_energy:
        loss = loss + weights.bead_energy / variances.bead_energy * torch.mean((energies - batch.energies) ** 2)
    if weights.energy:
        n_frames = len(batch.indices)
        totals = energies.new_zeros(n_frames).index_add(0, batch.frame, energies - batch.energies)
        loss = loss + weights.energy / variances.energy * torch.mean((totals * n_frames / len(energies)) ** 2)
    return loss


class Distillation(lightning.LightningModule):
    """Fit a network to forces and energies; force matching is the case of the force weight alone.

    Parameters
    ----------
    network : TensorNetEnergies
    weights : LossWeights
    variances : Variances
        Of the targets over the training frames.
    label_variance : float, (kJ/mol/nm)^2
        Variance of the validation frames' force labels with the prior: the yardstick of the reported ratio.
    settings : TrainingConfig
    type_names : tuple of str
    fingerprint : str
        Identity of the inputs, kept in Lightning's checkpoints.

    Attributes
    ----------
    metrics : dict of str to float
        Of the last validated epoch: losses; force RMSE and MAE in kJ/mol/nm, overall and per bead type; `force_ratio`.

    Raises
    ------
    TrainingError
        If a weighted target is missing or does not vary, or, while training, if the loss is not finite.
    """

    def __init__(
        self,
        network: TensorNetEnergies,
        weights: LossWeights,
        variances: Variances,
        label_variance: float,
        settings: TrainingConfig,
        type_names: tuple[str, ...],
        fingerprint: str,
    ) -> None:
        super().__init__()
        for name in ("force", "energy", "bead_energy"):
            variance = getattr(variances, name)
            if getattr(weights, name) and not variance > 0:
                raise TrainingError(
                    f"The {name} targets have variance {variance:g} over training; set weights.{name} to 0 or give varied frames."
                )
        self.network, self.weights, self.variances = network, weights, variances
        self.label_variance, self.settings, self.type_names, self.fingerprint = label_variance, settings, type_names, fingerprint
        self.metrics: dict[str, float] = {}

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        warm_up = max(1, round(_WARM_UP * steps))

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and forces of a batch."""
        energies, forces = energies_and_forces(self.network, *batch.graph, create_graph=self.training)
        loss = distillation_loss(energies, forces, batch, self.weights, self.variances)
        if not torch.isfinite(loss):
            bad = ~(torch.isfinite(forces).all(dim=1) & torch.isfinite(energies))
            frame = batch.indices[batch.frame[torch.argmax(bad.int())]]
            raise TrainingError(
                f"The loss is {loss:g} at frame {frame} in epoch {self.current_epoch + 1}; lower the learning_rate or remove it."
            )
        return loss, forces

    def on_train_epoch_start(self) -> None:
        self._training_sum, self._training_frames = 0.0, 0

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss, _ = self._evaluate(batch)
        self._training_sum += loss.item() * len(batch.indices)
        self._training_frames += len(batch.indices)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validation_sum, self._validation_frames = 0.0, 0
        self._sums = torch.zeros(3, len(self.type_names), dtype=torch.float64)  # squares, absolute values, counts per bead type

    def validation_step(self, batch: Batch, _: int) -> None:
        loss, forces = self._evaluate(batch)
        self._validation_sum += loss.item() * len(batch.indices)
        self._validation_frames += len(batch.indices)
        error = (forces.detach() - batch.forces).double().cpu()
        per_bead = torch.stack([(error**2).sum(1), error.abs().sum(1), torch.full_like(error[:, 0], 3.0)])
        self._sums.index_add_(1, batch.types.cpu(), per_bead)

    def on_validation_epoch_end(self) -> None:
        squares, absolutes, counts = self._sums
        mse = (squares.sum() / counts.sum()).item()
        self.metrics = {
            "training_loss": self._training_sum / self._training_frames,
            "validation_loss": self._validation_sum / self._validation_frames,
            "force_rmse": math.sqrt(mse),
            "force_mae": (absolutes.sum() / counts.sum()).item(),
            "force_ratio": mse / self.label_variance,
        }
        for k, name in enumerate(self.type_names):
            self.metrics[f"force_rmse_{name}"] = (squares[k] / counts[k]).sqrt().item()
            self.metrics[f"force_mae_{name}"] = (absolutes[k] / counts[k]).item()
        self.log("validation_loss", torch.tensor(self.metrics["validation_loss"], dtype=torch.float64))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["finished"] = bool(self.trainer.should_stop or self.current_epoch + 1 >= self.trainer.max_epochs)
