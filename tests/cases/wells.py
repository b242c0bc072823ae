"""Beads that are held one by one and do not see each other."""

import numpy as np
import openmm

from openmm_cgkd.simulation.timestep.integrate import Integration

TEMPERATURE, MASS, STIFFNESS = 200.0, 60.0, 1000.0
OMEGA = np.sqrt(STIFFNESS / MASS)  # 1/ps
HARMONIC = f"{STIFFNESS / 2}*((x-x0)^2+(y-y0)^2+(z-z0)^2)"


def well_system(energy: str = HARMONIC) -> tuple[openmm.System, np.ndarray]:
    """30 beads in wells, and the middles of the wells."""
    middles = np.random.default_rng(0).uniform(0, 2, (30, 3))
    system, force = openmm.System(), openmm.CustomExternalForce(energy)
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for k, middle in enumerate(middles):
        system.addParticle(MASS)
        force.addParticle(k, middle)
    system.addForce(force)
    return system, middles


def wells(energy: str = HARMONIC, friction: float = 5.0) -> tuple[Integration, np.ndarray]:
    system, middles = well_system(energy)
    return Integration(system, TEMPERATURE, friction, "Reference"), middles
