"""Coordination numbers of a lattice and of an ideal gas."""

import numpy as np
import pytest
from scipy.stats import binom

from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.analysis.observables.neighbors import Frame
from tests.cases.observables import FCC, TRICLINIC, ideal_gas, lattice


def test_coordination_numbers_of_a_lattice_and_of_two_kinds_of_bead():
    coordination = CoordinationNumbers(("X", "X"), 0.4).compute(lattice(FCC))
    assert coordination.values[12] == 1
    assert (coordination.mean, coordination.std) == (12, 0)
    frame = Frame(
        np.array([[0.5, 0.5, 0.5], [0.8, 0.5, 0.5], [0.5, 0.85, 0.5], [2.5, 2.5, 2.5]]),
        3 * np.eye(3),
        np.array(["A", "B", "B", "B"]),
    )
    assert CoordinationNumbers(("A", "B"), 0.5).compute(frame).mean == 2
    np.testing.assert_allclose(
        CoordinationNumbers(("B", "A"), 0.5, largest=3).compute(frame).values, [1 / 3, 2 / 3, 0, 0]
    )
    capped = CoordinationNumbers(("X", "X"), 0.4, largest=5).compute(lattice(FCC))
    assert capped.values[5] == 1


def test_coordination_numbers_of_an_ideal_gas_are_binomial():
    coordination = CoordinationNumbers(("A", "B"), 0.8)
    for frame in ideal_gas(200, {"A": 5, "B": 20}, seed=5):
        coordination.compute(frame, reset=False)
    share = 4 / 3 * np.pi * 0.8**3 / np.linalg.det(TRICLINIC)
    expected = binom(20, share).pmf(coordination.numbers)
    np.testing.assert_allclose(coordination.values, expected, atol=4 * np.sqrt(0.25 / 1000))
    assert coordination.mean == pytest.approx(20 * share, rel=0.05)
