"""The plug-in of OpenMM-ML, with stand-ins for the base classes of OpenMM-ML.

tests/newer_stack.py runs it with OpenMM-ML itself.
"""

import importlib
import sys
from types import ModuleType

import numpy as np
import openmm
import pytest

from openmm_cgkd import CGPotential
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from tests.cases.potential import CUBIC, MASSES, beads, liquid, write_toy_potential


@pytest.fixture
def factory(monkeypatch):
    base = ModuleType("openmmml.mlpotential")
    base.MLPotentialImpl = base.MLPotentialImplFactory = object
    monkeypatch.setitem(sys.modules, "openmmml", ModuleType("openmmml"))
    monkeypatch.setitem(sys.modules, "openmmml.mlpotential", base)
    monkeypatch.delitem(sys.modules, "openmm_cgkd.simulation.openmmml", raising=False)
    yield importlib.import_module("openmm_cgkd.simulation.openmmml").CGPotentialFactory()
    del sys.modules["openmm_cgkd.simulation.openmmml"]


def test_adds_force_and_masses_to_a_system_without_masses(factory, tmp_path):
    file = write_toy_potential(tmp_path / "student.pt")
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*CUBIC)
    for _ in types:
        system.addParticle(0.0)  # what OpenMM-ML gives to particles without an element
    implementation = factory.createImpl("cgkd", modelPath=file)
    implementation.addForces(topology, system, None, 3)
    assert [system.getParticleMass(k)._value for k in range(len(types))] == [
        MASSES[kind] for kind in types
    ]
    assert [force.getForceGroup() for force in system.getForces()] == [3]
    energies = []
    for each in (system, CGPotential(file).createSystem(topology, removeCMMotion=False)):
        context = openmm.Context(
            each, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
        )
        context.setPositions(positions)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], rel=1e-9)
    assert implementation.getMLLongRange() is False
    with pytest.raises(ConfigError, match="acts on all beads"):
        implementation.addForces(topology, system, [0, 1], 0)
    with pytest.raises(ConfigError, match="charge: not an argument"):
        implementation.addForces(topology, system, None, 0, charge=1)
    assert np.isfinite(energies[0])


def test_needs_a_file(factory):
    with pytest.raises(ConfigError, match="modelPath"):
        factory.createImpl("cgkd")
