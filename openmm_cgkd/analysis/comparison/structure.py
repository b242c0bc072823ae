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
from .systematic import SystematicError, systematic_error

SCORE_FIGURES = ("_se", "_at_least", "_halves")  # ends of the names of what `scores` adds
KINDS = ("rdf", "adf", "cdf", "coordination")
_CDF_BINS = (40, 45)

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

    def of_run(run: Source, parts: int, update: Callable[[int], None]) -> dict[Key, list[Any]]:
        found = block_rdfs(run.positions, run.boxes, run.beads, settings.bins, r_max, parts, update)
        return {("rdf", pair): rdfs for pair, rdfs in found.items()}

    return _over_runs(f"RDFs of {source.label}", source, settings, of_run)


def shell_structure(source: Source, settings: ComparisonConfig, cutoffs: Cutoffs) -> Structure:
    """Angles, distance-angle distributions and coordination numbers within the first shells.

    From all frames: of some of them, counting noise would be taken for an error of the model.

    Raises
    ------
    AnalysisError
        As `accumulate_blocks`.
    """
    makers = _shell_observables(source, cutoffs, settings.angle_bins)
    what = f"shells of {source.label}"
    return observables_of(what, source, settings, makers, cutoffs.distances)


def observables_of(
    what: str,
    source: Source,
    settings: ComparisonConfig,
    makers: dict[Key, Callable[[], Observable]],
    distances: dict[tuple[str, str], float] | None = None,
) -> Structure:
    """Observables frame by frame, in parts in time of every independent run.

    Parameters
    ----------
    what : str
        For the progress bar.
    source : Source
    settings : ComparisonConfig
    makers : dict
        Makes fresh observables.
    distances : dict, nm, optional
        By pair of types, how far neighbours are looked for.

    Raises
    ------
    AnalysisError
        As `accumulate_blocks`.
    """
    if not makers:
        return Structure({})

    def of_run(run: Source, parts: int, update: Callable[[int], None]) -> dict[Key, list[Any]]:
        frames = run.frames(evenly_spaced(len(run), _count_frames(run, source, settings)))
        found = accumulate_blocks(
            lambda: [make() for make in makers.values()], frames, parts, distances, update
        )
        return dict(zip(makers, found, strict=True))

    return _over_runs(what, source, settings, of_run)


def _over_runs(
    what: str,
    source: Source,
    settings: ComparisonConfig,
    of_run: Callable[[Source, int, Callable[[int], None]], dict[Key, list[Any]]],
) -> Structure:
    """Observables of the parts in time of every independent run, one run after the other."""
    runs = source.separate()
    counts = [_count_frames(run, source, settings) for run in runs]
    # the same for all observables: the combined score joins them
    parts = [count_parts(count, max(counts)) for count in counts]
    found: dict[Key, list[Any]] = {}
    with progress(what, len(source), "frames") as meter:
        done = 0
        for run, number in zip(runs, parts, strict=True):

            def update(frames: int, before: int = done) -> None:
                meter.update(before + frames)

            for key, observables in of_run(run, number, update).items():
                found.setdefault(key, []).extend(observables)
            done += len(run)
    several = tuple(parts) if len(runs) > 1 else ()
    return Structure(
        {key: Curve(observables, several, source.middle) for key, observables in found.items()}
    )


def _count_frames(run: Source, source: Source, settings: ComparisonConfig) -> int:
    """How many frames of a run the slow observables take."""
    if settings.shell_frames is None or settings.shell_frames >= len(source):
        return len(run)
    return max(FEWEST_FRAMES, round(settings.shell_frames * len(run) / len(source)))


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
        0), with ``_halves`` the score of the all-atom halves against each other.
    """
    overlap = MEASURES.index("overlap")
    kinds = [kind for kind in KINDS if any(found == kind for found, _ in comparisons)]
    one = next(iter(comparisons.values()))
    runs = one.all_atom.runs, one.coarse_grained.runs  # of all observables
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
        error, plateau = joint_error(*zip(both, runs, strict=True))
        result |= {
            kind: float(value),
            f"{kind}_se": number(error),
            f"{kind}_at_least": float(not plateau),
            f"{kind}_halves": float(half),
        }
    return result


def systematic_errors(comparisons: dict[Key, CurveComparison]) -> dict[str, SystematicError]:
    """Error without noise of each observable: root of the mean square over its curves.

    Curves of one trajectory share its noise, so they are taken together.
    """
    found = {}
    for kind in KINDS:
        chosen = [comparison for (name, _), comparison in comparisons.items() if name == kind]
        if chosen:
            bins = [comparison.coarse_grained.series.shape[1] for comparison in chosen]
            runs = [
                [curve.series for curve in comparison.all_atom.separate] for comparison in chosen
            ]
            found[kind] = systematic_error(
                [np.concatenate(parts, axis=1) for parts in zip(*runs, strict=True)],
                np.concatenate([comparison.coarse_grained.series for comparison in chosen], axis=1),
                np.repeat(1 / (len(chosen) * np.array(bins)), bins),
                len(chosen[0].all_atom.runs) > 1,
            )
    return found
