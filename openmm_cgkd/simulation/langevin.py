"""OpenMM simulations with a Langevin thermostat, and with a barostat if there is a pressure."""

from __future__ import annotations

import copy

import openmm
from openmm import app, unit

from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.platforms import choose_platform, platforms

from .explosion import openmm_message


def langevin_simulation(
    system: openmm.System,
    topology: app.Topology,
    protocol: SimulationConfig,
    timestep: float,
    temperature: float,
    seed: int,
) -> app.Simulation:
    """A simulation as a simulation section describes it, without positions.

    Parameters
    ----------
    system : openmm.System
        Not changed.
    topology : openmm.app.Topology
    protocol : SimulationConfig
    timestep : float, ps
    temperature : float, kelvin
    seed : int
        Of thermostat and barostat.

    Raises
    ------
    SimulationError
        If the platform is not available.
    """
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, protocol.friction / unit.picosecond, timestep * unit.picosecond
    )
    integrator.setRandomNumberSeed(seed)
    if protocol.pressure is not None:
        system = copy.deepcopy(system)
        barostat = openmm.MonteCarloBarostat(
            protocol.pressure * unit.bar, temperature * unit.kelvin
        )
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
    try:
        platform = choose_platform(system, protocol.platform)
        return app.Simulation(topology, system, integrator, platform)
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"simulation.platform: {protocol.platform or 'none named'}, cannot run the system"
            f" ({openmm_message(error)}); loaded here: {', '.join(platforms())}."
        ) from error
