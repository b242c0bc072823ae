"""Physical constants, and quantities with units in configuration files and signatures.

Inside the package every number is in OpenMM's unit system: nm, ps, kJ/mol, dalton, kelvin,
elementary charge (pressure in bar and density in g/cm^3, which that system lacks). Configuration
files write ``298.15 kelvin``.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Annotated, Any

import pint
from openmm import unit as omm_unit
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from scipy import constants

from .text_file import shown

GAS_CONSTANT: float = omm_unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
    omm_unit.kilojoule_per_mole / omm_unit.kelvin
)
DENSITY_UNIT = 602.214076  # dalton/nm^3 in 1 g/cm^3
BAR = 0.0602214076  # kJ/mol/nm^3 in 1 bar
ENERGY_DENSITY_UNIT = 16.6053907  # bar in 1 kJ/mol/nm^3
COULOMB_CONSTANT = 138.935458  # kJ nm / mol / e^2
# units of other programs
ANGSTROM = 0.1  # nm
BOHR: float = constants.value("Bohr radius") * 1e9  # nm
KILOCALORIE: float = constants.calorie  # kJ
ELECTRON_VOLT: float = constants.e * constants.N_A / 1e3  # kJ/mol
HARTREE: float = constants.value("Hartree energy") * constants.N_A / 1e3  # kJ/mol
NEWTON: float = constants.N_A * 1e-12  # kJ/mol/nm


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


# Pint evaluates what it reads: it would take '1,5 kelvin' as 15 and '3 kelvin; 2' as 6, and would
# work for ever on '2**2**2**2**30 nm'. So it gets unit names, one-digit powers and one level of
# parentheses.
_LONGEST = 100  # characters
_NUMBER = r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf))"
_NUMBER_AND_UNIT = re.compile(rf"\s*{_NUMBER}\s*(?P<unit>(?:(?:[^\W\d_]|\(|1? */)[\w\s*/^().-]*)?)")
_POWER = r"(?:\s*(?:\*\*|\^)\s*[+-]?\d(?![\d.]))?"
_NAME = rf"[^\W\d_][^\W_]*(?:_[^\W_]+)*{_POWER}"
_TIMES = r"(?:\s*[*/]\s*|\s+)"
_PRODUCT = rf"{_NAME}(?:{_TIMES}{_NAME})*"
_FACTOR = rf"(?:{_NAME}|\(\s*{_PRODUCT}\s*\){_POWER})"
# for JSON Schemas, in the regular expressions of JavaScript
_QUANTITY = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*(1\s*/|[^\s0-9.]).*$"
_UNIT = re.compile(rf"(?:1?\s*/\s*)?{_FACTOR}(?:{_TIMES}{_FACTOR})*\s*")

# unit name -> the same unit for openmm.unit.Quantity arguments
_OPENMM_UNITS = {
    "kelvin": omm_unit.kelvin,
    "picosecond": omm_unit.picosecond,
    "nanometer": omm_unit.nanometer,
    "dalton": omm_unit.dalton,
    "bar": omm_unit.bar,
    "picosecond**-1": omm_unit.picosecond**-1,
    "gram/centimeter**3": omm_unit.gram / omm_unit.centimeter**3,
    "kilojoule/mole/nanometer**2": omm_unit.kilojoule_per_mole / omm_unit.nanometer**2,
    "kilojoule/mole": omm_unit.kilojoule_per_mole,
}


def to_float(value: Any, unit: str) -> float:
    """Convert a quantity to a float in `unit`.

    Parameters
    ----------
    value : str or openmm.unit.Quantity
        For example ``"298.15 kelvin"``; a bare number is refused.
    unit : str
        Name of the target unit, one of the package's internal units.

    Raises
    ------
    ValueError
        If the unit is missing, unknown, or of another dimension, or the number is not finite.
    """
    number = _convert(value, unit)
    if not math.isfinite(number):
        raise ValueError(f"got {value}; write a finite number, for example '1 {unit}'")
    return number


def _convert(value: Any, unit: str) -> float:
    if omm_unit.is_quantity(value):
        try:
            return float(value.value_in_unit(_OPENMM_UNITS[unit]))
        except TypeError as error:
            raise ValueError(f"got {value}, expected a quantity that converts to {unit}") from error
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"got {value} without a unit; write for example '{value} {unit}'")
    text = shown(value)
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None or len(value) > _LONGEST:
        raise ValueError(
            f"got {text}, which is not a number with a unit; write for example '1 {unit}'"
        )
    number, written = float(match["number"]), match["unit"]
    if not written:
        raise ValueError(f"got {text} without a unit; write for example '{value.strip()} {unit}'")
    unknown = f"got {text}, whose unit is unknown; write for example '1 {unit}'"
    if not _UNIT.fullmatch(written):
        raise ValueError(unknown)
    try:
        return float(
            _registry()
            .Quantity(number, f"1 {written}" if written.startswith("/") else written)
            .to(unit)
            .magnitude
        )
    except pint.DimensionalityError as error:
        raise ValueError(f"got {text}, which does not convert to {unit}") from error
    # pint's parser raises many types, those of Python's tokenizer among them
    except Exception as error:
        raise ValueError(unknown) from error


def _dimension(
    unit: str, gt: float | None = None, ge: float | None = None, le: float | None = None
) -> Any:
    """Return an annotated float type whose input needs a unit and whose output carries one.

    No fluid reaches the upper bounds: a value above is a slip of the pen.
    """

    def parse(value: Any) -> float:
        return to_float(value, unit)

    def write(value: float) -> str:
        return f"{value:.10g} {unit}"

    return Annotated[
        float,
        BeforeValidator(parse),
        Field(gt=gt, ge=ge, le=le, description=unit),
        PlainSerializer(write),
        # the unit itself is not checked there
        WithJsonSchema(
            {"type": "string", "pattern": _QUANTITY, "description": unit, "examples": [f"1 {unit}"]}
        ),
    ]


HOTTEST = 1e5  # kelvin
Temperature = _dimension("kelvin", gt=0, le=HOTTEST)
Time = _dimension("picosecond", ge=1e-9, le=1e12)
Duration = _dimension("picosecond", ge=0, le=1e12)
Length = _dimension("nanometer", ge=1e-9, le=1e6)
Mass = _dimension("dalton", ge=1e-9, le=1e9)
AtomMass = _dimension("dalton", ge=0, le=1e9)  # a virtual site has none
Pressure = _dimension("bar", ge=-1e9, le=1e9)
Rate = _dimension("picosecond**-1", ge=1e-12, le=1e9)
Density = _dimension("gram/centimeter**3", ge=1e-9, le=1e3)
ForceConstant = _dimension("kilojoule/mole/nanometer**2", ge=1e-9, le=1e15)
