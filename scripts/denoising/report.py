"""Results of the denoising benchmark: rows per training seed, statistics, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.frames.split import locate
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.stages.inputs import load_frames, split_run
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.records import read_record
from scripts.claims import Value, mean_and_deviation, p_value, verdict, words

from .pictures import draw
from .plan import (
    DIRECT,
    ENSEMBLE,
    EXTRA,
    FLUID,
    KNOWN,
    LABELS,
    NOISE_FREE,
    ORDER,
    STUDENT,
    TEACHER,
    WITH_SIZE,
    Settings,
    TrainingSet,
)
from .training_sets import ERRORS

Row = dict[str, Any]
_RATIOS = {
    "student_over_teacher": TEACHER,
    "student_over_ensemble": ENSEMBLE,
    "student_over_direct": DIRECT,
}
# each holds where the error of the first is below that of the second
CLAIMS = {
    "teachers denoise": (TEACHER, LABELS),
    "the ensemble is better than a teacher": (ENSEMBLE, TEACHER),
    "the student is better than a teacher": (STUDENT, TEACHER),
    "the student is better than the ensemble": (STUDENT, ENSEMBLE),
    "distillation is better than direct force matching": (STUDENT, DIRECT),
    "per-bead energies help": (STUDENT, "student F"),
    "total energies help": ("student F+E", "student F"),
    "extra configurations help": (EXTRA, STUDENT),
}


def read_rows(training_sets: Sequence[TrainingSet]) -> list[Row]:
    """One row per finished training set and variant."""
    rows = []
    for training_set in training_sets:
        errors = read_record(training_set.folder / ERRORS)["errors"]
        for variant in sorted(errors, key=ORDER.index):
            place = {
                "data": training_set.data,
                "noise": training_set.noise,
                "frames": training_set.frames,
                "seed": training_set.seed,
            }
            rows.append(place | {"variant": variant, **errors[variant]})
    return rows


def _values(rows: Sequence[Row], variant: str, **place: Any) -> list[float]:
    """RMSE of a variant by seed."""
    chosen = [
        row
        for row in rows
        if row["variant"] == variant and all(row[key] == value for key, value in place.items())
    ]
    return [row["rmse"] for row in sorted(chosen, key=lambda row: row["seed"])]


def _table(rows: Sequence[Row], **place: Any) -> dict[str, Value]:
    found = {variant: _values(rows, variant, **place) for variant in ORDER}
    return {variant: mean_and_deviation(values) for variant, values in found.items() if values}


def _ratio(rows: Sequence[Row], variant: str, other: str, **place: Any) -> Value:
    """RMSE of a variant over that of another one with the same seed."""
    pairs = zip(_values(rows, variant, **place), _values(rows, other, **place), strict=True)
    return mean_and_deviation([one / two for one, two in pairs])


def _claims(rows: Sequence[Row], **place: Any) -> dict[str, dict[str, Any]]:
    """Ratio and verdict of every claim that was tested."""
    found = {}
    for claim, (variant, other) in CLAIMS.items():
        seeds = len(_values(rows, variant, **place))
        if seeds and _values(rows, other, **place):
            ratio = _ratio(rows, variant, other, **place)
            found[claim] = ratio | {
                "p": p_value(ratio, seeds),
                "holds": verdict(ratio, seeds),
            }
    return found


def all_claims(rows: Sequence[Row], settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Claims by noise level, and of the fluid if it was measured."""
    found = {
        f"{level:g}": _claims(rows, data=KNOWN, noise=level, frames=settings.frames)
        for level in settings.levels
    }
    if any(row["data"] == FLUID for row in rows):
        found[FLUID] = _claims(rows, data=FLUID)
    return found


def summarize(
    rows: Sequence[Row], settings: Settings, training_sets: Sequence[TrainingSet]
) -> dict[str, Any]:
    """All results as one JSON-ready object; docs/denoising.md defines its entries."""
    places = {
        f"{level:g}": {"data": KNOWN, "noise": level, "frames": settings.frames}
        for level in settings.levels
    }
    free = _values(rows, DIRECT, data=KNOWN, noise=0, frames=settings.frames)
    truth = next(
        training_set.mean_forces for training_set in training_sets if training_set.data == KNOWN
    )
    summary: dict[str, Any] = {
        "reduced": settings != Settings(),
        "seeds": settings.seeds,
        "teachers": settings.teachers,
        "rms_true": read_mean_forces(truth).variance() ** 0.5,
        "rmse_true": {level: _table(rows, **place) for level, place in places.items()},
        "rmse_trained_on_true_forces": mean_and_deviation(free),
    }
    for name, other in _RATIOS.items():
        summary[name] = {
            level: _ratio(rows, STUDENT, other, **place) for level, place in places.items()
        }
    summary["claims"] = all_claims(rows, settings)
    sized = {
        size: {"data": KNOWN, "noise": settings.size_level, "frames": size}
        for size in settings.sizes
    }
    summary["data_efficiency"] = {
        "noise": settings.size_level,
        "frames": list(sized),
        **{
            variant: [
                mean_and_deviation(_values(rows, variant, **place)) for place in sized.values()
            ]
            for variant in WITH_SIZE
        },
    }
    if fluid := [training_set for training_set in training_sets if training_set.data == FLUID]:
        summary[FLUID] = _fluid(rows, fluid[0])
    return summary


def _fluid(rows: Sequence[Row], training_set: TrainingSet) -> dict[str, Any]:
    mean_forces, table = read_mean_forces(training_set.mean_forces), _table(rows, data=FLUID)
    for variant in set(table) & {row["variant"] for row in rows if "error" in row}:
        errors = [
            row["error"] for row in rows if row["data"] == FLUID and row["variant"] == variant
        ]
        table[variant]["standard_error"] = float(np.mean(errors))
    ratios = {name: _ratio(rows, STUDENT, other, data=FLUID) for name, other in _RATIOS.items()}
    run = training_set.variants[STUDENT]
    frames = load_frames(run)
    parts = locate(
        frames, split_run(run, frames), mean_forces.positions, mean_forces.box, mean_forces.time
    )
    size = {
        "configurations": len(mean_forces),
        "configurations_in_training": int((parts == "training").sum()),
        "configurations_in_validation": int((parts == "validation").sum()),
        "frames": len(frames),
        "rms_mean_force": mean_forces.variance() ** 0.5,
    }
    return size | {"rmse": table} | ratios


# --- files ----------------------------------------------------------------------------------------


def write_files(
    folder: Path,
    rows: Sequence[Row],
    summary: dict[str, Any],
    training_sets: Sequence[TrainingSet],
    settings: Settings,
) -> None:
    """Write ``results.csv``, ``summary.csv``, ``results.md`` and ``denoising.png``.

    The first has every seed, the second means and standard deviations.
    """
    header = ["data", "noise", "frames", "seed", "variant", "rmse", "error"]
    write_csv(folder / "results.csv", header, ([row.get(key) for key in header] for row in rows))
    lines = []
    for data, noise, frames in dict.fromkeys(
        (row["data"], row["noise"], row["frames"]) for row in rows
    ):
        for variant, value in _table(rows, data=data, noise=noise, frames=frames).items():
            lines.append([data, noise, frames, variant, value["mean"], value["std"]])
    write_csv(folder / "summary.csv", ["data", "noise", "frames", "variant", "rmse", "std"], lines)
    write_text(folder / "results.md", markdown(summary))
    draw(folder / "denoising", summary, training_sets, settings)


Table = list[list[str]]  # the first row and the first column are headings


def tables(summary: dict[str, Any]) -> list[Table]:
    """Errors by variant, errors by number of frames, and which claims hold."""
    errors = {f"noise {level} x": table for level, table in summary["rmse_true"].items()}
    if FLUID in summary:
        errors[FLUID] = summary[FLUID]["rmse"]
    names = [variant for variant in ORDER if any(variant in table for table in errors.values())]
    by_variant = [
        ["RMSE, kJ/mol/nm", *errors],
        *([name, *(_shown(table.get(name)) for table in errors.values())] for name in names),
    ]
    by_variant.append(
        [NOISE_FREE, *[_shown(summary["rmse_trained_on_true_forces"])] * len(summary["rmse_true"])]
    )
    by_variant.append(
        ["RMS of the force itself", *[f"{summary['rms_true']:.2f}"] * len(summary["rmse_true"])]
    )
    if FLUID in summary:
        by_variant[-2].append("-")
        by_variant[-1].append(f"{summary[FLUID]['rms_mean_force']:.2f}")
    efficiency = summary["data_efficiency"]
    by_frames = [
        [
            "frames, noise {:g} x".format(efficiency["noise"]),
            *(str(size) for size in efficiency["frames"]),
        ]
    ]
    by_frames += [[name, *(_shown(value) for value in efficiency[name])] for name in WITH_SIZE]
    return [by_variant, by_frames, claims_table(summary["claims"])]


def claims_table(found: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Ratios and verdicts of `all_claims`."""
    table = [["ratio of errors below 1?", *(x if x == FLUID else f"noise {x} x" for x in found)]]
    for claim in CLAIMS:
        ratios = [column.get(claim) for column in found.values()]
        table.append(
            [
                claim,
                *(
                    words(ratio, ratio["p"], ratio["holds"], 3) if ratio else "-"
                    for ratio in ratios
                ),
            ]
        )
    return table


def text(summary: dict[str, Any]) -> str:
    """The tables for the terminal."""
    lines = []
    for table in tables(summary):
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        lines += [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in table
        ]
        lines.append("")
    return "\n".join(lines)


def markdown(summary: dict[str, Any]) -> str:
    """The tables for a page."""
    return "\n\n".join(markdown_table(table) for table in tables(summary)) + "\n"


def markdown_table(table: Table) -> str:
    """One table for a page."""
    head, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")
