"""The stages as one run: each skips what is finished and resumes what was interrupted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from .config import RunConfig, load_system
from .run_folder import RunFolder

logger = logging.getLogger(__name__)


def run_all(run: RunConfig) -> None:
    """Run every stage in order; the all-atom stage only if the configuration names no frames.

    Parameters
    ----------
    run : RunConfig

    Raises
    ------
    CGKDError
        Of whichever stage cannot go on; a second call resumes there.
    """
    if run.frames is None:
        from .reference.run import run_reference

        run_reference(load_system(run.path(run.system)), RunFolder(run).reference)
    for name, stage in _stages().items():
        logger.info("%s", name)
        stage(run)


def _stages() -> dict[str, Callable[[RunConfig], object]]:
    """Stages after the all-atom one, in order; imported here because they load torch."""
    from .analysis.compare import compare
    from .export import export_student
    from .runtime.simulate import simulate
    from .training.distill import train_student
    from .training.label import label_frames
    from .training.teach import train_teachers

    return {
        "teach": train_teachers,
        "label": label_frames,
        "distill": train_student,
        "export": export_student,
        "simulate": simulate,
        "compare": compare,
    }


def summary(run: RunConfig) -> list[tuple[str, str]]:
    """Labels and values of what a finished run has made: paths, RDF errors, speed.

    Parameters
    ----------
    run : RunConfig
        Finished by `run_all`.
    """
    folder = RunFolder(run)
    report = json.loads((folder.comparison / "comparison.json").read_text())
    speed = json.loads((folder.simulation / "simulation.json").read_text())
    rows = [
        ("student", str(folder.model)),
        ("trajectory", str(folder.simulation / f"trajectory.{run.simulation.trajectory}")),
        ("report picture", str(folder.comparison / "rdf.png")),
        ("", ""),
        ("pair", "RDF error (mean |g_CG - g_AA|), and all-atom halves against each other"),
    ]
    for pair in (*report["pairs"], {"types": ["mean of all"], **report["mean"]}):
        rows.append(("-".join(pair["types"]), f"{pair['mean_absolute_error']:.3f}   {pair['all_atom_halves']:.3f}"))
    return [
        *rows,
        ("", ""),
        ("speed", f"{speed['ns_per_day']:.3g} ns/day on {speed['platform']}"),
        ("time per step", f"{speed['step_time_ms']:.3g} ms"),
        ("temperature", f"{speed['mean_temperature']:.1f} K, set {speed['temperature']:g} K"),
    ]
