"""Stop a simulation that has exploded, before its frames reach the trajectory."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.exceptions import ExplosionError, SimulationError
from openmm_cgkd.utils.units import GAS_CONSTANT


class ExplosionGuard:
    """OpenMM reporter that raises on an exploded state.

    Coordinates or energy are not finite, or the temperature is out of bounds.

    Put it first among the reporters, so that it looks at a state before others write it.

    Parameters
    ----------
    reportInterval : int
        Time steps between checks.
    temperature : float, kelvin
        Set temperature.
    maxRatio : float
        The run stops above this multiple of it. For few beads, whose temperature fluctuates, the
        bound is at least ten standard deviations of the canonical kinetic temperature above the
        mean.
    """

    def __init__(self, reportInterval: int, temperature: float, maxRatio: float) -> None:
        self._interval, self._temperature, self._ratio = reportInterval, temperature, maxRatio

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """OpenMM's reporter protocol: steps to the next check, and what it needs."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": ["positions", "energy"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Check one state.

        Raises
        ------
        SimulationError
            Naming step, time and cause.
        """
        cause = self.cause(simulation.system, state)
        if cause is not None:
            raise stop_error(simulation, cause)

    def accepts(self, simulation: app.Simulation) -> bool:
        """Whether nothing is wrong with the present state of the simulation."""
        try:
            return (
                self.cause(
                    simulation.system, simulation.context.getState(positions=True, energy=True)
                )
                is None
            )
        except openmm.OpenMMException:  # the potential refuses the coordinates or the box
            return False

    def cause(self, system: openmm.System, state: openmm.State) -> str | None:
        """What is wrong with a state that has positions and energies; None if nothing is."""
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        freedom = max(degrees_of_freedom(system), 1)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        temperature = 2 * kinetic / (freedom * GAS_CONSTANT)
        highest = self._temperature * max(self._ratio, 1 + 10 * math.sqrt(2 / freedom))
        if not np.isfinite(state.getPositions(asNumpy=True)._value).all():
            return "coordinates are not finite"
        if not math.isfinite(energy):
            return f"the potential energy is {energy}"
        if not temperature <= highest:
            return (
                f"the temperature is {temperature:.0f} K, set is {self._temperature:g} K, allowed"
                f" {highest:.0f} K"
            )
        return None


def degrees_of_freedom(system: openmm.System) -> int:
    """Degrees of freedom that carry kinetic energy.

    Beads have no constraints among them unless the user adds some.
    """
    moving = sum(system.getParticleMass(k)._value > 0 for k in range(system.getNumParticles()))
    removed = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return 3 * moving - system.getNumConstraints() - (3 if removed else 0)


def stop_error(simulation: app.Simulation, cause: str) -> SimulationError:
    """The error of a run that cannot go on: an `ExplosionError` where the state is to blame."""
    step = simulation.currentStep
    time = simulation.context.getTime().value_in_unit(unit.picosecond)
    # errors of a potential name their own cure
    cure = "" if "; use " in cause else "; use a smaller time step or a better trained potential"
    message = f"The simulation stopped at step {step} ({time:g} ps): {cause}{cure}."
    if re.search(r"\bnan\b|\binf\b|finite", cause, re.IGNORECASE):
        return ExplosionError(message, "non-finite", time)
    return (
        ExplosionError(message, "exploded", time)
        if cause.startswith("the temperature")
        else SimulationError(message)
    )


def openmm_message(error: Exception) -> str:
    """The line of an exception from OpenMM that names the cause.

    A failure of TorchScript has a long listing in front of it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    line = (
        lines[-1]
        .removeprefix("builtins.")
        .removeprefix("RuntimeError: ")
        .split("  For more")[0]
        .rstrip(".;")
    )
    # TorchScript writes 17 digits
    return re.sub(r"\d+\.\d{7,}", lambda number: f"{float(number[0]):.6g}", line)
