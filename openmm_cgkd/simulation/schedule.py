"""The times of a simulation section as numbers of time steps."""

from __future__ import annotations

from dataclasses import dataclass

from openmm_cgkd.config.run import CommitteeConfig, SimulationConfig
from openmm_cgkd.exceptions import ConfigError


@dataclass(frozen=True)
class Schedule:
    """When a run does what.

    Attributes
    ----------
    timestep : float, ps
    interval, watch : int
        Time steps between frames, and between looks of the committee.
    warm_up, total : int
        Time steps of equilibration and of production.
    """

    timestep: float
    interval: int
    watch: int
    warm_up: int
    total: int

    @classmethod
    def of(cls, protocol: SimulationConfig) -> Schedule:
        """The schedule of a simulation section.

        Raises
        ------
        ConfigError
            If there is no time step, or the intervals do not fit each other.
        """
        timestep = protocol.timestep
        if timestep is None:
            raise ConfigError(
                "simulation.timestep: is absent; write one, or let 'cgkd timestep' find one."
            )
        committee = protocol.committee or CommitteeConfig()
        found = cls(
            timestep,
            round(protocol.frame_interval / timestep),
            max(1, round(committee.interval / timestep)),
            round(protocol.equilibration / timestep),
            round(protocol.production / timestep),
        )
        spacing = f"simulation.frame_interval: {protocol.frame_interval:g} ps"
        if found.interval < 1:
            raise ConfigError(f"{spacing} is below the time step of {timestep:g} ps; lengthen it.")
        if found.total < found.interval:
            raise ConfigError(
                f"{spacing} is above the production of {protocol.production:g} ps, which then has"
                " no frame; shorten it."
            )
        return found
