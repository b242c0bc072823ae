"""Settings of the search for the time step, and which time steps pass.

A time step passes when the configurational temperature and the mean potential energy are off by no
more than their bounds, each with two standard errors added. These errors grow as the square of the
time step, and are taken from the law fitted over all steps, see `fit_square_law`; steps beyond that
law are judged by what was measured there, with an error three times as large where the run is so
short that it is a lower bound.
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

from openmm_cgkd.config.section import describe_mistake
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.utils.statistics import safe_error
from openmm_cgkd.utils.units import Duration, Rate, Time

from .integrate import Averages, forces_of
from .same_structure import SameSampling, lowest_p_value
from .square_law import SquareLaw, fit_square_law

_SHORTEST = 20  # ps, for the potential energy, whatever the number of beads
# ps: squared relative error of the configurational temperature times duration and number of beads,
# of liquid ethaline
_NOISE = 1.2
_PRECISION = 0.3  # error of one run, as a share of its bound; that of the law over all is smaller
CAREFUL = 0.002  # ps, a time step short enough for every fluid


class TimestepSearch(BaseModel):
    """Settings of the search; quantities carry a unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    timesteps: list[Time] = Field(
        [f"{k} femtosecond" for k in range(5, 45, 5)], min_length=2, description="time steps to try"
    )
    friction: Rate = "1 / picosecond"
    equilibration: Duration = "5 picosecond"
    duration: Time | None = Field(
        None,
        description=(
            "Langevin dynamics with each time step; absent: long enough for the temperature"
        ),
    )
    blocks: int = Field(
        6, ge=2, le=1000, description="time blocks of each run for the test of the structure"
    )
    max_temperature_error: float = Field(
        0.01, gt=0, description="of the configurational temperature, relative"
    )
    max_energy_error: float = Field(
        0.05,
        gt=0,
        description="of the mean potential energy per bead, kT, against the smallest time step",
    )
    max_structure_error: float = Field(
        0.02,
        gt=0,
        description="mean difference of RDFs that the test of the structure must be able to see",
    )
    min_p_value: float = Field(
        0.01, gt=0, lt=1, description="of the test that the structure is unchanged"
    )
    seed: int = Field(1, ge=1, lt=2**31)
    platform: str | None = Field(None, description="OpenMM platform; the fastest one if absent")
    run_script: bool = Field(
        False, description="run the script of a potential whose network is its maker's own"
    )
    other_temperature: bool = Field(
        False, description="search although the potential was made at another temperature"
    )

    @field_validator("timesteps")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        return sorted(set(values))

    @model_validator(mode="after")
    def _test_can_fail(self) -> Self:
        """Few blocks have so few orders that no difference is improbable, however large."""
        lowest = lowest_p_value(self.blocks)
        if lowest >= self.min_p_value:
            raise ValueError(
                f"blocks: got {self.blocks}, of which p of the test of the structure is never below"
                f" {lowest:.2g}, so with a min_p_value of {self.min_p_value:g} it could not fail;"
                " use more blocks or a larger min_p_value"
            )
        return self

    def long_enough(self, n_beads: int) -> float:
        """Duration of every run, ps: `duration`, or long enough.

        The standard error of the configurational temperature is to be three tenths of its bound.
        Its square falls as one over duration and number of beads.
        """
        if self.duration is not None:
            return self.duration
        wanted = _NOISE / (n_beads * (_PRECISION * self.max_temperature_error) ** 2)
        return math.ceil(max(wanted, _SHORTEST))

    def forces(self, n_beads: int) -> int:
        """Number of forces that the whole search evaluates."""
        duration = self.long_enough(n_beads)
        equilibration = round(self.equilibration / self.timesteps[0])
        return equilibration + sum(forces_of(step, duration) for step in self.timesteps)

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
    """What was measured with one time step.

    Attributes
    ----------
    timestep : float, ps
    averages : Averages or None
    structure : SameSampling or None
        Against the smallest time step; None for that one itself.
    failure : str or None
        Why there are no numbers.
    """

    timestep: float
    averages: Averages | None
    structure: SameSampling | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Judgment:
    """What is thought of one time step.

    Attributes
    ----------
    timestep : float, ps
    temperature_error, temperature_error_se : float or None
        Of the configurational temperature, relative; the standard error is three times as large
        where it is a lower bound.
    energy_shift, energy_shift_se : float or None
        Of the mean potential energy per bead against the smallest time step, kT.
    fitted : bool
        Whether the temperature is that of the law over all time steps, not of this one alone.
    objections : tuple of str
        Which bounds are broken.
    """

    timestep: float
    temperature_error: float | None
    temperature_error_se: float | None
    energy_shift: float | None
    energy_shift_se: float | None
    fitted: bool
    objections: tuple[str, ...]

    @property
    def words(self) -> str:
        """The error of the temperature as it is printed."""
        if self.temperature_error is None or self.temperature_error_se is None:
            return "not known"
        return f"{100 * self.temperature_error:+.2f} +- {100 * self.temperature_error_se:.2f} %"


def fit_laws(
    measurements: list[Measurement], temperature: float
) -> tuple[SquareLaw | None, SquareLaw | None]:
    """How the relative error of the temperature and the energy grow with the time step.

    Parameters
    ----------
    measurements : list of Measurement
        Of ascending time steps.
    temperature : float, kelvin
        Of the thermostat, which the configurational temperature has without a time step.
    """
    whole = [(m.timestep, m.averages) for m in measurements if m.averages]
    steps = [timestep for timestep, _ in whole]
    hot = [each.configurational / temperature - 1 for _, each in whole]
    hot_se = [_error(each, "configurational") / temperature for _, each in whole]
    energy = [each.energy for _, each in whole]
    energy_se = [_error(each, "energy") for _, each in whole]
    return (
        fit_square_law(steps, hot, hot_se, origin=0.0),
        fit_square_law(steps, energy, energy_se),
    )


def judge(
    measurements: list[Measurement], temperature: float, search: TimestepSearch
) -> list[Judgment]:
    """Compare every time step with the bounds on temperature and energy.

    Parameters
    ----------
    measurements : list of Measurement
        Of ascending time steps.
    temperature : float, kelvin
        Of the thermostat.
    search : TimestepSearch
    """
    of_temperature, of_energy = fit_laws(measurements, temperature)
    smallest, reference = measurements[0].timestep, measurements[0].averages
    found = []
    for measurement in measurements:
        step, averages = measurement.timestep, measurement.averages
        if averages is None or reference is None:
            objection = f"explodes ({measurement.failure})"
            found.append(Judgment(step, None, None, None, None, False, (objection,)))
            continue
        fitted = of_temperature is not None and step <= of_temperature.largest
        if of_temperature and fitted:
            hot, hot_se = of_temperature.shift(step)
        else:
            hot = averages.configurational / temperature - 1
            hot_se = _error(averages, "configurational") / temperature
        if of_energy and step <= of_energy.largest:
            shift, shift_se = of_energy.shift(step, smallest)
        else:
            shift = averages.energy - reference.energy
            shift_se = math.hypot(_error(averages, "energy"), _error(reference, "energy"))
        objections = [
            f"{name} {value * factor:.2g} +- {error * factor:.2g}{unit}, allowed {bound * factor:g}"
            for name, value, error, bound, unit, factor in (
                (
                    "configurational temperature off by",
                    hot,
                    hot_se,
                    search.max_temperature_error,
                    " %",
                    100,
                ),
                (
                    "potential energy off by",
                    shift,
                    shift_se,
                    search.max_energy_error,
                    " kT per bead",
                    1,
                ),
            )
            if not abs(value) + 2 * error <= bound
        ]
        found.append(Judgment(step, hot, hot_se, shift, shift_se, fitted, tuple(objections)))
    return found


def structure_objection(found: SameSampling, search: TimestepSearch) -> str | None:
    """Why the structure at a time step does not pass, if so."""
    if found.p_value < search.min_p_value:
        return (
            f"RDFs differ from those of the smallest time step by {found.difference:.2g}"
            f" (p = {found.p_value:.2g})"
        )
    if found.detectable > search.max_structure_error:
        return (
            "the run is too short to compare the structure: differences of RDFs are seen from"
            f" {found.detectable:.2g} on, not from {search.max_structure_error:g}"
        )
    return None


def recommended(
    measurements: list[Measurement], judgments: list[Judgment], search: TimestepSearch
) -> Judgment:
    """The largest time step that passes.

    Temperature and energy must pass with all smaller steps, too. The structure is tested from the
    largest of these downwards, because many tests at once would find differences by chance.

    Raises
    ------
    SimulationError
        If there is none.
    """
    good = []
    for measurement, judgment in zip(measurements, judgments, strict=True):
        if judgment.objections:
            break
        good.append((measurement, judgment))
    if not good:
        first = judgments[0]
        raise SimulationError(
            f"No time step passes, already {first.timestep * 1e3:g} fs does not"
            f" ({'; '.join(first.objections)}); try smaller ones (--timestep), longer runs"
            " (--duration) if the errors are large, or a better trained potential."
        )
    if len(good) == 1:
        return good[0][1]
    objection = None
    for measurement, judgment in reversed(good[1:]):
        assert measurement.structure is not None  # all but the smallest step have one
        objection = structure_objection(measurement.structure, search)
        if objection is None:
            return judgment
    raise SimulationError(
        f"Only the smallest time step would be left, because at {judgment.timestep * 1e3:g} fs"
        f" {objection}; try smaller ones (--timestep) or longer runs (--duration)."
    )


def _error(averages: Averages, name: str) -> float:
    return float(safe_error(getattr(averages, f"{name}_se"), name not in averages.at_least))
