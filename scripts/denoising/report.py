"""Results of the denoising benchmark: rows per training seed, means and standard deviations,
tables and a picture.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.analysis.plotting import COLORS, REFERENCE, new_figure, put_caption, save
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.callbacks import METRICS
from openmm_cgkd.training.graphs import load_frames, split_run
from openmm_cgkd.utils.files import write_text
from scripts.claims import Value, mean_and_deviation, verdict

from .cells import ERRORS
from .plan import (
    DIRECT,
    ENSEMBLE,
    EXTRA,
    FLUID,
    KNOWN,
    LABELS,
    ORDER,
    STUDENT,
    TEACHER,
    Settings,
    TrainingSet,
)

Row = dict[str, Any]
_NOISE_FREE = "trained on true forces"
_RATIOS = {
    "student_over_teacher": TEACHER,
    "student_over_ensemble": ENSEMBLE,
    "student_over_direct": DIRECT,
}
_WITH_SIZE = (DIRECT, TEACHER, ENSEMBLE, STUDENT)
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


def read_rows(cells: Sequence[TrainingSet]) -> list[Row]:
    """One row per finished cell and variant."""
    rows = []
    for cell in cells:
        errors = json.loads((cell.folder / ERRORS).read_text())["errors"]
        for variant in sorted(errors, key=ORDER.index):
            place = {
                "data": cell.data,
                "noise": cell.noise,
                "frames": cell.frames,
                "seed": cell.seed,
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
            found[claim] = ratio | {"holds": verdict(ratio, seeds)}
    return found


def summarize(
    rows: Sequence[Row], settings: Settings, cells: Sequence[TrainingSet]
) -> dict[str, Any]:
    """All results as one JSON-ready object; docs/denoising.md defines its entries."""
    places = {
        f"{level:g}": {"data": KNOWN, "noise": level, "frames": settings.frames}
        for level in settings.levels
    }
    free = _values(rows, DIRECT, data=KNOWN, noise=0, frames=settings.frames)
    truth = next(cell.mean_forces for cell in cells if cell.data == KNOWN)
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
    summary["claims"] = {level: _claims(rows, **place) for level, place in places.items()}
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
            for variant in _WITH_SIZE
        },
    }
    if fluid := [cell for cell in cells if cell.data == FLUID]:
        summary[FLUID] = _fluid(rows, fluid[0])
        summary["claims"][FLUID] = _claims(rows, data=FLUID)
    return summary


def _fluid(rows: Sequence[Row], cell: TrainingSet) -> dict[str, Any]:
    mean_forces, table = read_mean_forces(cell.mean_forces), _table(rows, data=FLUID)
    for variant in set(table) & {row["variant"] for row in rows if "error" in row}:
        errors = [
            row["error"] for row in rows if row["data"] == FLUID and row["variant"] == variant
        ]
        table[variant]["standard_error"] = float(np.mean(errors))
    ratios = {name: _ratio(rows, STUDENT, other, data=FLUID) for name, other in _RATIOS.items()}
    run = cell.variants[STUDENT]
    frames = load_frames(run)
    times = frames.time[split_run(run, frames).training]
    size = {
        "configurations": len(mean_forces),
        "configurations_in_training": int(
            ((mean_forces.time >= times[0]) & (mean_forces.time <= times[-1])).sum()
        ),
        "frames": len(frames),
        "rms_mean_force": mean_forces.variance() ** 0.5,
    }
    return size | {"rmse": table} | ratios


# --- files ----------------------------------------------------------------------------------------


def write_files(
    folder: Path,
    rows: Sequence[Row],
    summary: dict[str, Any],
    cells: Sequence[TrainingSet],
    settings: Settings,
) -> None:
    """``results.csv`` with every seed, ``summary.csv`` with means and standard deviations,
    ``results.md``, ``denoising.png``.
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
    draw(folder / "denoising", summary, cells, settings)


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
        [_NOISE_FREE, *[_shown(summary["rmse_trained_on_true_forces"])] * len(summary["rmse_true"])]
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
    by_frames += [[name, *(_shown(value) for value in efficiency[name])] for name in _WITH_SIZE]
    found = summary["claims"]
    claims = [["ratio of errors below 1?", *errors]]
    for claim in CLAIMS:
        cells = [column.get(claim) for column in found.values()]
        claims.append(
            [claim, *(f"{_shown(cell)} {cell['holds']}" if cell else "-" for cell in cells)]
        )
    return [by_variant, by_frames, claims]


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
    parts = []
    for head, *rows in tables(summary):
        parts.append(
            "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
        )
    return "\n\n".join(parts) + "\n"


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")


# --- picture --------------------------------------------------------------------------------------


def draw(
    path: Path, summary: dict[str, Any], cells: Sequence[TrainingSet], settings: Settings
) -> None:
    """Errors by variant and noise, against frames, against epochs, and of the fluid if measured."""
    fluid = summary.get(FLUID)
    columns = 4 if fluid else 3
    figure = new_figure(4.6 * columns, 6.2)
    places = figure.subplots(1, columns)
    scale = summary["rms_true"]
    variants = [
        variant
        for variant in ORDER
        if any(variant in table for table in summary["rmse_true"].values())
    ]
    for k, (level, table) in enumerate(summary["rmse_true"].items()):
        _points(
            places[0], [table[variant] for variant in variants], scale, COLORS[k], f"noise {level}x"
        )
    places[0].axhline(
        summary["rmse_trained_on_true_forces"]["mean"] / scale,
        color="0.5",
        linestyle=":",
        label=_NOISE_FREE,
    )
    places[0].set(title="known truth", ylabel="RMSE / RMS true force", yscale="log")
    _name_variants(places[0], variants)
    efficiency = summary["data_efficiency"]
    for k, variant in enumerate(_WITH_SIZE):
        means, deviations = (
            np.array([value[key] or 0.0 for value in efficiency[variant]]) / scale
            for key in ("mean", "std")
        )
        places[1].errorbar(
            efficiency["frames"],
            means,
            deviations,
            color=COLORS[k],
            marker="o",
            capsize=3,
            label=variant,
        )
    places[1].set(
        title=f"noise {efficiency['noise']:g}x", xlabel="frames", xscale="log", ylim=(0, None)
    )
    places[1].set_xticks(efficiency["frames"], [str(size) for size in efficiency["frames"]])
    places[1].xaxis.set_minor_locator(NullLocator())
    _epochs(places[2], cells, settings, scale)
    if fluid:
        of = fluid["rms_mean_force"]
        variants = list(fluid["rmse"])
        _points(places[3], list(fluid["rmse"].values()), of, REFERENCE, None)
        places[3].set(
            title=f"ethaline, {fluid['configurations']} configurations",
            ylabel="RMSE / RMS mean force",
            ylim=(0, None),
        )
        _name_variants(places[3], variants)
    for place in places:
        if place.get_yscale() == "log":
            place.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            place.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            place.yaxis.set_minor_locator(NullLocator())
        place.spines[["top", "right"]].set_visible(False)
        place.grid(color="0.93")
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=9, frameon=False)
    reduced = " (reduced)" if summary["reduced"] else ""
    caption = (
        f"Mean and standard deviation over {settings.seeds} seeds (data noise and initial networks;"
        f" for ethaline networks alone), {settings.teachers} teachers, {settings.frames} frames."
        " Errors on held-out configurations against the true or mean force. Third panel: the dot"
        " is the epoch that validation, on noisy forces or teachers' labels, has chosen."
    )
    put_caption(figure, f"Does distillation denoise?{reduced}", caption)
    save(figure, path)


def _points(
    place: Axes, values: Sequence[Value], scale: float, color: str, label: str | None
) -> None:
    means, deviations = (
        np.array([value[key] or 0.0 for value in values]) / scale for key in ("mean", "std")
    )
    place.errorbar(
        range(len(values)),
        means,
        deviations,
        color=color,
        marker="o",
        linestyle="none",
        capsize=3,
        label=label,
    )


def _name_variants(place: Axes, variants: Sequence[str]) -> None:
    place.set_xticks(range(len(variants)), variants, rotation=40, ha="right", fontsize=10)


def _epochs(place: Axes, cells: Sequence[TrainingSet], settings: Settings, scale: float) -> None:
    """Errors of one seed's trainings against the true forces after every epoch: do they
    overfit, and is the best epoch found?
    """
    cell = next(
        c
        for c in cells
        if (c.data, c.noise, c.seed, c.frames) == (KNOWN, settings.size_level, 1, settings.frames)
    )
    folders = {
        DIRECT: RunFolder(cell.variants[DIRECT]).student,
        "first teacher": RunFolder(cell.teachers).teacher(0),
        STUDENT: RunFolder(cell.variants[STUDENT]).student,
    }
    for color, (name, folder) in zip(COLORS, folders.items(), strict=False):
        with open(folder / METRICS) as file:
            rows = list(csv.DictReader(file))
        errors = [float(row["mean_force_rmse"]) / scale for row in rows]
        best = int(np.argmin([float(row["validation_loss"]) for row in rows]))
        place.plot(range(1, len(rows) + 1), errors, color=color, label=name)
        place.plot(best + 1, errors[best], "o", color=color)
    place.set(title=f"noise {settings.size_level:g}x, seed 1", xlabel="epoch", ylim=(0, None))
