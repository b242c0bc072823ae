"""A few molecules of ethaline or another fluid, for tests that need a real all-atom system."""

import numpy as np
import openmm
import yaml
from openmm import app, unit

from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from tests.cases.paths import ETHALINE

COUNTS = {"CHO": 3, "CL": 3, "EGL": 6}


def small_config(
    counts: dict[str, int] = COUNTS, fluid: str = "ethaline", **reference
) -> SystemConfig:
    """A fluid of `systems` with other molecule counts.

    `reference` replaces entries of that section.
    """
    folder = ETHALINE.parent / fluid
    data = yaml.safe_load((folder / "system.yaml").read_text())
    data["molecules"] = [
        dict(m, count=counts[m["name"]]) for m in data["molecules"] if m["name"] in counts
    ]
    data["beads"] = [bead for bead in data["beads"] if bead["molecule"] in counts]
    data["reference"].update(
        initial_density="0.4 gram/centimeter**3",
        nonbonded_cutoff="0.5 nanometer",
        platform="CPU",
        threads=1,
    )
    data["reference"].update(reference)
    return parse(SystemConfig, data, "small", folder)


def simulation_of(
    config: SystemConfig, system: openmm.System, topology: app.Topology, positions: np.ndarray
) -> app.Simulation:
    """Langevin simulation of a packed box, minimised a little and moving."""
    integrator = openmm.LangevinMiddleIntegrator(
        config.temperature * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(7)
    simulation = app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"}
    )
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=50)
    simulation.context.setVelocitiesToTemperature(config.temperature * unit.kelvin, 7)
    simulation.currentStep = 0
    return simulation


DONOR = {"ethaline": "EGL", "glyceline": "GOL", "reline": "URE"}
