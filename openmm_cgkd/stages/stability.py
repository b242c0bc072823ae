"""Stability protocol: independent coarse-grained runs, how long each stays physical, and what goes
wrong.

A run fails at the first of: coordinates or energy not finite; exploded (the guard of the dynamics
stops it); hot (kinetic temperature, averaged over a window, too far above the set one); aggregated
(beads closer, or in larger clusters, than all-atom shows). Everything it leaves can be looked at; a
second call resumes, and more replicas or a longer duration add to what is there.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from scipy.stats import linregress

from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.analysis.comparison.trajectory import read_trajectory
from openmm_cgkd.analysis.observables.aggregation import (
    AggregationLimits,
    clusters_of,
    evenly_spaced,
)
from openmm_cgkd.analysis.observables.pressure import virial_pressure
from openmm_cgkd.analysis.stability.figure import draw_stability
from openmm_cgkd.analysis.stability.survival import CAUSES, Replica, Traces, failure_rate, survival
from openmm_cgkd.config.run import RunConfig, SimulationConfig, StabilityConfig
from openmm_cgkd.exceptions import AnalysisError, SimulationError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.platforms import platforms
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.explosion import degrees_of_freedom
from openmm_cgkd.simulation.resume import log_column
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.files import file_hash, write_text
from openmm_cgkd.utils.progress import log_to

from .replicas import ReplicaStart, run_replicas
from .timestep import simulation_settings

logger = logging.getLogger(__name__)

_PRESSURE_FRAMES = 20
# standard deviations of the canonical temperature that a window may be off in any case
_DEVIATIONS = 5


def check_stability(run: RunConfig) -> Path:
    """Run the exported student from different all-atom frames, side by side, and tell how long it
    stays physical.

    Writes ``stability.json``, ``replicas.csv``, ``survival.csv`` and pictures into the stability
    folder of the run, and every replica with its trajectory into a folder of its own.

    Returns
    -------
    Path
        ``stability.json``.

    Raises
    ------
    AnalysisError
        If there are fewer all-atom frames than replicas, or the window is longer than the runs or
        shorter than a frame interval.
    ModelFileError, FramesError
        If the potential or the frames cannot be read.
    SimulationError
        If the platform is not there.
    ExecutionError
        If the dynamics cannot run for another reason than an unphysical state.
    """
    folder = RunFolder(run)
    settings = run.stability
    with log_to(folder.log("stability")):
        potential, protocol = CGPotential(folder.model), _protocol(run)
        frames = read_frames(folder.frames)
        _check(settings, protocol, len(frames))
        identity = {"model": file_hash(folder.model), "frames": frames.identity}
        results = folder.root / "stability"
        outputs = [
            results / name
            for name in (
                "stability.json",
                "replicas.csv",
                "survival.csv",
                "stability.png",
                "stability.svg",
            )
        ]
        stage = StageRecord(
            folder,
            "stability",
            {**identity, "protocol": protocol, "stability": settings, "seed": run.seed},
            outputs,
        )
        if stage.finished:
            return outputs[0]
        limits = AggregationLimits.of(
            frames.positions, frames.box, frames.beads, largest_r_max(frames.box)
        )
        replicas, traces = [], []
        starts = _starts(run, frames, identity, results)
        failures = run_replicas(run, starts, frames.beads, protocol, frames.temperature)
        for start, failure in zip(starts, failures, strict=True):
            system = potential.createSystem(bead_topology_to_openmm(frames.beads, start.box))
            trace = _read(start.folder, protocol, settings, frames, limits)
            bound = hottest(
                frames.temperature, settings, protocol.friction, degrees_of_freedom(system)
            )
            event = _first_event(failure, trace, limits, settings, bound)
            replica = _replica(start.index, start.frame, event, trace, limits, settings, protocol)
            if trace is not None:
                replica = replace(
                    replica,
                    pressure=_pressure(
                        system, trace, replica, frames.temperature, protocol.platform
                    ),
                )
            logger.info("replica %d: %s", start.index, replica.detail)
            replicas.append(replica)
            # the picture needs no positions, and many long runs would not fit into memory
            traces.append(
                trace and replace(trace, positions=trace.positions[:0], boxes=trace.boxes[:0])
            )
        _write(results, replicas, traces, frames, limits, settings, protocol)
        stage.finish()
    return outputs[0]


def _protocol(run: RunConfig) -> SimulationConfig:
    """The simulation section at constant volume, without equilibration: the clock starts at the
    all-atom frame.
    """
    update = {
        "equilibration": 0.0,
        "production": run.stability.duration,
        "pressure": None,
        "committee": None,
    }
    return simulation_settings(run).model_copy(update=update)


def _check(settings: StabilityConfig, protocol: SimulationConfig, n_frames: int) -> None:
    if protocol.platform and protocol.platform not in platforms():
        raise SimulationError(
            f"simulation.platform: {protocol.platform} is not loaded here; name one of"
            f" {', '.join(platforms())}."
        )
    if n_frames < settings.replicas:
        raise AnalysisError(
            f"stability.replicas: {settings.replicas} runs cannot start from {n_frames} different"
            " frames; ask for fewer or add frames."
        )
    if not protocol.frame_interval <= settings.window <= settings.duration:
        raise AnalysisError(
            f"stability.window: {settings.window:g} ps is not between simulation.frame_interval"
            f" ({protocol.frame_interval:g} ps) and stability.duration ({settings.duration:g} ps);"
            " change one of them."
        )


def _starts(
    run: RunConfig, frames: Frames, identity: dict[str, str], folder: Path
) -> list[ReplicaStart]:
    # the first ones stay the same when more are asked for
    chosen = (
        np.random.default_rng(run.seed).permutation(len(frames))[: run.stability.replicas].tolist()
    )
    starts = []
    for index, frame in enumerate(chosen):
        # a prime apart, so that resumed runs do not share seeds
        seed = (run.seed + 7919 * (index + 1)) % 2**31
        key = json.dumps({**identity, "start": frame})
        starts.append(
            ReplicaStart(
                index,
                frame,
                frames.positions[frame],
                frames.box[frame],
                folder / f"{index:02d}",
                seed,
                key,
            )
        )
    return starts


def _read(
    place: Path,
    protocol: SimulationConfig,
    settings: StabilityConfig,
    frames: Frames,
    limits: AggregationLimits,
) -> Traces | None:
    """What a replica left up to the end of the protocol; None if it exploded before its first
    frame.
    """
    log = place / "state.csv"
    times = log_column(log, "Time") if log.exists() and log.stat().st_size else np.zeros(0)
    n = np.count_nonzero(times <= settings.duration + 1e-6)
    if n == 0:
        return None
    temperatures, energies = (
        log_column(log, "Temperature")[:n],
        log_column(log, "Potential Energy")[:n] / frames.beads.n_beads,
    )
    window = _window(settings, protocol)
    averages = np.array([temperatures[max(0, k - window + 1) : k + 1].mean() for k in range(n)])
    trajectory = read_trajectory(
        place / f"trajectory.{protocol.trajectory}", place / "topology.pdb"
    )
    positions, boxes = trajectory.positions[:n], trajectory.boxes[:n]
    clusters = clusters_of(limits.contacts, positions, boxes, frames.beads.names)
    return Traces(times[:n], temperatures, averages, energies, positions, boxes, clusters)


def _window(settings: StabilityConfig, protocol: SimulationConfig) -> int:
    """Frames over which the temperature is averaged."""
    return max(1, round(settings.window / protocol.frame_interval))


def _first_event(
    failure: dict[str, Any] | None,
    trace: Traces | None,
    limits: AggregationLimits,
    settings: StabilityConfig,
    bound: float,
) -> tuple[float, str | None, str]:
    """Time, cause and description of the first failure, or of the end."""
    events: list[tuple[float, str | None, str]] = (
        [(failure["time"], failure["kind"], failure["detail"])] if failure else []
    )
    if trace is not None:
        whole = trace.times >= settings.window - 1e-6
        if (hot := np.flatnonzero(whole & (trace.averages > bound))).size:
            sentence = (
                f"The mean temperature of {settings.window:g} ps is {trace.averages[hot[0]]:.0f} K,"
                f" above {bound:.0f} K."
            )
            events.append((float(trace.times[hot[0]]), "hot", sentence))
        if (first := limits.first_aggregated(trace.clusters)) is not None:
            events.append(
                (float(trace.times[first]), "aggregated", limits.describe(trace.clusters, first))
            )
    if not events:
        end = round(float(trace.times[-1]), 6)
        return end, None, f"Physical for all of {end:g} ps."
    time, cause, detail = min(events, key=lambda event: event[0])
    return round(time, 6), cause, detail  # OpenMM sums up time steps


def _replica(
    index: int,
    start: int,
    event: tuple[float, str | None, str],
    trace: Traces | None,
    limits: AggregationLimits,
    settings: StabilityConfig,
    protocol: SimulationConfig,
) -> Replica:
    """The numbers of a run until it failed."""
    good = _good(trace, event[0], event[1])
    if not good.any():
        return Replica(index, start, *event)
    window = _window(settings, protocol)
    distances = trace.clusters.smallest_distances.items()
    closest = min(float((values[good] / limits.smallest[pair]).min()) for pair, values in distances)
    return Replica(
        index,
        start,
        *event,
        mean_temperature=float(trace.temperatures[good].mean()),
        temperature_drift=drift(trace.times[good][window:], trace.temperatures[good][window:]),
        energy_drift=drift(trace.times[good][window:], trace.energies[good][window:]),
        largest_cluster=int(trace.clusters.largest[good].max()),
        closest=closest if math.isfinite(closest) else None,
    )


def _good(trace: Traces | None, time: float, cause: str | None) -> np.ndarray:
    """Frames before the failure."""
    if trace is None:
        return np.zeros(0, dtype=bool)
    return trace.times < time if cause else np.ones(len(trace.times), dtype=bool)


def hottest(temperature: float, settings: StabilityConfig, friction: float, freedom: int) -> float:
    """Bound on the mean temperature of a window, kelvin.

    For few beads or a short window at least five standard deviations of that mean: the canonical
    temperature has relative variance 2 / freedom, and Langevin dynamics forgets the kinetic energy
    in 1 / (2 friction).
    """
    independent = max(1.0, settings.window * friction)
    return temperature * (
        1 + max(settings.temperature_tolerance, _DEVIATIONS * math.sqrt(2 / freedom / independent))
    )


def drift(times: np.ndarray, values: np.ndarray) -> float | None:
    """Slope per ns of values at times (ps), or None for fewer than three."""
    return float(1000 * linregress(times, values).slope) if len(times) > 2 else None


def _pressure(
    system: openmm.System, trace: Traces, replica: Replica, temperature: float, platform: str | None
) -> float | None:
    good = np.flatnonzero(_good(trace, replica.time, replica.cause))
    if len(good) == 0:
        return None
    chosen = good[evenly_spaced(len(good), _PRESSURE_FRAMES)]
    return float(
        virial_pressure(
            system, trace.positions[chosen], trace.boxes[chosen], temperature, platform
        ).mean()
    )


def _write(
    folder: Path,
    replicas: list[Replica],
    traces: list[Traces | None],
    frames: Frames,
    limits: AggregationLimits,
    settings: StabilityConfig,
    protocol: SimulationConfig,
) -> None:
    rows = [asdict(replica) for replica in replicas]
    curve = survival(replicas, settings.duration)
    rate, highest = failure_rate(replicas)
    failed = [replica for replica in replicas if replica.cause is not None]
    report = {
        "system": frames.attributes.get("system", "unnamed system"),
        "temperature": frames.temperature,
        "replicas": len(replicas),
        "duration": settings.duration,
        "timestep": protocol.timestep,
        "failed": len(failed),
        "causes": {cause: sum(replica.cause == cause for replica in replicas) for cause in CAUSES},
        "survival_at_end": {name: float(curve[name][-1]) for name in ("share", "low", "high")},
        "failures_per_ns": rate if math.isfinite(rate) else None,
        "failures_per_ns_below": highest if math.isfinite(highest) else None,
        "first_failure": min((replica.time for replica in failed), default=None),
        "means": {name: _mean([row[name] for row in rows]) for name in _AVERAGED},
        "all_atom": limits.numbers(),
        "runs": rows,
    }
    write_csv(folder / "replicas.csv", list(rows[0]), (row.values() for row in rows))
    write_csv(
        folder / "survival.csv",
        ["time / ps", "share", "low", "high"],
        zip(*curve.values(), strict=True),
    )
    draw_stability(folder / "stability", replicas, traces, curve, report)
    write_text(folder / "stability.json", json.dumps(report, indent=1, allow_nan=False))
    logger.info(
        "%d of %d runs failed in %g ps each; %.3g failures per ns",
        len(failed),
        len(replicas),
        settings.duration,
        rate,
    )


_AVERAGED = ("mean_temperature", "temperature_drift", "energy_drift", "pressure")


def _mean(values: list[float | None]) -> dict[str, float | None]:
    """Mean over the replicas and its standard error."""
    known = np.array([value for value in values if value is not None])
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return {"mean": float(known.mean()) if len(known) else None, "se": error}
