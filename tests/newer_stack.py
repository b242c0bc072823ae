"""The PythonForce stack: newest torch and OpenMM, OpenMM-ML, no openmmtorch.
scripts/test_newer_stack runs this.
"""

import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import openmm
import pytest
from openmmml import MLPotential

from openmm_cgkd import CGPotential
from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.testing.validate import validate_potential
from tests.cases.old_files import FOLDER, expected, read_system
from tests.cases.potential import (
    CUBIC,
    MASSES,
    TRICLINIC,
    beads,
    liquid,
    prior_energy_and_forces,
    torchmd_network,
    write_toy_potential,
)


@pytest.fixture(scope="module", params=["portable", "fast"])
def file(request, tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt", kind=request.param)


def evaluate(system, positions, platform="Reference"):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(platform)
    )
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def test_this_is_the_newer_stack(file):
    with pytest.raises(PackageNotFoundError):
        version("openmmtorch")
    assert CGPotential(file).engine == "python"
    with pytest.raises(CompatibilityError, match="TorchForce needs torch"):
        CGPotential(file, "fast")


@pytest.mark.parametrize("box", [TRICLINIC, None], ids=["triclinic", "open"])
def test_conformance(file, box):
    types, positions = liquid(21, box)
    report = validate_potential(
        CGPotential(file), bead_topology_to_openmm(beads(types), box), positions
    )
    report.raise_if_failed()
    assert {"Reference", "CPU"} <= {check.platform.partition("/")[0] for check in report.checks}


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_equals_torchmd_net_and_prior_formula(file, platform):
    import torch

    types, positions = liquid()
    system = CGPotential(file).createSystem(bead_topology_to_openmm(beads(types), CUBIC))
    energy, forces = evaluate(system, positions, platform)
    at = torch.tensor(positions, requires_grad=True)
    learned, _ = torchmd_network().double()(
        torch.from_numpy(types), at, box=torch.from_numpy(CUBIC)
    )
    (gradient,) = torch.autograd.grad(learned.sum(), at)
    prior, prior_forces = prior_energy_and_forces(types, positions, CUBIC)
    expected = prior_forces - gradient.numpy()
    assert energy == pytest.approx(
        learned.item() + prior, rel=0, abs=1e-5 * (abs(learned.item()) + abs(prior))
    )
    assert np.abs(forces - expected).max() < 1e-5 * np.abs(expected).max()


def test_openmm_ml(file):
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system = MLPotential("cgkd", modelPath=str(file)).createSystem(topology)
    assert [system.getParticleMass(k)._value for k in range(len(types))] == [
        MASSES[kind] for kind in types
    ]
    assert system.usesPeriodicBoundaryConditions()
    energy, forces = evaluate(system, positions)
    expected, expected_forces = evaluate(CGPotential(file).createSystem(topology), positions)
    assert energy == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-6 * np.abs(forces).max())
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("CPU"))
    context.setPositions(positions)
    integrator.step(20)
    assert np.isfinite(context.getState(positions=True).getPositions(asNumpy=True)._value).all()


def test_system_read_in_another_process(file, tmp_path):
    types, positions = liquid()
    system = CGPotential(file).createSystem(bead_topology_to_openmm(beads(types), CUBIC))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions)
    script = """
        import numpy as np
        import openmm
        system = openmm.XmlSerializer.deserialize(open("system.xml").read())
        platform = openmm.Platform.getPlatform("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(np.load("positions.npy"))
        np.save("forces.npy", context.getState(forces=True).getForces(asNumpy=True)._value)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    forces = evaluate(system, positions)[1]
    np.testing.assert_allclose(
        np.load(tmp_path / "forces.npy"), forces, rtol=0, atol=1e-6 * np.abs(forces).max()
    )


def test_box_that_shrinks_below_twice_the_cutoff_stops_the_run(file):
    types, positions = liquid()
    system = CGPotential(file).createSystem(bead_topology_to_openmm(beads(types), CUBIC))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("CPU")
    )
    context.setPositions(positions)
    context.setPeriodicBoxVectors(*np.diag([2.0, 2.0, 1.5]))
    with pytest.raises(Exception, match="below twice the cutoff"):
        context.getState(energy=True)


def test_system_that_0_1_saved_as_xml():
    """Of the engine "python"; its force names a module of 0.1."""
    frames, numbers = read_frames(FOLDER / "frames.h5"), expected()
    energy, forces = evaluate(read_system("python"), frames.positions[0].astype(float))
    assert energy == pytest.approx(float(numbers["fused_energy"]), rel=1e-5)
    np.testing.assert_allclose(forces, numbers["fused_forces"], rtol=1e-5, atol=1e-4)
