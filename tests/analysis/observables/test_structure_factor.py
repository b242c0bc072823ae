"""Structure factors of an ideal gas, a lattice and a triclinic box."""

import numpy as np
import pytest

from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from tests.cases.observables import FCC, TRICLINIC, ideal_gas, lattice


def test_structure_factor_of_an_ideal_gas():
    factor = StructureFactor(("A", "B"), q_max=15, bins=5)
    for frame in ideal_gas(200, {"A": 10, "B": 20}, seed=7):
        factor.compute(frame, reset=False)
    assert factor.pairs == [("A", "A"), ("A", "B"), ("B", "B")]
    np.testing.assert_allclose(factor.values[[0, 2], 1:], 1, atol=0.1)
    np.testing.assert_allclose(factor.values[1, 1:], 0, atol=0.05)


def test_structure_factor_of_a_lattice_has_its_bragg_peaks():
    factor = StructureFactor(("X",), q_max=22, bins=220).compute(lattice(FCC))
    peaks = factor.bin_centers[np.nan_to_num(factor.values[0]) > 1]
    unit = 2 * np.pi / 0.5
    # 111; 100 and 110 are extinct, 200 is beyond
    np.testing.assert_allclose(peaks, [unit * np.sqrt(3)], atol=0.1)
    assert np.nansum(factor.values[0]) == pytest.approx(
        256 * 8 / factor.n_vectors[int(unit * np.sqrt(3) * 10)] / 2
    )


def test_charges_scatter_as_the_partials_tell():
    frames = ideal_gas(3, {"A": 10, "B": 20, "C": 5}, seed=8)
    charges = np.repeat([0.8, -0.4, 0.0], [10, 20, 5])
    factor = StructureFactor(("A", "B", "C"), q_max=12, bins=3, charges=charges)
    for frame in frames:
        factor.compute(frame, reset=False)
    assert factor.pairs[-1] == ("charge", "charge")
    partial = dict(zip(factor.pairs, factor.values, strict=True))
    a, b = 0.8 * np.sqrt(10), -0.4 * np.sqrt(20)
    expected = a**2 * partial["A", "A"] + 2 * a * b * partial["A", "B"] + b**2 * partial["B", "B"]
    np.testing.assert_allclose(partial["charge", "charge"], expected / (a**2 + b**2), rtol=1e-5)
    assert ("charge", "charge") not in StructureFactor(("A",), charges=np.zeros(35)).pairs


def test_structure_factor_of_a_triclinic_box_against_all_vectors():
    (frame,) = ideal_gas(1, {"A": 12, "B": 9}, seed=15)
    factor = StructureFactor(("A", "B"), q_max=12, bins=6).compute(frame)
    sums, n = np.zeros((3, 6)), np.zeros(6)
    a, b = frame.positions[:12], frame.positions[12:]
    for index in np.ndindex(21, 21, 21):
        q = np.linalg.solve(TRICLINIC, 2 * np.pi * (np.array(index) - 10))  # q . a_i = 2 pi n_i
        length = np.linalg.norm(q)
        if 0 < length < 12:
            k = int(length / 2)
            n[k] += 1
            for row, (x, y) in zip(sums, ((a, a), (a, b), (b, b)), strict=True):
                row[k] += np.cos((x[:, None] - y[None]) @ q).sum() / np.sqrt(len(x) * len(y))
    assert n.sum() > 200
    np.testing.assert_allclose(
        factor.values, np.where(n > 0, sums / np.maximum(n, 1), np.nan), atol=1e-6
    )
