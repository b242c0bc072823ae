"""Errors of forces and energies, overall and per bead type, summed up batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openmm_cgkd.mapping.beads import BeadTopology


def bead_groups(beads: BeadTopology) -> dict[str, np.ndarray]:
    """Masks of all beads, under the empty name, and of the beads of every type."""
    groups = {"": np.ones(beads.n_beads, dtype=bool)}
    return groups | {name: beads.types == k for k, name in enumerate(beads.type_names)}


class Errors:
    """RMSE, MAE and R2 = 1 - MSE / variance of the labels, in one pass.

    Parameters
    ----------
    name : str
        Start of the names of the results.
    type_names : tuple of str
    """

    def __init__(self, name: str, type_names: tuple[str, ...]) -> None:
        self._name, self._type_names = name, type_names
        # rows: number, squared and absolute errors, labels and their squares, each summed over
        # components
        self._sums = torch.zeros(5, len(type_names), dtype=torch.float64)

    def add(self, predicted: Tensor, labels: Tensor, types: Tensor) -> None:
        """Add beads.

        Parameters
        ----------
        predicted, labels : Tensor, shape (n_beads, n_components)
        types : Tensor, shape (n_beads,)
        """
        predicted, labels = predicted.detach().double().cpu(), labels.double().cpu()
        error = predicted - labels
        terms = (torch.ones_like(error), error**2, error.abs(), labels, labels**2)
        self._sums.index_add_(1, types.cpu(), torch.stack([term.sum(dim=1) for term in terms]))

    def results(self) -> dict[str, float]:
        """`<name>_rmse`, `_mae` and `_r2`, then the same with the type's name for every bead
        type.
        """
        results = self._of(self._sums.sum(dim=1), "")
        for k, type_name in enumerate(self._type_names):
            results |= self._of(self._sums[:, k], f"_{type_name}")
        return results

    def _of(self, sums: Tensor, suffix: str) -> dict[str, float]:
        number, squares, absolutes, labels, label_squares = sums.tolist()
        variance = label_squares / number - (labels / number) ** 2
        return {
            f"{self._name}_rmse{suffix}": (squares / number) ** 0.5,
            f"{self._name}_mae{suffix}": absolutes / number,
            f"{self._name}_r2{suffix}": 1 - squares / number / variance if variance > 0 else 0.0,
        }
