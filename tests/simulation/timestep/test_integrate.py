"""Langevin dynamics with a time step: harmonic wells with known answers."""

import openmm
import pytest

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.simulation.timestep.integrate import Integration, forces_of
from tests.cases.wells import MASS, OMEGA, TEMPERATURE, wells


def test_averages_are_those_of_baoab():
    """Exact at half steps and in position at every stable step."""
    integration, middles = wells()
    integration.begin(middles)
    start = integration.equilibrated(0.01, 5.0)
    done = []
    found, frames = integration.sample(start, 1 / OMEGA, 400.0, done.append)
    assert found.configurational_se < 0.02 * TEMPERATURE
    for name in ("configurational", "kinetic"):
        error = getattr(found, f"{name}_se")
        assert getattr(found, name) == pytest.approx(TEMPERATURE, abs=4 * error)
    assert found.energy == pytest.approx(1.5, abs=4 * found.energy_se)
    assert found.energy_se < 0.03
    assert frames.shape[1:] == (30, 3)
    assert sum(done) == forces_of(1 / OMEGA, 400.0)


def test_equilibration_that_explodes_is_one_sentence():
    integration, middles = wells()
    integration.begin(middles)
    with pytest.raises(
        SimulationError,
        match=r"cannot be equilibrated with a time step of 1000 fs \(.*\); begin with a smaller",
    ):
        integration.equilibrated(1.0, 50.0)


def test_constraints_and_beads_that_are_held_are_refused():
    system = openmm.System()
    for mass in (MASS, MASS, 0.0):
        system.addParticle(mass)
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(SimulationError, match="1 constraints and 1 particles without mass"):
        Integration(system, TEMPERATURE, 1.0, "Reference")
