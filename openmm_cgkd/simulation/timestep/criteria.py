"""Settings of the search for the time step, and when a time step passes.

A time step passes when energy at constant energy drifts no faster than `max_drift`, and the kinetic
temperature (half-step, see `integrate`) and the mean potential energy under Langevin dynamics are
off by no more than their bounds, each with two standard errors added: as many as leave out a
twentieth of cases where the error comes from few starts, and three times as much where the run is
so short that the error is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from scipy.stats import norm, t

from openmm_cgkd.config.section import describe_mistake
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.utils.statistics import error_words, safe_error
from openmm_cgkd.utils.units import Duration, Rate, Time

from .integrate import Averages, Conservation
from .same_structure import lowest_p_value

_SHORTEST = 20  # ps of Langevin dynamics, for the potential energy, whatever the number of beads


class TimestepSearch(BaseModel):
    """Settings of the search; quantities carry a unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    timesteps: list[Time] = Field(
        [f"{k} femtosecond" for k in range(2, 16, 2)], min_length=2, description="time steps to try"
    )
    friction: Rate = "1 / picosecond"
    equilibration: Duration = "5 picosecond"
    states: int = Field(4, ge=2, description="starts for energy conservation, 1 ps apart")
    nve: Time = Field("4 picosecond", description="at constant energy, from each start")
    nvt: Time | None = Field(
        None,
        description=(
            "Langevin dynamics with each time step; absent: long enough for the temperature"
        ),
    )
    blocks: int = Field(
        10, ge=2, le=1000, description="time blocks of each run for the test of the structure"
    )
    max_drift: float = Field(1.0, gt=0, description="of the total energy per bead, kT/ns")
    max_temperature_error: float = Field(
        0.02, gt=0, description="of the kinetic temperature, relative"
    )
    max_energy_error: float = Field(
        0.1,
        gt=0,
        description="of the mean potential energy per bead, kT, against the smallest time step",
    )
    validate_structure: bool = Field(
        False, description="compare the structure with that at half the time step"
    )
    validation: Time = Field(
        "100 picosecond", description="Langevin dynamics with the time step, and with half of it"
    )
    min_p_value: float = Field(
        0.01, gt=0, lt=1, description="of the test that the structure is unchanged"
    )
    seed: int = Field(1, ge=1, lt=2**31)
    platform: str | None = Field(None, description="OpenMM platform; the fastest one if absent")
    run_script: bool = Field(
        False, description="run the script of a potential whose network is its maker's own"
    )

    @field_validator("timesteps")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        return sorted(set(values))

    @model_validator(mode="after")
    def _test_can_fail(self) -> Self:
        """Few blocks have so few orders that no difference is improbable, however large."""
        lowest = lowest_p_value(self.blocks)
        if self.validate_structure and lowest >= self.min_p_value:
            raise ValueError(
                f"blocks: got {self.blocks}, of which p of the test of the structure is never below"
                f" {lowest:.2g}, so with a min_p_value of {self.min_p_value:g} it could not fail;"
                " use more blocks or a larger min_p_value"
            )
        return self

    def long_enough(self, n_beads: int) -> Self:
        """These settings with a duration `nvt`, chosen if there is none.

        The standard error of the temperature is to be a fifth of its bound.

        The variance of the temperature of N beads is 2/(3N) T^2 and the thermostat alone lets it
        decay as exp(-2 friction t), so the variance of its mean over a time t is 2/(3N friction t)
        T^2; collisions only make it smaller.
        """
        if self.nvt is not None:
            return self
        duration = 2 / (3 * n_beads * self.friction * (self.max_temperature_error / 5) ** 2)
        return self.model_copy(update={"nvt": math.ceil(max(duration, _SHORTEST))})

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from values that may be absent (None).

        Raises
        ------
        ConfigError
            Naming the field, the value and the cure.
        """
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(describe_mistake("time step search", error)) from error


@dataclass(frozen=True)
class Measurement:
    """Measurements with one time step.

    Attributes
    ----------
    timestep : float, ps
    conservation : Conservation or None
    averages : Averages or None
    failure : str or None
        Why there are no numbers.
    objections : tuple of str
        Which bounds are broken.
    """

    timestep: float
    conservation: Conservation | None
    averages: Averages | None
    failure: str | None
    objections: tuple[str, ...] = ()


def objections(
    conservation: Conservation,
    averages: Averages,
    reference: Averages,
    temperature: float,
    search: TimestepSearch,
) -> list[str]:
    """Sentences on the bounds of `search` that a time step breaks; empty if it passes.

    Parameters
    ----------
    conservation : Conservation
    averages, reference : Averages
        Of this time step, and of the smallest one.
    temperature : float, kelvin
        Of the thermostat.
    search : TimestepSearch
    """
    shift = averages.energy - reference.energy
    shift_se = (
        math.hypot(averages.energy_se, reference.energy_se) if reference is not averages else 0.0
    )
    short = averages.at_least + reference.at_least
    hot, hot_se = averages.temperature / temperature - 1, averages.temperature_se / temperature
    # two standard errors of a normal distribution, as many of Student's if they come from few
    of_starts = float(t.ppf(norm.cdf(2), search.states - 1))
    checks = [
        (
            "energy drift",
            conservation.drift,
            conservation.drift_se,
            of_starts,
            True,
            search.max_drift,
            " kT/ns per bead",
            1,
        ),
        (
            "kinetic temperature off by",
            hot,
            hot_se,
            2.0,
            "temperature" not in averages.at_least,
            search.max_temperature_error,
            " %",
            100,
        ),
        (
            "potential energy off by",
            shift,
            shift_se,
            2.0,
            "energy" not in short,
            search.max_energy_error,
            " kT per bead",
            1,
        ),
    ]
    return [
        f"{name} {value * factor:.2g} +- {error_words(error * factor, plateau)}{unit}, allowed"
        f" {bound * factor:g}" + ("" if plateau else " (the run is too short to know its error)")
        for name, value, error, margin, plateau, bound, unit, factor in checks
        if not abs(value) + margin * safe_error(error, plateau) <= bound
    ]


def passing(measurements: list[Measurement]) -> list[float]:
    """Time steps that pass together with all smaller ones, ascending.

    Raises
    ------
    SimulationError
        If there are none.
    """
    good = []
    for measurement in measurements:
        if measurement.objections:
            break
        good.append(measurement.timestep)
    if not good:
        first = measurements[0]
        raise SimulationError(
            f"No time step passes, already {first.timestep * 1e3:g} fs does not"
            f" ({'; '.join(first.objections)}); try smaller ones, longer runs if the errors are"
            " large, or a better trained potential."
        )
    return good
