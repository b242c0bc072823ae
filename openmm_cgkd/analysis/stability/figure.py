"""The picture of a stability protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from openmm_cgkd.analysis.plotting import COLORS, new_figure, put_caption, save

from .survival import FailureRate, Replica, Traces

_GOOD = "0.45"  # gray of the runs that stayed physical
_STYLES = {
    "non-finite": COLORS[3],
    "exploded": COLORS[0],
    "hot": COLORS[4],
    "aggregated": COLORS[1],
}


def draw_stability(
    path: Path,
    replicas: Sequence[Replica],
    traces: Sequence[Traces | None],
    survival: dict[str, np.ndarray],
    report: dict[str, Any],
) -> None:
    """Draw what became of the runs, as PNG and SVG.

    Survival curve, and temperature, energy and largest cluster of every run against time.

    Parameters
    ----------
    path : Path
        Without suffix.
    replicas : sequence of Replica
    traces : sequence of Traces
    survival : dict
        As `survival` returns it.
    report : dict
        As written to ``stability.json``.
    """
    save(_figure(replicas, traces, survival, report), path, ("png", "svg"))


def _figure(
    replicas: Sequence[Replica],
    traces: Sequence[Traces | None],
    survival: dict[str, np.ndarray],
    report: dict[str, Any],
) -> Figure:
    figure = new_figure(11.5, 8.2)
    axes = figure.subplots(2, 2, sharex=True)
    time = survival["time"]
    axes[0, 0].fill_between(
        time, survival["low"], survival["high"], step="post", color="0.85", linewidth=0
    )
    axes[0, 0].step(time, survival["share"], where="post", color="black", linewidth=2.2)
    axes[0, 0].set(ylim=(0, 1.03), ylabel="share of runs still physical")
    axes[0, 1].axhline(report["temperature"], color="black", linewidth=1)
    axes[1, 1].axhline(report["all_atom"]["largest_cluster"], color="black", linewidth=1)
    for replica, trace in zip(replicas, traces, strict=True):
        if trace is None:  # exploded before its first frame
            continue
        color = _GOOD if replica.cause is None else _STYLES[replica.cause]
        for subplot, values in zip(
            (axes[0, 1], axes[1, 0], axes[1, 1]),
            (trace.averages, trace.energies, trace.clusters.largest),
            strict=True,
        ):
            subplot.plot(trace.times, values, color=color, linewidth=1.2, alpha=0.8)
            if replica.cause is not None:
                subplot.plot(
                    replica.time,
                    np.interp(replica.time, trace.times, values),
                    "X",
                    color=color,
                    markersize=10,
                )
    axes[0, 1].set_ylabel("averaged temperature / K")
    axes[1, 0].set_ylabel("energy per bead / kJ mol⁻¹")
    axes[1, 1].set_ylabel("largest cluster / beads")
    for subplot in axes.flat:
        subplot.spines[["top", "right"]].set_visible(False)
        subplot.tick_params(labelsize=13)
        subplot.yaxis.label.set_size(14)
        subplot.set_xlim(0, report["duration"])
    for subplot in axes[1]:
        subplot.set_xlabel("time / ps", fontsize=14)
    _legend(axes[0, 0], report)
    rate = FailureRate(report["failed"], report["total_time"]).words
    caption = (
        f"{report['replicas']} runs of {report['duration']:g} ps from different all-atom frames,"
        f" time step {1000 * report['timestep']:g} fs, {report['failed']} failed; {rate}; grey"
        " band: 95% (Wilson); black lines: set temperature, largest all-atom cluster"
    )
    put_caption(figure, f"stability of {report['system']} at {report['temperature']:g} K", caption)
    return figure


def _legend(subplot: Axes, report: dict[str, Any]) -> None:
    for cause, count in report["causes"].items():
        if count:
            subplot.plot(
                [], [], "X", color=_STYLES[cause], markersize=10, label=f"{cause}: {count}"
            )
    survivors = report["replicas"] - report["failed"]
    subplot.plot([], [], color=_GOOD, label=f"physical to the end: {survivors}")
    subplot.legend(loc="best", fontsize=13, framealpha=0.8, edgecolor="none")
