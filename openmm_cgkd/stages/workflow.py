"""The stages as one run: each skips what is finished and resumes what was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmm_cgkd.analysis.comparison.decorrelation import samples_words
from openmm_cgkd.config.inputs import check_inputs
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.system import load_system
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.records import read_record
from openmm_cgkd.utils.statistics import error_words

logger = logging.getLogger(__name__)


def run_all(run: RunConfig | Path | str) -> None:
    """Run every stage in order.

    The all-atom stage runs only if the configuration names no frames, training only if it names no
    potential.

    Parameters
    ----------
    run : RunConfig or path
        A path is that of a run.yaml.

    Raises
    ------
    CGKDError
        Of whichever stage cannot go on; a second call resumes there.
    """
    config = run if isinstance(run, RunConfig) else load_run(run)
    check_inputs(config)
    with locked(RunFolder(config).root):
        if config.frames is None:
            from openmm_cgkd.allatom.independent import run_independent

            run_independent(load_system(config.path(config.system)), RunFolder(config).reference)
        for name, stage in stages_of(config).items():
            logger.info("%s", name)
            stage(config)


def stages_of(run: RunConfig) -> dict[str, Callable[[RunConfig], Any]]:
    """Stages after the all-atom one, in order; imported here because they load torch."""
    from .compare import compare_run
    from .simulate import simulate_run

    last: dict[str, Callable[[RunConfig], Any]] = {"simulate": simulate_run, "compare": compare_run}
    if run.potential is not None:
        return last
    from .export import export_student
    from .label import label_run
    from .on_policy import train_on_policy
    from .teach import train_teachers

    return {
        "teach": train_teachers,
        "label": label_run,
        "distill": train_on_policy,
        "export": export_student,
        **last,
    }


def summary(run: RunConfig) -> list[tuple[str, str]]:
    """Labels and values of what a finished run has made: paths, RDF errors, speed, samples.

    Parameters
    ----------
    run : RunConfig
        Finished by `run_all`.
    """
    folder = RunFolder(run)
    report = read_record(folder.comparison_report, "run 'cgkd compare' again")
    speed = read_record(folder.simulation_report, "run 'cgkd simulate' again")
    # of single pairs the comparison has told
    error, perfect = report["mean"]["mean_absolute_error"], report["systematic"]
    return [
        ("student", str(folder.model)),
        ("trajectory", str(folder.simulation / f"trajectory.{run.simulation.trajectory}")),
        ("report picture", str(folder.comparison / "rdf.png")),
        (
            "RDF error",
            f"{error:.3f} (mean |g_CG - g_AA| of {len(report['pairs'])} pairs), of a perfect model"
            f" {perfect['perfect_mean_absolute']:.3f}",
        ),
        ("speed", f"{speed['ns_per_day']:.3g} ns/day on {speed['platform']}"),
        ("samples", samples_words(report["structure"]["models"][0]["samples"], "+-")),
        ("time per step", f"{speed['step_time_ms']:.3g} ms"),
        ("temperature", f"{_temperature(speed)} K, set {speed['temperature']:g} K"),
    ]


def _temperature(speed: dict[str, Any]) -> str:
    """Mean temperature with its standard error, which older runs do not tell."""
    mean, error = f"{speed['mean_temperature']:.1f}", speed.get("mean_temperature_se")
    if error is None:
        return mean
    return f"{mean} +- {error_words(error, not speed['mean_temperature_at_least'], '.1f')}"
