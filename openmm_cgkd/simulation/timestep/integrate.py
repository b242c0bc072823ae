r"""What Langevin dynamics with a time step samples.

`LangevinMiddleIntegrator` (Zhang et al., J. Phys. Chem. A 2019, 123, 6056) stores positions at full
and velocities at half steps, between kick and thermostat as in BAOAB (Leimkuhler and Matthews, J.
Chem. Phys. 2013, 138, 174102). For a harmonic oscillator positions and half-step velocities have
the exact variances :math:`k_BT/m\omega^2` and :math:`k_BT/m` at every stable step. In a liquid the
positions are off by a term of order :math:`h^2`, which the configurational temperature shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import openmm

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.platforms import choose_platform, platforms
from openmm_cgkd.simulation.explosion import openmm_message
from openmm_cgkd.utils.statistics import blocked_mean
from openmm_cgkd.utils.units import GAS_CONSTANT

from .configurational import FORCES_PER_SAMPLE, ForceDivergence, configurational_temperature

SAMPLING = 0.1  # ps between samples: the squared force of a liquid of beads forgets in 0.2 ps
_FRAMES = 2  # samples between frames for radial distribution functions
_PIECE = 50  # steps between chances to interrupt
_HOTTEST = 3.0  # a run that is hotter than this multiple of the set temperature has failed
_SETTLING = 0.1  # share of a run left out, in which the state adapts to its time step


class Start(NamedTuple):
    """State that a run starts from.

    Attributes
    ----------
    positions : ndarray, shape (n_beads, 3), nm
    velocities : ndarray, shape (n_beads, 3), nm/ps
    """

    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class Averages:
    """Means over a run, with standard errors from blocks as long as needed.

    Attributes
    ----------
    configurational, configurational_se : float, kelvin
        Configurational temperature, see `configurational_temperature`.
    kinetic, kinetic_se : float, kelvin
        From the half-step velocities that `LangevinMiddleIntegrator` stores and OpenMM reports.
    energy, energy_se : float, kT
        Potential energy per bead.
    at_least : tuple of str
        Means whose standard error is a lower bound, since the run is too short.
    """

    configurational: float
    configurational_se: float
    kinetic: float
    kinetic_se: float
    energy: float
    energy_se: float
    at_least: tuple[str, ...] = ()


class Unstable(Exception):  # noqa: N818  an outcome, not an error: the search goes on
    """The time step makes the system explode."""


class Integration:
    """A system without constraints that is integrated with one time step after the other.

    Parameters
    ----------
    system : openmm.System
        Without `CMMotionRemover`: 3 degrees of freedom per bead are counted.
    temperature : float, kelvin
    friction : float, 1/ps
    platform : str, optional
        OpenMM platform; the fastest one if absent.
    seed : int

    Raises
    ------
    SimulationError
        If the platform is not available, or the system has constraints, virtual sites or beads
        without mass.
    """

    def __init__(
        self,
        system: openmm.System,
        temperature: float,
        friction: float,
        platform: str | None = None,
        seed: int = 1,
    ) -> None:
        self.n_beads, self.temperature, self.seed = system.getNumParticles(), temperature, seed
        held = sum(system.getParticleMass(k)._value == 0 for k in range(self.n_beads))
        if system.getNumConstraints() or held:
            raise SimulationError(
                f"The system has {system.getNumConstraints()} constraints and {held} particles"
                " without mass; the configurational temperature is that of beads that all move"
                " freely, so use bonds instead of constraints."
            )
        self.kt = GAS_CONSTANT * temperature
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction, 0.001)
        integrator.setRandomNumberSeed(seed)
        self._langevin = _context(system, integrator, platform)
        # differences of forces in double precision where the platform has it
        probe = _context(system, openmm.VerletIntegrator(0.001), self.platform, double=True)
        self._divergence = ForceDivergence(probe, seed)

    @property
    def platform(self) -> str:
        return self._langevin.getPlatform().getName()

    def begin(self, positions: np.ndarray) -> None:
        """Place the beads, with velocities of the temperature."""
        self._langevin.setPositions(positions)
        self._langevin.setVelocitiesToTemperature(self.temperature, self.seed)

    def seconds_per_force(self, timestep: float, steps: int = 50) -> float:
        """Time of one step, from a few steps on from where the beads are.

        Raises
        ------
        SimulationError
            As `equilibrated`.
        """
        self._advance_safely(timestep, steps // 5)  # the first ones compile
        begin = perf_counter()
        self._advance_safely(timestep, steps)
        return (perf_counter() - begin) / steps

    def equilibrated(self, timestep: float, duration: float) -> Start:
        """State after Langevin dynamics from where the beads are.

        Raises
        ------
        SimulationError
            If the system explodes at this time step, which should be a safe one.
        """
        state = self._advance_safely(timestep, round(duration / timestep))
        return Start(
            state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        )

    def _advance_safely(self, timestep: float, steps: int) -> openmm.State:
        try:
            self._advance(timestep, steps)
            return self._state()
        except Unstable as error:
            raise SimulationError(
                f"The system cannot be equilibrated with a time step of {timestep * 1e3:g} fs"
                f" ({error}); begin with a smaller time step, or train a better potential."
            ) from error

    def sample(
        self,
        start: Start,
        timestep: float,
        duration: float,
        report: Callable[[int], None] = lambda forces: None,
    ) -> tuple[Averages, np.ndarray]:
        """Means over a Langevin run without its first tenth, and frames of that part.

        Parameters
        ----------
        start : Start
        timestep, duration : float, ps
        report : callable
            Gets the number of forces that were evaluated since the last call.

        Returns
        -------
        Averages
        ndarray, shape (n_frames, n_beads, 3), nm

        Raises
        ------
        Unstable
        """
        rows, frames = [], []
        for state in self.langevin(start, timestep, duration):
            positions = state.getPositions(asNumpy=True)._value
            square = np.sum(state.getForces(asNumpy=True)._value ** 2)
            rows.append(
                [
                    square,
                    self._divergence.sample(positions),
                    2 * state.getKineticEnergy()._value / (3 * self.n_beads * GAS_CONSTANT),
                    state.getPotentialEnergy()._value / (self.n_beads * self.kt),
                ]
            )
            if len(rows) % _FRAMES == 0:
                frames.append(positions.astype(np.float32))
            report(steps_per_sample(timestep) + FORCES_PER_SAMPLE)
        squares, divergences, kinetic, energy = np.array(rows)[round(len(rows) * _SETTLING) :].T
        found = {
            "configurational": configurational_temperature(squares, divergences),
            "kinetic": blocked_mean(kinetic),
            "energy": blocked_mean(energy),
        }
        numbers: dict[str, float] = {}
        for name, each in found.items():
            numbers |= {name: each.mean, f"{name}_se": each.error}
        short = tuple(name for name, each in found.items() if not each.plateau)
        return Averages(**numbers, at_least=short), np.array(
            frames[round(len(frames) * _SETTLING) :]
        )

    def langevin(self, start: Start, timestep: float, duration: float) -> Iterator[openmm.State]:
        """States of a Langevin run, about `SAMPLING` apart.

        With positions, velocities, forces and energies.

        Raises
        ------
        Unstable
        """
        self._langevin.setPositions(start.positions)
        self._langevin.setVelocities(start.velocities)
        for _ in range(samples_of(timestep, duration)):
            self._advance(timestep, steps_per_sample(timestep))
            yield self._state()

    def _advance(self, timestep: float, steps: int) -> None:
        integrator = self._langevin.getIntegrator()
        integrator.setStepSize(timestep)
        try:
            while steps > 0:
                integrator.step(min(steps, _PIECE))
                steps -= _PIECE
        except openmm.OpenMMException as error:
            raise Unstable(openmm_message(error)) from error

    def _state(self) -> openmm.State:
        """The state, or `Unstable` if it has exploded."""
        state = self._langevin.getState(positions=True, velocities=True, forces=True, energy=True)
        potential = state.getPotentialEnergy()._value
        temperature = 2 * state.getKineticEnergy()._value / (3 * self.n_beads * GAS_CONSTANT)
        hottest = max(_HOTTEST, 1 + 10 * math.sqrt(2 / (3 * self.n_beads)))
        if not (math.isfinite(potential) and temperature < self.temperature * hottest):
            raise Unstable(
                f"temperature {temperature:.0f} K, potential energy {potential:g} kJ/mol"
            )
        return state


def steps_per_sample(timestep: float) -> int:
    return max(1, round(SAMPLING / timestep))


def samples_of(timestep: float, duration: float) -> int:
    """Number of samples of a run."""
    return max(2, round(duration / (steps_per_sample(timestep) * timestep)))


def forces_of(timestep: float, duration: float) -> int:
    """Number of forces that a run evaluates."""
    return samples_of(timestep, duration) * (steps_per_sample(timestep) + FORCES_PER_SAMPLE)


def _context(
    system: openmm.System, integrator: openmm.Integrator, platform: str | None, double: bool = False
) -> openmm.Context:
    try:
        found = choose_platform(system, platform)
        # CPU and Reference have no such property: they integrate in double precision anyway
        precise = (
            double and found.supportsDoublePrecision() and "Precision" in found.getPropertyNames()
        )
        return openmm.Context(system, integrator, found, {"Precision": "double"} if precise else {})
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"Platform {platform or '(none named)'} cannot run the system"
            f" ({openmm_message(error)}); loaded here: {', '.join(platforms())}."
        ) from error
