"""Picture of a time step search: drift, temperatures and potential energy against the time step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .criteria import Measurement, TimestepSearch
from .integrate import Averages

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
    whole = [
        (m.timestep, m.conservation, m.averages)
        for m in measurements
        if m.conservation and m.averages
    ]
    steps = 1e3 * np.array([timestep for timestep, _, _ in whole])
    conservations = [conservation for _, conservation, _ in whole]
    averages = [average for _, _, average in whole]
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    energy, kinetic, potential = figure.subplots(1, 3)

    energy.axhspan(0, search.max_drift, **_BAND)
    drifts = np.abs([each.drift for each in conservations])
    errors = 2 * np.array([each.drift_se for each in conservations])
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
        [each.fluctuation for each in conservations],
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
        values = [getattr(each, f"{name}temperature") for each in averages]
        _points(
            kinetic,
            steps,
            values,
            [getattr(each, f"{name}temperature_se") for each in averages],
            color,
            label + _bound(averages, f"{name}temperature"),
        )
    kinetic.set_title("Kinetic temperature, K", fontsize=15)

    potential.axhspan(-search.max_energy_error, search.max_energy_error, **_BAND)
    if whole:
        shifts = [each.energy - averages[0].energy for each in averages]
        _points(
            potential,
            steps,
            shifts,
            [each.energy_se for each in averages],
            _FIRST,
            "against the smallest step" + _bound(averages, "energy"),
        )
    potential.set_title("Potential energy, kT per bead", fontsize=15)

    for axis in (energy, kinetic, potential):
        axis.set_xlabel("time step / fs", fontsize=14)
        axis.tick_params(labelsize=13)
        axis.spines[["top", "right"]].set_visible(False)
        if whole:
            axis.legend(fontsize=12, frameon=False)
    figure.savefig(path, dpi=160, format="png")


def _bound(averages: list[Averages], name: str) -> str:
    """Words for a legend where bars of a mean are lower bounds."""
    return ", bars at least" if any(name in each.at_least for each in averages) else ""


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
