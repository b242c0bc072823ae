"""Distances between curves and standard errors, against closed forms and known processes."""

import numpy as np
import pytest
from scipy.signal import lfilter

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import (
    blocked_mean,
    blocked_slope,
    curve_error,
    error_words,
    jackknife,
    jackknife_error,
    leave_one_out,
    pseudo_values,
    standard_error,
)


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


# --- correlated series, against processes whose error is known ---


def autoregressive(memory: float, n: int, runs: int, seed: int = 0) -> np.ndarray:
    """Stationary x_t = memory x_(t-1) + noise, mean 0, shape (runs, n).

    A long start is thrown away.
    """
    noise = np.random.default_rng(seed).normal(size=(runs, n + 1000))
    return lfilter([1], [1, -memory], noise, axis=1)[:, 1000:]


def true_error(memory: float, n: int) -> float:
    """Of the mean: variance / n * (1 + 2 sum_k (1 - k / n) memory^k)."""
    k = np.arange(1, n)
    return np.sqrt((1 + 2 * np.sum((1 - k / n) * memory**k)) / (1 - memory**2) / n)


def statistical_inefficiency(series: np.ndarray) -> float:
    """1 + 2 sum of the autocorrelation to its first zero (Chodera 2007), as pymbar has it."""
    x = series - series.mean()
    g = 1.0
    for lag in range(1, len(x) - 1):
        c = (x[:-lag] @ x[lag:]) / (len(x) - lag) / x.var()
        if c <= 0 and lag > 3:
            break
        g += 2 * c * (1 - lag / len(x))
    return g


@pytest.mark.parametrize(("memory", "n"), [(0.0, 1000), (0.5, 1000), (0.8, 2000), (0.95, 8000)])
def test_error_bars_hold_the_truth_as_often_as_they_say(memory, n):
    runs = 500
    found = [blocked_mean(series) for series in autoregressive(memory, n, runs)]
    z = np.array([each.mean / each.error for each in found])
    # 68.3 % of a normal distribution; 500 runs scatter by 2 %, white noise gets 10 % too much error
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.07)
    assert np.mean(np.abs(z) < 2) > 0.91
    assert np.std(z) == pytest.approx(1, abs=0.13)
    errors = np.array([each.error for each in found])
    assert np.median(errors) == pytest.approx(true_error(memory, n), rel=0.12)
    # the error of the error is the scatter of the error
    assert np.std(errors) == pytest.approx(
        np.mean([each.error_of_error for each in found]), rel=0.35
    )
    assert np.mean([each.plateau for each in found]) > 0.98
    independent = n * (1 - memory) / (1 + memory)
    assert np.median([each.independent for each in found]) == pytest.approx(independent, rel=0.25)


def test_five_blocks_are_too_few_where_blocking_is_right():
    """A memory of 40 samples, 400 of them: five blocks of 80 leave a third of the error out."""
    memory, n = 0.975, 400
    series = autoregressive(memory, n, 300, seed=2)
    five = series.reshape(300, 5, -1).mean(axis=2).std(axis=1, ddof=1) / np.sqrt(5)
    assert np.sqrt(np.mean(five**2)) < 0.8 * true_error(memory, n)
    assert not any(blocked_mean(each).plateau for each in series)


@pytest.mark.parametrize(
    ("memory", "n"),
    [(0.0, 12), (0.5, 40), (0.9, 100), (0.98, 300), (0.995, 1000)],
)
def test_too_short_a_series_says_at_least(memory, n):
    found = [blocked_mean(series) for series in autoregressive(memory, n, 300, seed=3)]
    assert np.mean([each.plateau for each in found]) < 0.05
    true = true_error(memory, n)
    assert np.median([each.error for each in found]) < 1.15 * true
    assert np.mean([3 * each.error > true for each in found]) > 0.8
    assert all(each.safe_error == 3 * each.error for each in found if not each.plateau)
    first = next(each for each in found if not each.plateau)
    assert first.words(".1f") == f">= {first.error:.1f}"


def test_same_inefficiency_as_the_sum_over_the_autocorrelation():
    series = autoregressive(0.9, 40_000, 1, seed=4)[0]
    found = blocked_mean(series)
    assert len(series) / found.independent == pytest.approx(
        statistical_inefficiency(series), rel=0.15
    )
    assert len(series) / found.independent == pytest.approx(19, rel=0.2)  # 1.9 / 0.1


def test_a_slow_wave_under_fast_noise_is_found():
    """The slow part is a hundredth of the variance and most of the error."""
    n, share = 20_000, 0.1 * np.sqrt(1 - 0.99**2)
    series = autoregressive(0.0, n, 60, 5) + share * autoregressive(0.99, n, 60, 6)
    true = np.hypot(true_error(0.0, n), share * true_error(0.99, n))
    assert true > 1.7 * true_error(0.0, n)
    errors = [blocked_mean(each).error for each in series]
    assert np.median(errors) == pytest.approx(true, rel=0.12)


def test_curves_are_cut_alike_by_the_sum_over_their_bins():
    series = autoregressive(0.8, 2000, 12, seed=7).T  # 12 bins
    found = blocked_mean(series)
    assert found.error.shape == found.mean.shape == (12,)
    assert np.sqrt(np.mean(found.error**2)) == pytest.approx(true_error(0.8, 2000), rel=0.1)
    assert found.plateau
    # the sum over many bins shows what is still growing
    memories = np.where(np.arange(12) < 3, 0.99, 0.3)
    slow = np.stack(
        [
            autoregressive(memory, 400, 1, seed=k)[0] * np.sqrt(1 - memory**2)
            for k, memory in enumerate(memories)
        ],
        axis=1,
    )
    assert not blocked_mean(slow).plateau
    # a bin without data does not spoil the others
    spoilt = np.column_stack([series, np.full(2000, np.nan)])
    again = blocked_mean(spoilt)
    np.testing.assert_array_equal(again.error[:12], found.error)
    assert np.isnan(again.error[12])


def test_slope_of_noise_that_remembers():
    """Least squares alone would make the error four times too small."""
    times, runs = 0.5 * np.arange(3000), 300
    found = [blocked_slope(times, 2e-3 * times + x) for x in autoregressive(0.9, 3000, runs, 8)]
    z = np.array([(each.mean - 2e-3) / each.error for each in found])
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.07)
    assert np.std(z) == pytest.approx(1, abs=0.15)
    assert np.std([each.mean for each in found]) == pytest.approx(
        np.median([each.error for each in found]), rel=0.15
    )


def test_pseudo_values_of_white_noise_give_the_jackknife():
    samples = np.random.default_rng(9).normal(3, 1, (30, 4))

    def statistic(curve):
        return float(np.abs(curve - 2.5).mean())

    left_out = leave_one_out(samples, statistic)
    values = pseudo_values(statistic(samples.mean(axis=0)), left_out)
    assert values.std(ddof=1) / np.sqrt(30) == pytest.approx(jackknife(left_out))
    # blocks of one sample are among those that are tried
    assert blocked_mean(values).error >= jackknife(left_out) * (1 - 1e-9)


def test_constant_and_short_series():
    found = blocked_mean(np.full(100, 4.0))
    assert (found.mean, found.error, found.independent, found.plateau) == (4, 0, 100, True)
    assert not blocked_mean(np.full(5, 4.0)).plateau
    assert not blocked_mean(np.array([1.0, 2.0])).plateau
    assert not blocked_mean(np.array([np.nan] * 100)).plateau
    with pytest.raises(AnalysisError, match="at least two samples, got 1"):
        blocked_mean(np.ones(1))
    with pytest.raises(AnalysisError, match="at least three samples, got 2"):
        blocked_slope(np.arange(2), np.ones(2))


def test_lower_bounds_are_marked():
    assert error_words(0.0123, True) == "0.012"
    assert error_words(0.0123, False, ".3f") == ">= 0.012"
