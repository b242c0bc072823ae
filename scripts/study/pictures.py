"""Pictures of a study: every training as a dot, mean and standard deviation over trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from openmm_cgkd.analysis.plotting import COLORS, REFERENCE, new_figure, put_caption, save

from .plan import Variant
from .tables import Metric, Row

_COLUMNS = 3


def draw_metrics(
    path: Path,
    rows: Sequence[Row],
    summary: Sequence[Row],
    metrics: Sequence[Metric],
    title: str,
    caption: str,
) -> None:
    """A panel per metric: variants from top to bottom."""
    used = [metric for metric in metrics if any(row.get(metric.key) is not None for row in rows)]
    if not used:
        return
    names = [entry["variant"] for entry in summary]
    columns = min(_COLUMNS, len(used))
    lines = -(-len(used) // columns)
    figure = new_figure(2.2 + 3.4 * columns, lines * (1.2 + 0.3 * len(names)) + 1.4)
    places = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for place in places.flat[len(used) :]:
        place.set_visible(False)
    for place, metric in zip(places.flat, used, strict=False):
        _dots(place, rows, summary, names, metric)
    places[0, 0].set_yticks(range(len(names)), names, fontsize=12)
    places[0, 0].set_ylim(len(names) - 0.5, -0.5)
    put_caption(figure, title, caption)
    save(figure, path)


def _dots(
    place: Axes, rows: Sequence[Row], summary: Sequence[Row], names: list[str], metric: Metric
) -> None:
    for k, entry in enumerate(summary):
        values = [
            row[metric.key]
            for row in rows
            if row["variant"] == names[k] and row.get(metric.key) is not None
        ]
        place.plot(values, [k + 0.22] * len(values), "o", color=COLORS[1], markersize=4, alpha=0.6)
        if values:
            deviation = entry.get(f"{metric.key}_std") or 0.0
            place.errorbar(
                entry[metric.key],
                k,
                xerr=deviation,
                fmt="s",
                color=COLORS[0],
                markersize=6,
                capsize=4,
            )
    floor = next((entry[metric.floor] for entry in summary if metric.floor in entry), None)
    if floor is not None:
        place.axvline(floor, color=REFERENCE, linewidth=1.5, linestyle="--")
    place.set_title(metric.heading, fontsize=12)
    place.grid(axis="y", color="0.93")
    place.tick_params(axis="x", labelsize=11)
    place.spines[["top", "right"]].set_visible(False)


def draw_forces_and_structure(path: Path, rows: Sequence[Row], title: str, caption: str) -> None:
    """RDF error over the error of the forces, a dot per training.

    The forces are compared with mean forces if these are known.
    """
    against_mean = any(row.get("mean_force_rmse") is not None for row in rows)
    key, what = ("mean_force_rmse", "mean") if against_mean else ("mapped_rmse", "mapped")
    figure = new_figure(8.4, 5.6)
    place = figure.subplots()
    markers = "os^vDP*X<>"
    for k, name in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        chosen = [
            row
            for row in rows
            if row["variant"] == name and None not in (row.get(key), row.get("rdf_error"))
        ]
        style = {
            "color": COLORS[k % len(COLORS)],
            "marker": markers[k % len(markers)],
            "linestyle": "none",
            "markersize": 8,
        }
        place.plot(
            [row[key] for row in chosen], [row["rdf_error"] for row in chosen], label=name, **style
        )
    place.set_xlabel(f"RMSE against {what} forces / kJ/mol/nm", fontsize=14)
    place.set_ylabel("RDF error", fontsize=14)
    place.spines[["top", "right"]].set_visible(False)
    put_caption(figure, title, caption, place.get_legend_handles_labels())
    save(figure, path)


def draw_errors_and_costs(
    path: Path, variants: Sequence[Variant], summary: Sequence[Row], title: str
) -> None:
    """Error of the forces over the time of a step, a series per family; a line joins the best.

    A point is on the line if no other of its family is both faster and better.
    """
    entries = {entry["variant"]: entry for entry in summary}
    against_mean = any("mean_force_rmse" in entry for entry in summary)
    key, what = ("mean_force_rmse", "mean") if against_mean else ("mapped_rmse", "mapped")
    figure = new_figure(9.6, 6.4)
    place = figure.subplots()
    markers = "os^vDP*X<>"
    for k, family in enumerate(dict.fromkeys(variant.family for variant in variants)):
        points = sorted(
            (entry["step_time_ms"], entry[key], variant.label, entry.get(f"{key}_std") or 0.0)
            for variant in variants
            if variant.family == family
            and {"step_time_ms", key} <= (entry := entries.get(variant.name, {})).keys()
        )
        if not points:
            continue
        times, errors, labels, deviations = zip(*points, strict=True)
        color = COLORS[k % len(COLORS)]
        place.errorbar(
            times,
            errors,
            yerr=deviations,
            fmt=markers[k % len(markers)],
            color=color,
            markersize=8,
            capsize=3,
            label=family,
        )
        best = pareto_front(list(zip(times, errors, strict=True)))
        place.plot(*zip(*best, strict=True), color=color, linewidth=1.2, alpha=0.6)
        for time, error, label in zip(times, errors, labels, strict=True):
            place.annotate(
                label, (time, error), (5, 4), textcoords="offset points", fontsize=9, color=color
            )
    place.set_xlabel("time of one step / ms", fontsize=14)
    place.set_ylabel(f"RMSE against {what} forces / kJ/mol/nm", fontsize=14)
    place.spines[["top", "right"]].set_visible(False)
    caption = (
        "Labels: channels, layers, cutoff in nm. Lines join the students that no other of their"
        " kind beats in both error and time."
    )
    put_caption(figure, title, caption, place.get_legend_handles_labels())
    save(figure, path)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of the points that no other beats in both numbers, in order of the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
