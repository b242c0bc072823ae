"""The work of a study: teachers and labels of a seed, and from them one variant after the other.

Every variant_run leaves its results in its own run folder and is not done again.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import unit

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import AnalysisError, ExplosionError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.split import apply_split
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.platforms import choose_platform
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.ensemble import EnsemblePotential
from openmm_cgkd.simulation.explosion import openmm_message
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.stages.committee import export_members
from openmm_cgkd.stages.compare import compare_run
from openmm_cgkd.stages.export import export_student
from openmm_cgkd.stages.inputs import mean_forces_of
from openmm_cgkd.stages.label import label_run
from openmm_cgkd.stages.on_policy import train_on_policy
from openmm_cgkd.stages.simulate import simulate_run
from openmm_cgkd.stages.stability import check_stability
from openmm_cgkd.stages.teach import train_teachers
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.labeling import mapped_error
from openmm_cgkd.training.mean_force_test import load_mean_force_test
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.progress import Report, console
from openmm_cgkd.utils.records import read_record, write_record
from scripts.benchmarks.measures import measure

from .plan import Study, VariantRun

logger = logging.getLogger("openmm_cgkd")

# what a variant run leaves beside the files of a run
ERRORS, FAILURE, WALL, SPEED = "errors.json", "failure.json", "wall.json", "speed.json"
_NOT_IN_RESULTS = {
    "system",
    "folder",
    "frames",
    "mean_forces",
    "tensorboard",
    "workers",
    "execution",
}


def stamp(variant_run: VariantRun, frames: Frames) -> StageRecord:
    """Record of a variant run: finished with this configuration, frames and mean forces?"""
    inputs: dict[str, Any] = {
        "run": variant_run.run.model_dump(mode="json", exclude=_NOT_IN_RESULTS),
        "frames": frames.identity,
    }
    if variant_run.run.mean_forces is not None:
        inputs["mean_forces"] = file_hash(variant_run.run.path(variant_run.run.mean_forces))
    return StageRecord(
        RunFolder(variant_run.run),
        f"piece {variant_run.name}",
        inputs,
        [RunFolder(variant_run.run).root / ERRORS],
    )


def teach(run: RunConfig) -> None:
    """Train the teachers and label the frames."""
    with _timed(run, "teachers"):
        train_teachers(run)
    with _timed(run, "labels"):
        label_run(run)


def work(variant_run: VariantRun, costs: dict[str, float], deadline: float, report: Report) -> bool:
    """Do a variant run, in a process of its own.

    Parameters
    ----------
    variant_run : VariantRun
        Whose teachers have labelled the frames.
    costs : dict
        Seconds of every stage, roughly, by `Costs.variant_run`.
    deadline : float
        Time, as of `time.time`, after which no stage begins.
    report : callable
        Gets the share done and the stage.

    Returns
    -------
    bool
        Whether the variant run is finished.
    """
    # several bars on one terminal destroy each other
    if multiprocessing.parent_process() is not None:
        console.file = open(os.devnull, "w")  # noqa: SIM115  open as long as the process
    done, whole = 0.0, sum(costs.values())
    for name, seconds in costs.items():
        if time.time() > deadline:
            return False
        report(done / whole, name)
        with _timed(variant_run.run, name):
            _STAGES[name](variant_run)
        done += seconds
    frames = read_frames(RunFolder(variant_run.run).frames)
    stamp(variant_run, frames).finish()
    return True


def _train(variant_run: VariantRun) -> None:
    folder = RunFolder(variant_run.run)
    if variant_run.teachers is not None:
        source = RunFolder(variant_run.teachers)
        needed = [(source.labels, folder.labels), (source.prior, folder.prior)]
        if variant_run.run.student.on_policy.rounds:  # teachers label what the student visits
            needed += [
                (source.teacher(k) / BEST, folder.teacher(k) / BEST)
                for k in range(variant_run.run.teachers.count)
            ]
        for original, copy in needed:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as fresh:
                shutil.copyfile(original, fresh)
    train_on_policy(variant_run.run)
    export_student(variant_run.run)


def _simulate(variant_run: VariantRun) -> None:
    """Simulate; a run that explodes is a result, too."""
    failure = RunFolder(variant_run.run).root / FAILURE
    try:
        if variant_run.variant.committee:
            _simulate_committee(variant_run)
        else:
            simulate_run(variant_run.run)
    except ExplosionError as error:
        write_record(failure, {"time": error.time, "detail": str(error)})
    else:
        failure.unlink(missing_ok=True)


def _simulate_committee(variant_run: VariantRun) -> None:
    """The teachers' mean force from the frame, and by the protocol, of the students."""
    run, folder = variant_run.run, RunFolder(variant_run.run)
    with folder.at_work("simulate"):
        frames = read_frames(folder.frames)
        start = _start(run, frames)
        members = export_members(variant_run.teachers, frames)
        topology = bead_topology_to_openmm(frames.beads, frames.box[start])
        system = EnsemblePotential(members).createSystem(topology)
        identity = json.dumps(
            {"members": [file_hash(member) for member in members], "start": start}
        )
        inputs = {"identity": identity, "simulation": run.simulation, "seed": run.seed}
        stage = StageRecord(folder, "simulate", inputs, [folder.simulation / "simulation.json"])
        if not stage.finished:
            positions = frames.positions[start]
            run_dynamics(
                system,
                topology,
                positions,
                folder.simulation,
                run.simulation,
                frames.temperature,
                run.seed,
                identity,
            )
            stage.finish()


def _start(run: RunConfig, frames: Frames) -> int:
    """The last training frame, where `simulate` begins, too."""
    return int(apply_split(frames, run.split).training[-1])


def _compare(variant_run: VariantRun) -> None:
    """Compare; of a run that exploded what there is, if it is enough."""
    folder = RunFolder(variant_run.run)
    try:
        compare_run(variant_run.run)
    except AnalysisError:
        if not (folder.root / FAILURE).exists():
            raise
        (folder.comparison / "comparison.json").unlink(missing_ok=True)  # of another simulation


def _errors(variant_run: VariantRun) -> None:
    """Errors of the forces.

    Against the mapped forces of the test part of all frames, and against mean forces if there
    are some.
    """
    run, folder = variant_run.run, RunFolder(variant_run.run)
    source = RunFolder(variant_run.teachers) if variant_run.variant.committee else folder
    count = run.teachers.count
    checkpoints = (
        [source.teacher(k) / BEST for k in range(count)]
        if variant_run.variant.committee
        else [folder.student / BEST]
    )
    networks = [load_checkpoint(path)[0] for path in checkpoints]
    cutoff, prior, frames = networks[0].cutoff, read_prior(source.prior), read_frames(folder.frames)

    def forces(graphs: FrameGraphs) -> np.ndarray:
        return np.mean(
            [predict(network, graphs, range(len(graphs)))[0] for network in networks], axis=0
        )

    split = apply_split(frames, run.split)
    test = split.test
    graphs = FrameGraphs(frames[test], cutoff, prior)
    rmse, share = mapped_error(forces(graphs), graphs, np.arange(len(test)))
    errors = {"mapped_rmse": rmse, "mapped_share": share, "test_frames": len(test)}
    against = load_mean_force_test(mean_forces_of(run), frames, cutoff, prior, split)
    if against is not None:
        errors |= against.errors(forces(against.graphs))
        variance = read_mean_forces(run.path(run.mean_forces)).variance()
        errors["mean_force_share"] = errors["mean_force_rmse"] ** 2 / variance
    write_record(folder.root / ERRORS, errors)


def _stability(variant_run: VariantRun) -> None:
    check_stability(variant_run.run)


_STAGES: dict[str, Callable[[VariantRun], None]] = {
    "train": _train,
    "simulate": _simulate,
    "compare": _compare,
    "stability": _stability,
    "errors": _errors,
}


def measure_speeds(
    study: Study, variant_runs: list[VariantRun], rounds: int, seconds: float
) -> None:
    """Time the steps of finished variant runs of one seed.

    One after the other, on all cores and with nothing of the study beside them.
    """
    variant_runs = [
        variant_run
        for variant_run in variant_runs
        if not (RunFolder(variant_run.run).root / FAILURE).exists()
    ]
    files = {variant_run.variant.name: _potentials(variant_run) for variant_run in variant_runs}
    potentials = {name: [file_hash(file) for file in found] for name, found in files.items()}
    record = study.folder / f"seed-{variant_runs[0].seed}" / SPEED if variant_runs else None
    if record is None or (record.exists() and read_record(record)["potentials"] == potentials):
        return
    frames, steps = read_frames(RunFolder(variant_runs[0].run).frames), {}
    for variant_run in variant_runs:
        name, timestep = variant_run.variant.name, variant_run.run.simulation.timestep
        try:
            ms = measure(
                {name: (_context(variant_run, files[name], frames), timestep)}, rounds, seconds
            )[name]
        except openmm.OpenMMException as error:  # it may explode here, too
            logger.warning(
                "%s: its speed could not be measured (%s)", variant_run.name, openmm_message(error)
            )
            continue
        steps[name] = {"step_time_ms": ms, "ns_per_day": timestep * 86400 / ms}
    write_record(
        record, {"potentials": potentials, "steps": steps, "load_average": os.getloadavg()[0]}
    )


def speed_of(variant_run: VariantRun) -> dict[str, float]:
    """What `measure_speeds` found, if the potentials are still the same."""
    root, name = RunFolder(variant_run.run).root, variant_run.variant.name
    if not (root.parent / SPEED).exists() or (root / FAILURE).exists():
        return {}
    record = read_record(root.parent / SPEED)
    same = record["potentials"].get(name) == [file_hash(file) for file in _potentials(variant_run)]
    return record["steps"].get(name, {}) if same else {}


def _context(variant_run: VariantRun, files: list[Path], frames: Frames) -> openmm.Context:
    start, protocol = _start(variant_run.run, frames), variant_run.run.simulation
    potential = EnsemblePotential(files) if variant_run.variant.committee else CGPotential(files[0])
    system = potential.createSystem(bead_topology_to_openmm(frames.beads, frames.box[start]))
    temperature = frames.temperature * unit.kelvin
    integrator = openmm.LangevinMiddleIntegrator(
        temperature, protocol.friction / unit.picosecond, protocol.timestep * unit.picosecond
    )
    context = openmm.Context(system, integrator, choose_platform(system, protocol.platform))
    context.setPositions(frames.positions[start])
    context.setVelocitiesToTemperature(temperature, variant_run.run.seed)
    return context


def _potentials(variant_run: VariantRun) -> list[Path]:
    if not variant_run.variant.committee:
        return [RunFolder(variant_run.run).model]
    return [
        RunFolder(variant_run.teachers).teacher(k) / "potential.pt"
        for k in range(variant_run.run.teachers.count)
    ]


@contextmanager
def _timed(run: RunConfig, name: str) -> Iterator[None]:
    """Add up the wall time of a stage over interruptions, in seconds."""
    path, begin = RunFolder(run).root / WALL, time.perf_counter()
    try:
        yield
    finally:
        known = read_record(path) if path.exists() else {}
        known[name] = known.get(name, 0.0) + time.perf_counter() - begin
        write_record(path, known)
