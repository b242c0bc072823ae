"""The CPU kernels against the reference network; the cell list against the search of training."""

import numpy as np
import pytest
import torch

from openmm_cgkd.potential.cpu import lists
from openmm_cgkd.potential.cpu.edges import edge_space, find_edges
from openmm_cgkd.potential.forces import SumModel, energies_and_forces
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import PairRepulsion
from openmm_cgkd.potential.torch_ops import PackedNetwork
from openmm_cgkd.potential.weights import tabulate
from openmm_cgkd.utils.box import kernel_box
from tests.cases.networks import PRIOR, TRICLINIC, random_system, tensors, torchmd_pair

# zero in double precision
NO_PRIOR = PairRepulsion(torch.full((3, 3), -10.0), 100.0, 0.05, 0.015, 0.9)


def evaluate(network, positions, types, box, prior=NO_PRIOR):
    """Energy and forces of the fast potential."""
    points = torch.from_numpy(positions).requires_grad_()
    cell = torch.empty(0, 3, dtype=torch.float64) if box is None else torch.from_numpy(box)
    energy = PackedNetwork(network, prior)(torch.from_numpy(types), points, cell)
    (gradient,) = torch.autograd.grad(energy, points)
    return energy.item(), -gradient


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_double_precision_equals_reference_to_table_error(layers):
    _, network = torchmd_pair(layers)
    positions, types = random_system(seed=layers)
    energies, forces = energies_and_forces(
        network, *tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    )
    energy, fast_forces = evaluate(network, positions, types, TRICLINIC)
    assert energy == pytest.approx(energies.sum().item(), rel=1e-8)
    assert (fast_forces - forces).abs().max() < 1e-6 * forces.abs().max()


@pytest.mark.parametrize(
    ("channels", "layers", "cutoff", "widest"),
    [
        (8, 0, 0.8, None),
        (8, 2, 0.9, None),
        (5, 1, 0.9, None),
        (12, 0, 0.9, None),
        (12, 1, 1.0, None),
        (10, 2, 0.8, None),
        (16, 1, 0.9, None),
        (24, 1, 0.9, None),
        (32, 0, 0.8, None),
        (32, 2, 1.0, None),
        (16, 1, 0.9, 8),  # as on processors with narrower vectors
        (24, 2, 0.9, 8),
        (32, 1, 0.8, 8),
    ],
)
def test_single_precision_within_tolerance_for_any_size(
    channels, layers, cutoff, widest, monkeypatch
):
    if widest is not None:
        monkeypatch.setattr("openmm_cgkd.potential.cpu.layout.WIDEST", widest)
    _, network = torchmd_pair(
        layers, channels, f"{cutoff} nanometer", dtype=torch.float32, seed=channels + layers
    )
    positions, types = random_system(seed=20 + channels)
    prior = PairRepulsion(torch.full((3, 3), 0.27), 100.0, 0.05, 0.015, cutoff)
    energies, forces = energies_and_forces(
        SumModel(prior, network), *tensors(positions, types, TRICLINIC, cutoff, torch.float32)
    )
    energy, fast_forces = evaluate(network, positions, types, TRICLINIC, prior)
    assert energy == pytest.approx(energies.sum().item(), rel=1e-5, abs=1e-4)
    assert (fast_forces - forces).abs().max() < 1e-4 * forces.abs().max()


def test_forces_are_exact_derivatives_of_the_interpolated_energy():
    _, network = torchmd_pair(1)
    positions, types = random_system(seed=2)
    _, forces = evaluate(network, positions, types, TRICLINIC, PRIOR)
    step = 1e-6
    for bead, axis in ((1, 0), (12, 1), (30, 2)):
        energy = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[bead, axis] += sign * step
            energy.append(evaluate(network, moved, types, TRICLINIC, PRIOR)[0])
        assert forces[bead, axis].item() == pytest.approx(
            -(energy[0] - energy[1]) / (2 * step), rel=1e-5, abs=1e-5
        )


def test_table_interpolates_a_known_function():
    table = tabulate(
        lambda r: torch.sin(5 * r).reshape(-1, 1, 1).expand(-1, 3, 2), 1.0, n_intervals=64
    )
    t = np.linspace(0, 1, 11)
    inside = np.arange(64)[:, None] / 64 + t / 64  # distances in every interval
    polynomial = np.polynomial.polynomial.polyval(t, np.moveaxis(table[:, :, 1, 0].numpy(), 1, 0))
    # the bound of cubic Hermite interpolation
    np.testing.assert_allclose(polynomial, np.sin(5 * inside), atol=(5 / 64) ** 4 / 384)


@pytest.mark.parametrize(
    ("n", "cutoff", "scale"), [(1, 0.9, 1.0), (2, 0.9, 1.0), (40, 0.9, 1.0), (300, 0.6, 2.3)]
)
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("skin", [0.0, 0.1])
def test_edges_are_the_pairs_of_the_reference_search(n, cutoff, scale, periodic, skin):
    box = TRICLINIC * scale if periodic else None
    cell = box if periodic else np.empty((0, 3))
    # outside the box too
    positions = np.random.default_rng(n).random((n, 3)) @ (TRICLINIC * scale) * 2 - 3
    listed = lists.neighbor_list(positions, cell, cutoff, skin)
    space = edge_space(len(listed.column), np.dtype(np.float64))
    found = find_edges(
        positions,
        kernel_box(cell.tolist()),
        cutoff,
        64,
        listed.row,
        listed.column,
        listed.reverse,
        space,
    )
    pairs = find_pairs(positions, box, cutoff)
    expected = sorted(
        [*zip(pairs.first, pairs.second, strict=True), *zip(pairs.second, pairs.first, strict=True)]
    )
    active = np.concatenate(
        [np.arange(a, a + k) for a, k in zip(found.start, found.degree, strict=True)]
    ).astype(int)
    first = np.repeat(np.arange(n), found.degree)
    assert list(zip(first, found.column[active], strict=True)) == expected  # sorted, too
    unit = found.unit.T
    vectors = unit[active] * found.distance[active, None]
    shifts = vectors - (positions[found.column[active]] - positions[first])
    if periodic:
        shifts = shifts @ np.linalg.inv(box)
        np.testing.assert_allclose(shifts, np.round(shifts), atol=1e-9)  # lattice vectors apart
    else:
        np.testing.assert_allclose(shifts, 0, atol=1e-12)
    assert (found.distance[active] < cutoff).all()
    np.testing.assert_allclose(
        (found.knot[active] + found.place[active]) * cutoff / 64, found.distance[active], rtol=1e-12
    )
    np.testing.assert_allclose(unit[found.opposite[active]], -unit[active], atol=1e-15)
    assert (found.column[found.opposite[active]] == first).all()


def test_kept_list_is_replaced_before_a_pair_is_missed():
    """A random walk far beyond the skin, and a box that changes.

    Energy and forces are always those of a fresh list, bit for bit.
    """
    _, network = torchmd_pair(1, dtype=torch.float32)
    positions, types = random_system(seed=5)
    rng, box, made = np.random.default_rng(0), TRICLINIC.copy(), []
    for step in range(60):
        positions = positions + rng.normal(0, 0.008, positions.shape)
        if step == 30:
            positions, box = positions * 1.01, box * 1.01
        energy, forces = evaluate(network, positions, types, box, PRIOR)
        made.append(id(lists.recent_lists[0]))
        fresh_energy, fresh_forces = fresh(network, positions, types, box)
        assert energy == fresh_energy
        assert torch.equal(forces, fresh_forces)
    assert 3 < len(set(made)) < 50


def fresh(network, positions, types, box):
    """Evaluate without the kept lists, and leave these as they were."""
    kept = list(lists.recent_lists)
    lists.recent_lists.clear()
    result = evaluate(network, positions, types, box, PRIOR)
    lists.recent_lists[:] = kept
    return result


def test_kept_list_refuses_what_it_was_not_made_for():
    positions = np.random.default_rng(0).random((30, 3)) * 3
    box = 3 * np.eye(3)
    listed = lists.neighbor_list(positions, box, 0.8, 0.1)
    assert listed.holds(positions, box, 0.8)
    moved = positions.copy()
    moved[7, 1] += 0.049
    assert listed.holds(moved, box, 0.8)
    moved[7, 1] += 0.002
    assert not listed.holds(moved, box, 0.8)
    assert not listed.holds(positions, box * 1.0001, 0.8)
    assert not listed.holds(positions, box, 0.81)
    assert not listed.holds(positions[:-1], box, 0.8)
    # no more than the box allows
    assert lists.neighbor_list(positions, box, 1.45, 0.1).skin == pytest.approx(0.05)


@pytest.mark.parametrize("far", [1e13, 3e16, 1e200, np.inf, np.nan])
def test_no_list_of_beads_that_have_flown_apart(far):
    positions = np.random.default_rng(0).normal(size=(30, 3))
    # no physics, but every edge has its way back
    edges = lists.neighbor_list(positions * 1e11, 3 * np.eye(3), 1.0)
    assert len(edges.column) > 0
    assert (edges.column[edges.reverse] == np.repeat(np.arange(30), np.diff(edges.row))).all()
    positions[7, 1] = far
    with pytest.raises(
        RuntimeError, match=r"not finite or beyond 1e\+12 nm; use a smaller time step"
    ):
        lists.neighbor_list(positions, 3 * np.eye(3), 1.0)


def test_weights_of_another_layout_are_refused(monkeypatch):
    """As some processors laid them out before: padded to eight."""
    network = torchmd_pair(1, channels=24, dtype=torch.float32)[1]
    positions, types = random_system(20)
    with monkeypatch.context() as patch:
        patch.setattr("openmm_cgkd.potential.weights.padded", lambda n: -(-n // 8) * 8)
        before = PackedNetwork(network, NO_PRIOR)
    points, cell = torch.from_numpy(positions), torch.from_numpy(TRICLINIC)
    with pytest.raises(
        RuntimeError, match=r"laid out as by an earlier version.*export the potential again"
    ):
        before(torch.from_numpy(types), points, cell)
    PackedNetwork(network, NO_PRIOR)(torch.from_numpy(types), points, cell)


def test_results_do_not_depend_on_threads():
    import numba

    _, network = torchmd_pair(1, dtype=torch.float32)
    positions, types = random_system(seed=4)
    before = numba.get_num_threads()
    results = []
    for threads in {1, before}:
        numba.set_num_threads(threads)
        results.append(evaluate(network, positions, types, TRICLINIC))
    numba.set_num_threads(before)
    assert len({energy for energy, _ in results}) == 1
    assert all(torch.equal(results[0][1], forces) for _, forces in results)
