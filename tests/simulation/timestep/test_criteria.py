"""Which time steps pass, and settings with which nothing could fail."""

import dataclasses
import re

import numpy as np
import pytest

from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.simulation.timestep.criteria import (
    Measurement,
    TimestepSearch,
    judge,
    recommended,
)
from openmm_cgkd.simulation.timestep.integrate import Averages, forces_of
from openmm_cgkd.simulation.timestep.same_structure import SameSampling

TEMPERATURE = 200.0
SAME, OTHER = SameSampling(0.5, 0.01, 0.01, 0.015), SameSampling(0.001, 0.03, 0.01, 0.015)
BLURRED = SameSampling(0.5, 0.03, 0.03, 0.05)


def measured(errors, structures=None, steps=None, error=0.2, **changes):
    """Measurements of 10, 20 ... fs with errors of the temperature in percent."""
    steps = steps or [0.01 * (k + 1) for k in range(len(errors))]
    structures = structures or [None] + [SAME] * (len(errors) - 1)
    found = []
    for step, hot, structure in zip(steps, errors, structures, strict=True):
        value = TEMPERATURE * (1 + hot / 100)
        averages = Averages(value, TEMPERATURE * error / 100, 201.0, 0.5, 1 + hot / 50, 0.005)
        found.append(Measurement(step, dataclasses.replace(averages, **changes), structure))
    return found


def best(measurements, **settings):
    search = TimestepSearch(**settings)
    return recommended(measurements, judge(measurements, TEMPERATURE, search), search)


def test_the_error_is_that_of_the_law_over_all_steps():
    """0.06 % x (h / 10 fs)^2: 0.54 % at 30 fs, 0.96 % at 40 fs, which two errors lift above 1 %."""
    found = best(measured([0.06, 0.24, 0.54, 0.96]))
    assert found.timestep == 0.03
    assert found.fitted
    assert found.temperature_error == pytest.approx(0.0054)
    weights = np.sum((np.arange(1, 5) ** 2) ** 2)
    assert found.temperature_error_se == pytest.approx(0.002 * 9 / np.sqrt(weights))
    assert found.words == "+0.54 +- 0.10 %"
    # by itself no step but the smallest would pass: 0.24 + 2 x 0.2 is too little, 0.54 + 0.8 not
    assert best(measured([0.06, 0.24, 0.54, 0.96]), max_temperature_error=0.02).timestep == 0.04


def test_a_step_beyond_the_law_is_judged_by_itself():
    found = judge(measured([0.05, 0.2, 0.45, 8.0]), TEMPERATURE, TimestepSearch())
    assert [each.fitted for each in found] == [True, True, True, False]
    assert found[-1].temperature_error == pytest.approx(0.08)
    assert re.search(
        r"configurational temperature off by 8 \+- 0\.2 %, allowed 1", found[-1].objections[0]
    )


def test_errors_that_are_lower_bounds_count_threefold():
    short = measured([0.05, 0.2], at_least=("configurational",))  # two steps follow no law
    first, second = judge(short, TEMPERATURE, TimestepSearch())
    assert first.temperature_error_se == pytest.approx(0.006)
    assert second.objections == ("configurational temperature off by 0.2 +- 0.6 %, allowed 1",)


@pytest.mark.parametrize("value", [1.2, 0.8, np.nan])
def test_the_energy_has_a_bound(value):
    measurements = measured([0.0, 0.0])
    off = dataclasses.replace(measurements[1].averages, energy=value)
    measurements[1] = dataclasses.replace(measurements[1], averages=off)
    objections = judge(measurements, TEMPERATURE, TimestepSearch())[1].objections
    assert "potential energy off by" in objections[-1]
    assert "allowed 0.05" in objections[-1]


def test_what_passes_is_below_the_first_objection():
    assert best(measured([0.0, 0.1, 9.0, 0.1])).timestep == 0.02
    with pytest.raises(
        SimulationError, match=r"already 10 fs does not \(configurational temperature off by 9"
    ):
        best(measured([9.0, 9.0, 9.0, 9.0]))
    exploded = [Measurement(0.01, None, failure="temperature 9000 K")]
    with pytest.raises(SimulationError, match=r"already 10 fs does not \(explodes \(temperature"):
        best(exploded)


def test_structure_goes_from_the_largest_step_downwards():
    flat = [0.0, 0.0, 0.0, 0.0]
    assert best(measured(flat, [None, SAME, SAME, SAME])).timestep == 0.04
    assert best(measured(flat, [None, SAME, SAME, OTHER])).timestep == 0.03
    # one difference among smaller steps is one of many tests
    assert best(measured(flat, [None, OTHER, SAME, OTHER])).timestep == 0.03
    # noise that hides any difference does not pass
    assert best(measured(flat, [None, SAME, BLURRED, BLURRED])).timestep == 0.02
    with pytest.raises(SimulationError, match=r"20 fs RDFs differ .*0\.03 \(p = 0\.001\); try"):
        best(measured(flat, [None, OTHER, OTHER, OTHER]))
    with pytest.raises(SimulationError, match=r"20 fs the run is too short to compare"):
        best(measured(flat, [None, BLURRED, OTHER, OTHER]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 4}, r"blocks: got 4, of which p .* never below 0\.029.*could not fail"),
        ({"blocks": 2, "min_p_value": 0.3}, r"never below 0\.33"),
        ({"blocks": 10, "min_p_value": 1e-5}, r"never below 0\.0001"),
        ({"timesteps": ["2 fs"]}, r"timesteps.*at least 2"),
        ({"duration": "4"}, "without a unit"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TimestepSearch.of(**settings)


def test_durations_and_costs():
    search = TimestepSearch()
    assert search.long_enough(240) == pytest.approx(search.long_enough(120) / 2, rel=0.01)
    assert search.long_enough(10**6) == 20
    assert TimestepSearch(duration="3 ps").long_enough(1) == 3
    few = TimestepSearch(timesteps=["10 fs", "50 fs"], duration="10 ps", equilibration="1 ps")
    # every 0.1 ps a sample with two forces
    assert forces_of(0.01, 10.0) == 100 * (10 + 2)
    assert few.forces(240) == 100 + 1200 + 100 * (2 + 2)
