"""The report of a study: tables, pictures, what was run and on what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import RecordError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.compare import compare_runs
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.records import read_record, write_record

from .pictures import draw_errors_and_costs, draw_forces_and_structure, draw_metrics
from .plan import Study, VariantRun
from .sizes import size_claims
from .tables import (
    METRICS,
    Row,
    claim_rows,
    claims_markdown,
    machine,
    markdown,
    peak_rows,
    read_row,
    summarize,
    wall_rows,
    write_table,
)

# in the pictures of curves, where more cannot be told apart
_SHOWN = ("direct", "single-F+e", "ensemble-F+e", "committee")
_CURVES = "curves"
_CLAIMS = (
    "Ratios of errors of trainings with the same seed, mean ± standard deviation; `yes` or `no`"
    " where the 95 % interval of Student's t\nover the seeds is on one side of 1, p: that of a"
    " ratio of 1.\n"
)
_NOT_SHOWN = {"system", "folder", "frames", "mean_forces", "seed", "tensorboard"}


def write_report(
    study: Study, common: RunConfig, frames: Frames, finished: Sequence[VariantRun], whole: bool
) -> None:
    """Write tables, pictures and ``results.md`` of the finished variant runs.

    Parameters
    ----------
    study : Study
    common : RunConfig
        What all variants share.
    frames : Frames
    finished : sequence of VariantRun
    whole : bool
        Whether nothing is left; curves are compared only then.
    """
    order = [variant_run.name for variant_run in study.variant_runs()]
    finished = sorted(finished, key=lambda variant_run: order.index(variant_run.name))
    rows = [read_row(variant_run) for variant_run in finished]
    rows.sort(key=lambda row: [variant.name for variant in study.variants].index(row["variant"]))
    summary = summarize(rows)
    write_table(study.folder / "results.csv", rows)
    write_table(study.folder / "summary.csv", summary)
    write_table(study.folder / "peaks.csv", peak_rows(summary))
    write_table(study.folder / "wall_times.csv", wall_rows(finished))
    claims = claim_rows(rows, size_claims(study.variants))
    if claims:
        write_table(study.folder / "claims.csv", claims)
    description = _description(study, common, frames, finished, rows)
    write_text(
        study.folder / "study.yaml",
        yaml.safe_dump(description, sort_keys=False, allow_unicode=True),
    )
    title, caption = _title(frames), _caption(common, summary)
    draw_metrics(study.folder / "metrics", rows, summary, METRICS, title, caption)
    draw_forces_and_structure(study.folder / "forces_and_structure", rows, title, caption)
    families = [variant for variant in study.variants if variant.family]
    if families:
        draw_errors_and_costs(study.folder / "errors_and_costs", families, summary, title)
    pictures = [
        *(["errors_and_costs"] if families else []),
        "metrics",
        "forces_and_structure",
        *(_compare_curves(study, common, finished) if whole else []),
    ]
    write_text(
        study.folder / "results.md",
        _text(title, caption, summary, rows, claims, description, pictures, whole),
    )


def _title(frames: Frames) -> str:
    return f"{frames.attributes.get('system', 'study')} at {frames.temperature:g} K"


def _caption(common: RunConfig, summary: Sequence[Row]) -> str:
    counts = sorted({entry["seeds"] for entry in summary})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Circles: one training, with one trajectory of {common.simulation.production:g} ps"
        f" (committee: a quarter) and {common.stability.replicas} replicas of"
        f" {common.stability.duration:g} ps (committee: none). Squares: mean and standard deviation"
        f" over {seeds} independent trainings. Dashed: halves of the all-atom frames against each"
        " other."
    )


def _description(
    study: Study,
    common: RunConfig,
    frames: Frames,
    finished: Sequence[VariantRun],
    rows: Sequence[Row],
) -> dict[str, Any]:
    """What was run, without paths."""
    mean_forces = common.path(common.mean_forces) if common.mean_forces is not None else None
    return {
        "fluid": frames.attributes.get("system", "unnamed"),
        "frames": {"number": len(frames), "sha256": frames.identity},
        "mean_forces_sha256": file_hash(mean_forces) if mean_forces else None,
        "seeds": sorted({variant_run.run.seed for variant_run in finished}),
        "variants": {variant.name: variant.changes for variant in study.variants},
        "run": json.loads(common.model_dump_json(exclude=_NOT_SHOWN)),
        "machine": machine(),
        "wall_hours_of_pieces_side_by_side": round(
            sum(row["seconds"] for row in wall_rows(finished)) / 3600, 3
        ),
    }


def _compare_curves(study: Study, common: RunConfig, finished: Sequence[VariantRun]) -> list[str]:
    """Curves of the main variants together; returns the pictures."""
    chosen = [
        variant_run
        for variant_run in finished
        if variant_run.variant.name in _SHOWN
        and (RunFolder(variant_run.run).comparison / "comparison.json").exists()
    ]
    if not chosen:
        return []
    folder, record = study.folder / _CURVES, study.folder / _CURVES / "inputs.json"
    trajectories = {
        variant_run.name: (
            RunFolder(variant_run.run).simulation
            / f"trajectory.{variant_run.run.simulation.trajectory}"
        )
        for variant_run in chosen
    }
    inputs = {
        "comparison": common.comparison.model_dump(mode="json"),
        **{name: file_hash(path) for name, path in trajectories.items()},
    }
    if not _holds(record, inputs):
        models = [
            f"{variant_run.variant.name}={RunFolder(variant_run.run).root}"
            for variant_run in chosen
        ]
        all_atom = [RunFolder(common).frames, *RunFolder(common).independent_frames]
        compare_runs(models, all_atom, folder, common.comparison)
        write_record(record, inputs)
    names = [name for name in ("rdf", "adf", "cdf", "scores") if (folder / f"{name}.png").exists()]
    for name in names:
        with replacing(study.folder / f"{name}.png") as fresh:
            shutil.copyfile(folder / f"{name}.png", fresh)
    return names


def _holds(record: Path, inputs: dict[str, Any]) -> bool:
    """Whether a record is whole and holds these inputs."""
    try:
        return record.exists() and read_record(record) == inputs
    except RecordError:
        return False


def _text(
    title: str,
    caption: str,
    summary: Sequence[Row],
    rows: Sequence[Row],
    claims: Sequence[Row],
    description: dict[str, Any],
    pictures: list[str],
    whole: bool,
) -> str:
    """results.md."""
    failures = [
        f"- {row['variant']}, seed {row['seed']}: {row['failure']}"
        for row in rows
        if row["failure"]
    ]
    computer, hours = description["machine"], description["wall_hours_of_pieces_side_by_side"]
    parts = [
        f"# {title}: results\n",
        "" if whole else "Not finished: only what is there so far.\n",
        (
            "Mean ± standard deviation over independent trainings. What the columns are:"
            " `docs/study/README.md`.\n"
        ),
        markdown(summary),
        *([_CLAIMS, claims_markdown(claims)] if claims else []),
        *(["Simulations that exploded:\n", *failures, "\n"] if failures else []),
        (
            f"Made on {computer['cores']} cores of {computer['processor']}: {hours:.1f} h,"
            " variant runs side by side counted one by one."
        ),
        (
            "The exact configuration is `study.yaml`; every number of every training `results.csv`;"
            " first peaks `peaks.csv`.\n"
        ),
        f"{caption}\n",
        *(f"![{name.replace('_', ' ')}]({name}.png)" for name in pictures),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def publish(folder: Path, target: Path) -> None:
    """Copy tables, pictures and configuration of a study."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".csv", ".md", ".png", ".yaml"):
            with replacing(target / path.name) as fresh:
                shutil.copyfile(path, fresh)
