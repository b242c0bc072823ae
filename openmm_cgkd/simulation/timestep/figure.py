"""Picture of a time step search: temperature, energy and structure against the time step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .criteria import Judgment, Measurement, TimestepSearch, fit_laws
from .integrate import Averages
from .square_law import SquareLaw

_FIRST, _SECOND = "black", "#D55E00"  # told apart with every colour vision and in grey print
_BAND = {"color": "0.9", "zorder": 0}
_CAPTION = (
    "Langevin dynamics with each time step. Bars: two standard errors. Grey: allowed. Curves: fit"
    " of an error that grows as the square of the time step, with two standard errors; dashed"
    " beyond the steps that it describes. RDFs: differences above the squares would be found, and"
    " the squares must be in the grey."
)


def draw(
    path: Path,
    measurements: list[Measurement],
    judgments: list[Judgment],
    search: TimestepSearch,
    temperature: float,
) -> None:
    """Write a PNG with three panels.

    Parameters
    ----------
    path : path
        Written as PNG whatever its suffix.
    measurements : list of Measurement
        Those that exploded are left out.
    judgments : list of Judgment
        Of the same time steps; those without objection are named in the title.
    search : TimestepSearch
    temperature : float, kelvin
    """
    whole = [(m.timestep, m.averages) for m in measurements if m.averages]
    steps = 1e3 * np.array([timestep for timestep, _ in whole])
    averages = [average for _, average in whole]
    figure = Figure(figsize=(13.5, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    hot, energy, structure = figure.subplots(1, 3)
    of_temperature, of_energy = fit_laws(measurements, temperature)

    bound = 100 * search.max_temperature_error
    hot.axhspan(-bound, bound, **_BAND)
    _points(
        hot,
        steps,
        [100 * (each.configurational / temperature - 1) for each in averages],
        [100 * each.configurational_se / temperature for each in averages],
        _FIRST,
        "configurational" + _lower_bounds(averages, "configurational"),
    )
    _points(
        hot,
        steps,
        [100 * (each.kinetic / temperature - 1) for each in averages],
        [100 * each.kinetic_se / temperature for each in averages],
        _SECOND,
        "kinetic, not judged" + _lower_bounds(averages, "kinetic"),
        shape="s",
    )
    _law(hot, steps, of_temperature, 100, 0.0)
    hot.set_title("Error of the temperature, %", fontsize=15)

    energy.axhspan(-search.max_energy_error, search.max_energy_error, **_BAND)
    if whole:
        _points(
            energy,
            steps,
            [each.energy - averages[0].energy for each in averages],
            [each.energy_se for each in averages],
            _FIRST,
            "against the smallest step" + _lower_bounds(averages, "energy"),
        )
        _law(energy, steps, of_energy, 1, whole[0][0])
    energy.set_title("Potential energy, kT per bead", fontsize=15)

    structure.axhspan(0, search.max_structure_error, **_BAND)
    compared = [(1e3 * m.timestep, m.structure) for m in measurements if m.structure]
    for name, color, shape, label in (
        ("difference", _FIRST, "o", "against the smallest step"),
        ("detectable", _SECOND, "s", "seen from here on"),
    ):
        structure.plot(
            [step for step, _ in compared],
            [getattr(found, name) for _, found in compared],
            color=color,
            marker=shape,
            linestyle="none",
            label=label,
        )
    structure.set_ylim(bottom=0)
    structure.set_title("Mean difference of the RDFs", fontsize=15)

    for axis in (hot, energy, structure):
        axis.set_xlabel("time step / fs", fontsize=14)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=13)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=12, frameon=False, loc="upper left")
    good = [judgment for judgment in judgments if not judgment.objections]
    figure.suptitle(
        f"Time step: temperature and energy pass up to {1e3 * good[-1].timestep:g} fs"
        if good
        else "Time step: none passes",
        fontsize=16,
    )
    figure.supxlabel(_CAPTION, fontsize=11, wrap=True)
    figure.savefig(path, dpi=160, format="png")


def _lower_bounds(averages: list[Averages], name: str) -> str:
    """Words for a legend where bars of a mean are lower bounds."""
    return "\n(bars at least)" if any(name in each.at_least for each in averages) else ""


def _points(
    axis: Axes,
    steps: np.ndarray,
    values: list[float],
    errors: list[float],
    color: str,
    label: str,
    shape: str = "o",
) -> None:
    axis.errorbar(
        steps,
        values,
        yerr=2 * np.array(errors),
        color=color,
        marker=shape,
        linestyle="none",
        capsize=3,
        label=label,
    )


def _law(
    axis: Axes, steps: np.ndarray, law: SquareLaw | None, factor: float, origin: float
) -> None:
    """The fitted curve with a band of two standard errors."""
    if law is None or len(steps) == 0:
        return
    grid = np.linspace(0, steps[-1], 200)
    curve, error = np.array([law.shift(step / 1e3, origin) for step in grid]).T * factor
    inside = grid <= 1e3 * law.largest
    axis.plot(grid[inside], curve[inside], color=_FIRST, linewidth=1.5)
    axis.plot(grid[~inside], curve[~inside], color=_FIRST, linewidth=1.5, linestyle="--")
    axis.fill_between(
        grid, curve - 2 * error, curve + 2 * error, color=_FIRST, alpha=0.15, linewidth=0
    )
