"""What is measured in a finished all-atom run, and what the literature says."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from openmm import unit
from pydantic import BeforeValidator, Field

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.analysis.comparison.curves import Curve, count_parts
from openmm_cgkd.analysis.observables.rdf import block_rdfs
from openmm_cgkd.config.section import Section, read_section
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.progress import Report, progress_to
from openmm_cgkd.utils.statistics import BlockedMean, blocked_mean, blocked_slope
from openmm_cgkd.utils.units import (
    BAR,
    DENSITY_UNIT,
    GAS_CONSTANT,
    Density,
    Length,
    Temperature,
    to_float,
)

SERIES = 10  # blocks to see how the run settles
BIN = 0.01  # nm


class Entry(Section):
    """Where a number comes from."""

    label: str = "literature"
    source: str
    note: str = ""

    @property
    def cited(self) -> str:
        return f"{self.label}: {self.source}" + (f"; {self.note}" if self.note else "")


class LiteratureDensity(Entry):
    temperature: Temperature
    value: Density
    slope: Annotated[
        float, BeforeValidator(lambda value: to_float(value, "gram/centimeter**3/kelvin"))
    ]

    def at(self, temperature: float) -> float:
        """g/cm^3 at a temperature in kelvin, by the straight line."""
        return self.value + self.slope * (temperature - self.temperature)


class LiteratureHeatCapacity(Entry):
    value: Annotated[float, BeforeValidator(lambda value: to_float(value, "joule/gram/kelvin"))]


class LiteraturePeak(Entry):
    pair: tuple[str, str]
    position: Length


class Literature(Section):
    """literature.yaml of a fluid's folder."""

    density: list[LiteratureDensity] = Field(min_length=1)
    heat_capacity: list[LiteratureHeatCapacity] = Field([])
    peaks: list[LiteraturePeak] = Field([])


def load_literature(path: Path) -> Literature:
    """Read the literature values of a fluid.

    Raises
    ------
    ConfigError
        If the file is missing or a field is not valid.
    """
    return read_section(Literature, path, "the literature values of the fluid (docs/formats.md)")


@dataclass(frozen=True)
class Value:
    """A mean and its standard error, which is a lower bound without a `plateau`."""

    mean: float
    error: float
    plateau: bool = True

    @classmethod
    def of(cls, found: BlockedMean, factor: float = 1.0) -> Value:
        return cls(factor * found.mean, factor * found.error, found.plateau)

    def __str__(self) -> str:
        """Like 1.0829(3): the error in units of the last digit; 1.0829(>=3) if it is a lower bound.

        It has two digits where it begins with 1.
        """
        bound = "" if self.plateau else ">="
        if not (math.isfinite(self.error) and self.error > 0):
            return f"{self.mean:.4g}"
        digits = -math.floor(math.log10(self.error) + 1e-9)
        digits += self.error * 10**digits < 1.95
        if digits <= 0:
            return f"{self.mean:.0f}({bound}{self.error:.0f})"
        return f"{self.mean:.{digits}f}({bound}{self.error * 10**digits:.0f})"


def block_means(series: np.ndarray, blocks: int) -> np.ndarray:
    """Means of contiguous blocks, shape (blocks,)."""
    return np.array([block.mean() for block in np.array_split(series, blocks)])


def run_state(config: SystemConfig, folder: Path, report: Report) -> None:
    """`run_reference` as a task of `map_tasks`."""
    with progress_to(report):
        run_reference(config, folder)


class State:
    """Results of one temperature and box size.

    Parameters
    ----------
    config : SystemConfig
    folder : Path
        A finished run of `run_reference`.
    pairs : int
        Formula units, each one ion pair and its hydrogen-bond donors.
    """

    def __init__(self, config: SystemConfig, folder: Path, pairs: int) -> None:
        self.temperature, self.pairs, self.length = config.temperature, pairs, config.reference.npt
        topology = build_topology(config)
        self.mass = sum(atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms())
        rigid = sum(
            "H" in (bond.atom1.element.symbol, bond.atom2.element.symbol)
            for bond in topology.bonds()
        )
        # bonds to hydrogen are constrained, the centre of mass stands still
        freedom = 3 * topology.getNumAtoms() - rigid - 3
        time, potential, volume = _read_npt(folder / "npt.csv")
        # the kinetic energy is known exactly: equipartition at the temperature of the thermostat
        kinetic = freedom / 2 * GAS_CONSTANT * self.temperature
        self.time = time
        self.density_series = self.mass / volume / DENSITY_UNIT  # g/cm^3
        # kJ/mol
        self.enthalpy_series = (
            potential + kinetic + BAR * config.reference.pressure * volume
        ) / pairs
        used = slice(len(time) // 3, None)  # as run_reference does for the mean volume
        self.density, self.enthalpy = (
            Value.of(blocked_mean(self.density_series[used])),
            Value.of(blocked_mean(self.enthalpy_series[used])),
        )
        self.density_drift = _drift(time[used], self.density_series[used])
        self.enthalpy_drift = _drift(time[used], self.enthalpy_series[used])
        self.peaks = _peaks(folder / "frames.h5")

    @property
    def name(self) -> str:
        return f"{self.temperature:g} K, {self.pairs} ion pairs"


def _read_npt(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time (ps), potential energy (kJ/mol) and volume (nm^3) of the NPT phase."""
    columns = "Time (ps)", "Potential Energy (kJ/mole)", "Box Volume (nm^3)"
    with open(path) as file:
        rows = [[float(row[name]) for name in columns] for row in csv.DictReader(file)]
    if len(rows) < 2 * SERIES:
        raise AnalysisError(
            f"{path}: holds {len(rows)} rows, at least {2 * SERIES} are needed; use a longer --npt"
            " in another folder."
        )
    time, potential, volume = np.array(rows).T
    return time, potential, volume


def _drift(time: np.ndarray, series: np.ndarray) -> Value:
    """Slope per 100 ps of the straight line through a series, and its standard error."""
    return Value.of(blocked_slope(time, series), 100)


def _peaks(path: Path) -> dict[tuple[str, str], Value]:
    """Position of the first peak of g(r) of every pair of bead types, nm; nan without one."""
    frames = read_frames(path)
    r_max = largest_r_max(frames.box)

    found = {}
    parts = count_parts(len(frames))
    for pair, rdfs in block_rdfs(
        frames.positions, frames.box, frames.beads, round(r_max / BIN), r_max, parts
    ).items():
        peak = Curve(rdfs).peak()
        position, error = (
            math.nan if peak[name] is None else peak[name] for name in ("position", "position_se")
        )
        found[tuple(sorted(pair))] = Value(position, error, "position" not in peak["at_least"])
    return found


@dataclass(frozen=True)
class Response:
    """Thermal expansion (1/K) and heat capacity (J/g/K) between two temperatures of one box."""

    cold: State
    hot: State

    @property
    def expansion(self) -> Value:
        step = self.hot.temperature - self.cold.temperature
        relative = math.hypot(
            *(state.density.error / state.density.mean for state in (self.cold, self.hot))
        )
        return Value(
            math.log(self.cold.density.mean / self.hot.density.mean) / step,
            relative / step,
            self.cold.density.plateau and self.hot.density.plateau,
        )

    @property
    def heat_capacity(self) -> Value:
        step = self.hot.temperature - self.cold.temperature
        scale = 1000 * self.hot.pairs / self.hot.mass / step
        error = math.hypot(self.cold.enthalpy.error, self.hot.enthalpy.error)
        return Value(
            scale * (self.hot.enthalpy.mean - self.cold.enthalpy.mean),
            scale * error,
            self.cold.enthalpy.plateau and self.hot.enthalpy.plateau,
        )

    def literature_expansion(self, density: LiteratureDensity) -> float:
        cold, hot = self.cold.temperature, self.hot.temperature
        return math.log(density.at(cold) / density.at(hot)) / (hot - cold)
