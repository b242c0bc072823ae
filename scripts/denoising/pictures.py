"""The picture of the denoising benchmark: errors of labels, teachers, ensemble and students."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from openmm_cgkd.analysis.plotting import COLORS, REFERENCE, new_figure, put_caption, save
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.task import METRICS
from scripts.claims import Value

from .plan import DIRECT, FLUID, KNOWN, NOISE_FREE, ORDER, STUDENT, WITH_SIZE, Settings, TrainingSet


def draw(
    path: Path, summary: dict[str, Any], training_sets: Sequence[TrainingSet], settings: Settings
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
        label=NOISE_FREE,
    )
    places[0].set(title="known truth", ylabel="RMSE / RMS true force", yscale="log")
    _name_variants(places[0], variants)
    efficiency = summary["data_efficiency"]
    for k, variant in enumerate(WITH_SIZE):
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
    _epochs(places[2], training_sets, settings, scale)
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


def _epochs(
    place: Axes, training_sets: Sequence[TrainingSet], settings: Settings, scale: float
) -> None:
    """Errors of one seed's trainings against the true forces after every epoch.

    They show whether the trainings overfit and whether the best epoch is found.
    """
    training_set = next(
        c
        for c in training_sets
        if (c.data, c.noise, c.seed, c.frames) == (KNOWN, settings.size_level, 1, settings.frames)
    )
    folders = {
        DIRECT: RunFolder(training_set.variants[DIRECT]).student,
        "first teacher": RunFolder(training_set.teachers).teacher(0),
        STUDENT: RunFolder(training_set.variants[STUDENT]).student,
    }
    for color, (name, folder) in zip(COLORS, folders.items(), strict=False):
        with open(folder / METRICS) as file:
            rows = list(csv.DictReader(file))
        errors = [float(row["mean_force_rmse"]) / scale for row in rows]
        best = int(np.argmin([float(row["validation_loss"]) for row in rows]))
        place.plot(range(1, len(rows) + 1), errors, color=color, label=name)
        place.plot(best + 1, errors[best], "o", color=color)
    place.set(title=f"noise {settings.size_level:g}x, seed 1", xlabel="epoch", ylim=(0, None))
