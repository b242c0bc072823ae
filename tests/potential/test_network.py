"""The network against torchmd-net's own forward pass.

The prior against its formula, and the pair search against NumPy.
"""

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import ModelConfig, PriorConfig
from openmm_cgkd.exceptions import BoxError, FramesError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.potential import network as tensornet_module
from openmm_cgkd.potential.autograd import anticommutator as products
from openmm_cgkd.potential.autograd import messages as kernels
from openmm_cgkd.potential.forces import SumModel, energies_and_forces
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import PairRepulsion, fit_prior
from tests.cases.networks import TRICLINIC, random_system, tensors, torchmd_pair


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("box", [TRICLINIC, None], ids=["triclinic", "open"])
def test_energy_and_forces_equal_torchmd_net(layers, box):
    torchmd, network = torchmd_pair(layers)
    positions, types = random_system(seed=layers)
    box_tensor = None if box is None else torch.from_numpy(box)
    expected, expected_forces = torchmd(
        torch.from_numpy(types), torch.from_numpy(positions), box=box_tensor
    )
    energies, forces = energies_and_forces(
        network, *tensors(positions, types, box, 0.9, torch.float64)
    )
    # torchmd-net's Warp kernels hold some constants in single precision; its plain PyTorch path
    # agrees to 1e-14
    assert energies.sum().item() == pytest.approx(expected.item(), rel=1e-7)
    assert (forces - expected_forces).abs().max() < 1e-7 * expected_forces.abs().max()


def test_float32_equals_torchmd_net_to_rounding():
    torchmd, network = torchmd_pair(1, channels=32, dtype=torch.float32)
    positions, types = random_system(seed=5)
    z, pos, box = (
        torch.from_numpy(types),
        torch.from_numpy(positions).float(),
        torch.from_numpy(TRICLINIC).float(),
    )
    expected, expected_forces = torchmd(z, pos, box=box)
    energies, forces = energies_and_forces(
        network, *tensors(positions, types, TRICLINIC, 0.9, torch.float32)
    )
    assert energies.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert (forces - expected_forces).abs().max() < 1e-5 * expected_forces.abs().max()


def test_per_bead_energies_are_those_of_torchmd_net():
    torchmd, network = torchmd_pair(1)
    positions, types = random_system(seed=3)
    z, pos = torch.from_numpy(types), torch.from_numpy(positions)
    batch = torch.arange(len(z))  # summing over single-bead "molecules" is the per-bead energy
    x, v, *_ = torchmd.representation_model(
        z, pos, torch.zeros_like(z), box=torch.from_numpy(TRICLINIC)
    )
    expected = torchmd.output_model.pre_reduce(x, v, z, pos, batch).squeeze(1) * torchmd.std
    energies, _ = energies_and_forces(
        network, *tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    )
    torch.testing.assert_close(energies.detach(), expected.detach(), rtol=1e-6, atol=1e-7)


def test_plain_torch_path_equals_compiled_kernels(monkeypatch):
    _, network = torchmd_pair(2)
    positions, types = random_system(seed=7)
    arguments = tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    compiled = energies_and_forces(network, *arguments)
    monkeypatch.setattr(tensornet_module.torch.jit, "is_scripting", lambda: True)
    plain = energies_and_forces(network, *arguments)
    for one, other in zip(compiled, plain, strict=True):  # the splines' error
        assert (one - other).abs().max() < 1e-7 * other.abs().max()


def test_gradient_of_a_force_loss_equals_torchmd_net():
    """With respect to every weight, with the derivatives left out that training leaves out."""
    torchmd, network = torchmd_pair(2)
    positions, types = random_system(seed=7)
    target = torch.from_numpy(np.random.default_rng(0).normal(size=positions.shape))
    energy, forces = torchmd.train()(
        torch.from_numpy(types), torch.from_numpy(positions), box=torch.from_numpy(TRICLINIC)
    )
    weights = dict(torchmd.named_parameters())
    expected = torch.autograd.grad(
        ((forces - target) ** 2).mean() + 0.1 * energy.sum(),
        list(weights.values()),
        allow_unused=True,
    )
    energies, forces = energies_and_forces(
        network, *tensors(positions, types, TRICLINIC, 0.9, torch.float64), create_graph=True
    )
    with kernels.skip_derivatives("distances"):
        (((forces - target) ** 2).mean() + 0.1 * energies.sum()).backward()
    for (name, weight), gradient in zip(weights.items(), expected, strict=True):
        assert (weight.grad is None) == (gradient is None), name
        if gradient is not None:
            assert (weight.grad - gradient).abs().max() <= 1e-6 * gradient.abs().max() + 1e-10, name


def test_kernels_differentiate_twice():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    first, second, kinds = (
        torch.tensor([0, 0, 1, 3]),
        torch.tensor([1, 2, 2, 0]),
        torch.tensor([1, 0, 1, 0]),
    )
    # 0.4 is the end of the table
    distances = torch.tensor([0.11, 0.17, 0.34, 0.97], dtype=torch.float64, requires_grad=True)
    spacing, rows = 0.1, 9
    for function, arguments in (
        (
            lambda t, d, x: kernels.mix(t, d, x, first, second, spacing),
            (random(rows, 3, 2), distances, random(4, 9, 2)),
        ),
        (
            lambda t, d, s: kernels.gather(t, d, s, first, kinds, 4, spacing),
            (random(2, rows, 3, 2), distances, random(4, 9)),
        ),
        (products.anticommutator, (random(2, 9, 2), random(2, 9, 2))),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_forces_are_finite_differences_of_the_energy():
    _, network = torchmd_pair(1)
    prior = PairRepulsion(torch.full((3, 3), 0.27), 100.0, 0.05, 0.015, 0.9).double()
    model = SumModel(prior, network)
    positions, types = random_system(seed=11)
    _, forces = energies_and_forces(
        model, *tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    )
    step = 1e-5
    for bead, axis in ((0, 0), (7, 1), (23, 2)):
        energy = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[bead, axis] += sign * step
            energy.append(
                energies_and_forces(model, *tensors(moved, types, TRICLINIC, 0.9, torch.float64))[0]
                .sum()
                .item()
            )
        assert forces[bead, axis].item() == pytest.approx(
            -(energy[0] - energy[1]) / (2 * step), rel=1e-5, abs=1e-4
        )


def test_force_is_exactly_zero_at_and_beyond_the_cutoff():
    _, network = torchmd_pair(1)
    prior = PairRepulsion(torch.full((3, 3), 0.4), 100.0, 0.05, 0.015, 0.9).double()
    model = SumModel(prior, network)
    types = torch.tensor([0, 1])
    for distance in (0.9, 0.95):  # the pair is given, so the switch itself must be zero
        positions = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)
        pair = torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 3, dtype=torch.float64)
        _, forces = energies_and_forces(model, types, positions, *pair)
        assert torch.count_nonzero(forces) == 0


def test_invariance_under_rotation_translation_permutation_and_reflection():
    _, network = torchmd_pair(1)
    positions, types = random_system(seed=13)
    energies, forces = energies_and_forces(
        network, *tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    )
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # proper or improper
    order = rng.permutation(len(types))
    moved = (
        positions @ rotation.T
        + rng.normal(size=3)
        + rng.integers(-2, 3, positions.shape) @ (TRICLINIC @ rotation.T)
    )[order]
    energies_2, forces_2 = energies_and_forces(
        network, *tensors(moved, types[order], TRICLINIC @ rotation.T, 0.9, torch.float64)
    )
    torch.testing.assert_close(energies_2, energies[order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        forces_2, forces[order] @ torch.from_numpy(rotation.T), rtol=1e-8, atol=1e-8
    )


def test_prior_contact_is_where_the_rdf_starts():
    rng = np.random.default_rng(1)
    box = np.eye(3) * 3.0
    n_frames = 20
    positions = np.zeros((n_frames, 4, 3))
    positions[:, 1, 0] = 0.50 + 0.1 * rng.random(n_frames)  # types 0-0: never closer than 0.5
    positions[:, 2, 1] = 0.30 + 0.1 * rng.random(n_frames)  # type 1 near bead 0
    positions[:, 3, 1] = positions[:, 2, 1] + 0.62  # types 1-1 exactly 0.62
    positions[3, 1, 0], positions[4, 2, 1] = 0.502, 0.303
    types = np.array([0, 0, 1, 1])
    beads = BeadTopology(("A", "B"), types, np.ones(4), np.arange(4))
    forces = np.full(positions.shape, -3.0)
    steps = np.arange(n_frames)
    frames = Frames(
        positions,
        forces,
        np.broadcast_to(box, (n_frames, 3, 3)),
        steps * 1.0,
        steps,
        beads,
        {"temperature": 300.0},
    )
    fitted = fit_prior(frames, PriorConfig())
    contact = np.array(fitted.contact)
    np.testing.assert_allclose(contact, [[0.50, 0.30], [0.30, 0.62]], atol=0.0051)
    np.testing.assert_allclose(contact, contact.T)
    assert fitted.force == pytest.approx(3.0)


@pytest.mark.parametrize(("between", "expected"), [(0.50, 0.50), (0.60, 0.70)])
def test_only_bead_of_its_type_repels_its_like(between, expected):
    """Radii add up: 2 x 0.60 - 0.50; like beads are no nearer than unlike ones: 0.50."""
    n_frames, steps = 10, np.arange(10)
    positions = np.zeros((n_frames, 3, 3))
    positions[:, 1, 0] = between + 0.001
    positions[:, 2, 0] = between + 0.001 + 0.501
    beads = BeadTopology(("A", "B"), np.array([0, 1, 1]), np.ones(3), np.arange(3))
    frames = Frames(
        positions,
        np.full(positions.shape, 3.0),
        np.broadcast_to(np.eye(3) * 3.0, (n_frames, 3, 3)),
        steps * 1.0,
        steps,
        beads,
        {"temperature": 300.0},
    )
    fitted = fit_prior(frames)
    np.testing.assert_allclose(fitted.contact, [[expected, between], [between, 0.50]], atol=0.0051)
    # two such beads at half the distance are pushed apart
    near = torch.tensor([[0.0, 0, 0], [0.25, 0, 0]], dtype=torch.float64)
    types, pair = torch.tensor([0, 0]), (torch.tensor([0]), torch.tensor([1]))
    repulsion = fitted.build(1.0).double()
    _, forces = energies_and_forces(repulsion, types, near, *pair, torch.zeros(1, 3).double())
    assert forces[1, 0].item() > 3.0


def test_one_type_with_one_bead_is_refused():
    steps = np.arange(3)
    frames = Frames(
        np.zeros((3, 1, 3)),
        np.ones((3, 1, 3)),
        np.broadcast_to(np.eye(3) * 3.0, (3, 3, 3)),
        steps * 1.0,
        steps,
        BeadTopology(("A",), np.array([0]), np.ones(1), np.arange(1)),
        {"temperature": 300.0},
    )
    with pytest.raises(FramesError, match="no pair of beads A and A and none from which"):
        fit_prior(frames)


def test_pairs_against_brute_force_over_images():
    positions, _ = random_system(n=30, seed=17)
    positions += 5.0  # far outside the box
    pairs = find_pairs(positions, TRICLINIC, 0.9)
    found = sorted((min(i, j), max(i, j)) for i, j in zip(pairs.first, pairs.second, strict=True))
    images = (
        np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
        @ TRICLINIC
    )
    wrapped = (positions @ np.linalg.inv(TRICLINIC) % 1) @ TRICLINIC
    expected = [
        (i, j)
        for i in range(30)
        for j in range(i + 1, 30)
        if np.linalg.norm(wrapped[j] - wrapped[i] + images, axis=1).min() < 0.9
    ]
    assert found == expected
    vectors = positions[pairs.second] - positions[pairs.first] + pairs.shifts
    assert np.linalg.norm(vectors, axis=1).max() < 0.9


def test_cutoff_above_half_the_box_is_refused():
    with pytest.raises(BoxError, match=r"cutoff of 1\.2 nm"):
        find_pairs(np.zeros((2, 3)), np.eye(3) * 2.3, 1.2)


def test_gaussian_basis_resolves_liquid_distances():
    """Two distances within the first shell must look different to the network.

    With expnorm in nanometres they would not.
    """
    network = build_tensornet(ModelConfig(), 3, 3.0)
    features = network.expansion(torch.tensor([0.40, 0.45, 0.80, 0.85]))
    assert (features[0] - features[1]).norm() > 0.5
    assert (features[2] - features[3]).norm() > 0.5


def test_scripted_network_equals_eager():
    _, network = torchmd_pair(1)
    positions, types = random_system(seed=19)
    arguments = tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    expected = energies_and_forces(network, *arguments)
    scripted = torch.jit.script(network)
    # the splines' error
    for one, other in zip(energies_and_forces(scripted, *arguments), expected, strict=True):
        assert (one - other).abs().max() < 1e-7 * other.abs().max()
