"""Drawing of curves, maps and bars; which data they show is the caller's choice."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from openmm_cgkd.utils.files import replacing

# black and colours of Okabe and Ito: told apart with every colour vision and, the first two by
# lightness, in grey print
REFERENCE = "black"
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LETTERS = 11  # letters of the caption per inch
_DASHES = ("-", "--", "-.")  # line styles; each serves for one round of the colours


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes
    ----------
    label : str
    y : ndarray, shape (n,)
    band : ndarray, shape (n,)
        Drawn as a band of this half width.
    """

    label: str
    y: np.ndarray
    band: np.ndarray


@dataclass(frozen=True)
class Panel:
    """Curves over one axis, all-atom first.

    Attributes
    ----------
    title : str
    x : ndarray, shape (n,)
    lines : list of Line
    note : str
        Text in the upper right corner.
    """

    title: str
    x: np.ndarray
    lines: list[Line]
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """How the panels of a picture are drawn.

    Attributes
    ----------
    x_label, y_label : str
    x_limits : pair of float, optional
    baseline : float, optional
        Height of a thin line, such as the 1 of an ideal gas.
    same_height : bool
        One y axis for all panels.
    logarithmic : bool
        Both axes.
    markers : bool
        For curves over integers.
    signed : bool
        Values may be below 0.
    angles : bool
        The x axis is in degrees.
    """

    x_label: str
    y_label: str
    x_limits: tuple[float, float] | None = None
    baseline: float | None = None
    same_height: bool = True
    logarithmic: bool = False
    markers: bool = False
    signed: bool = False
    angles: bool = False


def draw_curves(
    panels: Sequence[Panel], axis: Axis, title: str, caption: str, columns: int | None = None
) -> Figure:
    """Draw panels in rows.

    Parameters
    ----------
    panels : sequence of Panel
        With the same labels.
    axis : Axis
    title, caption : str
        Above and below the panels.
    columns : int, optional
        Panels in a row; about as many as rows if absent.
    """
    columns = columns or (len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels))))
    rows = math.ceil(len(panels) / columns)
    many = columns > 3
    width, height = (3.0, 2.6) if many else (4.0, 3.2)
    figure = new_figure(max(8.4, width * columns), height * rows + 1.5)
    axes = figure.subplots(rows, columns, sharex=True, sharey=axis.same_height, squeeze=False)
    for subplot, panel in zip(axes.flat, panels, strict=False):
        _draw(subplot, panel, axis, 3 if many else 8)
    if axis.same_height and not (axis.logarithmic or axis.signed):
        axes[0, 0].set_ylim(
            0, 1.04 * max(np.max(line.y + line.band) for panel in panels for line in panel.lines)
        )
    for subplot in axes.flat[len(panels) :]:
        subplot.set_visible(False)
    for index in range(len(panels)):
        row, column = divmod(index, columns)
        if column == 0:
            axes[row, column].set_ylabel(axis.y_label, fontsize=15)
        if index + columns >= len(panels):
            axes[row, column].set_xlabel(axis.x_label, fontsize=15)
            axes[row, column].tick_params(labelbottom=True)
    put_caption(figure, title, caption, axes[0, 0].get_legend_handles_labels())
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches; it needs no window system."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def put_caption(
    figure: Figure, title: str, caption: str, legend: tuple[list[Any], list[str]] | None = None
) -> None:
    """Put title, legend and caption on a figure.

    The title stands in the upper left corner, the legend beside it if both fit on a line and below
    it otherwise, the wrapped caption at the bottom.
    """
    width, height = figure.get_size_inches()
    rows = 0
    if legend is not None:
        handles, labels = legend
        style: dict[str, Any] = {
            "loc": "upper right",
            "fontsize": 15,
            "frameon": False,
            "borderaxespad": 0.1,
        }
        lengths = [0.9 + 0.11 * len(label) for label in labels]  # inches
        if 0.18 * len(title) + sum(lengths) < width:
            figure.legend(handles, labels, ncols=len(labels), **style)
        else:
            columns = max(1, int(width / max(lengths)))
            rows = math.ceil(len(labels) / columns)
            height += 0.27 * rows
            figure.set_size_inches(width, height)
            figure.legend(
                handles, labels, ncols=columns, bbox_to_anchor=(1, 1 - 0.36 / height), **style
            )
    figure.suptitle(title + rows * "\n", fontsize=18, fontweight="bold", x=0.012, ha="left")
    lines = [textwrap.fill(line, int(_LETTERS * width)) for line in caption.split("\n")]
    figure.supxlabel("\n".join(lines), fontsize=11, color="0.3")


def _draw(subplot: Axes, panel: Panel, axis: Axis, ticks: int) -> None:
    for k, line in enumerate(panel.lines):
        color = REFERENCE if k == 0 else COLORS[(k - 1) % len(COLORS)]
        style: dict[str, Any] = {
            "color": color,
            "linewidth": 2.2 if k == 0 else 2.0,
            "linestyle": _DASHES[max(k - 1, 0) // len(COLORS) % len(_DASHES)],
        }
        if axis.markers:
            style |= {"marker": "o", "markersize": 5}
        subplot.fill_between(
            panel.x, line.y - line.band, line.y + line.band, color=color, alpha=0.22, linewidth=0
        )
        subplot.plot(panel.x, line.y, label=line.label, **style)
    if axis.baseline is not None:
        subplot.axhline(axis.baseline, color="0.6", linewidth=0.8, zorder=0)
    subplot.text(
        0.97, 0.95, panel.note, transform=subplot.transAxes, ha="right", va="top", fontsize=12
    )
    subplot.set_title(panel.title, fontsize=15)
    subplot.tick_params(labelsize=13)
    subplot.spines[["top", "right"]].set_visible(False)
    if axis.logarithmic:
        subplot.set(xscale="log", yscale="log")
    else:
        subplot.xaxis.set_major_locator(
            MaxNLocator(ticks, steps=[1, 2, 5, 6, 10] if axis.angles else [1, 2, 5, 10])
        )
        if not axis.signed:
            subplot.set_ylim(bottom=0)
    if axis.x_limits is not None:
        subplot.set_xlim(*axis.x_limits)


@dataclass(frozen=True)
class MapRow:
    """One distribution over distance and angle, of all-atom and of models.

    Attributes
    ----------
    title : str
    r_edges, angle_edges : ndarray, nm and degrees
    maps : dict
        Values by label, each of shape (r bins, angle bins).
    """

    title: str
    r_edges: np.ndarray
    angle_edges: np.ndarray
    maps: dict[str, np.ndarray]


def draw_maps(rows: Sequence[MapRow], title: str, caption: str) -> Figure:
    """Draw a row of colour maps per distribution, all-atom first.

    A row has one colour scale, on which an ideal gas is 1.

    Parameters
    ----------
    rows : sequence of MapRow
    title, caption : str
        Above and below the panels.
    """
    columns = len(rows[0].maps)
    figure = new_figure(max(8.4, 4.1 * columns + 1), 2.9 * len(rows) + 1.4)
    axes = figure.subplots(len(rows), columns, sharex="row", sharey=True, squeeze=False)
    for row, subplots in zip(rows, axes, strict=True):
        # no single noisy cell near 0 or 180 degrees sets the scale
        top = np.quantile(next(iter(row.maps.values())), 0.998)
        for subplot, (label, values) in zip(subplots, row.maps.items(), strict=True):
            mesh = subplot.pcolormesh(
                row.r_edges,
                row.angle_edges,
                values.T,
                vmin=0,
                vmax=max(top, 1),
                cmap="magma_r",
                rasterized=True,
            )
            subplot.set_title(f"{row.title}   {label}", fontsize=14)
            subplot.set_yticks([0, 60, 120, 180])
            subplot.tick_params(labelsize=12)
        filled = np.sum([values.sum(axis=1) for values in row.maps.values()], axis=0) > 0
        first = int(np.argmax(filled))
        subplots[0].set_xlim(row.r_edges[max(0, first - 1)], row.r_edges[-1])
        subplots[0].set_ylabel("angle / degrees", fontsize=14)
        bar = figure.colorbar(mesh, ax=subplots, pad=0.01)
        bar.set_label("relative to ideal gas", fontsize=12)
        bar.ax.tick_params(labelsize=12)
    for subplot in axes[-1]:
        subplot.set_xlabel("r / nm", fontsize=14)
    put_caption(figure, title, caption)
    return figure


def draw_bars(
    groups: dict[str, dict[str, tuple[float, float]]],
    floor: dict[str, float],
    y_label: str,
    title: str,
    caption: str,
) -> Figure:
    """Draw groups of bars with error bars, and a line for the all-atom halves.

    A group has one bar per model.

    Parameters
    ----------
    groups : dict
        Height and error by name of the group and label of the model.
    floor : dict
        Height of the line by name of the group.
    y_label, title, caption : str
    """
    figure = new_figure(max(8.4, 2.4 * len(groups)), 4.6)
    subplot = figure.subplots()
    labels = list(next(iter(groups.values())))
    width = 0.8 / len(labels)
    for k, label in enumerate(labels):
        heights, errors = np.array([groups[name][label] for name in groups]).T
        x = np.arange(len(groups)) + (k - (len(labels) - 1) / 2) * width
        color = COLORS[k % len(COLORS)]
        subplot.bar(
            x,
            heights,
            0.92 * width,
            yerr=errors,
            color=color,
            label=label,
            capsize=4,
            alpha=1 if k < len(COLORS) else 0.5,
        )
    for k, name in enumerate(groups):
        subplot.hlines(
            floor[name],
            k - 0.44,
            k + 0.44,
            color=REFERENCE,
            linewidth=2.2,
            label="all-atom halves" if k == 0 else "",
        )
    subplot.set_xticks(np.arange(len(groups)), list(groups), fontsize=15)
    subplot.set_ylabel(y_label, fontsize=15)
    subplot.tick_params(axis="y", labelsize=13)
    subplot.spines[["top", "right"]].set_visible(False)
    put_caption(figure, title, caption, subplot.get_legend_handles_labels())
    return figure


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png",)) -> None:
    """Write a picture in each of the formats; `path` gets the suffix of each."""
    for kind in formats:
        with replacing(path.with_suffix(f".{kind}")) as fresh:
            figure.savefig(fresh, dpi=200, format=kind)
