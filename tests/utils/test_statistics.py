"""Peaks and minima of curves, distances between curves, standard errors: against closed forms."""

import numpy as np
import pytest

from openmm_cgkd.analysis.observables.rdf import first_minimum, first_peak
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import curve_error, jackknife_error, standard_error


@pytest.mark.parametrize("bins", [60, 150, 300])
def test_first_peak_of_an_analytic_curve(bins):
    r = (np.arange(bins) + 0.5) * 1.3 / bins
    wall = 1 / (1 + np.exp(-(r - 0.3) / 0.01))
    g = wall * (
        1
        + 2.0 * np.exp(-0.5 * ((r - 0.42) / 0.04) ** 2)
        + 0.5 * np.exp(-0.5 * ((r - 0.85) / 0.08) ** 2)
    )
    peak = first_peak(r, g)
    assert peak.position == pytest.approx(0.42, abs=0.003)
    assert peak.height == pytest.approx(3.0, rel=0.02)
    noisy = first_peak(r, g * (1 + 0.015 * np.random.default_rng(0).standard_normal(bins)))
    assert noisy.position == pytest.approx(0.42, abs=0.01)
    assert noisy.height == pytest.approx(3.0, rel=0.05)


def test_curve_without_a_peak():
    r = np.linspace(0.005, 1.0, 100)
    assert first_peak(r, np.tanh(r)) is None
    assert first_peak(r, np.zeros(100)) is None


def test_first_minimum_of_an_analytic_curve():
    r = (np.arange(150) + 0.5) * 1.3 / 150
    wall = 1 / (1 + np.exp(-(r - 0.3) / 0.01))
    shells = 2.0 * np.exp(-0.5 * ((r - 0.42) / 0.05) ** 2) - 0.4 * np.exp(
        -0.5 * ((r - 0.65) / 0.06) ** 2
    )
    g = wall * (1 + shells + 0.3 * np.exp(-0.5 * ((r - 0.9) / 0.08) ** 2))
    assert first_minimum(r, g) == pytest.approx(r[40:90][np.argmin(g[40:90])], abs=0.01)
    noisy = g * (1 + 0.02 * np.random.default_rng(1).standard_normal(150))
    assert first_minimum(r, noisy) == pytest.approx(first_minimum(r, g), abs=0.03)
    assert first_minimum(r, np.tanh(5 * r)) is None
    # no dip after the peak
    assert first_minimum(r, wall * (1 + np.exp(-0.5 * ((r - 0.42) / 0.05) ** 2))) is None


def test_divergence_and_overlap_against_closed_forms():
    disjoint = curve_error(np.array([1.0, 0, 0, 0]), np.array([0, 0, 0.5, 0.5]), 1.0)
    assert (disjoint.jensen_shannon, disjoint.overlap) == pytest.approx((1, 0))
    same = curve_error(np.ones(7), np.ones(7), 0.1)
    assert (same.jensen_shannon, same.overlap) == pytest.approx((0, 1), abs=1e-12)
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): JSD = [log2(4/3) + (log2(2/3) + log2(2)) / 2] / 2
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    half = curve_error(p, q, 1.0)
    assert half.jensen_shannon == pytest.approx((np.log2(4 / 3) + 0.5 * (np.log2(2 / 3) + 1)) / 2)
    assert half.overlap == pytest.approx(0.5)
    # weights make the distributions; the other figures are those of the curves
    weighted = curve_error(
        np.array([2.0, 0.0]), np.array([1.0, 1.0]), 1.0, weights=np.array([1.0, 3.0])
    )
    assert weighted.jensen_shannon == pytest.approx(
        curve_error(p, np.array([0.25, 0.75]), 1.0).jensen_shannon
    )
    assert weighted.mean_absolute == 1
    empty = curve_error(np.zeros(3), np.ones(3), 1.0)
    assert (empty.jensen_shannon, empty.overlap) == (1, 0)


def test_curve_error_against_integrals():
    width = 0.001
    r = (np.arange(1000) + 0.5) * width
    error = curve_error(1 + r, np.ones(1000), width)  # difference r on (0, 1)
    assert error.mean_absolute == pytest.approx(0.5)
    assert error.integrated_absolute == pytest.approx(0.5)
    assert error.rmse == pytest.approx(1 / np.sqrt(3), rel=1e-5)
    assert curve_error(np.ones(5), np.full(5, 1.5), 0.1).integrated_absolute == pytest.approx(0.25)
    with pytest.raises(AnalysisError, match="same bins"):
        curve_error(np.ones(5), np.ones(6), 0.1)


def test_standard_errors_match_the_known_spread():
    blocks = np.random.default_rng(0).normal(3.0, 0.5, (8, 4000))
    assert np.mean(standard_error(blocks) ** 2) == pytest.approx(0.5**2 / 8, rel=0.05)
    # for the mean itself the jackknife is the standard error
    assert jackknife_error(blocks, lambda curve: curve[0]) == pytest.approx(
        standard_error(blocks)[0]
    )
    # and for a function of it the propagated error
    assert jackknife_error(blocks[:, :1], lambda curve: curve[0] ** 2) == pytest.approx(
        2 * blocks[:, 0].mean() * standard_error(blocks[:, :1])[0], rel=0.05
    )
    with pytest.raises(AnalysisError, match="at least two samples, got 1"):
        standard_error(blocks[:1])
