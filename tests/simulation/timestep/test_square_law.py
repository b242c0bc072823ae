"""The fit of an error that grows as the square of the time step."""

import numpy as np
import pytest

from openmm_cgkd.simulation.timestep.square_law import fit_square_law

STEPS = [0.005, 0.01, 0.02, 0.03, 0.04]


@pytest.mark.parametrize("origin", [0.0, None])
def test_coefficient_and_error_are_right(origin):
    """Of many noisy series: mean, scatter and p-values."""
    rng, sigma = np.random.default_rng(0), np.array([1, 2, 1, 1, 3]) * 1e-3
    laws = []
    for _ in range(400):
        values = 8.0 * np.array(STEPS) ** 2 + (0 if origin == 0 else 0.4) + rng.normal(0, sigma)
        laws.append(fit_square_law(STEPS, values, sigma, origin))
    whole = [law for law in laws if law and law.largest == STEPS[-1]]
    assert len(whole) > 380
    found = np.array([law.coefficient for law in whole])
    error = whole[0].coefficient_se
    assert found.mean() == pytest.approx(8.0, abs=4 * error / 20)
    assert error == pytest.approx(found.std(), rel=0.15)
    assert np.mean([law.p_value < 0.5 for law in whole]) == pytest.approx(0.5, abs=0.1)
    shift, shift_se = whole[0].shift(0.03, 0.01)
    assert shift == pytest.approx(whole[0].coefficient * 8e-4)
    assert shift_se == pytest.approx(error * 8e-4)


def test_steps_beyond_the_law_are_left_out():
    sigma = np.full(5, 1e-4)
    values = 8.0 * np.array(STEPS) ** 2
    values[-1] += 0.005  # h^4
    law = fit_square_law(STEPS, values, sigma, 0.0)
    assert law.largest == 0.03
    assert law.coefficient == pytest.approx(8.0)
    # what is not right at no step at all follows no law
    assert fit_square_law(STEPS, values + 0.01, sigma, 0.0) is None
    assert fit_square_law(STEPS[:2], values[:2], sigma[:2], 0.0) is None
    assert fit_square_law(STEPS, values * np.nan, sigma, 0.0) is None
