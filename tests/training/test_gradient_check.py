"""The check that forces are the gradient of the energies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.gradient_check import check_consistency
from openmm_cgkd.training.task import BEST
from tests.cases.training import CUTOFF


class Tampered(nn.Module):
    """A network whose energy has a small part that its forces do not know of."""

    def __init__(self, network: nn.Module, size: float) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, types, first, second, vectors):
        hidden = self.network(types, first, second, vectors.detach())
        return self.network(types, first, second, vectors) + self.size * hidden


@pytest.fixture(scope="module")
def frames(labeled_run):
    return labeled_run[1]


@pytest.fixture(scope="module")
def network(labeled_run):
    return load_checkpoint(RunFolder(labeled_run[0]).teacher(0) / BEST)[0]


def test_consistency_of_a_network(network, frames):
    check = check_consistency(network, CUTOFF, frames, np.arange(16, 20))
    assert check.components == 36
    assert 0 < check.rms_error <= check.max_error < 1e-5
    # a copy was converted, not the network
    assert next(network.parameters()).dtype == torch.float32


def test_wrong_forces_are_detected(network, frames):
    check_consistency(Tampered(network, 1e-6), CUTOFF, frames, np.arange(16, 20))
    with pytest.raises(TrainingError, match="Forces and energies disagree"):
        check_consistency(Tampered(network, 0.01), CUTOFF, frames, np.arange(16, 20))


def test_jump_at_the_cutoff_is_detected(network, frames):
    """Pairs cut where their energy is not yet zero: the bead and its neighbour cross the edge
    when displaced.
    """
    delta = frames.positions[16, 1:].astype(float) - frames.positions[16, 0]
    delta -= np.round(delta @ np.linalg.inv(frames.box[16])) @ frames.box[16]
    nearest = float(np.linalg.norm(delta, axis=1).min())
    with pytest.raises(TrainingError, match="Forces and energies disagree"):
        check_consistency(network, nearest, frames, np.array([16]), n_components=36)
