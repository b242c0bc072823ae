"""The error of the slope between two estimates, against its scatter."""

import numpy as np
import pytest

from openmm_cgkd.mean_forces.file import Estimates


def slopes(frames: int, beads: int, together: int, repeats: int = 400) -> tuple[float, float]:
    """Scatter of the slope over repeats, and the root mean square of its stated error.

    Forces of 30, errors of 30 and 20 kJ/mol/nm; so many beads in a row err alike.
    """
    random = np.random.default_rng(8)
    shape = (frames, beads, 3)
    found = []
    for _ in range(repeats):
        truth = random.normal(0, 30, shape)
        errors = [
            np.repeat(random.normal(0, width, (frames, beads // together, 3)), together, axis=1)
            for width in (30, 20)
        ]
        if together > 1:
            truth = np.repeat(truth[:, ::together], together, axis=1)
        given = (truth + errors[0], truth + errors[1], np.full(shape, 30.0), np.full(shape, 20.0))
        found.append(Estimates(*given).agreement())
    scatter = np.std([each["slope"] for each in found])
    return scatter, np.sqrt(np.mean([each["slope_error"] ** 2 for each in found]))


@pytest.mark.parametrize("frames", [2, 40])
def test_error_of_independent_components(frames):
    scatter, error = slopes(frames, 120, 1)
    assert error == pytest.approx(scatter, rel=0.15)


def test_beads_that_err_together():
    """Independent components would make the error smaller by the root of six."""
    scatter, error = slopes(40, 120, 6)
    assert error == pytest.approx(scatter, rel=0.15)


def test_slope_is_one_on_average():
    random = np.random.default_rng(9)
    truth = random.normal(0, 30, (40, 200, 3))
    shape = truth.shape
    given = (truth + random.normal(0, 30, shape), truth + random.normal(0, 20, shape))
    found = Estimates(*given, np.full(shape, 30.0), np.full(shape, 20.0)).agreement()
    assert abs(found["slope"] - 1) < 4 * found["slope_error"] < 0.1
    assert found["difference"] == pytest.approx(found["expected"], rel=0.05)
