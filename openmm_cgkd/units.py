"""Quantities with units in configuration files and signatures.

Inside the package every number is in OpenMM's unit system: nm, ps, kJ/mol, dalton, kelvin, elementary charge
(pressure in bar and density in g/cm^3, which that system lacks). Configuration files write ``298.15 kelvin``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import pint
from openmm import unit as omm_unit
from pydantic import BeforeValidator, Field, PlainSerializer


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


# unit name -> the same unit for openmm.unit.Quantity arguments
_OPENMM_UNITS = {
    "kelvin": omm_unit.kelvin,
    "picosecond": omm_unit.picosecond,
    "nanometer": omm_unit.nanometer,
    "dalton": omm_unit.dalton,
    "bar": omm_unit.bar,
    "1/picosecond": omm_unit.picosecond**-1,
    "gram/centimeter**3": omm_unit.gram / omm_unit.centimeter**3,
    "kilojoule/mole": omm_unit.kilojoule_per_mole,
}


def to_float(value: Any, unit: str) -> float:
    """Convert a quantity to a float in `unit`.

    Parameters
    ----------
    value : str or openmm.unit.Quantity
        For example ``"298.15 kelvin"``. A bare number is refused unless it is zero.
    unit : str
        Name of the target unit, one of the package's internal units.

    Raises
    ------
    ValueError
        If the unit is missing, unknown, or of another dimension.
    """
    if omm_unit.is_quantity(value):
        try:
            return float(value.value_in_unit(_OPENMM_UNITS[unit]))
        except TypeError as error:
            raise ValueError(f"got {value}, expected a quantity that converts to {unit}") from error
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"got {value} without a unit; write for example '{value} {unit}'")
    if not isinstance(value, str):
        raise ValueError(f"got {value!r}; write a number and a unit, for example '1 {unit}'")
    try:
        quantity = _registry().Quantity(value)
        if quantity.dimensionless:
            raise ValueError(f"got '{value}' without a unit; write for example '{value} {unit}'")
        return float(quantity.to(unit).magnitude)
    except pint.UndefinedUnitError as error:
        raise ValueError(f"got '{value}', whose unit is unknown; write for example '1 {unit}'") from error
    except pint.DimensionalityError as error:
        raise ValueError(f"got '{value}', which does not convert to {unit}") from error
    except (TypeError, AttributeError, AssertionError, pint.errors.PintError) as error:
        raise ValueError(f"got '{value}', which is not a number with a unit; write for example '1 {unit}'") from error


def _dimension(unit: str, **bounds: float) -> Any:
    """Return an annotated float type whose input needs a unit and whose output carries one."""

    def parse(value: Any) -> float:
        return to_float(value, unit)

    def write(value: float) -> str:
        return f"{value:.10g} {unit}"

    return Annotated[float, BeforeValidator(parse), Field(**bounds, description=unit), PlainSerializer(write)]


Temperature = _dimension("kelvin", gt=0)
Time = _dimension("picosecond", gt=0)
Duration = _dimension("picosecond", ge=0)
Length = _dimension("nanometer", gt=0)
Mass = _dimension("dalton", gt=0)
Pressure = _dimension("bar")
Rate = _dimension("1/picosecond", gt=0)
Density = _dimension("gram/centimeter**3", gt=0)
