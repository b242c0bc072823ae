"""First peaks and minima of analytic curves, with and without noise."""

import numpy as np
import pytest

from openmm_cgkd.analysis.comparison.curves import Curve
from openmm_cgkd.analysis.observables.peaks import first_minimum, first_peak, fit_peak

CONTACT, HEIGHT = 0.28, 2.6


def liquid_rdf(r: np.ndarray, width: float) -> np.ndarray:
    """A first peak as narrow as that of water, steeper on the inner side, and a second shell."""
    rise = 1 / (1 + np.exp(-(r - CONTACT - 0.03) / 0.012))
    sides = np.where(r < CONTACT, width, 1.6 * width)
    return HEIGHT * np.exp(-0.5 * ((r - CONTACT) / sides) ** 2) + rise * (
        1
        - 0.15 * np.exp(-0.5 * ((r - CONTACT - 0.07) / 0.03) ** 2)
        + 0.1 * np.exp(-0.5 * ((r - CONTACT - 0.17) / 0.06) ** 2)
    )


def binned(width: float, bins: int = 150, r_max: float = 1.3) -> tuple[np.ndarray, np.ndarray]:
    """Centers of bins and what an RDF holds there: means over the shells."""
    edges = np.linspace(0, r_max, bins + 1)
    inside = edges[:-1, None] + (np.arange(200) + 0.5) / 200 * r_max / bins
    weights = inside**2
    g = (liquid_rdf(inside, width) * weights).sum(axis=1) / weights.sum(axis=1)
    return 0.5 * (edges[1:] + edges[:-1]), g


def true_peak(width: float) -> tuple[float, float]:
    fine = np.linspace(CONTACT - 0.05, CONTACT + 0.05, 100_001)
    values = liquid_rdf(fine, width)
    return fine[values.argmax()], values.max()


@pytest.mark.parametrize("bins", [150, 200, 300, 600])
@pytest.mark.parametrize("width", [0.008, 0.012, 0.03])
def test_height_of_a_narrow_peak_is_not_smoothed_away(width, bins):
    """A local cubic over 0.05 nm once made the first of these 10 % too low."""
    r, g = binned(width, bins)
    position, height = true_peak(width)
    peak = first_peak(r, g)
    assert peak.height == pytest.approx(height, rel=0.01)
    assert peak.position == pytest.approx(position, abs=0.002)


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_noise_shifts_the_height_by_less_than_its_scatter(noise):
    r, g = binned(0.015)
    position, height = true_peak(0.015)
    scatter = noise * np.sqrt(g) * CONTACT / r
    rng = np.random.default_rng(0)
    found = [
        first_peak(r, np.maximum(g + scatter * rng.standard_normal(len(r)), 0)) for _ in range(60)
    ]
    assert abs(np.mean([peak.height for peak in found]) / height - 1) < 0.01
    assert np.std([peak.height for peak in found]) < noise * height  # more than one bin counts
    assert np.mean([peak.position for peak in found]) == pytest.approx(position, abs=0.003)


class Counted:
    """As much of an RDF as a curve needs: counts in bins over a number of parts."""

    bin_centers, expected = binned(0.015)[0], 1.0

    def __init__(self, counts: np.ndarray, parts: int = 1) -> None:
        self.counts, self.parts = counts, parts

    @property
    def density(self) -> np.ndarray:
        return self.counts / self.parts / self.expected

    @classmethod
    def merged(cls, parts) -> "Counted":
        parts = list(parts)
        return cls(sum(part.counts for part in parts), sum(part.parts for part in parts))

    def without(self, part) -> "Counted":
        return type(self)(self.counts - part.counts, self.parts - part.parts)


@pytest.mark.parametrize("pairs", [20, 300])
def test_error_of_a_peak_is_its_scatter_over_runs(pairs):
    """Pairs drawn from a known g(r), in 100 parts; 60 runs tell the truth."""
    r, g = binned(0.015)
    Counted.expected = pairs * (r / CONTACT) ** 2
    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        counts = rng.poisson(Counted.expected * g, (100, len(r))).astype(float)
        found.append(Curve([Counted(row) for row in counts]).peak())
    position, height = true_peak(0.015)
    for name, true, bias in (("height", height, 0.01 * height), ("position", position, 0.003)):
        values = np.array([peak[name] for peak in found])
        errors = np.array([peak[f"{name}_se"] for peak in found])
        assert np.mean(values) == pytest.approx(true, abs=bias)
        assert 0.7 < np.median(errors) / values.std() < 1.6
    assert np.mean([peak["at_least"] == [] for peak in found]) > 0.8


def test_fit_of_a_parabola_over_bins_is_exact():
    r = (np.arange(40) + 0.5) * 0.01
    # mean of 3 - 50 (r - 0.2)^2 over a bin of width w: at its center, less 50 w^2 / 12
    g = 3 - 50 * (r - 0.2) ** 2 - 50 * 0.01**2 / 12
    peak = fit_peak(r, g, slice(14, 25))
    assert (peak.position, peak.height) == pytest.approx((0.2, 3.0), abs=1e-9)
    assert fit_peak(r, r, slice(14, 25)) is None  # no maximum within


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
