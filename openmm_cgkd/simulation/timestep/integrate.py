r"""How well a time step integrates a system.

Measured are the energy, the kinetic temperature and the mean potential energy.

At constant energy, velocity Verlet (OpenMM's leapfrog with on-step velocities) conserves a shadow
energy that differs from the true one by terms of order :math:`h^2`, so the true energy fluctuates
in proportion to :math:`h^2` and drifts only where the step is too long or the forces are not
smooth. For a harmonic oscillator the conserved quantity is :math:`\frac{m}{2}v^2 +
\frac{m\omega^2}{2}x^2\,(1 - \omega^2h^2/4)`.

Langevin dynamics (`LangevinMiddleIntegrator`, Zhang et al., J. Phys. Chem. A 2019, 123, 6056)
stores positions at full and velocities at half steps, between kick and thermostat as in BAOAB
(Leimkuhler and Matthews, J. Chem. Phys. 2013, 138, 174102). For a harmonic oscillator positions and
half-step velocities have the exact variances :math:`k_BT/m\omega^2` and :math:`k_BT/m` at every
stable step, while the full-step velocity :math:`v + \frac{h}{2}f/m` has :math:`k_BT/m\,(1 -
\omega^2h^2/4)`. So the half-step temperature, which OpenMM reports, tells of failing dynamics, and
the gap between the two tells how near the fastest motion is to its limit :math:`\omega h = 2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import openmm
from scipy.stats import linregress, sem

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.platforms import choose_platform, platforms
from openmm_cgkd.simulation.explosion import openmm_message
from openmm_cgkd.utils.statistics import blocked_mean
from openmm_cgkd.utils.units import GAS_CONSTANT

_SAMPLING = 0.02  # ps between samples: a few per period of the fastest motion of beads
_PIECE = 50  # steps between chances to interrupt
_HOTTEST = 3.0  # a run that is hotter than this multiple of the set temperature has failed
_MEANS = ("temperature", "full_step_temperature", "energy")
_SETTLING = 0.1  # share of a Langevin run left out, in which the state adapts to its time step


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
class Conservation:
    """Energy at constant energy.

    Attributes
    ----------
    drift, drift_se : float
        Slope of the total energy per bead, kT/ns; mean over the starts and its standard error.
    fluctuation : float
        RMS of the total energy about that line over the square root of the number of beads, kT.
    """

    drift: float
    drift_se: float
    fluctuation: float


@dataclass(frozen=True)
class Averages:
    """Means under Langevin dynamics, with standard errors from blocks as long as needed.

    Attributes
    ----------
    temperature, temperature_se : float, kelvin
        Kinetic, from the half-step velocities that `LangevinMiddleIntegrator` stores and OpenMM
        reports.
    full_step_temperature, full_step_temperature_se : float, kelvin
        Kinetic, from velocities at the time of the positions.
    energy, energy_se : float, kT
        Potential energy per bead.
    at_least : tuple of str
        Means whose standard error is a lower bound, since the run is too short.
    """

    temperature: float
    temperature_se: float
    full_step_temperature: float
    full_step_temperature_se: float
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
        Every bead must move. Without `CMMotionRemover`: 3 degrees of freedom per bead are counted.
    temperature : float, kelvin
    friction : float, 1/ps
    platform : str, optional
        OpenMM platform; the fastest one if absent. Energy is conserved in double precision where
        the platform can.
    seed : int

    Raises
    ------
    SimulationError
        If the platform is not available.
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
        self.masses = np.array([system.getParticleMass(k)._value for k in range(self.n_beads)])[
            :, None
        ]
        self.kt = GAS_CONSTANT * temperature
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction, 0.001)
        integrator.setRandomNumberSeed(seed)
        self._langevin = _context(system, integrator, platform)
        self._verlet = _context(system, openmm.VerletIntegrator(0.001), self.platform, double=True)

    @property
    def platform(self) -> str:
        return self._langevin.getPlatform().getName()

    def starts(
        self,
        positions: np.ndarray,
        timestep: float,
        equilibration: float,
        count: int,
        spacing: float,
    ) -> list[Start]:
        """Equilibrate by Langevin dynamics and return states `spacing` ps apart.

        Raises
        ------
        SimulationError
            If the system explodes at this time step, which should be a safe one.
        """
        self._langevin.setPositions(positions)
        self._langevin.setVelocitiesToTemperature(self.temperature, self.seed)
        try:
            self._advance(self._langevin, timestep, equilibration)
            found = []
            for _ in range(count):
                self._advance(self._langevin, timestep, spacing)
                state = self._langevin.getState(positions=True, velocities=True, energy=True)
                self._check(state)
                found.append(
                    Start(
                        state.getPositions(asNumpy=True)._value,
                        state.getVelocities(asNumpy=True)._value,
                    )
                )
        except Unstable as error:
            raise SimulationError(
                f"The system cannot be equilibrated with a time step of {timestep * 1e3:g} fs"
                f" ({error}); begin with a smaller time step, or train a better potential."
            ) from error
        return found

    def conservation(self, starts: list[Start], timestep: float, duration: float) -> Conservation:
        """Integrate at constant energy by velocity Verlet.

        Parameters
        ----------
        starts : list of Start
            At least two, for the standard error.
        timestep, duration : float, ps
            Duration of the run from each start.

        Raises
        ------
        Unstable
        """
        lines = [self._energy_line(start, timestep, duration) for start in starts]
        drifts, fluctuations = np.array(lines).T
        per_bead = drifts * 1e3 / (self.n_beads * self.kt)
        rms = math.sqrt(np.mean(fluctuations**2) / self.n_beads) / self.kt
        return Conservation(float(per_bead.mean()), float(sem(per_bead)), rms)

    def _energy_line(self, start: Start, timestep: float, duration: float) -> tuple[float, float]:
        """Slope of the total energy, kJ/mol/ps, and RMS distance from the line, kJ/mol."""
        context = self._verlet
        context.setPositions(start.positions)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        # leapfrog keeps velocities half a step behind positions
        context.setVelocities(start.velocities - 0.5 * timestep * forces / self.masses)
        times, energies = [], []
        for time in self._samples(context, timestep, duration):
            state = context.getState(energy=True)
            kinetic = self._check(state)
            times.append(time)
            energies.append(kinetic + state.getPotentialEnergy()._value)
        line = linregress(times, energies)
        residuals = np.array(energies) - line.intercept - line.slope * np.array(times)
        return float(line.slope), float(np.sqrt(np.mean(residuals**2)))

    def averages(self, start: Start, timestep: float, duration: float) -> Averages:
        """Means over a Langevin run without its first tenth.

        Raises
        ------
        Unstable
        """
        rows = []
        for state in self.langevin(start, timestep, duration, _SAMPLING):
            velocities, forces = (
                array(asNumpy=True)._value for array in (state.getVelocities, state.getForces)
            )
            on_step = velocities + 0.5 * timestep * forces / self.masses
            kinetic = [
                np.sum(self.masses * v**2) / (3 * self.n_beads * GAS_CONSTANT)
                for v in (velocities, on_step)
            ]
            rows.append([*kinetic, state.getPotentialEnergy()._value / (self.n_beads * self.kt)])
        kept = np.array(rows)[round(len(rows) * _SETTLING) :]
        found = [blocked_mean(column) for column in kept.T]
        short = tuple(name for name, each in zip(_MEANS, found, strict=True) if not each.plateau)
        half, full, potential = found
        return Averages(
            half.mean, half.error, full.mean, full.error, potential.mean, potential.error, short
        )

    def langevin(
        self, start: Start, timestep: float, duration: float, interval: float
    ) -> Iterator[openmm.State]:
        """States of a Langevin run, about `interval` ps apart.

        With positions, velocities, forces and energies.

        Raises
        ------
        Unstable
        """
        self._langevin.setPositions(start.positions)
        self._langevin.setVelocities(start.velocities)
        for _ in self._samples(self._langevin, timestep, duration, interval):
            state = self._langevin.getState(
                positions=True, velocities=True, forces=True, energy=True
            )
            self._check(state)
            yield state

    def _samples(
        self, context: openmm.Context, timestep: float, duration: float, interval: float = _SAMPLING
    ) -> Iterator[float]:
        """Advance from sample to sample and give the time of each, ps."""
        every = max(1, round(interval / timestep))
        for k in range(1, max(2, round(duration / (every * timestep))) + 1):
            self._advance(context, timestep, every * timestep)
            yield k * every * timestep

    def _advance(self, context: openmm.Context, timestep: float, duration: float) -> None:
        integrator, left = context.getIntegrator(), round(duration / timestep)
        integrator.setStepSize(timestep)
        try:
            while left > 0:
                integrator.step(min(left, _PIECE))
                left -= _PIECE
        except openmm.OpenMMException as error:
            raise Unstable(openmm_message(error)) from error

    def _check(self, state: openmm.State) -> float:
        """Kinetic energy, kJ/mol, of a state; raises `Unstable` if it has exploded."""
        kinetic, potential = state.getKineticEnergy()._value, state.getPotentialEnergy()._value
        temperature = 2 * kinetic / (3 * self.n_beads * GAS_CONSTANT)
        if not (
            math.isfinite(potential)
            and temperature
            < self.temperature * max(_HOTTEST, 1 + 10 * math.sqrt(2 / (3 * self.n_beads)))
        ):
            raise Unstable(
                f"temperature {temperature:.0f} K, potential energy {potential:g} kJ/mol"
            )
        return kinetic


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
