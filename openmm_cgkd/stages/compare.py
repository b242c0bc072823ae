"""Stage 7: compare the coarse-grained simulation with the all-atom one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from openmm_cgkd.analysis.comparison.compare import compare, state_of, title_of
from openmm_cgkd.analysis.comparison.curves import CurveComparison
from openmm_cgkd.analysis.comparison.decorrelation import (
    decorrelation_numbers,
    decorrelation_words,
    samples_words,
)
from openmm_cgkd.analysis.comparison.figures import write_pictures
from openmm_cgkd.analysis.comparison.models import (
    Comparison,
    Result,
    compare_models,
    report,
    samples,
)
from openmm_cgkd.analysis.comparison.sources import (
    Source,
    joined_source,
    read_source,
    source_of_frames,
)
from openmm_cgkd.analysis.comparison.structure import SCORE_FIGURES
from openmm_cgkd.analysis.comparison.tables import write_tables
from openmm_cgkd.config.run import ComparisonConfig, RunConfig, load_run
from openmm_cgkd.config.section import describe_mistake
from openmm_cgkd.exceptions import AnalysisError, ConfigError, FramesError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import read_record, write_record
from openmm_cgkd.utils.statistics import error_words

from .inputs import all_frames
from .same_fluid import check_same_fluid

logger = logging.getLogger(__name__)

_DEFINITIONS = {
    "mean_absolute_error": "mean over all bins from 0 to r_max of |g_CG - g_AA|",
    "integrated_absolute_error": "integral of |g_CG - g_AA| from 0 to r_max, nm",
    "rmse": "square root of the mean over all bins of (g_CG - g_AA)^2",
    "all_atom_halves": (
        "mean absolute difference between the first and the second half of the all-atom frames;"
        " what a perfect model would show is less, see perfect_mean_absolute"
    ),
    "systematic": "see structure.definitions",
    "normalisation": (
        "1 for an ideal gas at any system size: N_a N_b pairs, N_a (N_a - 1) / 2 for like types"
    ),
    "standard_error": (
        "_se: from the scatter of both trajectories in time, by blocks as long as needed; at_least:"
        " the values whose standard error is a lower bound, since the run is too short"
    ),
}


def compare_run(run: RunConfig) -> Path:
    """Compare the coarse-grained trajectory of a run with its all-atom frames.

    Reads ``simulation/trajectory.dcd`` (or ``.xtc``), ``simulation/topology.pdb`` and, if present,
    ``simulation/simulation.json``; writes ``comparison.json``, CSV files of curves and errors, and
    pictures into the comparison folder.

    Returns
    -------
    Path
        ``comparison.json``.

    Raises
    ------
    AnalysisError
        If the trajectory has other beads or another box volume than the all-atom frames, is too
        short for errors, if a pair of bead types is empty, or r_max is above half the box.
    FramesError
        If the all-atom frames cannot be read.
    """
    folder = RunFolder(run)
    path = folder.simulation / f"trajectory.{run.simulation.trajectory}"
    outputs = [
        folder.comparison_report,
        *(folder.comparison / name for name in ("rdf.csv", "errors.csv", "rdf.png")),
    ]
    with folder.at_work("compare", folder.comparison, reads=[folder.simulation]):
        frames = all_frames(run)
        if not path.exists():
            raise AnalysisError(f"{path}: no such file; run 'cgkd simulate' first.")
        speed = _simulation_numbers(folder.simulation_report)
        others = _independent_frames(run, frames)
        all_atom = joined_source([source_of_frames(frames, folder.frames), *others])
        inputs = {
            "comparison": run.comparison,
            "all_atom_speed": all_atom.speed.numbers() if all_atom.speed else None,
            "frames": frames.identity,
            "second_frames": [other.identity for other in others],
            "trajectory": file_hash(path),
            "simulation": speed,
        }
        stage = StageRecord(folder, "compare", inputs, outputs)
        if stage.finished:
            return outputs[0]
        model = read_source(path, "CG")
        comparison = compare_models(all_atom, [model], run.comparison, everything=False)
        numbers = _report(frames.attributes, comparison, speed)
        numbers["tables"] = write_tables(comparison, folder.comparison)
        write_record(outputs[0], numbers, allow_nan=False)
        write_pictures(comparison, folder.comparison, title_of(frames.attributes), ("png",))
        _log_table(comparison.results[0], numbers["mean"])
        _log_samples(comparison)
        stage.finish()
    return outputs[0]


def _independent_frames(run: RunConfig, frames: Frames) -> list[Source]:
    """Further all-atom runs of this fluid."""
    others = []
    for path in RunFolder(run).independent_frames:
        other = read_frames(path)
        check_same_fluid(run.path(run.system), other, path)
        if other.identity == frames.identity:
            raise FramesError(
                f"second_frames: {path} holds the same frames as {RunFolder(run).frames}; give"
                " those of an independent run, or leave it out."
            )
        others.append(source_of_frames(other, path))
    return others


def compare_runs(
    models: Sequence[str],
    against: Sequence[Path | str],
    folder: Path,
    settings: ComparisonConfig,
) -> Path:
    """Compare any number of runs or trajectories with all-atom.

    Parameters
    ----------
    models : sequence of str
        Paths as `read_run_or_source` takes them, each with or without ``label=`` in front. Paths of
        one label are independent trainings of one model.
    against : sequence of path
        All-atom: a file of mapped frames, or anything else that `read_run_or_source` takes; several
        are independent runs.
    folder : path
        Gets ``comparison.json``, CSV files and pictures.
    settings : ComparisonConfig

    Returns
    -------
    Path
        ``comparison.json``.

    Raises
    ------
    AnalysisError
        As `compare_models` and `read_run_or_source`.
    """
    all_atom = [read_run_or_source(path) for path in against]
    comparison = compare(all_atom, [_labeled(model) for model in models], folder, settings)
    _log_scores(comparison)
    _log_samples(comparison)
    return Path(folder) / "comparison.json"


def read_run_or_source(path: Path | str, label: str = "") -> Source:
    """Read the trajectory of a run by its YAML file, or whatever else `read_source` takes.

    Parameters
    ----------
    path : path
    label : str
        Name of the folder or of the file if empty.

    Raises
    ------
    AnalysisError
        As `read_source`.
    ConfigError, FramesError
        If a YAML file or a file of mapped frames is not valid.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        root = RunFolder(load_run(path)).root
        return read_source(root, label or root.name)
    return read_source(path, label)


def comparison_settings(**values: Any) -> ComparisonConfig:
    """Settings from values that may be absent (None); quantities carry a unit.

    Raises
    ------
    ConfigError
        Naming the field, the value and the cure.
    """
    try:
        return ComparisonConfig(
            **{name: value for name, value in values.items() if value is not None}
        )
    except ValidationError as error:
        raise ConfigError(describe_mistake("comparison", error)) from error


def _labeled(model: str) -> Source:
    """A source from ``path`` or ``label=path``; a path may itself hold an equals sign."""
    label, sign, path = str(model).partition("=")
    if sign and path and not Path(model).exists():
        return read_run_or_source(path, label)
    return read_run_or_source(model)


def _simulation_numbers(path: Path) -> dict[str, Any] | None:
    """What the simulation stage left about its speed and temperature, or None."""
    if not path.exists():
        logger.info("%s is absent: the comparison states no speed and no temperature", path.name)
        return None
    return read_record(path, "run 'cgkd simulate' again")


def _report(
    attributes: dict[str, Any], comparison: Comparison, speed: dict[str, Any] | None
) -> dict[str, Any]:
    """The report of a run: its RDFs on top, all observables under "structure"."""
    result = comparison.results[0]
    pairs = [_pair_numbers(types, pair) for types, pair in result.of_kind("rdf").items()]
    settings = comparison.settings
    return {
        **state_of(attributes),
        "frames": {
            "all_atom": len(comparison.all_atom.source),
            "all_atom_runs": len(comparison.all_atom.source.separate()),
            "coarse_grained": len(result.analysis.source),
            "coarse_grained_trajectories": 1,
        },
        "frames_sha256": comparison.all_atom.source.identity,
        "bins": settings.bins,
        "r_max": comparison.r_max,
        "definitions": _DEFINITIONS,
        "mean": {
            key: float(np.mean([pair[key] for pair in pairs]))
            for key in ("mean_absolute_error", "rmse", "all_atom_halves")
        },
        "systematic": result.systematic["rdf"].numbers(),
        "pairs": pairs,
        "simulation": speed,
        "structure": report(comparison),
    }


def _pair_numbers(types: tuple[str, ...], pair: CurveComparison) -> dict[str, Any]:
    return {
        "types": list(types),
        "mean_absolute_error": pair.error.mean_absolute,
        "mean_absolute_error_se": pair.error_se.mean_absolute,
        "at_least": pair.at_least,
        "integrated_absolute_error": pair.error.integrated_absolute,
        "rmse": pair.error.rmse,
        "all_atom_halves": pair.floor.mean_absolute,
        "systematic": pair.systematic.numbers(),
        "first_peak": {
            "all_atom": pair.all_atom.peak(),
            "coarse_grained": pair.coarse_grained.peak(),
        },
    }


def _log_table(result: Result, mean: dict[str, float]) -> None:
    pairs = result.of_kind("rdf")
    for types, pair in pairs.items():
        error, se = pair.error, pair.error_se
        numbers = (
            "-".join(types),
            error.mean_absolute,
            error_words(se.mean_absolute, "mean_absolute" not in pair.at_least, ".3f"),
            pair.systematic.perfect_mean_absolute,
            pair.systematic.words,
        )
        logger.info("%-12s RDF error %.3f +- %s, of a perfect model %.3f; %s", *numbers)
    logger.info(
        "mean of %d pairs: RDF error %.3f; %s",
        len(pairs),
        mean["mean_absolute_error"],
        result.systematic["rdf"].words,
    )
    _warn_of_aggregation(result)


def _log_scores(comparison: Comparison) -> None:
    for result in comparison.results:
        values = result.scores
        shown = ", ".join(
            f"{name} {values[name]:.3f}" for name in values if not name.endswith(SCORE_FIGURES)
        )
        logger.info("%-12s overlap with all-atom: %s", result.label, shown)
        for kind, error in result.systematic.items():
            logger.info("%-12s %s: %s", result.label, kind, error.words)
        _warn_of_aggregation(result)


def _log_samples(comparison: Comparison) -> None:
    reference = comparison.all_atom
    for result in comparison.results:
        found = decorrelation_numbers(result.analysis.decorrelation, reference.decorrelation)
        logger.info("%-12s %s", result.label, decorrelation_words(found, "+-"))
        words = samples_words(samples(result.analysis, reference), "+-")
        logger.info("%-12s %s", result.label, words)


def _warn_of_aggregation(result: Result) -> None:
    first, share = result.aggregation["first_frame"], result.aggregation["share_of_frames"]
    if first is not None:
        logger.warning(
            "%s aggregates from frame %d on: %.0f %% of its frames show what all-atom never does",
            result.label,
            first,
            100 * share,
        )
