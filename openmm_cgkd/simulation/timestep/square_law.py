"""Errors that grow as the square of the time step, fitted over all steps that were tried.

Langevin dynamics by a symmetric splitting, as OpenMM's, samples averages with an error c h^2 plus
terms of order h^4 (Leimkuhler and Matthews, J. Chem. Phys. 2013, 138, 174102). One coefficient from
all steps has a smaller standard error than what was measured at any of them. A true h^4 part that
the scatter does not show makes the told error too large by up to 0.3 % of the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

_FEWEST = 3  # steps: fewer fit any law
_IMPROBABLE = 0.01  # p-value below which the law is not that of the measured errors


@dataclass(frozen=True)
class SquareLaw:
    """value(h) = value(0) + c h^2, up to some step.

    Attributes
    ----------
    coefficient, coefficient_se : float, per ps^2
        c.
    largest : float, ps
        Largest step that the law describes.
    p_value : float
        Probability of a scatter about the law as large as this one, by the standard errors alone.
    """

    coefficient: float
    coefficient_se: float
    largest: float
    p_value: float

    def shift(self, timestep: float, origin: float = 0.0) -> tuple[float, float]:
        """value(timestep) - value(origin), and its standard error."""
        squares = timestep**2 - origin**2
        return self.coefficient * squares, self.coefficient_se * abs(squares)


def fit_square_law(
    timesteps: Sequence[float],
    values: Sequence[float],
    errors: Sequence[float],
    origin: float | None = None,
) -> SquareLaw | None:
    """Weighted least squares over all steps, or without the largest ones where those follow no h^2.

    Parameters
    ----------
    timesteps : sequence of float, ps
        Ascending.
    values, errors : sequence of float
        Of every step: what was measured, independently, and its standard errors.
    origin : float, optional
        value(0); fitted as well if absent.

    Returns
    -------
    SquareLaw or None
        None if three steps or more follow no such law.
    """
    all_steps, all_values, all_errors = map(np.asarray, (timesteps, values, errors))
    if not (np.isfinite(all_values).all() and np.isfinite(all_errors).all() and all_errors.all()):
        return None
    for count in range(len(all_steps), _FEWEST - 1, -1):
        h, sigma = all_steps[:count], all_errors[:count]
        measured = all_values[:count] - (origin or 0.0)
        columns = [h**2] if origin is not None else [h**2, np.ones(count)]
        matrix = np.stack(columns, axis=1) / sigma[:, None]
        covariance = np.linalg.inv(matrix.T @ matrix)
        found = covariance @ matrix.T @ (measured / sigma)
        residuals = measured / sigma - matrix @ found
        p_value = float(chi2.sf(residuals @ residuals, count - len(columns)))
        if p_value >= _IMPROBABLE:
            error = float(np.sqrt(covariance[0, 0]))
            return SquareLaw(float(found[0]), error, float(h[-1]), p_value)
    return None
