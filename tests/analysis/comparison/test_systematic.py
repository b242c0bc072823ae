"""Structure errors without noise, on trajectories whose true curves are known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from openmm_cgkd.analysis.comparison.systematic import systematic_error
from openmm_cgkd.exceptions import AnalysisError

BINS, PARTS = 20, 100


def smooth(random, rows):
    """Normal numbers of variance 1, alike in neighboring bins."""
    kernel = np.exp(-0.5 * ((np.arange(BINS)[:, None] - np.arange(BINS)) / 2) ** 2)
    return random.standard_normal((rows, BINS)) @ (kernel / np.sqrt(np.sum(kernel**2, axis=0)))


def series(random, truth, noise, correlation=0.0, parts=PARTS):
    """Curves of successive parts: their noise may be correlated in time."""
    white = smooth(random, parts)
    rows = [white[0]]
    for row in white[1:]:
        rows.append(correlation * rows[-1] + np.sqrt(1 - correlation**2) * row)
    return truth + noise * np.array(rows)


def many(error, repeats, correlation=0.0, seed=1):
    """Estimates for a model with this error from `repeats` sets of trajectories."""
    random, truth = np.random.default_rng(seed), np.linspace(0, 2, BINS)
    found = []
    for _ in range(repeats):
        runs = [series(random, truth, noise, correlation) for noise in (0.3, 0.2)]
        model = series(random, truth + error, 0.15, correlation, 2 * PARTS)
        found.append(systematic_error(runs, model))
    return found


@pytest.mark.parametrize("size", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_estimate_has_the_true_mean_and_the_stated_error(size, correlation):
    error = size * np.sin(np.arange(BINS))
    found = many(error, 100, correlation)
    squares = np.array([each.square for each in found])
    stated = np.array([each.square_se for each in found])
    truth = np.mean(error**2)
    assert abs(squares.mean() - truth) < 4 * squares.std() / np.sqrt(len(found))
    # of few components the growth of four blocks over eight is noisy, too
    assert 0.9 < np.sqrt(np.mean(stated**2)) / squares.std() < (2.0 if correlation else 1.5)


def test_runs_of_four_memories():
    """Blocks show a third of the noise; the rest follows from how it grows with their length."""
    random, memory = np.random.default_rng(8), np.exp(-4 / PARTS)

    def run():
        white = np.sqrt(1 - memory**2) * random.standard_normal((PARTS, 200))
        white[0] /= np.sqrt(1 - memory**2)
        return lfilter([1], [1, -memory], white, axis=0)

    lag = np.abs(np.subtract.outer(np.arange(PARTS), np.arange(PARTS)))
    runs, model = [run(), run()], run()
    found = systematic_error(runs, model)
    assert found.perfect_rmse**2 == pytest.approx(1.5 * np.mean(memory**lag), rel=0.25)
    assert found.p > 0.05
    assert not found.converged


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_a_perfect_model_is_rarely_called_wrong(correlation):
    p = np.array([each.p for each in many(np.zeros(BINS), 150, correlation, seed=2)])
    for level in (0.05, 0.3, 0.7):
        assert np.mean(p < level) == pytest.approx(level, abs=4 * np.sqrt(level / len(p)))


def test_an_error_above_the_noise_is_found():
    found = many(np.full(BINS, 0.12), 100, seed=3)
    assert np.mean([each.significant for each in found]) > 0.95
    assert np.mean([each.rmse for each in found]) == pytest.approx(0.12, rel=0.03)
    assert np.mean([each.upper_limit > 0.12 for each in found]) > 0.88


def test_what_a_perfect_model_shows():
    """The plain difference is noise; it is what the estimate says it would be."""
    random, truth = np.random.default_rng(4), np.linspace(0, 2, BINS)
    plain, absolute, stated = [], [], []
    for _ in range(100):
        runs = [series(random, truth, 0.3) for _ in range(2)]
        model = series(random, truth, 0.3)
        difference = model.mean(axis=0) - np.mean(runs, axis=(0, 1))
        plain.append(np.mean(difference**2))
        absolute.append(np.mean(np.abs(difference)))
        found = systematic_error(runs, model)
        stated.append((found.perfect_rmse**2, found.perfect_mean_absolute))
    expected = 0.3**2 / PARTS * 1.5
    assert np.mean(plain) == pytest.approx(expected, rel=0.1)
    # of white noise the larger of several errors counts, which is 5 % too much
    assert np.mean(stated, axis=0)[0] == pytest.approx(expected, rel=0.15)
    assert np.mean(stated, axis=0)[1] == pytest.approx(np.mean(absolute), rel=0.08)


def test_slow_noise_that_no_block_shows():
    """A run-long shift of each run: only the difference of the runs tells of it."""
    random, found = np.random.default_rng(5), []
    for _ in range(100):
        shifts = 0.1 * smooth(random, 2)
        runs = [series(random, shift, 0.1) for shift in shifts]
        found.append(systematic_error(runs, series(random, np.zeros(BINS), 0.1)))
    squares = np.array([each.square for each in found])
    assert abs(squares.mean()) < 4 * squares.std() / np.sqrt(len(found))
    stated = np.sqrt(np.mean([each.square_se**2 for each in found]))
    assert 0.9 < stated / squares.std() < 1.5
    assert not any(each.converged for each in found if each.significant)


def test_three_runs_say_more_than_two():
    random, squares = np.random.default_rng(6), []
    for _ in range(60):
        runs = [series(random, np.zeros(BINS), 0.3) for _ in range(4)]
        model = series(random, np.zeros(BINS), 0.05)
        squares.append([systematic_error(runs[:count], model).square for count in (2, 4)])
    assert np.std(squares, axis=0)[1] < 0.7 * np.std(squares, axis=0)[0]


def test_weights_of_bins():
    """Bins without weight may hold anything; the weights are those of the mean."""
    random = np.random.default_rng(7)
    runs = [series(random, np.zeros(BINS), 1e-3) for _ in range(2)]
    model = series(random, np.arange(BINS), 1e-3)
    weights = np.zeros(BINS)
    weights[[3, 5]] = 0.25, 0.75
    assert systematic_error(runs, model, weights).square == pytest.approx(
        0.25 * 9 + 0.75 * 25, rel=1e-2
    )


def test_one_run_is_not_enough():
    with pytest.raises(AnalysisError, match="needs two independent all-atom runs, got 1"):
        systematic_error([np.zeros((4, 3))], np.zeros((4, 3)))
