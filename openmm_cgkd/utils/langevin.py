"""OpenMM simulations with a Langevin thermostat, and with a barostat if there is a pressure."""

from __future__ import annotations

import copy

import openmm
from openmm import app, unit

from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.platforms import choose_platform, platforms


def langevin_simulation(
    system: openmm.System,
    topology: app.Topology,
    *,
    temperature: float,
    friction: float,
    timestep: float,
    seed: int,
    pressure: float | None = None,
    platform: str | None = None,
    threads: int | None = None,
    section: str = "simulation",
) -> app.Simulation:
    """A simulation without positions, of atoms or of beads.

    The integrator is `openmm.LangevinMiddleIntegrator` (Zhang et al., J. Phys. Chem. A 2019, 123,
    6056).

    Parameters
    ----------
    system : openmm.System
        Not changed.
    topology : openmm.app.Topology
    temperature : float, kelvin
    friction : float, 1/ps
    timestep : float, ps
    seed : int
        Of thermostat and barostat.
    pressure : float, optional
        Bar, of a Monte Carlo barostat; at constant volume if absent.
    platform : str, optional
        See `openmm_cgkd.platforms.choose_platform`.
    threads : int, optional
        Of the platform CPU; as many as there are cores if absent.
    section : str
        Of the configuration that names the platform, for messages.

    Raises
    ------
    ConfigError
        If there is no such platform.
    SimulationError
        If the platform cannot run the system.
    """
    check_platform(platform, section)
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, friction / unit.picosecond, timestep * unit.picosecond
    )
    integrator.setRandomNumberSeed(seed)
    if pressure is not None:
        system = copy.deepcopy(system)
        barostat = openmm.MonteCarloBarostat(pressure * unit.bar, temperature * unit.kelvin)
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
    try:
        found = choose_platform(system, platform)
        on_cpu = threads and found.getName() == "CPU"
        properties = {"Threads": str(threads)} if on_cpu else {}
        return app.Simulation(topology, system, integrator, found, properties)
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"{section}.platform: {platform or 'none named'}, cannot run the system"
            f" ({' '.join(str(error).split())}); loaded here: {', '.join(platforms())}."
        ) from error


def check_platform(name: str | None, section: str = "simulation") -> None:
    """Refuse a platform that is not there, before any work.

    Raises
    ------
    ConfigError
    """
    if name is not None and name not in (present := platforms()):
        raise ConfigError(
            f"{section}.platform: got {name}, but this OpenMM has {', '.join(present)}; name one of"
            " these or leave it out."
        )
