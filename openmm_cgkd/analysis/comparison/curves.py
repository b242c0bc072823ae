"""A curve with the parts in time behind its error, and the distance between two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Generic

import numpy as np

from openmm_cgkd.analysis.observables.base import ObservableT
from openmm_cgkd.analysis.observables.peaks import Peak, first_peak, fit_peak
from openmm_cgkd.analysis.observables.rdf import RDF
from openmm_cgkd.utils.statistics import (
    BlockedMean,
    CurveError,
    blocked_mean,
    curve_error,
    pseudo_values,
)

from .systematic import SystematicError, excess_of_runs, systematic_error

MEASURES = ("mean_absolute", "integrated_absolute", "rmse", "jensen_shannon", "overlap")
FEWEST_FRAMES = 4
_PARTS = 128  # at most: short against what is left to tell, few enough to leave each out once


def count_parts(n_frames: int, longest: int | None = None) -> int:
    """Into how many parts in time a trajectory is cut: an even number of equally many frames.

    Of several runs the `longest` tells how long the parts of all of them are.
    """
    parts = n_frames // math.ceil((longest or n_frames) / _PARTS)
    return max(2, parts - parts % 2)


@dataclass(frozen=True)
class Curve(Generic[ObservableT]):
    """One observable of a trajectory, from an even number of parts in time.

    How it scatters is told by leaving out each part once, which suits ratios and other functions of
    sums as well as means; `blocked_mean` finds how long the parts remember.
    """

    parts: list[ObservableT]
    runs: tuple[int, ...] = ()  # numbers of parts of independent runs; empty for a single one
    middle: float = 0.5  # share of the parts in the first half of a single run

    @cached_property
    def whole(self) -> ObservableT:
        """The observable over all frames."""
        return type(self.parts[0]).merged(self.parts)

    @property
    def separate(self) -> list[Curve[ObservableT]]:
        """The curves of the independent runs, or of the two halves of a single one."""
        middle = min(max(1, round(self.middle * len(self.parts))), len(self.parts) - 1)
        edges = [0, *accumulate(self.runs or (middle, len(self.parts) - middle))]
        return [Curve(self.parts[first:last]) for first, last in pairwise(edges)]

    @property
    def values(self) -> np.ndarray:
        """What is compared, shape (bins,)."""
        return self.whole.density

    @property
    def left_out(self) -> np.ndarray:
        """The curve without each of the parts, shape (n_parts, bins)."""
        return np.array([self.whole.without(part).density for part in self.parts])

    def pseudo_values(self, statistic: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Series in time whose mean has the error of a statistic of the curve, see `blocked_mean`.

        Shape (n_parts,) and that of the statistic.
        """
        left_out = np.array([statistic(values) for values in self.left_out])
        return pseudo_values(statistic(self.values), left_out)

    @cached_property
    def series(self) -> np.ndarray:
        """Series in time whose mean is the curve, with its error; shape (n_parts, n_bins).

        A map's bins stand in one row.
        """
        return pseudo_values(self.values, self.left_out).reshape(len(self.parts), -1)

    @cached_property
    def blocked(self) -> BlockedMean:
        """The curve with its standard errors; its bins are cut into the same blocks.

        If independent runs differ by more than that, the errors are scaled to what they show.
        """
        return blocked_statistic(self.values, self.left_out, self.runs)

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error, shape (bins,); without a plateau of the blocks a lower bound."""
        return self.blocked.error

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The curve of the first and of the second half of the frames, or of two runs."""
        first, second, *_ = self.separate
        return first.values, second.values

    def peak(self: Curve[RDF]) -> dict[str, Any]:
        """First peak of an RDF, nulls where there is none.

        ``at_least`` names the values whose standard errors are lower bounds.
        """
        r = self.whole.bin_centers
        peak = first_peak(r, self.values)
        names = ("position", "height")
        if peak is None:
            return {key: None for name in names for key in (name, f"{name}_se")} | {"at_least": []}
        numbers: dict[str, Any] = {"at_least": []}
        for name, found in zip(names, self._peak_errors(peak), strict=True):
            numbers |= {name: getattr(peak, name), f"{name}_se": number(found.error)}
            numbers["at_least"] += [] if found.plateau else [name]
        return numbers

    def _peak_errors(self: Curve[RDF], peak: Peak) -> tuple[BlockedMean, BlockedMean]:
        """Of position and height, with the window of the peak held."""
        r = self.whole.bin_centers

        def row(values: np.ndarray) -> tuple[float, float]:
            found = fit_peak(r, values, peak.window)
            return (found.position, found.height) if found else (math.nan, math.nan)

        series = self.pseudo_values(row)
        return blocked_of_runs(series[:, 0], self.runs), blocked_of_runs(series[:, 1], self.runs)


@dataclass(frozen=True)
class CurveComparison:
    """All-atom and coarse-grained curve of one observable."""

    all_atom: Curve[Any]
    coarse_grained: Curve[Any]

    def _error(self, values: np.ndarray, reference: np.ndarray) -> CurveError:
        whole = self.all_atom.whole
        return curve_error(values, reference, whole.bin_width, whole.weights)

    @cached_property
    def error(self) -> CurveError:
        return self._error(self.coarse_grained.values, self.all_atom.values)

    @cached_property
    def pseudo_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Series in time whose means have the errors of the errors, see `blocked_mean`.

        Two arrays, for what the all-atom and what the coarse-grained frames add, of shape (n_parts,
        n_measures); measures in the order of MEASURES.
        """
        aa, cg = self.all_atom, self.coarse_grained
        return (
            aa.pseudo_values(lambda values: _row(self._error(cg.values, values))),
            cg.pseudo_values(lambda values: _row(self._error(values, aa.values))),
        )

    @cached_property
    def _errors(self) -> dict[str, tuple[float, bool]]:
        """Standard error of every measure, and whether it is more than a lower bound."""
        both = (self.all_atom, self.coarse_grained)
        return {
            name: joint_error(
                *(
                    (series[:, k], curve.runs)
                    for series, curve in zip(self.pseudo_values, both, strict=True)
                )
            )
            for k, name in enumerate(MEASURES)
        }

    @property
    def error_se(self) -> CurveError:
        """Standard errors of the errors, from the scatter of both trajectories."""
        return CurveError(**{name: error for name, (error, _) in self._errors.items()})

    @property
    def at_least(self) -> list[str]:
        """Measures whose standard error is a lower bound."""
        return [name for name, (_, plateau) in self._errors.items() if not plateau]

    @cached_property
    def floor(self) -> CurveError:
        """Errors between the halves of the all-atom frames."""
        return self._error(*self.all_atom.halves)

    @cached_property
    def systematic(self) -> SystematicError:
        """The error without the noise of either.

        Of a single all-atom run the halves are taken, which are not independent.
        """
        return systematic_error(
            [curve.series for curve in self.all_atom.separate],
            self.coarse_grained.series,
            independent=len(self.all_atom.runs) > 1,
        )

    def numbers(self) -> dict[str, Any]:
        """Errors, their standard errors and the floor as plain data."""
        errors, floor = asdict(self.error_se), asdict(self.floor)
        curves = (self.all_atom, self.coarse_grained)
        return {
            **asdict(self.error),
            **{f"{name}_se": number(value) for name, value in errors.items()},
            **{f"{name}_halves": value for name, value in floor.items()},
            **self.systematic.numbers(),
            "at_least": self.at_least,
            "independent_samples": [curve.blocked.independent for curve in curves],
            "bands_at_least": [not curve.blocked.plateau for curve in curves],
        }


def blocked_of_runs(series: np.ndarray, runs: Sequence[int]) -> BlockedMean:
    """As `blocked_mean`, of independent runs that stand one after the other.

    Parameters
    ----------
    series : ndarray, shape (n_parts, ...)
    runs : sequence of int
        Numbers of parts of the runs. If these differ by more than their blocks tell, all get the
        variance that they show besides, and the error is a lower bound.
    """
    found = blocked_mean(series)
    if len(runs) < 2:
        return found
    each = np.split(series, np.cumsum(runs)[:-1])
    excess = excess_of_runs([run.reshape(len(run), -1) for run in each])
    if excess <= 0:
        return found
    # long blocks of the whole series see a part of the difference already: not to be added again
    squares = [np.square(blocked_mean(run).error) for run in each]
    between = excess * sum(squares) / np.nansum(sum(squares))
    shares = [n / len(series) for n in runs]
    error = np.maximum(
        found.error,
        np.sqrt(
            sum(share**2 * (own + between) for share, own in zip(shares, squares, strict=True))
        ),
    )
    growth = np.nansum(error**2) / np.nansum(np.square(found.error))
    return replace(found, error=error, independent=found.independent / growth, plateau=False)


def blocked_statistic(value: Any, left_out: np.ndarray, runs: Sequence[int]) -> BlockedMean:
    """A statistic that is not a mean, with its standard error.

    Parameters
    ----------
    value : float or ndarray
        The statistic of all parts; the mean of its pseudo-values is another number.
    left_out : ndarray, shape (n_parts, ...)
        The statistic without each of the parts.
    runs : sequence of int
        As in `blocked_of_runs`.
    """
    return replace(blocked_of_runs(pseudo_values(value, left_out), runs), mean=value)


def joint_error(*series: tuple[np.ndarray, Sequence[int]]) -> tuple[float, bool]:
    """Standard error of what depends on several trajectories, and whether all have a plateau.

    Parameters
    ----------
    *series : (ndarray, sequence of int)
        Pseudo-values of what each of the trajectories adds, shape (n_parts,), and the numbers of
        parts of its runs.
    """
    found = [blocked_of_runs(each, runs) for each, runs in series]
    return math.hypot(*(each.error for each in found)), all(each.plateau for each in found)


def number(value: float) -> float | None:
    """A number as JSON can hold it: None for nan and infinity."""
    return float(value) if math.isfinite(value) else None


def _row(error: CurveError) -> np.ndarray:
    return np.array([getattr(error, name) for name in MEASURES])
