"""Pictures of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# black and Okabe-Ito vermillion: told apart with every colour vision and, by lightness, in grey print
_REFERENCE = {"color": "black", "linewidth": 2.2}
_MODEL = {"color": "#D55E00", "linewidth": 2.0}


@dataclass(frozen=True)
class Panel:
    """One pair of bead types.

    Attributes
    ----------
    title : str
    r : ndarray, shape (bins,), nm
    reference, model : ndarray, shape (bins,)
        g(r) of all-atom and coarse-grained.
    reference_se, model_se : ndarray, shape (bins,)
        Their standard errors.
    error, error_se : float
        Mean absolute difference of the curves and its standard error.
    floor : float
        The same difference between halves of the all-atom frames.
    """

    title: str
    r: np.ndarray
    reference: np.ndarray
    reference_se: np.ndarray
    model: np.ndarray
    model_se: np.ndarray
    error: float
    error_se: float
    floor: float


def draw_rdfs(path: Path, panels: list[Panel], title: str, caption: str) -> None:
    """Write a PNG with one panel per pair of bead types, all on the same axes.

    Parameters
    ----------
    path : Path
        Written as PNG whatever its suffix.
    panels : list of Panel
    title, caption : str
        Above and below the panels.
    """
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(8.4, 4.0 * columns), 3.2 * rows + 1.5), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    bands = [(panel.reference + 2 * panel.reference_se, panel.model + 2 * panel.model_se) for panel in panels]
    top = 1.04 * np.max(bands)
    contact = min(panel.r[np.argmax(np.maximum(panel.reference, panel.model) > 0.02)] for panel in panels)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, panel)
        axis.set_ylim(0, top)
        axis.set_xlim(max(0.0, contact - 0.1), panel.r[-1])
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for index in range(len(panels)):
        row, column = divmod(index, columns)
        if column == 0:
            axes[row, column].set_ylabel("g(r)", fontsize=15)
        if index + columns >= len(panels):
            axes[row, column].set_xlabel("r / nm", fontsize=15)
            axes[row, column].tick_params(labelbottom=True)
    # title on the left and legend on the right share the line above the panels
    figure.suptitle(title, fontsize=18, fontweight="bold", x=0.012, ha="left")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=15, frameon=False, borderaxespad=0.1)
    figure.supxlabel(caption, fontsize=11, color="0.3")
    figure.savefig(path, dpi=200, format="png")


def _draw(axis: Axes, panel: Panel) -> None:
    for g, error, style, label in (
        (panel.reference, panel.reference_se, _REFERENCE, "all-atom"),
        (panel.model, panel.model_se, _MODEL, "coarse-grained"),
    ):
        axis.fill_between(panel.r, g - 2 * error, g + 2 * error, color=style["color"], alpha=0.22, linewidth=0)
        axis.plot(panel.r, g, label=label, **style)
    axis.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    text = f"error {panel.error:.3f} ± {panel.error_se:.3f}\nall-atom halves {panel.floor:.3f}"
    axis.text(0.97, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=12)
    axis.set_title(panel.title, fontsize=15)
    axis.tick_params(labelsize=13)
    axis.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axis.spines[["top", "right"]].set_visible(False)
