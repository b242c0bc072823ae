"""A short run of beads under a potential file, which a test may interrupt."""

from pathlib import Path

import openmm
import pytest

from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.simulation import dynamics
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm

from .potential import CUBIC, beads, liquid

TEMPERATURE = 200.0


def run_toy(model: Path, folder: Path, **changes: str) -> Path:
    """Simulate the toy potential on the CPU, 40 frames of 10 steps, saved every 10 frames."""
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system = CGPotential(model, "fast").createSystem(topology)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 30)
    relaxed = context.getState(positions=True).getPositions(asNumpy=True)._value
    settings = {
        "timestep": "2 fs",
        "equilibration": "0.04 ps",
        "production": "0.8 ps",
        "frame_interval": "0.02 ps",
        "platform": "CPU",
        **changes,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "SAVE_EVERY", 0.0)
        return dynamics.run_dynamics(
            system, topology, relaxed, folder, SimulationConfig(**settings), TEMPERATURE
        )
