"""The teachers as a committee that watches the student's trajectory.

Where the teachers disagree more than on their labels, the student is outside of what it has learnt,
and its forces cannot be trusted.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.platforms import choose_platform

from .cgpotential import CGPotential
from .explosion import openmm_message, stop_error
from .topology import bead_names

logger = logging.getLogger(__name__)


class Committee:
    """Forces of several potentials on the same beads, apart from the dynamics.

    Parameters
    ----------
    files : sequence of path
        Potential files of the members, at least two.
    topology, boxVectors
        As in `CGPotential.createSystem`.
    platform : str, optional
        OpenMM platform; the fastest one if absent.
    run_script : bool
        As in `CGPotential`.

    Attributes
    ----------
    names : list of str
        Type name of every bead.

    Raises
    ------
    ConfigError
        If there are fewer than two members.
    SimulationError
        If the platform is not available.
    """

    def __init__(
        self,
        files: Sequence[Path | str],
        topology: app.Topology | mdtraj.Topology | BeadTopology,
        boxVectors: Any = None,
        platform: str | None = None,
        *,
        run_script: bool = False,
    ) -> None:
        if len(files) < 2:
            raise ConfigError(
                f"A committee needs at least two members, got {len(files)}; train more teachers."
            )
        self.names = bead_names(topology)
        systems = [
            CGPotential(file, run_script=run_script).createSystem(
                topology, removeCMMotion=False, boxVectors=boxVectors
            )
            for file in files
        ]
        try:
            wanted = choose_platform(systems[0], platform)
            self._contexts = [
                openmm.Context(system, openmm.VerletIntegrator(0.001), wanted) for system in systems
            ]
        except openmm.OpenMMException as error:
            raise SimulationError(
                f"Platform {platform or '(none named)'} cannot run the committee"
                f" ({openmm_message(error)})."
            ) from error

    def forces(self, positions: Any, boxVectors: Any = None) -> np.ndarray:
        """Forces of every member, shape (members, n_beads, 3), kJ/mol/nm.

        Parameters
        ----------
        positions : Quantity or ndarray, shape (n_beads, 3), nm
        boxVectors : three vectors, optional
            Needed if the beads are periodic and the box is no longer that of the topology.
        """
        found = []
        for context in self._contexts:
            if boxVectors is not None:
                context.setPeriodicBoxVectors(*boxVectors)
            context.setPositions(positions)
            found.append(context.getState(forces=True).getForces(asNumpy=True)._value)
        return np.array(found)

    def spread(self, positions: Any, boxVectors: Any = None) -> np.ndarray:
        """Disagreement on the force on every bead, shape (n_beads,), kJ/mol/nm.

        Standard deviation over the members (n - 1 in the denominator), RMS over x, y, z; the same
        quantity as `force_spread` of the labels.
        """
        return np.sqrt(self.forces(positions, boxVectors).var(axis=0, ddof=1).mean(axis=-1))


@dataclass(frozen=True)
class SpreadRange:
    """Range of the committee's disagreement on the labels, within which its forces are trusted.

    Attributes
    ----------
    mean, largest : dict of str to float, kJ/mol/nm
        By bead type: the largest mean over the beads of a configuration, and the largest of a
        single bead.
    """

    mean: dict[str, float]
    largest: dict[str, float]

    @classmethod
    def of(cls, spread: np.ndarray, names: Sequence[str]) -> SpreadRange:
        """From spreads (n_frames, n_beads), kJ/mol/nm, of beads with the given type names."""
        kinds = np.array(names)
        columns = {str(name): spread[:, kinds == name] for name in dict.fromkeys(names)}
        return cls(
            {name: float(values.mean(axis=1).max()) for name, values in columns.items()},
            {name: float(values.max()) for name, values in columns.items()},
        )


class CommitteeReporter:
    """OpenMM reporter of the committee's disagreement along a trajectory.

    It warns, or stops the run, when the disagreement leaves the known range.

    The CSV has a row per evaluation: step, time (ps), then for every bead type the mean over its
    beads and the largest disagreement (kJ/mol/nm), as `Committee.spread`.

    Parameters
    ----------
    file : path
    reportInterval : int
        Time steps between evaluations.
    committee : Committee
    known : SpreadRange, optional
        Without it nothing is checked.
    maxRatio : float
        Multiple of the known range above which the reporter acts.
    action : {"warn", "stop"}
        Warn once per bead type, or raise an error.
    append : bool
        Go on with an existing file.
    """

    def __init__(
        self,
        file: Path | str,
        reportInterval: int,
        committee: Committee,
        known: SpreadRange | None = None,
        maxRatio: float = 1.5,
        action: Literal["warn", "stop"] = "warn",
        append: bool = False,
    ) -> None:
        self._interval = reportInterval
        self._committee = committee
        self._known = known
        self._ratio = maxRatio
        self._action = action
        self._kinds = {
            str(name): np.array(committee.names) == name for name in dict.fromkeys(committee.names)
        }
        self._warned: set[str] = set()
        self._out = open(file, "a" if append else "w", newline="", buffering=1)  # noqa: SIM115  open as long as the run
        self._rows = csv.writer(self._out)
        if not append:
            columns = [
                f"{name} {which} (kJ/mol/nm)"
                for name in self._kinds
                for which in ("mean", "largest")
            ]
            self._rows.writerow(["step", "time (ps)", *columns])

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """OpenMM's reporter protocol: steps to the next evaluation, and what it needs."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Evaluate the committee on one state.

        Raises
        ------
        SimulationError
            If the disagreement is beyond the known range and the action is to stop, or a member
            refuses the state.
        """
        box = (
            state.getPeriodicBoxVectors()
            if simulation.system.usesPeriodicBoundaryConditions()
            else None
        )
        try:
            spread = self._committee.spread(state.getPositions(asNumpy=True), box)
        except openmm.OpenMMException as error:
            raise stop_error(simulation, openmm_message(error)) from error
        figures = {
            name: (float(spread[of].mean()), float(spread[of].max()))
            for name, of in self._kinds.items()
        }
        time = state.getTime().value_in_unit(unit.picosecond)
        row = [
            simulation.currentStep,
            f"{time:.6g}",
            *(f"{value:.5g}" for pair in figures.values() for value in pair),
        ]
        self._rows.writerow(row)
        self._check_range(simulation, figures)

    def _check_range(
        self, simulation: app.Simulation, figures: dict[str, tuple[float, float]]
    ) -> None:
        if self._known is None:
            return
        for name, values in figures.items():
            for which, value, known in zip(
                ("on average", "on one bead"),
                values,
                (self._known.mean, self._known.largest),
                strict=True,
            ):
                limit = self._ratio * known[name]
                if value <= limit or name in self._warned:
                    continue
                amounts = (
                    f"{value:.3g} kJ/mol/nm, above {self._ratio:g} times the {known[name]:.3g} of"
                    " the labels"
                )
                cause = f"the committee's disagreement {which} of type {name} is {amounts}"
                if self._action == "stop":
                    raise stop_error(simulation, f"{cause}; use frames from there for training")
                logger.warning(
                    "step %d: %s; what follows is outside of what the student has learnt",
                    simulation.currentStep,
                    cause,
                )
                self._warned.add(name)

    def close(self) -> None:
        self._out.close()
