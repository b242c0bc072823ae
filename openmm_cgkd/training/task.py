"""What one optimisation needs, and the files it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.config.run import LossWeights, TrainingConfig
from openmm_cgkd.potential.custom_network import NetworkSettings

from .graphs import FrameGraphs
from .mean_force_test import MeanForceTest
from .targets import Targets, Variances

BEST, LAST, METRICS, TENSORBOARD = "best.pt", "last.ckpt", "metrics.csv", "tensorboard"
CONSISTENCY, TEST = "consistency.json", "test.json"

FORCES_ONLY = LossWeights(force=1.0, energy=0.0, bead_energy=0.0)


@dataclass(frozen=True)
class TrainingTask:
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
    model : ModelConfig or CustomNetwork
    weights : LossWeights
    settings : TrainingConfig
    seed : int
        Decides initial weights and the order of the frames.
    fingerprint : str
        Identity of the inputs; partial work of other inputs is discarded.
    identity : str
        `Frames.identity` of the all-atom frames, for the checkpoint.
    metadata : dict
        JSON-ready; goes into the checkpoint.
    mean_forces : MeanForceTest, optional
        A further measure, reported after every epoch.
    tensorboard : bool
        Also write the metrics for TensorBoard.
    """

    folder: Path
    graphs: FrameGraphs
    targets: Targets
    training: np.ndarray
    validation: np.ndarray
    variances: Variances
    model: NetworkSettings
    weights: LossWeights
    settings: TrainingConfig
    seed: int
    fingerprint: str
    identity: str
    metadata: dict[str, Any]
    mean_forces: MeanForceTest | None = None
    tensorboard: bool = False
