"""How well the volume of a run at constant pressure is known, and whether it still drifts."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_cgkd.utils.statistics import error_words, mean_of, safe_error, slope_of

DOUBTFUL = 0.003  # relative error or drift of the volume that deserves a warning
_SIGNIFICANT = 3.0  # standard errors: one false alarm in 370 runs


@dataclass(frozen=True)
class Volume:
    """Mean volume over a stretch of time.

    Attributes
    ----------
    mean : float, nm^3
    error : float
        Standard error relative to the mean; nan for a single value.
    plateau : bool
        Whether the error is more than a lower bound, see `blocked_mean`.
    drift, drift_error : float
        Relative change from the beginning to the end by a straight line, and its standard error;
        nan for fewer than three values.
    drift_plateau : bool
        Whether the error of the drift is more than a lower bound.
    """

    mean: float
    error: float
    plateau: bool
    drift: float
    drift_error: float
    drift_plateau: bool

    @classmethod
    def of(cls, volumes: np.ndarray) -> Volume:
        """Of volumes (nm^3) that are evenly spaced in time."""
        found, n = mean_of(volumes), len(volumes)
        slope = slope_of(np.arange(n), volumes)
        factor = (n - 1) / found.mean
        return cls(
            found.mean,
            found.error / found.mean,
            found.plateau,
            factor * slope.mean,
            factor * slope.error,
            slope.plateau,
        )

    @property
    def words(self) -> str:
        """Volume, error and drift for a log."""
        error = error_words(100 * self.error, self.plateau)
        of_drift = error_words(100 * self.drift_error, self.drift_plateau)
        return (
            f"{self.mean:.4f} nm^3 with a standard error of {error} %, drift"
            f" {100 * self.drift:.2g} +- {of_drift} %"
        )

    @property
    def doubt(self) -> str | None:
        """Why the volume is not to be relied on, or None.

        Its error or a significant drift is above 0.3 %, or the error is only a lower bound.
        """
        drift_error = safe_error(self.drift_error, self.drift_plateau)
        if abs(self.drift) > max(DOUBTFUL, _SIGNIFICANT * drift_error):
            return f"the volume drifts by more than {100 * DOUBTFUL:g} %"
        if not self.plateau:
            return "the run is too short to know the error of the volume"
        if self.error > DOUBTFUL:
            return f"the error of the volume is above {100 * DOUBTFUL:g} %"
        return None

    def density(self, mass: float) -> dict[str, float | bool]:
        """Density of a mass with its standard error, as attributes of a file of frames."""
        if not np.isfinite(self.error):
            return {}
        return {
            "density_error": float(mass / self.mean * self.error),
            "density_error_at_least": not self.plateau,
        }


def used_volumes(table: Path) -> np.ndarray:
    """Volumes (nm^3) of the last two thirds of an NPT phase, from its thermodynamics."""
    with open(table) as file:
        volumes = np.array([float(row["Box Volume (nm^3)"]) for row in csv.DictReader(file)])
    return volumes[len(volumes) // 3 :]
