"""Dynamics, aggregation and order of a model beside those of all-atom, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from openmm_cgkd.analysis.observables.aggregation import AggregationLimits, clusters_of
from openmm_cgkd.analysis.observables.base import Observable
from openmm_cgkd.analysis.observables.diffusion import (
    Diffusion,
    diffusion,
    speed_up,
    time_factor,
    unwrapped,
)
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from openmm_cgkd.config.run import ComparisonConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import BlockedMean

from .curves import Curve, blocked_statistic, joint_error, number
from .sources import Source
from .structure import Key, observables_of
from .systematic import systematic_error

_NEAREST = 12


def all_diffusion(source: Source) -> dict[str, Diffusion] | str:
    """Diffusion of every bead type, or why there is none."""
    found = source.stretches()
    if found is None:
        return source.no_times
    interval, stretches = found
    parts = [unwrapped(source.positions[part], source.boxes[part]) for part in stretches]
    types = source.beads.types
    try:
        return {
            name: diffusion([part[:, types == k] for part in parts], interval)
            for k, name in enumerate(source.beads.type_names)
        }
    except AnalysisError as error:
        return str(error)


def diffusion_numbers(
    model: dict[str, Diffusion] | str, all_atom: dict[str, Diffusion] | str
) -> dict[str, Any]:
    """Diffusion coefficients by bead type, and how much faster the model moves than all-atom.

    Instead {"absent": reason} where the model has none.
    """
    if isinstance(model, str):
        return {"absent": model}
    numbers = {name: _numbers(result) for name, result in model.items()}
    if not isinstance(all_atom, str):
        for name, result in model.items():
            numbers[name]["time_factor"] = time_factor(result, all_atom[name])
            if all_atom[name].coefficient > 0:
                ratio, error = speed_up(result, all_atom[name])
                numbers[name] |= {
                    "speed_up": number(ratio),
                    "speed_up_se": number(error),
                    "speed_up_at_least": not (result.independent and all_atom[name].independent),
                }
    return numbers


def _numbers(result: Diffusion) -> dict[str, Any]:
    return {
        "coefficient": number(result.coefficient),
        "coefficient_se": number(result.coefficient_se),
        "coefficient_at_least": not result.independent,
        "exponent": number(result.exponent),
        "diffusive": bool(result.diffusive),
        "window": list(result.window),
    }


def aggregation_numbers(source: Source, limits: AggregationLimits) -> dict[str, Any]:
    """Smallest distances and clusters of a trajectory, and in which frames its beads aggregate."""
    clusters = clusters_of(limits.contacts, source.positions, source.boxes, source.names)
    first = limits.first_aggregated(clusters)
    smallest = {
        "-".join(pair): number(values.min()) for pair, values in clusters.smallest_distances.items()
    }
    return {
        "smallest_distances": smallest,
        "largest_cluster": int(clusters.largest.max()),
        "mean_largest_cluster": float(clusters.largest.mean()),
        "share_of_frames": float(limits.aggregated(clusters).mean()),
        "first_frame": first,
    }


def order_curves(source: Source, settings: ComparisonConfig) -> dict[str, Curve[SteinhardtOrder]]:
    """Distribution of the order parameter q6 by bead type; empty if there are too few beads."""
    if len(source.names) <= _NEAREST:
        return {}
    makers: dict[Key, Callable[[], Observable]] = {
        ("order", (name,)): partial(SteinhardtOrder, name, nearest=_NEAREST)
        for name in source.beads.type_names
    }
    found = observables_of(f"order of {source.label}", source, settings, makers)
    return {name: curve for (_, (name,)), curve in found.curves.items()}


def structure_factor(source: Source, settings: ComparisonConfig) -> Curve[StructureFactor]:
    """Partial structure factors of all pairs of types, and that of charge where it is known."""
    make = partial(StructureFactor, source.type_names, charges=source.charges)
    key: Key = ("structure_factor", source.type_names)
    found = observables_of(f"structure factors of {source.label}", source, settings, {key: make})
    return found.curves[key]


def order_numbers(curves: dict[str, Curve[SteinhardtOrder]]) -> dict[str, Any]:
    """Mean order parameters with standard errors; empty if there is none."""
    if not curves:
        return {}
    found = {name: _mean_order(curve) for name, curve in curves.items()}
    return {
        "order_q6": {name: float(blocked.mean) for name, blocked in found.items()},
        "order_q6_se": {name: number(blocked.error) for name, blocked in found.items()},
        "order_q6_at_least": [name for name, blocked in found.items() if not blocked.plateau],
    }


def _mean_order(curve: Curve[SteinhardtOrder]) -> BlockedMean:
    whole = curve.whole
    left_out = np.array([whole.without(part).mean for part in curve.parts])
    return blocked_statistic(whole.mean, left_out, curve.runs)


def structure_factor_numbers(
    model: Curve[StructureFactor] | None, all_atom: Curve[StructureFactor] | None
) -> dict[str, Any]:
    """Root mean square difference by pair of types, over the bins that both boxes fill.

    With standard errors, and with what a perfect model would show: the noise of both. Empty if
    there is nothing to compare.
    """
    if model is None or all_atom is None:
        return {}
    aa, cg = all_atom.values, model.values
    series = (
        all_atom.pseudo_values(lambda values: _rmse(cg, values)),
        model.pseudo_values(lambda values: _rmse(values, aa)),
    )
    names = ["-".join(map(str, pair)) for pair in all_atom.whole.pairs]
    errors = [
        joint_error((series[0][:, k], all_atom.runs), (series[1][:, k], model.runs))
        for k in range(len(names))
    ]
    return {
        "structure_factor_rmse": dict(zip(names, _rmse(cg, aa).tolist(), strict=True)),
        "structure_factor_rmse_perfect": dict(
            zip(names, _perfect_rmse(model, all_atom), strict=True)
        ),
        "structure_factor_rmse_se": {
            name: number(error) for name, (error, _) in zip(names, errors, strict=True)
        },
        "structure_factor_rmse_at_least": [
            name for name, (_, plateau) in zip(names, errors, strict=True) if not plateau
        ],
    }


def _perfect_rmse(
    model: Curve[StructureFactor], all_atom: Curve[StructureFactor]
) -> list[float | None]:
    runs, filled = all_atom.separate, np.isfinite(model.values) & np.isfinite(all_atom.values)
    found = []
    for row in range(len(filled)):
        of_all_atom, of_model = (
            [each.series.reshape(-1, *filled.shape)[:, row, filled[row]] for each in curves]
            for curves in (runs, [model])
        )
        known = np.isfinite(np.concatenate([*of_all_atom, *of_model])).all(axis=0)
        error = systematic_error([each[:, known] for each in of_all_atom], of_model[0][:, known])
        found.append(number(error.perfect_rmse))
    return found


def _rmse(model: np.ndarray, all_atom: np.ndarray) -> np.ndarray:
    return np.sqrt(np.nanmean((model - all_atom) ** 2, axis=1))
