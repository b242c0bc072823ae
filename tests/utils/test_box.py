"""Formulas about box vectors."""

import numpy as np
import pytest
import torch
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from openmm_cgkd.exceptions import BoxError
from openmm_cgkd.utils.box import (
    box_heights,
    box_numbers,
    checked_box_numbers,
    kernel_box,
    reduced_box,
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
