"""Picture of a time step search: energy drift, temperatures and potential energy against the
time step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from .search import Measurement, TimestepSearch

_FIRST, _SECOND = "black", "#D55E00"  # told apart with every colour vision and in grey print
_BAND = {"color": "0.85", "zorder": 0}


def draw(
    path: Path, measurements: list[Measurement], search: TimestepSearch, temperature: float
) -> None:
    """Write a PNG with three panels; grey bands are the bounds, bars two standard errors.

    Parameters
    ----------
    path : path
        Written as PNG whatever its suffix.
    measurements : list of Measurement
        Those that exploded are left out.
    search : TimestepSearch
    temperature : float, kelvin
    """
    whole = [m for m in measurements if m.conservation and m.averages]
    steps = 1e3 * np.array([m.timestep for m in whole])
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    energy, kinetic, potential = figure.subplots(1, 3)

    energy.axhspan(0, search.max_drift, **_BAND)
    drifts = np.abs([m.conservation.drift for m in whole])
    errors = 2 * np.array([m.conservation.drift_se for m in whole])
    energy.errorbar(
        steps,
        drifts,
        yerr=[0 * errors, errors],
        color=_FIRST,
        marker="o",
        linewidth=1.5,
        capsize=3,
        label="|drift|, kT/ns per bead",
    )
    _points(
        energy,
        steps,
        [m.conservation.fluctuation for m in whole],
        None,
        _SECOND,
        "fluctuation, kT per bead$^{1/2}$",
    )
    energy.set_xscale("log")
    energy.set_yscale("log")
    energy.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
    energy.set_xticks([], minor=True)
    energy.set_title("Total energy, no thermostat", fontsize=15)

    bound = search.max_temperature_error * temperature
    kinetic.axhspan(temperature - bound, temperature + bound, **_BAND)
    for name, color, label in (
        ("", _FIRST, "half-step velocities"),
        ("full_step_", _SECOND, "full-step velocities"),
    ):
        values = [getattr(m.averages, f"{name}temperature") for m in whole]
        _points(
            kinetic,
            steps,
            values,
            [getattr(m.averages, f"{name}temperature_se") for m in whole],
            color,
            label,
        )
    kinetic.set_title("Kinetic temperature, K", fontsize=15)

    potential.axhspan(-search.max_energy_error, search.max_energy_error, **_BAND)
    if whole:
        shifts = [m.averages.energy - whole[0].averages.energy for m in whole]
        _points(
            potential,
            steps,
            shifts,
            [m.averages.energy_se for m in whole],
            _FIRST,
            "against the smallest step",
        )
    potential.set_title("Potential energy, kT per bead", fontsize=15)

    for axis in (energy, kinetic, potential):
        axis.set_xlabel("time step / fs", fontsize=14)
        axis.tick_params(labelsize=13)
        axis.spines[["top", "right"]].set_visible(False)
        if whole:
            axis.legend(fontsize=12, frameon=False)
    figure.savefig(path, dpi=160, format="png")


def _points(
    axis: Axes,
    steps: np.ndarray,
    values: list[float],
    errors: list[float] | None,
    color: str,
    label: str,
) -> None:
    bars = None if errors is None else 2 * np.array(errors)
    axis.errorbar(
        steps, values, yerr=bars, color=color, marker="o", linewidth=1.5, capsize=3, label=label
    )
