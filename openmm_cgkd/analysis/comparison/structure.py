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
from openmm_cgkd.analysis.observables.rdf import RDF, block_rdfs, first_minimum
from openmm_cgkd.config.run import ComparisonConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.statistics import jackknife

from .curves import MEASURES, Curve, CurveComparison, number
from .sources import Source

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
    # two parts to a block, so that blocks and halves both come from one pass over the frames
    with progress(f"RDFs of {source.label}", len(source)) as meter:
        parts = block_rdfs(
            source.positions,
            source.boxes,
            source.beads,
            settings.bins,
            r_max,
            2 * settings.blocks,
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
            2 * settings.blocks,
            cutoffs.distances,
            meter.update,
        )
    return Structure(
        {key: Curve(observables) for key, observables in zip(makers, parts, strict=True)}
    )


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
    """Both curves of every observable that all-atom shows in each of its parts."""
    shown = {
        key: curve
        for key, curve in all_atom.curves.items()
        if all(part.density.any() for part in curve.parts)
    }
    return {key: CurveComparison(curve, model.curves[key]) for key, curve in shown.items()}


def scores(comparisons: dict[Key, CurveComparison]) -> dict[str, float | None]:
    """Mean overlap with all-atom of the curves of each observable.

    The combined score is the mean of these means.

    Returns
    -------
    dict
        Observable, and "combined", to a number between 0 and 1; with ``_se`` its standard error
        over the blocks of both trajectories, with ``_halves`` the score of the all-atom halves
        against each other: a model with a higher score cannot be told from all-atom.
    """
    overlap = MEASURES.index("overlap")
    kinds = [kind for kind in KINDS if any(found == kind for found, _ in comparisons)]
    values, halves, left_out = [], [], []
    for kind in kinds:
        chosen = [comparison for (found, _), comparison in comparisons.items() if found == kind]
        values.append(np.mean([comparison.error.overlap for comparison in chosen]))
        halves.append(np.mean([comparison.floor.overlap for comparison in chosen]))
        left_out.append(
            np.mean(
                [[rows[:, overlap] for rows in comparison.left_out] for comparison in chosen],
                axis=0,
            )
        )
    kinds = [*kinds, "combined"]
    values = [*values, np.mean(values)]
    halves = [*halves, np.mean(halves)]
    left_out.append(np.mean(left_out, axis=0))  # shape (2 trajectories, n_blocks)
    result: dict[str, float | None] = {}
    for kind, value, half, (aa, cg) in zip(kinds, values, halves, left_out, strict=True):
        result |= {
            kind: float(value),
            f"{kind}_se": number(np.hypot(jackknife(aa), jackknife(cg))),
            f"{kind}_halves": float(half),
        }
    return result


def check_comparable(all_atom: Source, model: Source, settings: ComparisonConfig) -> None:
    """Refuse a trajectory of other beads or another volume, or too few frames for the blocks.

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
        if n < 2 * settings.blocks:
            raise AnalysisError(
                f"{source.path}: {n} {what} are too few for comparison.blocks = {settings.blocks},"
                f" which needs {2 * settings.blocks}; simulate longer or use fewer blocks."
            )


def _composition(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"
