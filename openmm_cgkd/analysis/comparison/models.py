"""Models against all-atom: all observables of any number of runs, computed and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from openmm_cgkd.analysis.observables.aggregation import AggregationLimits
from openmm_cgkd.analysis.observables.diffusion import Diffusion
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from openmm_cgkd.config.run import ComparisonConfig
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import largest_r_max

from .curves import MEASURES, Curve, CurveComparison
from .decorrelation import (
    Decorrelation,
    decorrelation,
    decorrelation_numbers,
    samples_numbers,
)
from .dynamics import (
    aggregation_numbers,
    all_diffusion,
    diffusion_numbers,
    order_curves,
    order_numbers,
    structure_factor,
    structure_factor_numbers,
)
from .sources import Source, check_comparable
from .structure import (
    SCORE_FIGURES,
    Cutoffs,
    Key,
    Structure,
    compare_structures,
    first_peaks,
    pair_structure,
    scores,
    shell_structure,
    systematic_errors,
)
from .systematic import SystematicError

DEFINITIONS = {
    "mean_absolute": "mean over all bins of |model - all-atom|",
    "integrated_absolute": (
        "integral of |model - all-atom| over the axis: nm for RDFs, 1 for distributions"
    ),
    "rmse": "square root of the mean over all bins of (model - all-atom)^2",
    "jensen_shannon": (
        "Jensen-Shannon divergence in bits: 0 for equal, 1 for disjoint distributions; for RDFs"
        " that of pair distances"
    ),
    "overlap": "1 - integral |model - all-atom| / integral (model + all-atom)",
    "score": (
        "mean overlap of the curves of each observable (rdf, adf, cdf, coordination); combined:"
        " mean of the observables"
    ),
    "_se": (
        "standard error from the scatter of both trajectories in time, by blocks as long as needed"
    ),
    "at_least": "measures whose standard error is a lower bound, since the runs are too short",
    "_at_least": "1 where the standard error of a score is a lower bound, else 0",
    "independent_samples": (
        "of the all-atom and of the model curve: variance of a part in time over that of the mean;"
        " parts are at most 128"
    ),
    "bands_at_least": "whether the standard errors of the two curves are lower bounds",
    "_halves": (
        "the same between the two all-atom runs, or the two halves of a single one: more than what"
        " a perfect model would show, see perfect_rmse"
    ),
    "order_q6": (
        "mean over all frames; structure_factor_rmse: over the bins that both boxes fill;"
        " structure_factor_rmse_perfect: of a perfect model, noise alone"
    ),
    "systematic": (
        "root mean square difference without the noise of either: from (model - run 1)(model - run"
        " 2) over independent all-atom runs, less the variance of the model's own curve;"
        " systematic_limit: it is smaller with 95 % confidence; systematic_p: how often a perfect"
        " model would show as much; systematic_at_least: the runs are too short, or there is only"
        " one all-atom run, whose halves are not independent, so that se is a lower bound and p may"
        " be too small"
    ),
    "perfect_rmse": "rmse of a perfect model: noise alone; perfect_mean_absolute: likewise",
    "cutoffs": (
        "first minimum of the all-atom RDF of each pair, nm; longest arm of angles and radius of"
        " coordination numbers"
    ),
    "aggregation": (
        "frames with beads closer than closest_allowed of their types, or a cluster of beads in"
        " contact larger than largest_allowed (from the scatter of the all-atom extremes, at least"
        " a tenth below the smallest distance and twice the largest cluster); first_frame:"
        " the first of five such frames in a row"
    ),
    "dynamics": (
        "coefficient: nm^2/ps, one of diffusion only where diffusive is true (exponent of the MSD"
        " within 0.1 of 1); window: lag times of the fit, ps; speed_up: coefficient of the model"
        " over that of all-atom; time_factor: ratio of the times to the same MSD"
    ),
    "decorrelation": (
        "half_time: ps after which F(k,t)/F(k,0) of all waves in k_range (1/nm) is a half; at most"
        " that where half_time_is_bound; faster: half-time of all-atom over that of the model;"
        " slowest: of the function with the longest half-time"
    ),
    "samples": (
        "per_day: independent samples of the model in a day at the speed of its run, one per two of"
        " the longest half-times; ratio: to all-atom"
    ),
}


@dataclass(frozen=True)
class Analysis:
    """Everything computed from one trajectory.

    `order` is empty and `structure_factor` None unless they were asked for; `diffusion` and
    `decorrelation` are the reason where there is none.
    """

    source: Source
    structure: Structure
    diffusion: dict[str, Diffusion] | str
    decorrelation: Decorrelation | str
    order: dict[str, Curve[SteinhardtOrder]]
    structure_factor: Curve[StructureFactor] | None


@dataclass(frozen=True)
class Result:
    """One model run beside all-atom."""

    label: str
    analysis: Analysis
    comparisons: dict[Key, CurveComparison]
    aggregation: dict[str, Any]

    @cached_property
    def scores(self) -> dict[str, float | None]:
        return scores(self.comparisons)

    @cached_property
    def systematic(self) -> dict[str, SystematicError]:
        """Error without noise by observable."""
        return systematic_errors(self.comparisons)

    def score(self, name: str) -> float:
        """One of the `scores` that is not a standard error; only these can be None."""
        value = self.scores[name]
        assert value is not None
        return value

    def of_kind(self, kind: str) -> dict[tuple[str, ...], CurveComparison]:
        """Comparisons of one observable by bead types."""
        return {
            types: comparison
            for (found, types), comparison in self.comparisons.items()
            if found == kind
        }


@dataclass(frozen=True)
class Comparison:
    """All runs beside all-atom.

    Attributes
    ----------
    settings : ComparisonConfig
    r_max : float, nm
    cutoffs : Cutoffs
    limits : AggregationLimits
    all_atom : Analysis
    results : list of Result
    """

    settings: ComparisonConfig
    r_max: float
    cutoffs: Cutoffs
    limits: AggregationLimits
    all_atom: Analysis
    results: list[Result]

    def groups(self) -> dict[str, list[Result]]:
        """Runs by label; runs of one label are independent trainings."""
        labels = dict.fromkeys(result.analysis.source.label for result in self.results)
        return {
            label: [result for result in self.results if result.analysis.source.label == label]
            for label in labels
        }


def compare_models(
    all_atom: Source, models: Sequence[Source], settings: ComparisonConfig, everything: bool = True
) -> Comparison:
    """Compare trajectories of beads with an all-atom one.

    Parameters
    ----------
    all_atom : Source
        Of independent runs, see `joined_source`, errors without noise are told.
    models : sequence of Source
    settings : ComparisonConfig
    everything : bool
        With order parameters and structure factors, too.

    Raises
    ------
    AnalysisError
        If a trajectory has other beads or another box volume, is too short for errors, if a
        pair of bead types is empty, or r_max is above half the box.
    """
    for model in models:
        check_comparable(all_atom, model)
    largest = min(largest_r_max(source.boxes) for source in (all_atom, *models))
    r_max = settings.r_max or largest
    if r_max > largest:
        raise AnalysisError(
            f"comparison.r_max of {r_max:g} nm is above half the smallest box height; use at most"
            f" {largest:g} nm."
        )
    pairs = pair_structure(all_atom, settings, r_max)
    for types, curve in pairs.of_kind("rdf").items():
        if not curve.values.any():
            raise AnalysisError(
                f"Beads {'-'.join(types)} never come within {r_max:g} nm in the all-atom frames;"
                " raise comparison.r_max."
            )
    cutoffs = Cutoffs.of(pairs.of_kind("rdf"))
    limits = AggregationLimits.of(all_atom.positions, all_atom.boxes, all_atom.beads, r_max)
    reference = _analyze(all_atom, pairs, settings, cutoffs, everything)
    results = []
    for label, model in zip(_distinct(models), models, strict=True):
        model = replace(model, type_names=all_atom.type_names, charges=all_atom.charges)
        analysis = _analyze(
            model, pair_structure(model, settings, r_max), settings, cutoffs, everything
        )
        comparisons = compare_structures(reference.structure, analysis.structure)
        results.append(Result(label, analysis, comparisons, aggregation_numbers(model, limits)))
    return Comparison(settings, r_max, cutoffs, limits, reference, results)


def _analyze(
    source: Source, pairs: Structure, settings: ComparisonConfig, cutoffs: Cutoffs, everything: bool
) -> Analysis:
    structure = Structure(pairs.curves | shell_structure(source, settings, cutoffs).curves)
    dynamics = all_diffusion(source), decorrelation(source)
    if not everything:
        return Analysis(source, structure, *dynamics, {}, None)
    order, factor = order_curves(source, settings), structure_factor(source, settings)
    return Analysis(source, structure, *dynamics, order, factor)


def _distinct(models: Sequence[Source]) -> list[str]:
    """Labels, with a number where several models share one."""
    labels = [model.label for model in models]
    return [
        f"{label} {labels[: k + 1].count(label)}" if labels.count(label) > 1 else label
        for k, label in enumerate(labels)
    ]


# --- plain data ---


def report(comparison: Comparison) -> dict[str, Any]:
    """Everything but the curves, ready for JSON."""
    source = comparison.all_atom.source
    return {
        "all_atom": {
            "path": str(source.path.absolute()),
            "sha256": source.identity,
            "frames": len(source),
            "runs": len(source.separate()),
            "dynamics": diffusion_numbers(comparison.all_atom.diffusion, "itself"),
            **_sampling(comparison.all_atom),
            **order_numbers(comparison.all_atom.order),
            "aggregation_limits": comparison.limits.numbers(),
            "first_peaks": first_peaks(comparison.all_atom.structure),
        },
        "cutoffs": {
            "-".join(pair): distance for pair, distance in comparison.cutoffs.distances.items()
        },
        "pairs_without_first_minimum": ["-".join(pair) for pair in comparison.cutoffs.missing],
        "definitions": DEFINITIONS,
        "models": [_result(result, comparison) for result in comparison.results],
        "trainings": {
            label: _spread(group) for label, group in comparison.groups().items() if len(group) > 1
        },
    }


def _result(result: Result, comparison: Comparison) -> dict[str, Any]:
    analysis, reference = result.analysis, comparison.all_atom
    return {
        "label": result.label,
        "model": analysis.source.label,
        "path": str(analysis.source.path.absolute()),
        "sha256": analysis.source.identity,
        "frames": len(analysis.source),
        "scores": result.scores,
        "systematic": {kind: error.numbers() for kind, error in result.systematic.items()},
        "dynamics": diffusion_numbers(analysis.diffusion, reference.diffusion),
        **_sampling(analysis, reference),
        "aggregation": result.aggregation,
        "first_peaks": first_peaks(analysis.structure),
        **order_numbers(analysis.order),
        **structure_factor_numbers(analysis.structure_factor, reference.structure_factor),
        "curves": list(error_rows([result])),
    }


def _sampling(analysis: Analysis, reference: Analysis | None = None) -> dict[str, Any]:
    """How fast a trajectory forgets, how fast it was made, and what that makes of a day."""
    speed = analysis.source.speed
    return {
        "decorrelation": decorrelation_numbers(
            analysis.decorrelation, reference.decorrelation if reference else None
        ),
        "speed": speed.numbers() if speed else None,
        "samples": samples(analysis, reference),
    }


def samples(analysis: Analysis, reference: Analysis | None = None) -> dict[str, Any]:
    """Independent samples per day of a trajectory, beside those of another; `samples_numbers`."""
    own, other = (
        (each.decorrelation, each.source.speed) if each else None for each in (analysis, reference)
    )
    assert own is not None
    return samples_numbers(own, other)


def error_rows(results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    """Rows of errors, standard errors and errors of the all-atom halves, by run and curve."""
    for result in results:
        for (kind, types), comparison in result.comparisons.items():
            yield {
                "label": result.label,
                "observable": kind,
                "types": "-".join(types),
                **comparison.numbers(),
            }


def _spread(group: list[Result]) -> dict[str, Any]:
    """Mean and standard deviation over independent trainings, of the scores and of every error."""
    names = [name for name in group[0].scores if not name.endswith(SCORE_FIGURES)]
    curves = []
    for kind, types in group[0].comparisons:
        rows = np.array(
            [
                [getattr(result.comparisons[kind, types].error, name) for name in MEASURES]
                for result in group
            ]
        )
        values = zip(
            MEASURES, rows.mean(axis=0).tolist(), rows.std(axis=0, ddof=1).tolist(), strict=True
        )
        curves.append(
            {"observable": kind, "types": "-".join(types)}
            | {name: {"mean": mean, "std": std} for name, mean, std in values}
        )
    scores_of = {name: [result.score(name) for result in group] for name in names}
    return {
        "runs": [result.label for result in group],
        "scores": {
            name: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}
            for name, values in scores_of.items()
        },
        "curves": curves,
    }
