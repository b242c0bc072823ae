"""A study from its command line to its report: configuration, order of work, progress."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import ConfigError, FramesError
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.frames.frames import FrameWriter, read_frames
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.yaml_file import read_yaml

from .plan import (
    BASE,
    QUICK,
    Costs,
    Study,
    VariantRun,
    ablation_variants,
    choose,
    merge,
    study_variants,
)
from .report import publish, write_report
from .sizes import BIG_TEACHERS, size_variants
from .variant_runs import measure_speeds, stamp, teach, work

logger = logging.getLogger("openmm_cgkd")

_SEEDS, _QUICK_SEEDS, _QUICK_FRAMES = 3, 1, 60


def run_study(given: argparse.Namespace) -> int:
    """Do what is left, write the report; returns the number of variant runs that are still left.

    Raises
    ------
    ConfigError, FramesError
        If configuration or frames are not valid.
    ExecutionError
        If variant_runs failed; the others are finished, and reported, first.
    """
    deadline = time.time() + 3600 * given.hours
    data = configure(given)
    if given.quick:
        data["frames"] = str(_thin(Path(data["frames"]), given.folder.resolve() / "frames.h5"))
    common = parse(RunConfig, data, "configuration of the study", given.folder)
    if common.simulation.timestep is None:
        raise ConfigError(
            "simulation.timestep: is absent; write one, because all variants shall have the same."
        )
    frames = read_frames(common.path(common.frames))
    if given.sizes:
        variants = size_variants(common.student.training.epochs)
    elif given.ablation:
        variants = ablation_variants(common, frames, given.ablation)
    else:
        variants = study_variants(common)
    seeds = given.seeds or (_QUICK_SEEDS if given.quick else _SEEDS)
    study = Study(given.folder.resolve(), data, choose(variants, given.only), seeds)
    variant_runs = study.variant_runs()
    finished = [variant_run for variant_run in variant_runs if stamp(variant_run, frames).finished]
    try:
        carry_out(study, variant_runs, finished, Costs.of(frames), deadline)
    finally:
        if finished:
            whole = len(finished) == len(variant_runs)
            if whole:
                _measure_speeds(study, variant_runs, given.quick)
            write_report(study, common, frames, finished, whole)
            if given.publish is not None:
                publish(study.folder, given.publish)
    return len(variant_runs) - len(finished)


def configure(given: argparse.Namespace) -> dict[str, Any]:
    """What all variants share, as plain data.

    Defaults, --quick, --config and options, each on top of those before.

    Raises
    ------
    ConfigError
        If the file of --config cannot be read, or --sizes and --ablation are both given.
    FramesError
        If there are no frames.
    """
    if given.sizes and given.ablation:
        raise ConfigError("--sizes: is a study of its own; leave out --ablation.")
    data = merge(BASE, BIG_TEACHERS) if given.sizes else BASE
    data = merge(data, QUICK) if given.quick else data
    if given.config is not None:
        data = merge(data, _read_sections(given.config))
    training = {"training": {"epochs": given.epochs}} if given.epochs else {}
    options: dict[str, Any] = {
        "teachers": training | ({"count": given.teachers} if given.teachers else {}),
        "student": training,
        "model": {"channels": given.channels} if given.channels else {},
        "simulation": {"production": given.md_time} if given.md_time else {},
    }
    frames, mean_forces = (
        given.data or given.system / "frames.h5",
        given.mean_forces or given.system / "mean_forces.h5",
    )
    if not frames.exists():
        raise FramesError(
            f"{frames}: no such file; make frames with 'cgkd reference"
            f" {given.system / 'system.yaml'} --folder FOLDER' and name FOLDER/frames.h5 with"
            " --data."
        )
    paths = {"system": given.system / "system.yaml", "frames": frames}
    if given.mean_forces is not None or mean_forces.exists():
        paths["mean_forces"] = mean_forces
    options |= {name: str(path.resolve()) for name, path in paths.items()}
    return merge(
        merge(data, options),
        {"folder": ".", **({"max_frames": given.frames} if given.frames else {})},
    )


def _thin(path: Path, target: Path) -> Path:
    """Write a file of a few evenly spaced frames: comparing with all of them takes its time."""
    frames = read_frames(path)
    thinned = frames[np.unique(np.linspace(0, len(frames) - 1, _QUICK_FRAMES).round().astype(int))]
    with (
        replacing(target) as fresh,
        FrameWriter(fresh, thinned.beads, thinned.attributes) as writer,
    ):
        for k in range(len(thinned)):
            writer.append(
                thinned.positions[k],
                thinned.forces[k],
                thinned.box[k],
                thinned.time[k],
                int(thinned.step[k]),
            )
    return target


def _read_sections(path: Path) -> dict[str, Any]:
    sections = read_yaml(path, "sections of a run.yaml for --config", ConfigError)
    if not isinstance(sections, dict):
        raise ConfigError(
            f"--config: {path} holds {type(sections).__name__}; write sections of a run.yaml, such"
            " as execution."
        )
    return sections


def carry_out(
    study: Study,
    variant_runs: list[VariantRun],
    finished: list[VariantRun],
    costs: Costs,
    deadline: float,
) -> None:
    """Do what is left until the deadline, seed by seed; adds to `finished`."""
    left = [variant_run for variant_run in variant_runs if variant_run not in finished]
    seconds = {
        variant_run.name: sum(costs.variant_run(variant_run).values()) for variant_run in left
    }
    ensembles = {
        (variant_run.seed, variant_run.variant.teachers): variant_run.teachers
        for variant_run in left
        if variant_run.teachers is not None
    }
    # labels that exist cost nothing
    teaching = {
        key: 0.0 if (run.run_folder / "labels.h5").exists() else costs.teachers(run)
        for key, run in ensembles.items()
    }
    state = _State(sum(seconds.values()) + sum(teaching.values()))
    logger.info(
        "study: %d of %d variant runs finished before, roughly %.1f h left",
        len(finished),
        len(variant_runs),
        state.total / 3600,
    )
    for seed in range(1, study.seeds + 1):
        for (of, name), run in ensembles.items():
            if of != seed:
                continue
            if time.time() > deadline:
                return
            teach(run)
            state.add(teaching[of, name], f"seed {seed}, {name}")
        waiting = {
            variant_run.name: variant_run for variant_run in left if variant_run.seed == seed
        }
        if time.time() > deadline:
            return
        _do_variant_runs(study, waiting, finished, costs, deadline, state)


class _State:
    """How much is done and how much is left, by estimate and by the pace so far."""

    def __init__(self, total: float) -> None:
        self.total, self._done, self._begin = total, 0.0, time.monotonic()

    def add(self, seconds: float, what: str) -> None:
        self._done += seconds
        if self._done:
            hours = (
                (time.monotonic() - self._begin)
                / self._done
                * max(0.0, self.total - self._done)
                / 3600
            )
            logger.info(
                "%s: finished; %.0f %% of what was left is done, about %.1f h to go",
                what,
                100 * self._done / self.total,
                hours,
            )


def _do_variant_runs(
    study: Study,
    waiting: dict[str, VariantRun],
    finished: list[VariantRun],
    costs: Costs,
    deadline: float,
    state: _State,
) -> None:
    """The variant runs of one seed side by side."""
    stages = {name: costs.variant_run(variant_run) for name, variant_run in waiting.items()}
    done = dict.fromkeys(waiting, 0.0)
    if not waiting:
        return
    with progress("study", len(waiting), "variant runs") as meter:

        def report(name: str, share: float, stage: str) -> None:
            done[name] = share
            meter.update(sum(done.values()), f"{name}: {stage}")

        def result(name: str, whole: bool) -> None:
            if whole:
                finished.append(waiting[name])
                report(name, 1.0, "finished")
                state.add(sum(stages[name].values()), name)

        run = next(iter(waiting.values())).run
        tasks = {
            name: (variant_run, stages[name], deadline) for name, variant_run in waiting.items()
        }
        map_tasks(work, tasks, run.execution, study.folder / "tasks", run.workers, result, report)


def _measure_speeds(study: Study, variant_runs: list[VariantRun], quick: bool) -> None:
    rounds, seconds = (1, 0.1) if quick else (5, 1.0)
    for seed in range(1, study.seeds + 1):
        measure_speeds(
            study,
            [variant_run for variant_run in variant_runs if variant_run.seed == seed],
            rounds,
            seconds,
        )
