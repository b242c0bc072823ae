"""Chosen frames with their targets, as a data set of PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from openmm_cgkd.exceptions import FramesError

from .graphs import Batch, FrameGraphs
from .targets import Targets


class GraphDataset(Dataset):
    """Chosen frames with their targets; indices may repeat.

    Parameters
    ----------
    graphs : FrameGraphs
    targets : Targets
        Of all frames of `graphs`.
    indices : ndarray of int
    dtype : torch.dtype
        Of the batches' floating-point numbers.
    """

    def __init__(
        self,
        graphs: FrameGraphs,
        targets: Targets,
        indices: np.ndarray,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if targets.forces.shape != graphs.prior_forces.shape:
            raise FramesError(
                f"Targets have shape {targets.forces.shape}, frames {graphs.prior_forces.shape};"
                " run 'cgkd label' again."
            )
        self.graphs, self.targets = graphs, targets
        self.indices, self.dtype = np.asarray(indices), dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> int:
        return int(self.indices[k])

    def collate(self, indices: list[int]) -> Batch:
        """Join frames into one graph with targets: the ``collate_fn`` of a ``DataLoader``."""
        batch = self.graphs.batch(indices)
        batch.forces = torch.from_numpy(self.targets.forces[indices].reshape(-1, 3))
        batch.mapped = torch.from_numpy(self.graphs.frames.forces[indices].reshape(-1, 3))
        batch.prior = torch.from_numpy(self.graphs.prior_forces[indices].reshape(-1, 3))
        for name in ("energies", "force_weights", "energy_weights"):
            values = getattr(self.targets, name)
            if values is not None:
                setattr(batch, name, torch.from_numpy(values[indices].reshape(-1)))
        return batch.to(self.dtype)
