"""The virial pressure against pair forces and the ideal gas."""

import numpy as np
import openmm
import pytest

from openmm_cgkd.analysis.observables.pressure import virial_pressure
from tests.cases.observables import TRICLINIC, arms, ideal_gas


def soft_system(n: int, box: np.ndarray, strength: float) -> openmm.System:
    """Repulsion that goes smoothly to 0 at 0.8 nm."""
    force = openmm.CustomNonbondedForce(f"{strength}*(1-r/0.8)^3*step(0.8-r)")
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.8)
    system = openmm.System()
    for _ in range(n):
        system.addParticle(40.0)
        force.addParticle([])
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*box)
    return system


def test_pressure_of_pair_forces_is_their_virial():
    frames = ideal_gas(2, {"A": 40}, seed=12)
    positions, boxes = np.array([f.positions for f in frames]), np.array([f.box for f in frames])
    found = virial_pressure(soft_system(40, TRICLINIC, 30.0), positions, boxes, 300.0, "Reference")
    for frame, pressure in zip(frames, found, strict=True):
        r = np.array([np.linalg.norm(v) for _, _, v in arms(frame, 0.8)])
        virial = np.sum(r * 3 * 30.0 / 0.8 * (1 - r / 0.8) ** 2) / 2  # each pair is listed twice
        volume = np.linalg.det(TRICLINIC)
        pascal = (40 * 1.380649e-23 * 300 + virial * 1e3 / 6.02214076e23 / 3) / (volume * 1e-27)
        assert pressure == pytest.approx(pascal * 1e-5, rel=1e-4)
        assert virial > 200


def test_pressure_without_forces_is_the_ideal_one():
    (frame,) = ideal_gas(1, {"A": 10})
    (found,) = virial_pressure(
        soft_system(10, TRICLINIC, 0.0), frame.positions[None], frame.box[None], 250.0, "Reference"
    )
    assert found == pytest.approx(
        10 * 1.380649e-23 * 250 / (np.linalg.det(TRICLINIC) * 1e-27) * 1e-5, rel=1e-6
    )
