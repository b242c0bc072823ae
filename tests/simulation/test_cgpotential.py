"""From a potential file to forces in an OpenMM context."""

import subprocess
import sys
import textwrap

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_cgkd import CGPotential, EnsemblePotential
from openmm_cgkd.exceptions import BoxError, ModelFileError
from openmm_cgkd.simulation.engines import cuda_graphs, import_torch_force
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.testing.validate import validate_potential
from tests.cases.hostile import with_script
from tests.cases.potential import (
    BOXES,
    CUBIC,
    CUTOFF,
    MASSES,
    NAMES,
    TRICLINIC,
    beads,
    liquid,
    prior_energy_and_forces,
    rewritten,
    torchmd_network,
    write_toy_potential,
)
from tests.cases.potential import working_platforms as find_platforms

PLATFORMS = find_platforms()
on_every_platform = pytest.mark.parametrize("platform", PLATFORMS)
in_every_box = pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)


@pytest.fixture(scope="module", params=["fast", "portable"])
def potential(request, tmp_path_factory):
    return CGPotential(
        write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt"), engine=request.param
    )


def context_of(system, platform="Reference"):
    return openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(platform)
    )


def evaluate(context, positions):
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def test_reference_and_cpu_are_tested():
    assert {"Reference", "CPU"} <= set(PLATFORMS)


def check_against_torchmd_net(context, types, positions, box, allowed=1e-5):
    """Energy and forces of a context are those of torchmd-net's model and of the prior."""
    network = torchmd_network().double()
    at = torch.tensor(positions, requires_grad=True)
    learned, _ = network(
        torch.from_numpy(types), at, box=None if box is None else torch.from_numpy(box)
    )
    (gradient,) = torch.autograd.grad(learned.sum(), at)
    prior, prior_forces = prior_energy_and_forces(types, positions, box)
    energy, forces = evaluate(context, positions)
    expected = prior_forces - gradient.numpy()
    # relative to the terms, which may cancel in the sum
    assert energy == pytest.approx(
        learned.item() + prior, rel=0, abs=allowed * (abs(learned.item()) + abs(prior))
    )
    assert np.abs(forces - expected).max() < allowed * np.abs(expected).max()


@on_every_platform
@in_every_box
def test_equals_torchmd_net_and_prior_formula(potential, platform, box):
    types, positions = liquid(box=box)
    system = potential.createSystem(bead_topology_to_openmm(beads(types), box))
    # others pass positions in single precision
    allowed = 1e-5 if platform in ("Reference", "CPU") else 1e-4
    check_against_torchmd_net(context_of(system, platform), types, positions, box, allowed)


@on_every_platform
def test_constant_pressure(potential, platform):
    types, positions = liquid()
    system = potential.createSystem(bead_topology_to_openmm(beads(types), CUBIC))
    barostat = openmm.MonteCarloBarostat(500.0, 300.0, 1)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    integrator.setRandomNumberSeed(3)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform(platform))
    context.setPositions(positions)
    volumes = set()
    for _ in range(2):
        integrator.step(10)
        state = context.getState(positions=True, energy=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value
        volumes.add(float(np.linalg.det(box)))
        check_against_torchmd_net(
            context, types, state.getPositions(asNumpy=True)._value, box, 1e-4
        )
    assert len(volumes | {np.linalg.det(CUBIC)}) == 3  # the box has changed between all of them


@on_every_platform
@in_every_box
def test_forces_are_finite_differences_of_the_energy(potential, platform, box):
    types, positions = liquid(box=box)
    context = context_of(
        potential.createSystem(bead_topology_to_openmm(beads(types), box)), platform
    )
    _, forces = evaluate(context, positions)
    rng = np.random.default_rng(6)
    directions = [
        rng.normal(size=positions.shape),
        np.zeros_like(positions),
        np.zeros_like(positions),
    ]
    directions[1][7, 0] = directions[2][29, 2] = 1.0
    for direction in directions:
        direction /= np.linalg.norm(direction)
        slopes = []
        for step in (2e-3, 4e-3):  # two steps, so that the error is of fourth order
            ahead, behind = (
                evaluate(context, positions + sign * step * direction)[0] for sign in (1, -1)
            )
            slopes.append((ahead - behind) / (2 * step))
        expected = -np.sum(forces * direction)
        assert (4 * slopes[0] - slopes[1]) / 3 == pytest.approx(
            expected, abs=1e-3 * np.abs(forces).max()
        )


@on_every_platform
def test_lattice_shifts_translation_and_permutation(potential, platform):
    types, positions = liquid(box=TRICLINIC)
    context = context_of(
        potential.createSystem(bead_topology_to_openmm(beads(types), TRICLINIC)), platform
    )
    energy, forces = evaluate(context, positions)
    shifts = np.random.default_rng(1).integers(-2, 3, positions.shape) @ TRICLINIC
    like = np.flatnonzero(types == types[0])
    order = np.arange(len(types))
    order[like] = np.roll(like, 1)
    allowed = 1e-6 if platform in ("Reference", "CPU") else 1e-4
    moved = positions + np.array([0.3, 4.0, -7.1])
    for changed, row in (
        (positions + shifts, slice(None)),
        (moved, slice(None)),
        (positions[order], order),
    ):
        found, found_forces = evaluate(context, changed)
        assert found == pytest.approx(energy, rel=allowed)
        np.testing.assert_allclose(
            found_forces, forces[row], atol=100 * allowed * np.abs(forces).max()
        )


@on_every_platform
def test_force_is_exactly_zero_beyond_the_cutoff(potential, platform):
    context = context_of(
        potential.createSystem(bead_topology_to_openmm(beads(np.array([0, 1])))), platform
    )
    assert (evaluate(context, np.array([[0, 0, 0], [0, 0, CUTOFF + 1e-4]]))[1] == 0).all()
    assert (evaluate(context, np.array([[0, 0, 0], [0, 0, 0.5]]))[1][:, 2] != 0).all()


# with PoCL OpenMM's OpenCL platform crashes on a single particle, whatever the force
@pytest.mark.parametrize("platform", [name for name in PLATFORMS if name != "OpenCL"])
def test_one_bead(potential, platform):
    context = context_of(
        potential.createSystem(bead_topology_to_openmm(beads(np.array([2])), CUBIC)), platform
    )
    energy, forces = evaluate(context, np.zeros((1, 3)))
    assert np.isfinite(energy)
    assert (forces == 0).all()


@on_every_platform
def test_box_that_shrinks_below_twice_the_cutoff_stops_the_run(potential, platform):
    types, positions = liquid()
    context = context_of(
        potential.createSystem(bead_topology_to_openmm(beads(types), CUBIC)), platform
    )
    evaluate(context, positions)
    context.setPeriodicBoxVectors(*np.diag([2.0, 2.0, 1.5]))
    with pytest.raises(openmm.OpenMMException, match="below twice the cutoff"):
        evaluate(context, positions)


def test_system(potential):
    types, _ = liquid()
    system = potential.createSystem(bead_topology_to_openmm(beads(types), TRICLINIC))
    masses = [
        system.getParticleMass(k).value_in_unit(unit.dalton)
        for k in range(system.getNumParticles())
    ]
    assert masses == [MASSES[kind] for kind in types]
    box = [vector.value_in_unit(unit.nanometer) for vector in system.getDefaultPeriodicBoxVectors()]
    np.testing.assert_allclose(box, TRICLINIC)
    assert system.usesPeriodicBoundaryConditions()
    assert sum(isinstance(force, openmm.CMMotionRemover) for force in system.getForces()) == 1
    still = potential.createSystem(bead_topology_to_openmm(beads(types)), removeCMMotion=False)
    assert not still.usesPeriodicBoundaryConditions()
    assert still.getNumForces() == 1


def test_cuda_graphs_are_reported(potential):
    system = potential.createSystem(beads(liquid()[0]))
    assert cuda_graphs(system) == "off"
    assert cuda_graphs(openmm.XmlSerializer.clone(system)) == "off"
    other = import_torch_force()(potential.load())
    other.setProperty("useCUDAGraphs", "true")
    system.addForce(other)
    assert cuda_graphs(system) == "on"
    assert cuda_graphs(openmm.System()) == "none"


def test_topologies_of_mdtraj_openmm_and_ours_agree(potential):
    types, positions = liquid()
    topology = beads(types)
    trajectory = mdtraj.Trajectory(positions, topology.to_mdtraj())
    ways = [
        (bead_topology_to_openmm(topology, CUBIC), {}),
        (topology, {"boxVectors": CUBIC}),
        (trajectory.topology, {"boxVectors": CUBIC * unit.nanometer}),
        (
            trajectory.topology.to_openmm(),
            {
                "boxVectors": app.internal.unitcell.reducePeriodicBoxVectors(
                    CUBIC.tolist() * unit.nanometer
                )
            },
        ),
    ]
    energies = [
        evaluate(context_of(potential.createSystem(way, **options)), positions)[0]
        for way, options in ways
    ]
    assert energies == pytest.approx(4 * [energies[0]], rel=1e-12)
    # open
    assert energies[0] != pytest.approx(
        evaluate(context_of(potential.createSystem(topology)), positions)[0], rel=1e-3
    )


def test_two_systems_of_one_potential_do_not_disturb_each_other(potential):
    types, positions = liquid()
    first = context_of(potential.createSystem(beads(types)))
    energy, _ = evaluate(first, positions)
    second = context_of(potential.createSystem(beads(np.zeros_like(types))))
    assert evaluate(second, positions)[0] != pytest.approx(energy, rel=1e-3)
    assert evaluate(first, positions)[0] == pytest.approx(energy, rel=1e-12)


def test_several_forces_in_one_system_add_up(potential):
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system = potential.createSystem(topology)
    energy, forces = evaluate(context_of(system), positions)
    system.addForce(potential.createForce(topology, CUBIC))
    system.addForce(CGPotential(potential.file, "portable").createForce(topology, CUBIC))
    total, total_forces = evaluate(context_of(system), positions)
    assert total == pytest.approx(3 * energy, rel=1e-5)
    np.testing.assert_allclose(total_forces, 3 * forces, atol=1e-4 * np.abs(forces).max())


def test_systems_read_in_another_process(tmp_path):
    types, positions = liquid()
    file, topology = (
        write_toy_potential(tmp_path / "student.pt"),
        bead_topology_to_openmm(beads(types), CUBIC),
    )
    systems = {
        engine: CGPotential(file, engine).createSystem(topology) for engine in ("fast", "portable")
    }
    for engine, system in systems.items():
        (tmp_path / f"{engine}.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions)
    script = """
        import numpy as np
        import openmm
        import openmm_cgkd.operators
        for engine in ("fast", "portable"):
            system = openmm.XmlSerializer.deserialize(open(f"{engine}.xml").read())
            platform = openmm.Platform.getPlatform("Reference")
            context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
            context.setPositions(np.load("positions.npy"))
            np.save(engine, context.getState(forces=True).getForces(asNumpy=True)._value)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for engine, system in systems.items():
        forces = evaluate(context_of(system), positions)[1]
        np.testing.assert_allclose(
            np.load(tmp_path / f"{engine}.npy"), forces, rtol=0, atol=1e-6 * np.abs(forces).max()
        )


@pytest.mark.parametrize("engine", ["fast", "portable"])
def test_fast_file_runs_like_the_portable_one(potential, tmp_path, engine):
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    expected, _ = evaluate(context_of(potential.createSystem(topology)), positions)
    fast = CGPotential(write_toy_potential(tmp_path / "student-fast.pt", kind="fast"), engine)
    assert evaluate(context_of(fast.createSystem(topology)), positions)[0] == pytest.approx(
        expected, rel=1e-5
    )


def test_fast_file_of_a_version_with_other_operators(potential, tmp_path):
    """Its script is of no use here, its weights are."""
    fast = write_toy_potential(tmp_path / "fast.pt", kind="fast")
    former = rewritten(
        fast,
        tmp_path / "former.pt",
        lambda _, x: x.replace(b"ops.openmm_cgkd.", b"ops.openmm_cgkd.former_"),
        hashed=True,
    )
    types, positions = liquid()
    systems = (CGPotential(former).createSystem(beads(types)), potential.createSystem(beads(types)))
    energies = [evaluate(context_of(system), positions)[0] for system in systems]
    assert energies[0] == pytest.approx(energies[1], rel=1e-5)


def test_box_that_is_not_reduced_is_the_same_lattice(potential):
    types, positions = liquid(box=TRICLINIC)
    skewed = TRICLINIC.copy()
    skewed[2] += TRICLINIC[1] - 2 * TRICLINIC[0]
    energies = [
        evaluate(context_of(potential.createSystem(beads(types), boxVectors=box)), positions)[0]
        for box in (TRICLINIC, skewed)
    ]
    assert energies[0] == pytest.approx(energies[1], rel=1e-5)


def test_unknown_bead(potential):
    types, _ = liquid()
    topology = bead_topology_to_openmm(beads(types))
    list(topology.atoms())[4].name = "HOH"
    with pytest.raises(ModelFileError) as caught:
        potential.createSystem(topology)
    for part in ("Bead 4", "HOH", *NAMES):
        assert part in str(caught.value)
    with pytest.raises(ModelFileError, match="no beads"):
        potential.createSystem(app.Topology())


def test_beads_of_another_fluid(potential):
    types, _ = liquid()
    topology = beads(types)
    topology.masses[7] += 1.0
    with pytest.raises(
        ModelFileError,
        match=rf"Bead 7 \({NAMES[types[7]]}\) weighs .* dalton, in student.pt {MASSES[types[7]]:g}",
    ):
        potential.createSystem(topology)


def test_positions_of_another_number_of_beads(potential):
    types, positions = liquid()
    module = potential.load()
    module.set_types(torch.from_numpy(types))
    with pytest.raises(torch.jit.Error, match="positions of 29 beads, types of 30"):
        module(torch.from_numpy(positions[:-1]))


def test_bad_boxes(potential):
    types, _ = liquid()
    with pytest.raises(BoxError, match=r"0\.8 nm is above half .* 1\.5"):
        potential.createSystem(beads(types), boxVectors=np.diag([2.0, 1.5, 2.0]))
    with pytest.raises(BoxError, match="OpenMM's form"):
        potential.createSystem(beads(types), boxVectors=CUBIC[::-1])
    with pytest.raises(BoxError, match="OpenMM's form"):
        potential.createSystem(beads(types), boxVectors=CUBIC[:2])


def test_damaged_file(potential, tmp_path):
    damaged = rewritten(
        potential.file,
        tmp_path / "student.pt",
        lambda name, x: b"" if name.endswith("weights.safetensors") else x,
        hashed=True,
    )
    with pytest.raises(ModelFileError, match="or a damaged one; export it"):
        CGPotential(damaged).createSystem(beads(np.array([0])))
    with pytest.raises(ModelFileError, match="changed after the export"):
        CGPotential(rewritten(potential.file, tmp_path / "student.pt", masses=[1.0, 1.0, 1.0]))


@pytest.mark.parametrize("kind", ["portable", "fast"])
def test_the_script_of_a_file_is_not_run(tmp_path, kind):
    """A script can write over files of the user, and its hash travels with it."""
    file, victim = write_toy_potential(tmp_path / "a.pt", kind), tmp_path / "thesis.tex"
    bad = with_script(file, tmp_path / "b.pt", victim)
    types, positions = liquid()

    module = torch.jit.load(str(bad))  # the attack works where the script is run
    module.set_types(torch.from_numpy(types))
    assert victim.exists()
    victim.unlink()

    topology = bead_topology_to_openmm(beads(types), CUBIC)
    for engine in ("fast", "portable"):
        found = [
            evaluate(context_of(make(path).createSystem(topology)), positions)
            for path in (file, bad)
            for make in (
                lambda path, engine=engine: CGPotential(path, engine),
                lambda path, engine=engine: EnsemblePotential([path, path], engine),
            )
        ]
        for energy, forces in found[2:]:
            assert energy == found[0][0]
            np.testing.assert_array_equal(forces, found[0][1])
    found = validate_potential(CGPotential(bad), topology, positions, platforms=["Reference"])
    found.raise_if_failed()
    assert not victim.exists()


@pytest.mark.parametrize("kind", ["portable", "fast"])
@pytest.mark.parametrize("engine", ["fast", "portable"])
def test_forces_are_those_of_the_script_to_the_last_bit(tmp_path, kind, engine):
    file = write_toy_potential(tmp_path / "student.pt", kind)
    types, positions = liquid()
    made, script = CGPotential(file, engine).load(), torch.jit.load(str(file))
    if engine == "portable" and kind == "fast":
        script = script.portable
    elif engine == "fast" and kind == "portable":
        script = torch.jit.load(str(write_toy_potential(tmp_path / "fast.pt", "fast")))
    results = []
    for module in (made, script):
        module.set_types(torch.from_numpy(types))
        for _ in range(3):  # TorchScript rounds otherwise in a module's first call
            at = torch.tensor(positions, requires_grad=True)
            energy = module(at, torch.from_numpy(CUBIC))
            (gradient,) = torch.autograd.grad(energy, at)
        results.append((energy.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_metadata_attribute(potential):
    assert potential.metadata.type_names == list(NAMES)
    assert potential.metadata.cutoff == CUTOFF
