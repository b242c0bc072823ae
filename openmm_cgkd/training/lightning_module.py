"""The optimisation of one network, teacher or student.

Loss, averaged weights, optimiser and metrics.
"""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from openmm_cgkd.config.run import LossWeights, TrainingConfig
from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.potential.autograd import messages as kernels
from openmm_cgkd.potential.forces import energies_and_forces

from .graphs import Batch
from .loss import distillation_loss, total_errors
from .mean_force_test import MeanForceTest
from .metrics import Errors
from .predict import predict
from .targets import Variances

_Tensors = tuple[Tensor, ...] | list[Tensor]

_PLATEAU_FACTOR = 0.5  # of the learning rate, after half the patience without improvement


def average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a network's weights, not itself trained.

    The decay grows with the number n of steps, min(decay, (1 + n) / (10 + n)), so that the average
    never reaches back further than about the last ninth of the training so far.
    """

    def update(averaged: _Tensors, current: _Tensors, n: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(averaged, current, n)

    return AveragedModel(network, multi_avg_fn=update).requires_grad_(False)


class NetworkFit(lightning.LightningModule):
    """Fit a network to forces and energies; force matching is the case of the force weight alone.

    Parameters
    ----------
    network : module
        Per-bead energies, as the terms of `SumModel`.
    weights : LossWeights
    variances : Variances
        Of the targets over the training frames.
    settings : TrainingConfig
    type_names : tuple of str
    fingerprint : str
        Identity of the inputs, kept in Lightning's checkpoints.
    mean_forces : MeanForceTest, optional
        A further measure of the network, after every epoch.

    Attributes
    ----------
    averaged : AveragedModel
        Moving average of the network's weights: it is validated, and it is the result.
    metrics : dict of str to float
        Of the last validated epoch: losses, errors against mapped forces (``noisy_*``), targets
        (``label_*``, ``energy_*``) and mean forces, and the noise floor, overall and per bead type,
        in kJ/mol/nm and kJ/mol.

    Raises
    ------
    TrainingError
        If a weighted target is missing or does not vary, or, while training, if loss or gradient
        are not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: LossWeights,
        variances: Variances,
        settings: TrainingConfig,
        type_names: tuple[str, ...],
        fingerprint: str,
        mean_forces: MeanForceTest | None = None,
    ) -> None:
        super().__init__()
        for name in ("force", "energy", "bead_energy"):
            variance = getattr(variances, name)
            if getattr(weights, name) and not variance > 0:
                raise TrainingError(
                    f"The {name} targets have variance {variance:g} over training; set"
                    f" weights.{name} to 0 or give varied frames."
                )
        self.network, self.weights, self.variances = network, weights, variances
        self.settings, self.type_names = settings, type_names
        self.fingerprint, self.mean_forces = fingerprint, mean_forces
        self.averaged = average(network, settings.ema_decay)
        self.metrics: dict[str, float] = {}
        self.plateau = {"lowest": math.inf, "since": 0, "factor": 1.0}

    # --- optimiser --------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warm_up = max(1, round(settings.warm_up * steps))

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            if settings.schedule == "plateau":
                return self.plateau["factor"]
            return 0.5 * (
                1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up)))
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def step_plateau(self, loss: float) -> None:
        """Lower the learning rate after half the patience without improvement; the early stop
        comes after all of it.
        """
        state = self.plateau
        if loss < state["lowest"]:
            state.update(lowest=loss, since=0)
            return
        state["since"] += 1
        if state["since"] >= max(1, self.settings.patience // 2):
            state.update(since=0, factor=state["factor"] * _PLATEAU_FACTOR)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        # the loss has no use for its own derivatives with respect to positions
        with kernels.skip_derivatives("distances"):
            super().backward(loss, *arguments, **options)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any
    ) -> None:
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), self.settings.gradient_clip
        )
        if not torch.isfinite(norm):  # Adam would make every weight NaN
            raise self._not_finite(
                f"gradient is {norm:g}", f"one of the frames {self.batch_frames}"
            )

    def on_train_batch_end(self, *_: Any) -> None:
        self.averaged.update_parameters(self.network)

    # --- loss -------------------------------------------------------------------------------------

    def _evaluate(
        self, network: torch.nn.Module, batch: Batch, weights: LossWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, energies and forces of a batch."""
        energies, forces = energies_and_forces(network, *batch.graph, create_graph=self.training)
        loss = distillation_loss(
            energies, forces, batch, weights, self.variances, shared=self.training
        )
        if not torch.isfinite(loss):
            sizes = (forces.detach() ** 2).sum(dim=1) + energies.detach() ** 2
            worst = torch.where(torch.isfinite(sizes), sizes, math.inf).argmax()
            raise self._not_finite(
                f"loss is {loss:g}", f"frame {int(batch.indices[batch.frame[worst]])}"
            )
        return loss, energies, forces

    def _not_finite(self, what: str, where: str) -> TrainingError:
        return TrainingError(
            f"The {what} at {where} in epoch {self.current_epoch + 1}; lower the learning_rate or"
            " remove the frame. The checkpoint of the epoch before is kept."
        )

    def on_train_epoch_start(self) -> None:
        self._training_sums = torch.zeros(2, dtype=torch.float64)  # loss times frames, frames

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.batch_frames = [int(k) for k in batch.indices]
        loss = self._evaluate(self.network, batch, self.weights)[0]
        self._training_sums += torch.tensor([loss.item(), 1.0]) * len(batch.indices)
        return loss

    # --- validation, of the averaged weights ------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._validation_sums = torch.zeros(2, dtype=torch.float64)
        self._frame_errors: list[Tensor] = []
        self._errors = {
            name: Errors(name, self.type_names) for name in ("noisy", "label", "energy")
        }

    def validation_step(self, batch: Batch, _: int) -> None:
        # total energies are compared over all frames, so that the loss does not depend on batches
        loss, energies, forces = self._evaluate(
            self.averaged.module, batch, self.weights.model_copy(update={"energy": 0.0})
        )
        self._validation_sums += torch.tensor([loss.item(), 1.0]) * len(batch.indices)
        if self.weights.energy:
            self._frame_errors.append(total_errors(energies.detach(), batch))
        assert batch.prior is not None
        assert batch.mapped is not None
        assert batch.forces is not None
        self._errors["noisy"].add(forces + batch.prior, batch.mapped, batch.types)
        self._errors["label"].add(forces, batch.forces, batch.types)
        if batch.energies is not None:
            self._errors["energy"].add(energies[:, None], batch.energies[:, None], batch.types)
        else:
            self._errors.pop("energy", None)

    def on_validation_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        training = strategy.reduce(self._training_sums.to(self.device), reduce_op="sum").tolist()
        validation = (self._validation_sums[0] / self._validation_sums[1]).item()
        if self.weights.energy:
            validation += (
                self.weights.energy
                / self.variances.energy
                * torch.cat(self._frame_errors).var(correction=0).item()
            )
        metrics = {"training_loss": training[0] / training[1], "validation_loss": validation}
        for errors in self._errors.values():
            metrics |= errors.results()
        if self.mean_forces is not None:
            test = self.mean_forces.graphs
            metrics |= self.mean_forces.errors(
                predict(self.averaged.module, test, range(len(test)))[0]
            )
            metrics |= self.mean_forces.noise_floor
        # one process decides for all: rounding on a GPU may differ between them
        self.metrics = strategy.broadcast(metrics)
        self.step_plateau(self.metrics["validation_loss"])
        self.log(
            "validation_loss", torch.tensor(self.metrics["validation_loss"], dtype=torch.float64)
        )

    # --- checkpoints ------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["plateau"] = dict(self.plateau)
        epochs = self.settings.epochs
        checkpoint["finished"] = bool(self.trainer.should_stop or self.current_epoch + 1 >= epochs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau.update(checkpoint["plateau"])
