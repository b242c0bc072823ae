"""What a network shall learn: mapped forces, or the teachers' labels.

Targets are for the network alone: the fixed prior is subtracted, because teachers and student share
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .graphs import FrameGraphs, refuse_not_finite
from .labels import Labels


@dataclass(frozen=True)
class Targets:
    """What a network shall learn, without the prior.

    Attributes
    ----------
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
    energies : ndarray, shape (n_frames, n_beads), kJ/mol, or None
        Per-bead energies centred by bead type; mapped all-atom frames have none.
    force_weights, energy_weights : ndarray, shape (n_frames, n_beads), or None
        Weights of the beads in the loss; equal where absent.

    Raises
    ------
    TrainingError
        If a value is not finite.
    """

    forces: np.ndarray
    energies: np.ndarray | None = None
    force_weights: np.ndarray | None = None
    energy_weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        refuse_not_finite("target forces", self.forces)
        if self.energies is not None:
            refuse_not_finite("target energies", self.energies)


def mapped_targets(graphs: FrameGraphs) -> Targets:
    """The mapped, noisy forces less the prior."""
    return Targets(graphs.frames.forces - graphs.prior_forces)


def label_targets(
    labels: Sequence[Labels],
    training: np.ndarray,
    first_teacher_alone: bool = False,
    use_spread: bool = False,
) -> Targets:
    """Targets from labels.

    Parameters
    ----------
    labels : sequence of Labels
        Of the frames, then of configurations beyond them.
    training : ndarray of int
        Training frames, over which the weights of beads are normalised.
    first_teacher_alone : bool
        Learn from the first teacher instead of from the teachers' mean.
    use_spread : bool
        Beads on which the teachers disagree count less, see `spread_weights`.
    """
    prefix = "single_" if first_teacher_alone else ""
    names = (f"{prefix}forces", f"{prefix}energies", "force_spread", "energy_spread")
    forces, energies, force_spread, energy_spread = (
        np.concatenate([getattr(part, name) for part in labels]) for name in names
    )
    if not use_spread:
        return Targets(forces, energies)
    return Targets(
        forces,
        energies,
        spread_weights(force_spread, training),
        spread_weights(energy_spread, training),
    )


@dataclass(frozen=True)
class Variances:
    """Variances of the targets, the scales of the loss terms.

    Attributes
    ----------
    force : float, (kJ/mol/nm)^2
        Of single force components.
    energy, bead_energy : float, (kJ/mol)^2
        Of the energy per bead of whole frames, and of per-bead energies; 1 where there are no
        energies.
    """

    force: float
    energy: float = 1.0
    bead_energy: float = 1.0


def target_variances(targets: Targets, indices: np.ndarray) -> Variances:
    """Variances over the frames of the given indices."""
    force = float(np.var(targets.forces[indices], dtype=float))
    if targets.energies is None:
        return Variances(force)
    energies = targets.energies[indices].astype(float)
    return Variances(force, float(np.var(energies.mean(axis=1))), float(np.var(energies)))


def spread_weights(spread: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Weights 1 / (1 + s^2 / <s^2>) of beads, with mean 1.

    Here s is the teachers' spread and < > the mean over the training frames. This is the inverse
    variance of a label whose error has a part common to all beads and a part given by the spread,
    both equal where the spread is typical. Without the common part the few beads on which teachers
    agree by chance would dominate.

    Parameters
    ----------
    spread : ndarray, shape (n_frames, n_beads)
    training : ndarray of int
    """
    squares = spread.astype(float) ** 2
    typical = squares[training].mean()
    weights = 1 / (1 + squares / typical) if typical > 0 else np.ones_like(squares)
    return weights / weights[training].mean()
