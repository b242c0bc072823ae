"""OpenMM reporter that maps positions and forces onto beads while the all-atom simulation runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit

from ..frames import FrameWriter
from ..mapping import Mapping


class MappedReporter:
    """Append mapped frames to an HDF5 file at a regular interval.

    Parameters
    ----------
    file : path
        HDF5 file of mapped frames; continued if it exists.
    reportInterval : int
        Time steps between frames.
    mapping : Mapping
        Atoms to beads. Its masses are the true ones, so that heavy hydrogens do not move beads.
    attributes : dict
        Provenance for the file; must hold ``temperature`` in kelvin.
    after_step : int, optional
        When resuming: frames beyond this step are dropped, because the simulation will produce them again.

    Notes
    -----
    Positions are taken without wrapping, so that molecules are whole. Constraint forces are not in
    ``State.getForces``; `Mapping.check_constraints` makes sure that they cancel within beads.
    """

    def __init__(
        self, file: Path | str, reportInterval: int, mapping: Mapping, attributes: dict[str, Any], after_step: int | None = None
    ) -> None:
        self._interval = reportInterval
        self._mapping = mapping
        self._writer = FrameWriter(file, mapping.topology, attributes, after_step)
        self._checked = False

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """OpenMM's reporter protocol: steps to the next report, and what it needs."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions", "forces"]}

    def report(self, simulation: app.Simulation, state: Any) -> None:
        """Map one state and append it."""
        if not self._checked:
            self._mapping.check_constraints(simulation.system)
            self._checked = True
        positions = state.getPositions(asNumpy=True)._value
        forces = state.getForces(asNumpy=True)._value
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        self._writer.append(
            self._mapping.map_positions(positions),
            self._mapping.map_forces(forces),
            np.asarray(box),
            state.getTime().value_in_unit(unit.picosecond),
            simulation.currentStep,
        )

    def close(self) -> None:
        self._writer.close()
