"""Quantities with units: conversion, refusal, round trip."""

import pytest
from openmm import unit
from pydantic import BaseModel, ValidationError

from openmm_cgkd.utils.units import Duration, Length, Pressure, Rate, Temperature, to_float


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("298.15 kelvin", "kelvin", 298.15),
        ("25 degC", "kelvin", 298.15),
        ("4 fs", "picosecond", 0.004),
        ("1.2e1 angstrom", "nanometer", 1.2),
        ("1 / ps", "picosecond**-1", 1.0),
        ("1 1/picosecond", "picosecond**-1", 1.0),
        ("1/ps", "picosecond**-1", 1.0),
        ("2 ps**-1", "picosecond**-1", 2.0),
        ("1 atm", "bar", 1.01325),
        ("1100 kg/m^3", "gram/centimeter**3", 1.1),
        ("1 kcal/mol", "kilojoule/mole", 4.184),
        ("1 kcal/(mol nm^2)", "kilojoule/mole/nanometer**2", 4.184),
        ("1 kcal / (mol * angstrom**2)", "kilojoule/mole/nanometer**2", 418.4),
        ("1 kJ mol^-1 nm^-2", "kilojoule/mole/nanometer**2", 1.0),
        ("1 \u00b5s", "picosecond", 1e6),
        ("1 \u00c5", "nanometer", 0.1),
        ("1.008 amu", "dalton", 1.008),
        ("0 fs", "picosecond", 0.0),
        ("-1 bar", "bar", -1.0),
    ],
)
def test_conversion(text, target, expected):
    assert to_float(text, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("quantity", "target", "expected"),
    [
        (25 * unit.angstrom, "nanometer", 2.5),
        (2 * unit.femtosecond, "picosecond", 0.002),
        (1 / unit.nanosecond, "picosecond**-1", 0.001),
        (1 * unit.kilocalorie_per_mole, "kilojoule/mole", 4.184),
        (1 * unit.atmosphere, "bar", 1.01325),
    ],
)
def test_openmm_quantity(quantity, target, expected):
    assert to_float(quantity, target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (300, "got 300 without a unit; write for example '300 kelvin'"),
        (0, "got 0 without a unit"),
        ("300", "got '300' without a unit; write for example '300 kelvin'"),
        ("300 nm", "got '300 nm', which does not convert to kelvin"),
        ("300 kelvins_", "whose unit is unknown"),
        ("kelvin", "not a number with a unit"),
        ("", "not a number with a unit"),
        ("nan kelvin", "finite number"),
        ("inf kelvin", "finite number"),
        (True, "got True"),
        (None, "got None"),
        ([300, "kelvin"], "not a number with a unit"),
        (300 * unit.nanometer, "expected a quantity that converts to kelvin"),
        # a parser that evaluates expressions would accept these: as 15, as 6, as 0.2
        ("1,5 kelvin", "not a number with a unit"),
        ("3 kelvin; 2", "not a number with a unit"),
        ("1..2 kelvin", "not a number with a unit"),
        ("1 kelvin)", "whose unit is unknown"),
        ("1/0 kelvin", "whose unit is unknown"),
        # and it would compute powers: of these for ever
        ("1 ** 99999999 kelvin", "not a number with a unit"),
        ("2**2**2**2**30 kelvin", "not a number with a unit"),
        ("1 kelvin**9**9**9**9", "whose unit is unknown"),
        ("1 kelvin^99", "whose unit is unknown"),
        ("1 kelvin**2.5", "whose unit is unknown"),
        ("1 " + "(" * 50 + "kelvin", "whose unit is unknown"),
        ("1 " + "kelvin*" * 10**5 + "kelvin", "not a number with a unit"),
        ("1 " + "a a" * 30 + "!", "not a number with a unit"),
        ("1e400 kelvin", "finite number"),
        ("9" * 5000 + " kelvin", "not a number with a unit"),
        ("1 os.system", "whose unit is unknown"),
        ("\u0967 kelvin", "not a number with a unit"),  # a digit, but not of this alphabet
    ],
)
def test_refused(value, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        to_float(value, "kelvin")
    assert len(str(caught.value)) < 250


class Section(BaseModel):
    temperature: Temperature = "300 kelvin"
    wait: Duration = "0 picosecond"
    edge: Length = "15 angstrom"
    rate: Rate = "1 / picosecond"
    pressure: Pressure = "1 bar"
    model_config = {"validate_default": True}


def test_defaults_are_converted_and_survive_a_round_trip():
    section = Section()
    assert (section.temperature, section.wait, section.edge, section.rate) == pytest.approx(
        (300.0, 0.0, 1.5, 1.0)
    )
    written = section.model_dump(mode="json")
    assert written["edge"] == "1.5 nanometer"
    assert written["rate"] == "1 picosecond**-1"
    assert Section(**written).model_dump(mode="json") == written


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "0 kelvin"},
        {"edge": "-1 nm"},
        {"wait": "-1 ps"},
        {"pressure": "nan bar"},
        {"rate": 1},
        {"temperature": "1e300 kelvin"},
        {"temperature": "1e6 kelvin"},
        {"edge": "1 km"},
        {"wait": "1 year"},
        {"rate": "1e300 / ps"},
    ],
)
def test_bounds(wrong):
    with pytest.raises(ValidationError):
        Section(**wrong)
