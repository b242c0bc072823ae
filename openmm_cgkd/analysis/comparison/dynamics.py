"""Dynamics, aggregation and order of a model beside those of all-atom, as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_cgkd.analysis.observables.aggregation import (
    AggregationLimits,
    clusters_of,
    evenly_spaced,
)
from openmm_cgkd.analysis.observables.base import accumulate_blocks
from openmm_cgkd.analysis.observables.diffusion import (
    Diffusion,
    diffusion,
    speed_up,
    time_factor,
    unwrapped,
)
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from openmm_cgkd.exceptions import AnalysisError

from .curves import Curve, count_parts, number
from .sources import Source

_FRAMES = 100  # for order parameters and structure factors
_NEAREST = 12


def all_diffusion(source: Source) -> dict[str, Diffusion] | str:
    """Diffusion of every bead type, or why there is none."""
    found = source.stretches()
    if found is None:
        return (
            "The time between frames is not known: neither the file nor a state.csv beside it"
            " tells."
        )
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


def order_curves(source: Source) -> dict[str, Curve[SteinhardtOrder]]:
    """Distribution of the order parameter q6 by bead type; empty if there are too few beads."""
    if len(source.names) <= _NEAREST:
        return {}
    frames = source.frames(evenly_spaced(len(source), _FRAMES))
    names = source.beads.type_names
    parts = accumulate_blocks(
        lambda: [SteinhardtOrder(name, nearest=_NEAREST) for name in names],
        frames,
        count_parts(len(frames)),
        None,
    )
    return {name: Curve(observables) for name, observables in zip(names, parts, strict=True)}


def structure_factor(source: Source) -> Curve[StructureFactor]:
    """Partial structure factors of all pairs of types."""
    frames = source.frames(evenly_spaced(len(source), _FRAMES))
    (parts,) = accumulate_blocks(
        lambda: [StructureFactor(source.beads.type_names)], frames, count_parts(len(frames)), None
    )
    return Curve(parts)


def structure_factor_rmse(
    model: Curve[StructureFactor], all_atom: Curve[StructureFactor]
) -> dict[str, float]:
    """Root mean square difference by pair of types, over the bins that both boxes fill."""
    difference = model.values - all_atom.values
    pairs = all_atom.whole.pairs
    return {
        "-".join(map(str, pair)): float(np.sqrt(np.nanmean(row**2)))
        for pair, row in zip(pairs, difference, strict=True)
    }
