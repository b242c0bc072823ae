"""Fused evaluation against the reference network; the cell list against the pair search of training."""

import numpy as np
import pytest
import torch
from test_potential import TRICLINIC, random_system, tensors, torchmd_pair

from openmm_cgkd.potential import cells
from openmm_cgkd.potential.fast import FastRepulsion, FastTensorNet, tabulate
from openmm_cgkd.potential.model import SumModel, energies_and_forces
from openmm_cgkd.potential.neighbors import find_pairs
from openmm_cgkd.potential.prior import PairRepulsion


def evaluate(modules, positions, types, box, cutoff, dtype):
    """Energy and forces of fast modules."""
    points = torch.from_numpy(positions).requires_grad_()
    cell = torch.empty(0, dtype=torch.float64) if box is None else torch.from_numpy(box)
    row, column, vectors = cells.neighbours(points, cell, cutoff)
    energy = sum(module(torch.from_numpy(types), row, column, vectors.to(dtype)) for module in modules)
    (gradient,) = torch.autograd.grad(energy, points)
    return energy.item(), -gradient


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_double_precision_equals_reference_to_table_error(layers):
    _, network = torchmd_pair(layers)
    positions, types = random_system(seed=layers)
    energies, forces = energies_and_forces(network, *tensors(positions, types, TRICLINIC, 0.9, torch.float64))
    energy, fast_forces = evaluate([FastTensorNet(network)], positions, types, TRICLINIC, 0.9, torch.float64)
    assert energy == pytest.approx(energies.sum().item(), rel=1e-8)
    assert (fast_forces - forces).abs().max() < 1e-6 * forces.abs().max()


@pytest.mark.parametrize("seed", range(5))
def test_single_precision_within_tolerance_for_any_weights(seed):
    _, network = torchmd_pair(1, channels=32, dtype=torch.float32, seed=seed)
    prior = PairRepulsion(torch.full((3, 3), 0.27), 100.0, 0.05, 0.015, 0.9)
    positions, types = random_system(seed=20 + seed)
    energies, forces = energies_and_forces(SumModel(prior, network), *tensors(positions, types, TRICLINIC, 0.9, torch.float32))
    energy, fast_forces = evaluate([FastTensorNet(network), FastRepulsion(prior)], positions, types, TRICLINIC, 0.9, torch.float32)
    assert energy == pytest.approx(energies.sum().item(), rel=1e-5, abs=1e-4)
    assert (fast_forces - forces).abs().max() < 1e-4 * forces.abs().max()


def test_forces_are_exact_derivatives_of_the_interpolated_energy():
    _, network = torchmd_pair(1)
    fast = [FastTensorNet(network), FastRepulsion(PairRepulsion(torch.full((3, 3), 0.27), 100.0, 0.05, 0.015, 0.9).double())]
    positions, types = random_system(seed=2)
    _, forces = evaluate(fast, positions, types, TRICLINIC, 0.9, torch.float64)
    step = 1e-6
    for bead, axis in ((1, 0), (12, 1), (30, 2)):
        energy = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[bead, axis] += sign * step
            energy.append(evaluate(fast, moved, types, TRICLINIC, 0.9, torch.float64)[0])
        assert forces[bead, axis].item() == pytest.approx(-(energy[0] - energy[1]) / (2 * step), rel=1e-5, abs=1e-5)


def test_table_interpolates_a_known_function():
    table = tabulate(lambda r: torch.sin(5 * r).reshape(-1, 1, 1).expand(-1, 3, 2), 1.0, n_intervals=64)
    t = np.linspace(0, 1, 11)
    inside = np.arange(64)[:, None] / 64 + t / 64  # distances in every interval
    polynomial = np.polynomial.polynomial.polyval(t, np.moveaxis(table[:, :, 1, 0].numpy(), 1, 0))
    np.testing.assert_allclose(polynomial, np.sin(5 * inside), atol=(5 / 64) ** 4 / 384)  # the bound of cubic Hermite interpolation


@pytest.mark.parametrize(("n", "cutoff", "scale"), [(1, 0.9, 1.0), (2, 0.9, 1.0), (40, 0.9, 1.0), (300, 0.6, 2.3)])
@pytest.mark.parametrize("periodic", [True, False])
def test_cell_list_finds_the_pairs_of_the_reference_search(n, cutoff, scale, periodic):
    box = TRICLINIC * scale if periodic else None
    positions = np.random.default_rng(n).random((n, 3)) @ (TRICLINIC * scale) * 2 - 3  # outside the box too
    row, column, vectors = cells.neighbours(torch.from_numpy(positions), torch.from_numpy(box) if periodic else torch.empty(0), cutoff)
    pairs = find_pairs(positions, box, cutoff)
    expected = sorted([*zip(pairs.first, pairs.second, strict=True), *zip(pairs.second, pairs.first, strict=True)])
    first = np.repeat(np.arange(n), np.diff(row.numpy()))
    assert sorted(zip(first, column.numpy(), strict=True)) == expected
    if periodic:
        fractional = (vectors.numpy() - (positions[column.numpy()] - positions[first])) @ np.linalg.inv(box)
        np.testing.assert_allclose(fractional, np.round(fractional), atol=1e-9)  # lattice vectors apart
    assert (np.linalg.norm(vectors.numpy(), axis=1) < cutoff).all()


def test_results_do_not_depend_on_threads():
    import numba

    _, network = torchmd_pair(1, dtype=torch.float32)
    positions, types = random_system(seed=4)
    before = numba.get_num_threads()
    results = []
    for threads in {1, before}:
        numba.set_num_threads(threads)
        results.append(evaluate([FastTensorNet(network)], positions, types, TRICLINIC, 0.9, torch.float32))
    numba.set_num_threads(before)
    assert len({energy for energy, _ in results}) == 1
    assert all(torch.equal(results[0][1], forces) for _, forces in results)
