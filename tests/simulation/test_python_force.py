"""The function that PythonForce calls, without PythonForce: it takes states of any OpenMM."""

import pickle

import numpy as np
import openmm
import pytest
import torch

from openmm_cgkd import CGPotential
from openmm_cgkd.simulation.python_force import PotentialFunction
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from tests.cases.potential import BOXES, CUBIC, beads, liquid, write_toy_potential


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt")


def state_and_function(file, box):
    """A state of a TorchForce system, and the function of the same potential."""
    types, positions = liquid(box=box)
    potential = CGPotential(file)
    system = potential.createSystem(bead_topology_to_openmm(beads(types), box))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    context.setPositions(positions)
    module = potential.load()
    module.set_types(torch.from_numpy(types))
    return context.getState(positions=True, energy=True, forces=True), PotentialFunction(
        module, periodic=box is not None
    )


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_energy_and_forces_are_those_of_torch_force(file, box):
    state, function = state_and_function(file, box)
    for compute in (function, pickle.loads(pickle.dumps(function))):  # as OpenMM saves it in XML
        energy, forces = compute(state)
        assert energy == pytest.approx(state.getPotentialEnergy()._value, rel=1e-9)
        np.testing.assert_allclose(
            forces, state.getForces(asNumpy=True)._value, rtol=0, atol=1e-6 * np.abs(forces).max()
        )
        assert forces.shape == state.getPositions(asNumpy=True).shape


def test_box_that_is_too_small(file):
    _, function = state_and_function(file, CUBIC)
    system = openmm.System()
    for _ in range(30):
        system.addParticle(1.0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    context.setPositions(liquid()[1])
    context.setPeriodicBoxVectors(*np.diag([2.0, 2.0, 1.5]))
    with pytest.raises(torch.jit.Error, match="below twice the cutoff"):
        function(context.getState(positions=True))
