"""Error and drift of a volume at constant pressure."""

import numpy as np
import pytest
from scipy.signal import lfilter

from openmm_cgkd.allatom.equilibration import Volume, used_volumes


def volumes(n: int, memory: float, spread: float, drift: float = 0.0, seed: int = 0) -> np.ndarray:
    """24 nm^3 with a relative standard deviation, correlated, and a relative change to the end."""
    noise = np.random.default_rng(seed).normal(size=n + 2000)
    series = lfilter([np.sqrt(1 - memory**2)], [1, -memory], noise)[2000:]
    return 24 * (1 + spread * series + drift * np.linspace(-0.5, 0.5, n))


def test_error_is_that_of_the_correlated_mean():
    found = [Volume.of(volumes(4000, 0.9, 0.01, seed=k)) for k in range(150)]
    scatter = np.std([each.mean for each in found]) / 24
    assert np.median([each.error for each in found]) == pytest.approx(scatter, rel=0.2)
    assert np.std([each.drift for each in found]) == pytest.approx(
        np.median([each.drift_error for each in found]), rel=0.2
    )
    assert sum(each.doubt is not None for each in found) <= 2


def test_long_memory_gives_a_lower_bound_and_a_doubt():
    """67 rows that remember 60: five blocks once gave such a density an error ten times too small.

    The scatter over runs is the truth.
    """
    runs = [volumes(67, np.exp(-1 / 60), 0.01, seed=k) for k in range(200)]
    scatter = np.std([run.mean() for run in runs]) / 24
    assert scatter > 0.006
    found = [Volume.of(run) for run in runs]
    assert not any(each.plateau for each in found)
    assert all(each.doubt is not None for each in found)
    assert "with a standard error of >= " in found[0].words


@pytest.mark.parametrize(
    ("drift", "words"), [(0.02, "the volume drifts by more than 0.3 %"), (0.0, "")]
)
def test_drift_is_told_from_noise(drift, words):
    found = Volume.of(volumes(2000, 0.5, 0.005, drift, seed=3))
    assert (found.doubt or "") == words
    assert found.drift == pytest.approx(drift, abs=4 * found.drift_error)


def test_density_as_attributes():
    found = Volume.of(volumes(4000, 0.9, 0.01))
    numbers = found.density(24.0)
    assert numbers["density_error"] == pytest.approx(found.error * 24 / found.mean)
    assert numbers["density_error_at_least"] is False
    # of a single row nothing is known
    single = Volume.of(np.array([24.0]))
    assert single.density(24.0) == {}
    assert "too short" in single.doubt


def test_last_two_thirds_of_the_table_count(tmp_path):
    path = tmp_path / "npt.csv"
    path.write_text("Box Volume (nm^3)\n" + "".join(f"{k}\n" for k in range(9)))
    np.testing.assert_array_equal(used_volumes(path), np.arange(3, 9))
