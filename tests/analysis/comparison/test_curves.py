"""Errors of curves and of distances between curves, against their scatter over runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from openmm_cgkd.analysis.comparison.curves import Curve, CurveComparison, count_parts

TRUTH = 1 + 0.5 * np.sin(np.linspace(0, 6, 30))


class Part:
    """As much of an observable as a curve needs: a sum over frames."""

    bin_width, weights = 0.1, 1.0

    def __init__(self, total: np.ndarray, frames: int) -> None:
        self.total, self.frames = total, frames

    @property
    def density(self) -> np.ndarray:
        return self.total / self.frames

    @classmethod
    def merged(cls, parts) -> Part:
        parts = list(parts)
        return cls(sum(part.total for part in parts), sum(part.frames for part in parts))

    def without(self, part: Part) -> Part:
        return Part(self.total - part.total, self.frames - part.frames)


def trajectory(seed: int, truth: np.ndarray, memory: float = 0.8, frames: int = 2500) -> Curve:
    """Curves of frames that remember each other, around a true one."""
    noise = np.random.default_rng(seed).normal(size=(frames + 500, len(truth)))
    slow = lfilter([np.sqrt(1 - memory**2)], [1, -memory], noise, axis=0)[500:]
    values = truth + 0.3 * slow
    parts = np.array_split(values, count_parts(frames))
    return Curve([Part(part.sum(axis=0), len(part)) for part in parts])


def test_standard_error_of_a_curve_is_its_scatter():
    curves = [trajectory(seed, TRUTH) for seed in range(60)]
    scatter = np.sqrt(np.mean(np.var([curve.values for curve in curves], axis=0)))
    errors = [np.sqrt(np.mean(curve.standard_error**2)) for curve in curves]
    assert np.median(errors) == pytest.approx(scatter, rel=0.1)
    assert np.mean([curve.blocked.plateau for curve in curves]) > 0.8


def test_short_runs_have_lower_bounds():
    curve = trajectory(0, TRUTH, memory=0.99, frames=600)
    assert not curve.blocked.plateau
    comparison = CurveComparison(curve, trajectory(1, TRUTH, memory=0.99, frames=600))
    assert "mean_absolute" in comparison.at_least
    assert comparison.numbers()["bands_at_least"] == [True, True]


def test_errors_see_that_runs_are_apart():
    """By what their blocks cannot: of a curve and of its distance from another one alike."""
    runs = [trajectory(0, TRUTH + 1), trajectory(1, TRUTH + 1.3)]
    parts = [part for run in runs for part in run.parts]
    joined, model = Curve(parts, tuple(len(run.parts) for run in runs)), trajectory(2, TRUTH)
    assert not joined.blocked.plateau
    # two values that are 0.3 apart have a mean with the error of 0.15
    assert np.sqrt(np.mean(joined.standard_error**2)) == pytest.approx(0.15, rel=0.1)
    found = CurveComparison(joined, model)  # which lies below both
    assert "mean_absolute" in found.at_least
    assert found.error_se.mean_absolute == pytest.approx(0.15, rel=0.1)


def test_standard_error_of_an_error_is_its_scatter():
    """The model is off by more than its noise, so that errors are nearly linear in the curves."""
    off = TRUTH + 0.15 * np.cos(np.linspace(0, 9, 30))
    found = [
        CurveComparison(trajectory(seed, TRUTH), trajectory(1000 + seed, off)) for seed in range(40)
    ]
    for name in ("mean_absolute", "rmse", "overlap"):
        values = [getattr(each.error, name) for each in found]
        errors = [getattr(each.error_se, name) for each in found]
        assert 0.7 < np.median(errors) / np.std(values) < 1.45  # forty runs know it to 11 %
    # all bins count with the same sign or the other: variances of the means of both trajectories
    linear = np.sqrt(2 * 0.3**2 * 9 / 2500 / 30)  # memory of 0.8: (1 + 0.8) / (1 - 0.8)
    errors = [each.error_se.mean_absolute for each in found]
    assert np.median(errors) == pytest.approx(linear, rel=0.15)


def test_parts_are_equally_long_and_even():
    for frames in (4, 5, 6, 63, 64, 127, 128, 129, 200, 561, 1000, 10_000):
        parts = count_parts(frames)
        assert parts % 2 == 0
        assert 2 <= parts <= 128
        sizes = [len(part) for part in np.array_split(np.arange(frames), parts)]
        assert np.std(sizes) / np.mean(sizes) < 0.2 or frames < 16


@pytest.mark.parametrize(("middle", "expected"), [(0.5, 10), (0.56, 11), (0.4, 8)])
def test_halves_meet_in_the_middle(middle, expected):
    curve = Curve(list(range(20)), middle=middle)
    assert [half.parts for half in curve.separate] == [
        list(range(expected)),
        list(range(expected, 20)),
    ]
    assert len(Curve(list(range(20)), (7, 13), middle).separate[0].parts) == 7
