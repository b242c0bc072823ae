"""Formulas about box vectors."""

import numpy as np
import pytest
import torch
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from openmm_cgkd.exceptions import BoxError
from openmm_cgkd.utils.box import (
    box_heights,
    box_numbers,
    box_volume,
    checked_box_numbers,
    kernel_box,
    lattice_coordinates,
    nearest_images,
    reduced_box,
    shifts_into_box,
)
from tests.cases.networks import TRICLINIC

SKEWED = np.array([[2.2, 0, 0], [1.9, 2.1, 0], [-1.3, 4.5, 2.3]])


def test_one_order_of_numbers_everywhere():
    rows = TRICLINIC.tolist()
    numbers = [2.2, 0.4, 2.1, -0.3, 0.5, 2.3]  # ax, bx, by, cx, cy, cz
    assert box_numbers(rows) == numbers
    assert torch.jit.script(checked_box_numbers)(rows, 0.9) == numbers
    assert kernel_box(rows) == (*numbers, 1 / 2.2, 1 / 2.1, 1 / 2.3)
    assert kernel_box([]) == (0.0,) * 9


def test_reduced_box_is_openmms():
    expected = reducePeriodicBoxVectors(SKEWED)
    assert np.array_equal(reduced_box(SKEWED), np.array(expected._value))
    with pytest.raises(BoxError, match="not in OpenMM's form"):
        reduced_box(SKEWED.T)


def test_smallest_height_is_the_same_both_ways():
    height = box_heights(TRICLINIC).min()
    checked_box_numbers(TRICLINIC.tolist(), height / 2)
    with pytest.raises(RuntimeError, match="below twice the cutoff"):
        checked_box_numbers(TRICLINIC.tolist(), height / 2 + 1e-4)
    with pytest.raises(RuntimeError, match="reduced form"):
        checked_box_numbers(TRICLINIC.T.tolist(), 0.9)


@pytest.mark.parametrize("box", [TRICLINIC, np.stack([TRICLINIC, 1.1 * TRICLINIC])])
def test_lattice_vectors_come_and_go(box):
    """For one box, and for a box for each set of vectors."""
    rng = np.random.default_rng(0)
    inside = 0.1 + 0.8 * rng.random((2, 5, 3))
    multiples = rng.integers(-3, 4, size=inside.shape).astype(float)
    positions, far = inside @ box, (inside + multiples) @ box
    np.testing.assert_allclose(lattice_coordinates(far, box), inside + multiples, atol=1e-12)
    np.testing.assert_allclose(far + shifts_into_box(far, box), positions, atol=1e-12)
    short = 0.3 * (inside - 0.5) @ box
    np.testing.assert_allclose(nearest_images(short + multiples @ box, box), short, atol=1e-12)


def test_volume_has_the_sign_of_the_vectors():
    assert box_volume(TRICLINIC) == pytest.approx(2.2 * 2.1 * 2.3)
    swapped = TRICLINIC[[1, 0, 2]]
    assert box_volume(np.stack([TRICLINIC, swapped])) == pytest.approx([10.626, -10.626])
