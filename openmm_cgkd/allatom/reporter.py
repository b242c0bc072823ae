"""OpenMM reporter that maps positions and forces onto beads while the all-atom simulation runs."""

from __future__ import annotations

import logging
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import BoxError, CGKDError, ConfigError
from openmm_cgkd.frames.checks import temperature_of
from openmm_cgkd.frames.frames import FrameWriter, frames_header, set_attributes
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from openmm_cgkd.platforms import hardware_of
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.units import GAS_CONSTANT

from .force_field import atomic_charges

logger = logging.getLogger(__name__)

_FEWEST_LAPS = 3  # between reports, of which the median is the speed
_PS_PER_NS, _SECONDS_PER_DAY = 1000.0, 86400.0


class MappedReporter:
    """Append mapped frames to an HDF5 file at a regular interval.

    Every frame is safe on disk before the simulation goes on; a killed simulation leaves a file
    that reads and continues.

    Parameters
    ----------
    file : path
        HDF5 file of mapped frames; continued if it exists.
    reportInterval : int
        Time steps between frames.
    mapping : Mapping or path
        Atoms to beads: a map, whose masses are the true ones, so that heavy hydrogens do not move
        beads; or a ``system.yaml`` that describes the topology of the simulation.
    attributes : dict, optional
        Provenance for the file. It must hold ``temperature`` in kelvin if `mapping` is not a
        ``system.yaml``.
    after_step : int, optional
        When resuming: frames beyond this step are dropped, because the simulation will produce them
        again.

    Raises
    ------
    ConfigError
        If there is no temperature, or `mapping`, `attributes`, the file, the integrator, a
        thermostat or a barostat have different ones.
    MappingError
        If the topology does not fit `mapping`, a constraint reaches over two beads, or a particle
        is held in its place.
    BoxError
        If the system is not periodic.
    FramesError
        If the file holds other beads, or frames after the step of the simulation.

    Notes
    -----
    The file is opened when the simulation begins to step, after these checks. Positions are taken
    without wrapping, and molecules whose bonds cross the box are made whole. Constraint forces are
    not in ``State.getForces``; within a bead they cancel. The force on a virtual site does not
    count, because OpenMM has handed it on to the particles that the site depends on. When the file
    is closed, by `close` or at the end of the program, the speed of the simulation and what it ran
    on become attributes of it.

    Examples
    --------
    >>> reporter = MappedReporter("frames.h5", 250, "system.yaml")  # doctest: +SKIP
    >>> simulation.reporters.append(reporter)  # doctest: +SKIP
    """

    def __init__(
        self,
        file: Path | str,
        reportInterval: int,
        mapping: Mapping | Path | str,
        attributes: dict[str, Any] | None = None,
        after_step: int | None = None,
    ) -> None:
        self._file, self._interval, self._after_step = Path(file), reportInterval, after_step
        self._attributes = attributes or {}
        self._temperatures: dict[str, float] = {}  # by what has them
        self._mapping = mapping if isinstance(mapping, Mapping) else load_system(mapping)
        self._opened: tuple[FrameWriter, Mapping] | None = None
        self._stopwatch = _Stopwatch()

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """OpenMM's reporter protocol: steps to the next report, and what it needs."""
        self._open(simulation)
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions", "forces"]}

    def report(self, simulation: app.Simulation, state: Any) -> None:
        """Map one state and append it."""
        writer, mapping = self._open(simulation)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        positions = self._whole(state.getPositions(asNumpy=True)._value, np.asarray(box))
        forces = state.getForces(asNumpy=True)._value
        self._stopwatch.lap(state.getTime().value_in_unit(unit.picosecond))
        writer.append(
            mapping.map_positions(positions),
            mapping.map_forces(forces),
            np.asarray(box),
            state.getTime().value_in_unit(unit.picosecond),
            simulation.currentStep,
        )

    def _open(self, simulation: app.Simulation) -> tuple[FrameWriter, Mapping]:
        """Check that the simulation can be mapped, then open the file."""
        if self._opened is not None:
            return self._opened
        if isinstance(self._mapping, Mapping):
            mapping = self._mapping
        else:
            system = self._mapping
            mapping = mapping_from_config(
                system,
                mdtraj.Topology.from_openmm(simulation.topology),
                atomic_charges(simulation.system),
            )
            self._attributes = {"system": system.name, **self._attributes}
            self._temperatures["the system.yaml says"] = system.temperature
        mapping = mapping.for_system(simulation.system)
        topology = mdtraj.Topology.from_openmm(simulation.topology)
        self._whole = WholeMolecules(bond_order(topology), topology.n_atoms)
        if not simulation.system.usesPeriodicBoundaryConditions():
            raise BoxError(
                f"{self._file}: the system is not periodic; only periodic fluids can be mapped."
            )
        self._check_temperature(simulation)
        writer = FrameWriter(self._file, mapping.topology, self._attributes, self._after_step)
        self._opened = writer, mapping
        # a script may never close it
        self._finish = weakref.finalize(
            self, _close, writer, self._stopwatch, hardware_of(simulation.context)
        )
        return self._opened

    def _check_temperature(self, simulation: app.Simulation) -> None:
        found = dict(self._temperatures)
        if "temperature" in self._attributes:
            found["the attributes say"] = float(self._attributes["temperature"])
        if not found:
            raise ConfigError(
                f"{self._file}: the temperature of the run is missing; give"
                " attributes={'temperature': kelvin}."
            )
        what, temperature = next(iter(found.items()))
        self._attributes = {**self._attributes, "temperature": temperature}
        if self._file.exists():
            header = frames_header(self._file)
            found["the file has"] = temperature_of(header.attributes, self._file)
        held = {f"{name} has": value for name, value in temperatures_of(simulation).items()}
        for other, value in (found | held).items():
            if abs(value - temperature) > 1e-3 * temperature:
                raise ConfigError(
                    f"{self._file}: {what} {temperature:g} K, {other} {value:g} K; correct"
                    " one of them."
                )

    def close(self) -> None:
        """Close the file, and write the speed into it."""
        if self._opened is not None:
            self._finish()


class _Stopwatch:
    """Speed of a simulation, from one report to the next; pauses do not change the median."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._speeds: list[float] = []

    def lap(self, simulated: float) -> None:
        """Tell the simulated time, ps."""
        now = time.perf_counter()
        if self._last is not None and now > self._last[1]:
            self._speeds.append((simulated - self._last[0]) / (now - self._last[1]))
        self._last = simulated, now

    @property
    def ns_per_day(self) -> float | None:
        """Median over the laps, None if these are few."""
        if len(self._speeds) < _FEWEST_LAPS:
            return None
        return float(np.median(self._speeds)) / _PS_PER_NS * _SECONDS_PER_DAY


def _close(writer: FrameWriter, stopwatch: _Stopwatch, hardware: str) -> None:
    """Close a file, then put a copy that has the speed into its place."""
    writer.close()
    speed = stopwatch.ns_per_day
    if speed is None or not writer.path.exists():
        return
    try:
        with replacing(writer.path) as fresh:
            shutil.copyfile(writer.path, fresh)
            set_attributes(fresh, {"ns_per_day": speed, "hardware": hardware})
    except (CGKDError, OSError, RuntimeError) as error:  # the frames are there
        logger.warning("%s: its speed could not be written: %s", writer.path, error)


def temperatures_of(simulation: app.Simulation) -> dict[str, float]:
    """Temperatures (kelvin) that integrator, thermostats and barostats hold, by what has them."""
    integrator = simulation.integrator
    parts = [integrator]
    if isinstance(integrator, openmm.CompoundIntegrator):
        parts = [integrator.getIntegrator(k) for k in range(integrator.getNumIntegrators())]
    held = [temperature for part in parts for temperature in _held_by(part)]
    found = {"the integrator" + (f" ({k})" if k else ""): held[k] for k in range(len(held))}
    parameters = dict(simulation.context.getParameters())
    for force in simulation.system.getForces():
        kind = type(force)
        if hasattr(kind, "Temperature") and kind.Temperature() in parameters:
            found[f"the {kind.__name__}"] = parameters[kind.Temperature()]
    return found


def _held_by(integrator: openmm.Integrator) -> list[float]:
    """Temperatures of the thermostats of an integrator, kelvin."""
    if isinstance(integrator, openmm.NoseHooverIntegrator):
        thermostats = range(integrator.getNumThermostats())
        return [integrator.getTemperature(k).value_in_unit(unit.kelvin) for k in thermostats]
    if get := getattr(integrator, "getTemperature", None):  # only thermostats have it
        return [get().value_in_unit(unit.kelvin)]
    if isinstance(integrator, openmm.CustomIntegrator):
        variables = range(integrator.getNumGlobalVariables())
        if "kT" in [integrator.getGlobalVariableName(k) for k in variables]:
            # of OpenMM's own and of openmmtools
            return [integrator.getGlobalVariableByName("kT") / GAS_CONSTANT]
    return []
