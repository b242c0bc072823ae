"""Structure of a trajectory, and how far that of a model is from all-atom.

RDFs for pairs of beads, angles for triples, coordination numbers for more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from openmm_cgkd.analysis.observables.aggregation import evenly_spaced
from openmm_cgkd.analysis.observables.angles import ADF, CDF
from openmm_cgkd.analysis.observables.base import Observable, accumulate_blocks
from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.analysis.observables.peaks import first_minimum
from openmm_cgkd.analysis.observables.rdf import RDF, block_rdfs
from openmm_cgkd.config.run import ComparisonConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.progress import progress

from .curves import (
    FEWEST_FRAMES,
    MEASURES,
    Curve,
    CurveComparison,
    count_parts,
    joint_error,
    number,
)
from .sources import Source

SCORE_FIGURES = ("_se", "_at_least", "_halves")  # ends of the names of what `scores` adds
KINDS = ("rdf", "adf", "cdf", "coordination")
_CDF_BINS = (40, 45)
# relative; beyond it the two runs are at different states and differ for that reason alone
_VOLUME_TOLERANCE = 0.01

Key = tuple[str, tuple[str, ...]]  # observable, bead types


@dataclass(frozen=True)
class Structure:
    """Curves of one trajectory by observable and bead types."""

    curves: dict[Key, Curve[Any]]

    def of_kind(self, kind: str) -> dict[tuple[str, ...], Curve[Any]]:
        """Curves of one observable by bead types."""
        return {types: curve for (found, types), curve in self.curves.items() if found == kind}


@dataclass(frozen=True)
class Cutoffs:
    """First coordination shells of the pairs of bead types.

    Attributes
    ----------
    distances : dict
        Outer radius (nm) by pair of types, either way round.
    missing : list
        Pairs whose RDF has no first minimum.
    """

    distances: dict[tuple[str, str], float]
    missing: list[tuple[str, str]]

    @classmethod
    def of(cls, rdfs: dict[tuple[str, ...], Curve[RDF]]) -> Cutoffs:
        """The first minima of the all-atom RDFs."""
        minima = {
            (a, b): first_minimum(curve.whole.bin_centers, curve.values)
            for (a, b), curve in rdfs.items()
        }
        found = {pair: distance for pair, distance in minima.items() if distance is not None}
        both = found | {(b, a): distance for (a, b), distance in found.items()}
        return cls(both, [pair for pair, distance in minima.items() if distance is None])


def pair_structure(source: Source, settings: ComparisonConfig, r_max: float) -> Structure:
    """RDFs of every pair of types, over all frames.

    Raises
    ------
    AnalysisError
        As `block_rdfs`.
    """
    with progress(f"RDFs of {source.label}", len(source)) as meter:
        parts = block_rdfs(
            source.positions,
            source.boxes,
            source.beads,
            settings.bins,
            r_max,
            _count_parts(source, settings),
            meter.update,
        )
    return Structure({("rdf", pair): Curve(rdfs) for pair, rdfs in parts.items()})


def shell_structure(source: Source, settings: ComparisonConfig, cutoffs: Cutoffs) -> Structure:
    """Angles, distance-angle distributions and coordination numbers within the first shells.

    From all frames: of some of them, counting noise would be taken for an error of the model.

    Raises
    ------
    AnalysisError
        As `accumulate_blocks`.
    """
    makers = _shell_observables(source, cutoffs, settings.angle_bins)
    if not makers:
        return Structure({})
    frames = source.frames(evenly_spaced(len(source), settings.shell_frames or len(source)))
    with progress(f"shells of {source.label}", len(frames)) as meter:
        parts = accumulate_blocks(
            lambda: [make() for make in makers.values()],
            frames,
            _count_parts(source, settings),
            cutoffs.distances,
            meter.update,
        )
    return Structure(
        {key: Curve(observables) for key, observables in zip(makers, parts, strict=True)}
    )


def _count_parts(source: Source, settings: ComparisonConfig) -> int:
    """Parts in time, the same for all observables, which the combined score puts together."""
    return count_parts(min(len(source), settings.shell_frames or len(source)))


def _shell_observables(
    source: Source, cutoffs: Cutoffs, angle_bins: int
) -> dict[Key, Callable[[], Observable]]:
    """Makers of the observables whose cutoffs are known and whose beads exist."""
    reach, names = cutoffs.distances, source.beads.type_names
    makers: dict[Key, Callable[[], Observable]] = {}
    for apex, first, second in product(names, repeat=3):
        types, pairs = (first, apex, second), ((apex, first), (apex, second))
        exists = all(source.names.count(name) >= types.count(name) for name in types)
        if not exists or any(pair not in reach for pair in pairs):
            continue
        distances = (reach[pairs[0]], reach[pairs[1]])
        if names.index(first) <= names.index(second):
            makers["adf", types] = _maker(ADF, types, distances, angle_bins)
        makers["cdf", types] = _maker(CDF, types, distances, _CDF_BINS)
    for pair in product(names, repeat=2):
        if pair in reach:
            makers["coordination", pair] = _maker(CoordinationNumbers, pair, reach[pair])
    order = {kind: k for k, kind in enumerate(KINDS)}
    return dict(sorted(makers.items(), key=lambda item: order[item[0][0]]))


def _maker(kind: type[Observable], *arguments: object) -> Callable[[], Observable]:
    return lambda: kind(*arguments)


def compare_structures(all_atom: Structure, model: Structure) -> dict[Key, CurveComparison]:
    """Both curves of every observable that all-atom shows in each of its halves."""
    shown = {
        key: curve
        for key, curve in all_atom.curves.items()
        if all(half.any() for half in curve.halves)
    }
    return {key: CurveComparison(curve, model.curves[key]) for key, curve in shown.items()}


def first_peaks(structure: Structure) -> dict[str, dict[str, Any]]:
    """Position and height of the first peak of every RDF by pair of types, see `Curve.peak`."""
    return {"-".join(pair): curve.peak() for pair, curve in structure.of_kind("rdf").items()}


def scores(comparisons: dict[Key, CurveComparison]) -> dict[str, float | None]:
    """Mean overlap with all-atom of the curves of each observable.

    The combined score is the mean of these means.

    Returns
    -------
    dict
        Observable, and "combined", to a number between 0 and 1; with ``_se`` its standard error
        from the scatter of both trajectories, with ``_at_least`` 1 if that is a lower bound (else
        0), with ``_halves`` the score of the all-atom halves against each other: a model with a
        higher score cannot be told from all-atom.
    """
    overlap = MEASURES.index("overlap")
    kinds = [kind for kind in KINDS if any(found == kind for found, _ in comparisons)]
    values, halves, series = [], [], []
    for kind in kinds:
        chosen = [comparison for (found, _), comparison in comparisons.items() if found == kind]
        values.append(np.mean([comparison.error.overlap for comparison in chosen]))
        halves.append(np.mean([comparison.floor.overlap for comparison in chosen]))
        series.append(
            [
                np.mean([comparison.pseudo_values[k][:, overlap] for comparison in chosen], axis=0)
                for k in range(2)  # all-atom, model; they have numbers of parts of their own
            ]
        )
    kinds = [*kinds, "combined"]
    values = [*values, np.mean(values)]
    halves = [*halves, np.mean(halves)]
    series.append([np.mean(each, axis=0) for each in zip(*series, strict=True)])
    result: dict[str, float | None] = {}
    for kind, value, half, both in zip(kinds, values, halves, series, strict=True):
        error, plateau = joint_error(*both)
        result |= {
            kind: float(value),
            f"{kind}_se": number(error),
            f"{kind}_at_least": float(not plateau),
            f"{kind}_halves": float(half),
        }
    return result


def check_comparable(all_atom: Source, model: Source) -> None:
    """Refuse a trajectory of other beads or another volume, or too few frames.

    Raises
    ------
    AnalysisError
    """
    if all_atom.names != model.names:
        raise AnalysisError(
            f"{model.path}: holds other beads ({_composition(model.names)}) than the all-atom"
            f" frames ({_composition(all_atom.names)}), or in another order; compare runs of the"
            " same system."
        )
    volumes = [float(np.abs(box_volume(boxes)).mean()) for boxes in (all_atom.boxes, model.boxes)]
    if abs(volumes[1] / volumes[0] - 1) > _VOLUME_TOLERANCE:
        raise AnalysisError(
            f"{model.path}: the mean box volume is {volumes[1]:.3f} nm^3 in the trajectory and "
            f"{volumes[0]:.3f} nm^3 in the all-atom frames; simulate at the all-atom density."
        )
    for what, source in (("all-atom frames", all_atom), ("frames of the trajectory", model)):
        n = len(source)
        if n < FEWEST_FRAMES:
            raise AnalysisError(
                f"{source.path}: {n} {what} are too few for standard errors, which need at least"
                f" {FEWEST_FRAMES}; simulate longer or save frames more often."
            )


def _composition(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"
