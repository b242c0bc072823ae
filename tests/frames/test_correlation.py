"""Force autocorrelation: against a process whose correlation is known, and against a direct sum."""

import numpy as np
import pytest

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.correlation import ForceAutocorrelation
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.beads import BeadTopology

INTERVAL = 0.05  # ps


def frames_of(forces: np.ndarray, time: np.ndarray | None = None) -> Frames:
    """Frames with these forces, shape (n_frames, n_beads, 3)."""
    n, n_beads = forces.shape[:2]
    beads = BeadTopology(("A",), np.zeros(n_beads, dtype=int), np.ones(n_beads), np.arange(n_beads))
    time = INTERVAL * np.arange(n) if time is None else time
    return Frames(
        np.zeros_like(forces),
        forces.astype("f4"),
        np.tile(3 * np.eye(3), (n, 1, 1)),
        time,
        np.arange(n),
        beads,
        {},
    )


def autoregressive(n: int, n_beads: int, phi: float) -> np.ndarray:
    """x(k) = phi x(k-1) + noise, whose autocorrelation is phi^k."""
    rng = np.random.default_rng(1)
    x = np.empty((n, n_beads, 3))
    x[0] = rng.normal(size=(n_beads, 3))
    for k in range(1, n):
        x[k] = phi * x[k - 1] + np.sqrt(1 - phi**2) * rng.normal(size=(n_beads, 3))
    return 300 * x


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_autoregressive_process(phi):
    result = ForceAutocorrelation().compute(frames_of(autoregressive(4000, 40, phi)))
    lags = np.arange(20)
    assert result.values[:20] == pytest.approx(phi**lags, abs=0.02)
    assert result.is_complete
    # the exact sum of phi^k: tau = interval (1 + phi) / (1 - phi) / 2
    exact = INTERVAL * (1 + phi) / (1 - phi) / 2
    assert result.integrated_time == pytest.approx(exact, rel=0.04)
    assert result.interval == pytest.approx(INTERVAL)
    assert result.independent_stride == round((1 + phi) / (1 - phi))


def test_independent_forces():
    result = ForceAutocorrelation().compute(
        frames_of(np.random.default_rng(2).normal(size=(2000, 50, 3)))
    )
    assert result.values[1:10] == pytest.approx(np.zeros(9), abs=0.01)
    assert result.integrated_time == pytest.approx(INTERVAL / 2, rel=0.02)
    assert result.independent_stride == 1


def test_bounded_momentum():
    """A force that swings back, as every force on a bead does, still has a correlation time."""
    omega, k = 2 * np.pi / 40, np.arange(2000)
    phases = np.random.default_rng(3).uniform(0, 2 * np.pi, size=(200, 3))
    result = ForceAutocorrelation(max_lag=100).compute(
        frames_of(np.cos(omega * k[:, None, None] + phases))
    )
    assert result.values[:100] == pytest.approx(np.cos(omega * np.arange(100)), abs=0.02)
    # the integral of the cosine over its first quarter; over whole periods it would be zero
    assert result.integrated_time == pytest.approx(INTERVAL / omega, rel=0.02)


def test_pieces_give_the_same_as_the_whole():
    frames = frames_of(autoregressive(700, 5, 0.8))
    whole, pieces = (
        ForceAutocorrelation(max_lag=60).compute(frames),
        ForceAutocorrelation(max_lag=60),
    )
    for first, last in ((0, 1), (1, 30), (30, 250), (250, 700)):
        pieces.compute(frames[first:last])
    assert pieces.values == pytest.approx(whole.values, abs=1e-5)
    x = frames.forces.reshape(700, -1).astype(float)
    direct = [np.mean([x[s] @ x[s + lag] for s in range(700 - lag)]) for lag in range(61)]
    assert whole.values == pytest.approx(np.array(direct) / direct[0], abs=1e-5)


@pytest.mark.parametrize("pieces", [[300], [150, 300], [151, 300], [1, 2, 120, 150, 260, 300]])
def test_gaps(pieces):
    """Where frames were lost, pairs across the gap are left out."""
    stretches = [(0, 150), (150, 153), (153, 300)]
    forces, time = autoregressive(300, 5, 0.8), INTERVAL * np.arange(300)
    for first, _ in stretches[1:]:
        time[first:] += 3 * INTERVAL
    frames, result = frames_of(forces, time), ForceAutocorrelation(max_lag=60)
    for first, last in zip([0, *pieces], pieces, strict=False):
        result.compute(frames[first:last])
    x = frames.forces.reshape(300, -1).astype(float)
    pairs = [[(s, s + lag) for a, b in stretches for s in range(a, b - lag)] for lag in range(61)]
    direct = np.array([np.mean([x[s] @ x[t] for s, t in each]) for each in pairs])
    assert result.values == pytest.approx(direct / direct[0], abs=1e-5)
    assert result.interval == pytest.approx(INTERVAL)


def test_longer_than_the_lags():
    result = ForceAutocorrelation(max_lag=20).compute(frames_of(autoregressive(4000, 20, 0.99)))
    assert not result.is_complete
    assert len(result.values) == 21
    assert result.integrated_time < INTERVAL * 25


def test_what_has_no_autocorrelation():
    forces = autoregressive(100, 5, 0.5)
    for n in (0, 3):
        with pytest.raises(AnalysisError, match=f"{n} frames"):
            _ = ForceAutocorrelation().compute(frames_of(forces[:n])).integrated_time
    with pytest.raises(AnalysisError, match="forces of zero"):
        _ = ForceAutocorrelation().compute(frames_of(np.zeros((10, 5, 3)))).values
    uneven = INTERVAL * np.arange(100)
    uneven[50:] += INTERVAL / 4
    with pytest.raises(
        AnalysisError,
        match=r"Frames are 0\.05 to 0\.0625 ps apart, with 0 longer gaps; .* even spacing",
    ):
        _ = ForceAutocorrelation().compute(frames_of(forces, uneven)).integrated_time
    mostly_gaps = np.cumsum(INTERVAL * np.array([10, 1, 10] * 33 + [1]))
    with pytest.raises(
        AnalysisError, match=r"Frames are 0\.05 to 0\.05 ps apart, with 65 longer gaps"
    ):
        _ = ForceAutocorrelation().compute(frames_of(forces, mostly_gaps)).integrated_time
    with pytest.raises(AnalysisError, match="Frames are 0 to 0 ps apart"):
        _ = ForceAutocorrelation().compute(frames_of(forces, np.zeros(100))).integrated_time
