"""When and why a coarse-grained run stops being physical, told from its trajectory and its log.

A run fails at the first of: coordinates or energy not finite; exploded (the guard of the dynamics
stops it); hot (kinetic temperature, averaged over a window, too far above the set one); aggregated
(beads closer, or in larger clusters, than all-atom shows).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openmm

from openmm_cgkd.analysis.comparison.trajectory import read_trajectory
from openmm_cgkd.analysis.observables.aggregation import (
    AggregationLimits,
    clusters_of,
    evenly_spaced,
)
from openmm_cgkd.analysis.observables.pressure import virial_pressure
from openmm_cgkd.config.run import SimulationConfig, StabilityConfig
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.simulation.outputs import log_column
from openmm_cgkd.utils.statistics import BlockedMean, blocked_slope, mean_of

from .survival import Replica, Traces

PRESSURE_FRAMES = 20
# standard deviations of the canonical temperature that a window may be off in any case
_DEVIATIONS = 5


class Outcome(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    time : float, ps
        Time to failure, or the length of the run.
    cause : str or None
        One of `survival.CAUSES`; None if the run stayed physical.
    detail : str
        The failure in words.
    """

    time: float
    cause: str | None
    detail: str


def read_traces(
    folder: Path,
    protocol: SimulationConfig,
    settings: StabilityConfig,
    beads: BeadTopology,
    limits: AggregationLimits,
) -> Traces | None:
    """What a run left up to the end of the protocol; None if it exploded before its first frame.

    Parameters
    ----------
    folder : path
        As `run_dynamics` leaves it.
    protocol : SimulationConfig
    settings : StabilityConfig
    beads : BeadTopology
    limits : AggregationLimits
    """
    log = folder / "state.csv"
    times = log_column(log, "Time") if log.exists() and log.stat().st_size else np.zeros(0)
    n = np.count_nonzero(times <= settings.duration + 1e-6)
    if n == 0:
        return None
    temperatures = log_column(log, "Temperature")[:n]
    energies = log_column(log, "Potential Energy")[:n] / beads.n_beads
    window = window_frames(settings, protocol)
    averages = np.array([temperatures[max(0, k - window + 1) : k + 1].mean() for k in range(n)])
    trajectory = read_trajectory(
        folder / f"trajectory.{protocol.trajectory}", folder / "topology.pdb"
    )
    positions, boxes = trajectory.positions[:n], trajectory.boxes[:n]
    clusters = clusters_of(limits.contacts, positions, boxes, beads.names)
    return Traces(times[:n], temperatures, averages, energies, positions, boxes, clusters)


def window_frames(settings: StabilityConfig, protocol: SimulationConfig) -> int:
    """Number of frames over which the temperature is averaged."""
    return max(1, round(settings.window / protocol.frame_interval))


def hottest(temperature: float, settings: StabilityConfig, friction: float, freedom: int) -> float:
    """Bound on the mean temperature of a window, kelvin.

    For few beads or a short window at least five standard deviations of that mean: the canonical
    temperature has relative variance 2 / freedom, and Langevin dynamics forgets the kinetic energy
    in 1 / (2 friction).

    Parameters
    ----------
    temperature : float, kelvin
        Set temperature.
    settings : StabilityConfig
    friction : float, 1/ps
    freedom : int
        Degrees of freedom.
    """
    independent = max(1.0, settings.window * friction)
    return temperature * (
        1 + max(settings.temperature_tolerance, _DEVIATIONS * math.sqrt(2 / freedom / independent))
    )


def first_failure(
    explosion: dict[str, Any] | None,
    trace: Traces | None,
    limits: AggregationLimits,
    settings: StabilityConfig,
    bound: float,
) -> Outcome:
    """The first failure of a run, or its end.

    Parameters
    ----------
    explosion : dict or None
        "time" (ps), "kind" and "detail" of the error that stopped the dynamics.
    trace : Traces or None
        None if the run exploded before its first frame.
    limits : AggregationLimits
    settings : StabilityConfig
    bound : float, kelvin
        On the mean temperature of a window.
    """
    found: list[Outcome] = []
    if explosion:
        found.append(Outcome(explosion["time"], explosion["kind"], explosion["detail"]))
    if trace is not None:
        whole = trace.times >= settings.window - 1e-6
        if (hot := np.flatnonzero(whole & (trace.averages > bound))).size:
            sentence = (
                f"The mean temperature of {settings.window:g} ps is {trace.averages[hot[0]]:.0f} K,"
                f" above {bound:.0f} K."
            )
            found.append(Outcome(float(trace.times[hot[0]]), "hot", sentence))
        if (first := limits.first_aggregated(trace.clusters)) is not None:
            sentence = limits.describe(trace.clusters, first)
            found.append(Outcome(float(trace.times[first]), "aggregated", sentence))
    if not found:
        assert trace is not None  # a run without a frame has exploded
        end = round(float(trace.times[-1]), 6)
        return Outcome(end, None, f"Physical for all of {end:g} ps.")
    time, cause, detail = min(found, key=lambda outcome: outcome.time)
    return Outcome(round(time, 6), cause, detail)  # OpenMM sums up time steps


def describe_replica(
    index: int,
    start: int,
    outcome: Outcome,
    trace: Traces | None,
    limits: AggregationLimits,
    window: int,
) -> Replica:
    """The figures of a run until it failed, all but its pressure.

    Parameters
    ----------
    index, start : int
        Number of the run and of the all-atom frame it started from.
    outcome : Outcome
    trace : Traces or None
    limits : AggregationLimits
    window : int
        Frames over which the temperature is averaged; drifts are measured after the first window.
    """
    good = _before_failure(trace, outcome)
    if trace is None or not good.any():
        return Replica(index, start, *outcome)
    distances = trace.clusters.smallest_distances.items()
    closest = min(float((values[good] / limits.smallest[pair]).min()) for pair, values in distances)
    replica = Replica(
        index,
        start,
        *outcome,
        largest_cluster=int(trace.clusters.largest[good].max()),
        closest=closest if math.isfinite(closest) else None,
    )
    temperatures, later = trace.temperatures[good], trace.times[good][window:]
    return replica.with_values(
        mean_temperature=mean_of(temperatures),
        temperature_drift=drift(later, temperatures[window:]),
        energy_drift=drift(later, trace.energies[good][window:]),
    )


def drift(times: np.ndarray, values: np.ndarray) -> BlockedMean | None:
    """Slope per ns of values at times (ps), or None for fewer than three."""
    return blocked_slope(times / 1000, values) if len(times) > 2 else None


def mean_pressure(
    system: openmm.System, trace: Traces, outcome: Outcome, temperature: float, platform: str | None
) -> BlockedMean | None:
    """Mean pressure (bar) over some frames before the failure; None without such a frame.

    Parameters
    ----------
    system : openmm.System
        With the potential of the run.
    trace : Traces
    outcome : Outcome
    temperature : float, kelvin
    platform : str or None
        OpenMM platform; the fastest one if None.
    """
    good = np.flatnonzero(_before_failure(trace, outcome))
    if len(good) == 0:
        return None
    chosen = good[evenly_spaced(len(good), PRESSURE_FRAMES)]
    return mean_of(
        virial_pressure(system, trace.positions[chosen], trace.boxes[chosen], temperature, platform)
    )


def _before_failure(trace: Traces | None, outcome: Outcome) -> np.ndarray:
    """Which frames lie before the failure, shape (n_frames,), bool."""
    if trace is None:
        return np.zeros(0, dtype=bool)
    return trace.times < outcome.time if outcome.cause else np.ones(len(trace.times), dtype=bool)
