"""Configurational temperature: oscillators, a liquid and molecules, where it is known."""

import numpy as np
import openmm
import pytest

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.simulation.timestep.configurational import (
    ForceDivergence,
    configurational_temperature,
)
from openmm_cgkd.utils.units import GAS_CONSTANT
from tests.cases.wells import MASS, STIFFNESS, TEMPERATURE, well_system


def reference_context(system, integrator=None):
    integrator = integrator or openmm.VerletIntegrator(0.001)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))


def temperature_of(system, positions, integrator, samples, every, settle=100):
    context = reference_context(system, integrator)
    context.setPositions(positions)
    integrator.step(settle)
    divergence, rows = ForceDivergence(reference_context(system), 1), []
    for _ in range(samples):
        integrator.step(every)
        state = context.getState(positions=True, forces=True)
        square = np.sum(state.getForces(asNumpy=True)._value ** 2)
        rows.append((square, divergence.sample(state.getPositions(asNumpy=True)._value)))
    return configurational_temperature(*np.array(rows).T)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_brownian_dynamics_is_too_hot_by_the_known_factor(share):
    """Euler's x -> (1 - a) x + noise, a = h k / (gamma m), has the variance kT/k / (1 - a/2)."""
    friction = 50.0
    system, middles = well_system()
    timestep = share * 2 * friction * MASS / STIFFNESS
    integrator = openmm.BrownianIntegrator(TEMPERATURE, friction, timestep)
    integrator.setRandomNumberSeed(3)
    found = temperature_of(system, middles, integrator, 1500, 1)
    assert found.error < 0.012 * TEMPERATURE
    assert found.mean == pytest.approx(TEMPERATURE / (1 - share), abs=3.5 * found.error)


@pytest.fixture(scope="module")
def argon():
    """32 Lennard-Jones particles of argon, smooth at the cutoff, as a liquid."""
    sigma, epsilon, n = 0.34, 1.0, 32
    system = openmm.System()
    force = openmm.CustomNonbondedForce("4*1.0*((0.34/r)^12-(0.34/r)^6)")
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.59)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.5)
    for _ in range(n):
        system.addParticle(40.0)
        force.addParticle([])
    system.addForce(force)
    edge = (n / 0.75) ** (1 / 3) * sigma
    system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
    lattice = np.array(
        [[i, j, k] for i in range(4) for j in range(4) for k in range(4) if (i + j + k) % 2 == 0]
    )
    return system, edge / 4 * lattice, edge, epsilon, sigma


def laplacian(positions, edge, epsilon, sigma):
    """Sum over pairs of 2 (U'' + 2 U'/r), with the switching function of OpenMM."""
    vectors = positions[:, None] - positions[None]
    vectors -= edge * np.round(vectors / edge)
    r = np.linalg.norm(vectors, axis=-1)[np.triu_indices(len(positions), 1)]
    r = r[r < 0.59]

    def energy(r):
        x = np.clip((r - 0.5) / 0.09, 0, 1)
        switch = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
        return switch * 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)

    d = 1e-5
    first = (energy(r + d) - energy(r - d)) / (2 * d)
    second = (energy(r + d) - 2 * energy(r) + energy(r - d)) / d**2
    return 2 * np.sum(second + 2 * first / r)


def test_divergence_is_the_laplacian_on_average(argon):
    system, positions, edge, epsilon, sigma = argon
    positions = positions + np.random.default_rng(1).normal(0, 0.02, positions.shape)
    divergence = ForceDivergence(reference_context(system), 1)
    found = [divergence.sample(positions) for _ in range(400)]
    error = np.std(found) / np.sqrt(len(found))
    known = laplacian(positions, edge, epsilon, sigma)
    assert error < 0.02 * known
    assert np.mean(found) == pytest.approx(known, abs=4 * error)


def test_a_liquid_has_the_temperature_of_its_thermostat(argon):
    system, positions, *_ = argon
    integrator = openmm.LangevinMiddleIntegrator(120.0, 5.0, 0.01)
    integrator.setRandomNumberSeed(2)
    found = temperature_of(system, positions, integrator, 500, 4, settle=300)
    assert found.error < 0.05 * 120
    assert found.mean == pytest.approx(120, abs=3.5 * found.error)


def test_bonds_and_angles_are_part_of_it():
    """Molecules of three beads, in wells: stiff and soft motions, far from harmonic."""
    system, middles = well_system("20*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for k in range(0, 30, 3):
        bonds.addBond(k, k + 1, 0.3, 20000.0)
        bonds.addBond(k + 1, k + 2, 0.3, 20000.0)
        angles.addAngle(k, k + 1, k + 2, 1.8, 100.0)
        middles[k + 1 : k + 3] = middles[k] + [[0.3, 0, 0], [0.37, 0.29, 0]]
    system.addForce(bonds)
    system.addForce(angles)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5.0, 0.004)
    integrator.setRandomNumberSeed(1)
    found = temperature_of(system, middles, integrator, 1000, 10, settle=1000)
    assert found.error < 0.03 * TEMPERATURE
    assert found.mean == pytest.approx(TEMPERATURE, abs=3.5 * found.error)


def test_standard_error_is_the_scatter_of_many_runs():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        divergences = 50 + rng.normal(0, 3, 300)
        squares = GAS_CONSTANT * 300 * divergences + rng.normal(0, 10, 300)
        found.append(configurational_temperature(squares, divergences))
    values = np.array([each.mean for each in found])
    assert values.mean() == pytest.approx(300, abs=4 * values.std() / np.sqrt(200))
    errors = [each.error for each in found]
    assert np.median(errors) == pytest.approx(values.std(), rel=0.25)


def test_beads_that_nothing_drives_back_have_none():
    rng = np.random.default_rng(0)
    with pytest.raises(SimulationError, match="nothing drives the beads back"):
        configurational_temperature(rng.normal(1, 0.1, 100), rng.normal(0, 1, 100))
