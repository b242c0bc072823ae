"""Stop a simulation that has exploded, before its frames reach the trajectory."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.exceptions import ExplosionError, SimulationError
from openmm_cgkd.utils.units import GAS_CONSTANT

if TYPE_CHECKING:
    from .start import FirstState

_FIRST_STEPS = 10  # looked at one by one
# thermal speeds that no bead reaches: of more than 10^80, one has 20
_FASTEST = 20.0


class ExplosionGuard:
    """OpenMM reporter that raises on an exploded state.

    Coordinates or energy are not finite, or the temperature is out of bounds. The first ten steps
    are looked at one by one, and there no bead may be faster than 20 times its thermal speed.

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

    Attributes
    ----------
    first : FirstState or None
        What a run has started from, to tell why it explodes in its first steps.
    """

    def __init__(self, reportInterval: int, temperature: float, maxRatio: float) -> None:
        self._interval, self._temperature, self._ratio = reportInterval, temperature, maxRatio
        self.first: FirstState | None = None

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """OpenMM's reporter protocol: steps to the next check, and what it needs."""
        first = simulation.currentStep < _FIRST_STEPS
        steps = 1 if first else self._interval - simulation.currentStep % self._interval
        include = ["positions", "energy", *(["velocities"] if first else [])]
        return {"steps": steps, "periodic": False, "include": include}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Check one state.

        Raises
        ------
        SimulationError
            Naming step, time and cause.
        """
        cause = self.cause(simulation.system, state)
        if cause is None and simulation.currentStep <= _FIRST_STEPS:
            cause = self._too_fast(simulation, state)
        if cause is not None:
            raise self.error(simulation, cause)

    def error(self, simulation: app.Simulation, cause: str) -> SimulationError:
        """The error of a run that stops, with the likely cause if these are its first steps."""
        advice = None
        if self.first is not None and simulation.currentStep <= _FIRST_STEPS:
            timestep = simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
            advice = self.first.explain(timestep, self._temperature)
        return stop_error(simulation, cause, advice)

    def _too_fast(self, simulation: app.Simulation, state: openmm.State) -> str | None:
        """The fastest bead, if it is faster than any bead can be."""
        masses = masses_of(simulation.system)
        speeds = np.linalg.norm(state.getVelocities(asNumpy=True)._value, axis=1)
        shares = speeds * np.sqrt(masses / (GAS_CONSTANT * self._temperature))
        k = int(np.argmax(shares))
        if shares[k] <= _FASTEST:
            return None
        return f"bead {k} moves at {speeds[k]:.3g} nm/ps, {shares[k]:.0f} times its thermal speed"

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


def masses_of(system: openmm.System) -> np.ndarray:
    """Masses of the particles, shape (n,), dalton."""
    return np.array([system.getParticleMass(k)._value for k in range(system.getNumParticles())])


def stop_error(
    simulation: app.Simulation, cause: str, advice: str | None = None
) -> SimulationError:
    """The error of a run that cannot go on: an `ExplosionError` where the state is to blame.

    Parameters
    ----------
    simulation : openmm.app.Simulation
    cause : str
        What was found.
    advice : str, optional
        Where it comes from, and the cure.
    """
    step = simulation.currentStep
    time = simulation.context.getTime().value_in_unit(unit.picosecond)
    what, _, own = cause.partition("; use ")  # errors of a potential name their own cure
    if advice is None or (own and "time step" not in own):
        advice = f"use {own or 'a smaller time step or a better trained potential'}"
    message = f"The simulation stopped at step {step} ({time:g} ps): {what}; {advice}."
    if re.search(r"\bnan\b|\binf\b|finite", cause, re.IGNORECASE):
        return ExplosionError(message, "non-finite", time)
    return (
        ExplosionError(message, "exploded", time)
        if cause.startswith(("the temperature", "bead "))
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
