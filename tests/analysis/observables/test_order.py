"""Steinhardt order against lattices and spherical harmonics."""

import numpy as np
import pytest
from scipy.special import sph_harm_y

from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from tests.cases.observables import FCC, arms, ideal_gas, lattice


def test_order_parameter_of_fcc_and_of_a_rotated_box():
    frame = lattice(FCC)
    assert SteinhardtOrder("X").compute(frame).mean == pytest.approx(0.57452, abs=1e-4)
    assert SteinhardtOrder("X", degree=4).compute(frame).mean == pytest.approx(0.19094, abs=1e-4)
    # all in the bin from 0.56 to 0.58
    assert SteinhardtOrder("X").compute(frame).values[28] == pytest.approx(50)
    # the primitive cell of the same crystal is triclinic
    primitive = 0.25 * np.array(
        [[2.0, 0, 0], [1.0, np.sqrt(3), 0], [1.0, np.sqrt(3) / 3, np.sqrt(8 / 3)]]
    )
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3)
    skewed = Frame(grid @ primitive, 5 * primitive, np.array(["X"] * 125))
    assert SteinhardtOrder("X").compute(skewed).mean == pytest.approx(0.57452, abs=1e-4)


def test_order_parameter_against_spherical_harmonics():
    (frame,) = ideal_gas(1, {"A": 10, "B": 10}, seed=6)
    order = []
    near = arms(frame, 3.0)
    for i in range(10):
        mine = sorted((v for k, _, v in near if k == i), key=np.linalg.norm)[:5]
        theta = [np.arccos(v[2] / np.linalg.norm(v)) for v in mine]
        phi = [np.arctan2(v[1], v[0]) for v in mine]
        sums = [np.mean(sph_harm_y(6, m, theta, phi)) for m in range(-6, 7)]
        order.append(np.sqrt(4 * np.pi / 13 * np.sum(np.abs(sums) ** 2)))
    assert SteinhardtOrder("A", nearest=5).compute(frame).mean == pytest.approx(
        np.mean(order), rel=1e-4
    )
