"""Stability protocol: independent coarse-grained runs, and how long each stays physical.

What counts as a failure stands in `openmm_cgkd.analysis.stability.failures`. Everything a run
leaves can be looked at; a second call resumes, and more replicas or a longer duration add to what
is there.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from openmm_cgkd.analysis.comparison.curves import number
from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.analysis.observables.aggregation import AggregationLimits
from openmm_cgkd.analysis.stability.failures import (
    describe_replica,
    first_failure,
    hottest,
    mean_pressure,
    read_traces,
    window_frames,
)
from openmm_cgkd.analysis.stability.figure import draw_stability
from openmm_cgkd.analysis.stability.survival import CAUSES, FailureRate, Replica, Traces, survival
from openmm_cgkd.config.run import RunConfig, SimulationConfig, StabilityConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.run_folder import RunFiles, RunFolder, StageRecord
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.explosion import degrees_of_freedom
from openmm_cgkd.simulation.start import Known
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.langevin import check_platform
from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.seeds import derived_seed

from .inputs import all_frames
from .replicas import ReplicaStart, run_replicas
from .timestep import simulation_settings

logger = logging.getLogger(__name__)

_AVERAGED = ("mean_temperature", "temperature_drift", "energy_drift", "pressure")


def check_stability(run: RunConfig) -> Path:
    """Run the exported student from several all-atom frames, and tell how long it stays physical.

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
    ConfigError
        If the potential was made for another temperature than that of the frames, or the platform
        is not there.
    ExecutionError
        If the dynamics cannot run for another reason than an unphysical state.
    """
    folder = RunFolder(run)
    settings = run.stability
    with folder.at_work("stability", folder.stability):
        potential = CGPotential(folder.model, run_script=run.run_script)
        frames = all_frames(run)
        Known.of(potential).check_temperature(
            frames.temperature, f"{folder.frames} has", run.simulation.other_temperature
        )
        protocol = _protocol(run)
        _check(settings, protocol, len(frames))
        identity = {"model": file_hash(folder.model), "frames": frames.identity}
        results = folder.stability
        outputs = [
            folder.stability_report,
            results / "replicas.csv",
            folder.survival,
            results / "stability.png",
            results / "stability.svg",
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
        window = window_frames(settings, protocol)
        starts = _starts(run, frames, identity, folder.stability)
        explosions = run_replicas(run, starts, frames.beads, protocol, frames.temperature)
        for start, explosion in zip(starts, explosions, strict=True):
            system = potential.createSystem(bead_topology_to_openmm(frames.beads, start.box))
            trace = read_traces(start.folder, protocol, settings, frames.beads, limits)
            bound = hottest(
                frames.temperature, settings, protocol.friction, degrees_of_freedom(system)
            )
            outcome = first_failure(explosion, trace, limits, settings, bound)
            replica = describe_replica(start.index, start.frame, outcome, trace, limits, window)
            if trace is not None:
                pressure = mean_pressure(
                    system, trace, outcome, frames.temperature, protocol.platform
                )
                replica = replica.with_values(pressure=pressure)
            logger.info("replica %d: %s", start.index, replica.detail)
            replicas.append(replica)
            # the picture needs no positions, and many long runs would not fit into memory
            traces.append(
                trace and replace(trace, positions=trace.positions[:0], boxes=trace.boxes[:0])
            )
        write_results(folder, replicas, traces, frames, limits, settings, protocol)
        stage.finish()
    return outputs[0]


def _protocol(run: RunConfig) -> SimulationConfig:
    """The simulation section at constant volume and without equilibration.

    Time is counted from the all-atom frame.
    """
    update = {
        "equilibration": 0.0,
        "production": run.stability.duration,
        "pressure": None,
        "committee": None,
    }
    return simulation_settings(run).model_copy(update=update)


def _check(settings: StabilityConfig, protocol: SimulationConfig, n_frames: int) -> None:
    check_platform(protocol.platform)
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
        seed = derived_seed(run.seed, "replica", index)
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


def write_results(
    files: RunFiles,
    replicas: list[Replica],
    traces: list[Traces | None],
    frames: Frames,
    limits: AggregationLimits,
    settings: StabilityConfig,
    protocol: SimulationConfig,
) -> None:
    """Write the report, the tables and the pictures of a stability protocol.

    Parameters
    ----------
    files : RunFiles
        Of the run.
    replicas : list of Replica
    traces : list of Traces or None
        For the picture; None where a replica exploded before its first frame.
    frames : Frames
        All-atom ones.
    limits : AggregationLimits
    settings : StabilityConfig
    protocol : SimulationConfig
    """
    rows = [asdict(replica) for replica in replicas]
    curve = survival(replicas, settings.duration)
    rate = FailureRate.of(replicas)
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
        "total_time": rate.time,
        "production": protocol.production,
        "failures_per_ns": number(rate.rate),
        "failures_per_ns_above": rate.low,
        "failures_per_ns_below": number(rate.high),
        "first_failure": min((replica.time for replica in failed), default=None),
        "means": {name: _mean([row[name] for row in rows]) for name in _AVERAGED},
        "all_atom": limits.numbers(),
        "runs": rows,
    }
    lines = [{**row, "at_least": " ".join(row["at_least"])} for row in rows]
    write_csv(files.stability / "replicas.csv", list(rows[0]), (line.values() for line in lines))
    write_csv(
        files.survival,
        ["time / ps", "share", "low", "high"],
        zip(*curve.values(), strict=True),
    )
    draw_stability(files.stability / "stability", replicas, traces, curve, report)
    report["tables"] = {files.survival.name: file_hash(files.survival)}
    write_record(files.stability_report, report, allow_nan=False)
    logger.info(
        "%d of %d runs failed in %g ps each; %s",
        len(failed),
        len(replicas),
        settings.duration,
        rate.words,
    )


def _mean(values: list[float | None]) -> dict[str, float | None]:
    """Mean over the replicas and its standard error."""
    known = np.array([value for value in values if value is not None])
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return {"mean": float(known.mean()) if len(known) else None, "se": error}
