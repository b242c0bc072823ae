"""A curve with the block curves behind its error, and the distance between two of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Generic

import numpy as np

from openmm_cgkd.analysis.observables.base import ObservableT
from openmm_cgkd.analysis.observables.rdf import RDF, first_peak
from openmm_cgkd.utils.statistics import (
    CurveError,
    curve_error,
    jackknife,
    jackknife_error,
    leave_one_out,
    standard_error,
)

MEASURES = ("mean_absolute", "integrated_absolute", "rmse", "jensen_shannon", "overlap")


@dataclass(frozen=True)
class Curve(Generic[ObservableT]):
    """One observable of a trajectory, from an even number of parts in time, two to a block."""

    parts: list[ObservableT]

    @cached_property
    def whole(self) -> ObservableT:
        """The observable over all frames."""
        return type(self.parts[0]).merged(self.parts)

    @property
    def values(self) -> np.ndarray:
        """What is compared, shape (bins,)."""
        return self.whole.density

    @cached_property
    def blocks(self) -> np.ndarray:
        """The curve of every time block, shape (n_blocks, bins)."""
        pairs = zip(self.parts[::2], self.parts[1::2], strict=True)
        return np.array([type(self.whole).merged(pair).density for pair in pairs])

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error over the blocks, shape (bins,)."""
        return standard_error(self.blocks)

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The curve of the first and of the second half of the frames."""
        middle = len(self.parts) // 2
        first, second = self.parts[:middle], self.parts[middle:]
        merged = type(self.whole).merged
        return merged(first).density, merged(second).density

    def peak(self: Curve[RDF]) -> dict[str, float | None]:
        """First peak of an RDF, nulls where there is none."""
        r = self.whole.bin_centers
        peak = first_peak(r, self.values)
        if peak is None:
            return dict.fromkeys(("position", "position_se", "height", "height_se"))

        def value_of(name: str) -> Callable[[np.ndarray], float]:
            return lambda g: getattr(first_peak(r, g), name, math.nan)

        errors = {
            f"{name}_se": number(jackknife_error(self.blocks, value_of(name)))
            for name in ("position", "height")
        }
        return {"position": peak.position, "height": peak.height, **errors}


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
    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors when one time block of one trajectory is left out.

        Two arrays, for the all-atom and for the coarse-grained blocks, of shape (n_blocks,
        n_measures); measures in the order of MEASURES.
        """
        aa, cg = self.all_atom, self.coarse_grained
        return (
            leave_one_out(aa.blocks, lambda values: _row(self._error(cg.values, values))),
            leave_one_out(cg.blocks, lambda values: _row(self._error(values, aa.values))),
        )

    @cached_property
    def error_se(self) -> CurveError:
        """Standard errors of the errors from the blocks of both trajectories."""
        return CurveError(*np.hypot(*(jackknife(values) for values in self.left_out)).tolist())

    @cached_property
    def floor(self) -> CurveError:
        """Errors between the halves of the all-atom frames."""
        return self._error(*self.all_atom.halves)

    def numbers(self) -> dict[str, Any]:
        """Errors, their standard errors and the floor as plain data."""
        errors, floor = asdict(self.error_se), asdict(self.floor)
        return {
            **asdict(self.error),
            **{f"{name}_se": number(value) for name, value in errors.items()},
            **{f"{name}_halves": value for name, value in floor.items()},
        }


def number(value: float) -> float | None:
    """A number as JSON can hold it: None for nan and infinity."""
    return float(value) if math.isfinite(value) else None


def _row(error: CurveError) -> np.ndarray:
    return np.array([getattr(error, name) for name in MEASURES])
