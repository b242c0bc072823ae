"""The pictures of a comparison: which curves go where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from openmm_cgkd.analysis.plotting import (
    Axis,
    Line,
    MapRow,
    Panel,
    draw_bars,
    draw_curves,
    draw_maps,
    save,
)
from openmm_cgkd.utils.statistics import error_words

from .curves import Curve, CurveComparison
from .models import Analysis, Comparison, Result
from .structure import KINDS

_DASH = "\u2013"  # as chemists write pairs
_MAPS, _MODELS = 4, 4  # rows and models in the picture of maps
_LEGEND = {"CG": "coarse-grained"}  # the label of a run in its own comparison, written out
_NAMES = {
    "rdf": "RDF",
    "adf": "ADF",
    "cdf": "CDF",
    "coordination": "coordination",
    "combined": "combined",
}


def write_pictures(
    comparison: Comparison, folder: Path, title: str, formats: Sequence[str] = ("png", "svg")
) -> None:
    """Pictures of all observables.

    Parameters
    ----------
    comparison : Comparison
    folder : Path
    title : str
        Name and state of the system.
    formats : sequence of str
        Suffixes.
    """
    drawn: dict[str, Callable[[Comparison, str], Figure | None]] = {
        "rdf": rdf_picture,
        "adf": adf_picture,
        "cdf": cdf_picture,
        "coordination": coordination_picture,
        "scores": score_picture,
        "msd": msd_picture,
        "order": order_picture,
        "structure_factor": structure_factor_picture,
    }
    for name, draw in drawn.items():
        figure = draw(comparison, title)
        if figure is not None:
            save(figure, folder / name, formats)


def rdf_picture(comparison: Comparison, title: str) -> Figure:
    """RDFs of all pairs."""
    panels = _panels(comparison, "rdf")
    contact = min(
        panel.x[np.argmax(np.max([line.y for line in panel.lines], axis=0) > 0.02)]
        for panel in panels
    )
    axis = Axis("r / nm", "g(r)", x_limits=(max(0.0, contact - 0.1), comparison.r_max), baseline=1)
    return draw_curves(panels, axis, title, _rdf_caption(comparison))


def _rdf_caption(comparison: Comparison) -> str:
    first = comparison.results[0].of_kind("rdf").values()
    perfect = np.mean([pair.systematic.perfect_mean_absolute for pair in first])
    errors = []
    for label, group in comparison.groups().items():
        mean = np.mean(
            [
                pair.error.mean_absolute
                for result in group
                for pair in result.of_kind("rdf").values()
            ]
        )
        errors.append(f"{mean:.3f}" if len(comparison.groups()) == 1 else f"{label} {mean:.3f}")
    shown = ", ".join(errors)
    return (
        f"error: mean |Δg| from 0 to {comparison.r_max:.3g} nm; mean of all pairs {shown}, of a"
        f" perfect model {perfect:.3f}\n{_data(comparison, 'rdf')}"
    )


def _data(comparison: Comparison, kind: str = "") -> str:
    """Sentence on the frames behind lines and bands."""
    frames = sorted({len(result.analysis.source) for result in comparison.results})
    counts = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}-{frames[-1]}"
    sizes = {len(group) for group in comparison.groups().values()}
    runs = "one trajectory each" if sizes == {1} else "one trajectory per training"
    bands = _bands(comparison, kind)
    if sizes != {1}:
        bands += "; where a model has several trainings: mean ±1 standard deviation over trainings"
    number = len(comparison.all_atom.source.separate())
    of_runs = f" of {number} runs" if number > 1 else ""
    all_atom = f"{len(comparison.all_atom.source)} all-atom frames{of_runs}"
    return f"{all_atom} and {counts} CG frames, {runs}; {bands}"


def _bands(comparison: Comparison, kind: str = "") -> str:
    """Sentence on the bands; of one observable also on errors that are lower bounds."""
    text = "bands: ±2 standard errors"
    bounds = {
        label: [curve.blocked.plateau for curve in _curves(analysis, kind)]
        for label, analysis in _all(comparison)
    }
    short = [label for label, plateaus in bounds.items() if not all(plateaus)]
    return f"{text}, at least, for {', '.join(short)} (short runs)" if short else text


def _curves(analysis: Analysis, kind: str) -> list[Curve[Any]]:
    if kind == "order":
        return list(analysis.order.values())
    if kind == "structure_factor":
        return [analysis.structure_factor] if analysis.structure_factor else []
    return list(analysis.structure.of_kind(kind).values())


def _shell_data(comparison: Comparison, kind: str) -> str:
    if comparison.settings.shell_frames is None:
        return _data(comparison, kind)
    return (
        f"at most {comparison.settings.shell_frames} frames of each trajectory, evenly spaced;"
        f" {_data(comparison, kind).split('; ', 1)[1]}"
    )


def adf_picture(comparison: Comparison, title: str) -> Figure | None:
    """ADFs of all triples, a row per apex."""
    panels = _panels(comparison, "adf", scale=1000)
    if not panels:
        return None
    names = len(comparison.all_atom.source.beads.type_names)
    columns = (
        names * (names + 1) // 2
        if len(panels) == names * names * (names + 1) // 2 and names > 1
        else None
    )
    axis = Axis(
        "angle / degrees", "p / 10⁻³ degree⁻¹", x_limits=(0, 180), same_height=False, angles=True
    )
    return draw_curves(
        panels,
        axis,
        title,
        f"angle at the middle bead, arms within the first shell\n{_shell_data(comparison, 'adf')}",
        columns,
    )


def coordination_picture(comparison: Comparison, title: str) -> Figure | None:
    """Distribution of the number of neighbours in the first shell of all ordered pairs."""
    panels = _panels(comparison, "coordination", "{1} around {0}")
    if not panels:
        return None
    last = max(np.flatnonzero(line.y > 0.005).max() for panel in panels for line in panel.lines)
    axis = Axis(
        "neighbours in the first shell",
        "share of beads",
        x_limits=(-0.3, last + 0.7),
        same_height=False,
        markers=True,
    )
    return draw_curves(panels, axis, title, _shell_data(comparison, "coordination"))


def cdf_picture(comparison: Comparison, title: str) -> Figure | None:
    """Distance-angle maps where the first run is furthest from all-atom."""
    found = comparison.results[0].of_kind("cdf")
    worst = sorted(
        found, key=lambda types: found[types].error.overlap - found[types].floor.overlap
    )[:_MAPS]
    rows = []
    for types in worst:
        whole = comparison.all_atom.structure.curves["cdf", types].whole
        maps = {"all-atom": whole.values}
        for label, group in islice(comparison.groups().items(), _MODELS):
            maps[_LEGEND.get(label, label)] = np.mean(
                [result.analysis.structure.curves["cdf", types].whole.values for result in group],
                axis=0,
            )
        rows.append(MapRow(_DASH.join(types), whole.r_edges, whole.angle_edges, maps))
    if not rows:
        return None
    caption = (
        "distance between the first two beads and angle at the middle one, third bead in the first"
        f" shell of the middle one; an ideal gas is 1\nthe {len(rows)} of {len(found)}"
        f" distributions furthest from all-atom; {_shell_data(comparison, 'cdf').split(';')[0]}"
    )
    return draw_maps(rows, title, caption)


def score_picture(comparison: Comparison, title: str) -> Figure:
    """Scores of all models."""
    kinds = [kind for kind in (*KINDS, "combined") if kind in comparison.results[0].scores]
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for kind in kinds:
        groups[_NAMES[kind]] = {}
        for label, group in comparison.groups().items():
            values = [result.score(kind) for result in group]
            error = (
                np.std(values, ddof=1)
                if len(values) > 1
                else 2 * (group[0].scores[f"{kind}_se"] or 0)
            )
            groups[_NAMES[kind]][_LEGEND.get(label, label)] = (
                1 - float(np.mean(values)),
                float(error),
            )
    floor = {_NAMES[kind]: 1 - comparison.results[0].score(f"{kind}_halves") for kind in kinds}
    short = [
        f"{result.label} {_NAMES[kind]}"
        for result in comparison.results
        for kind in kinds
        if result.scores[f"{kind}_at_least"]
    ]
    at_least = f", at least, for {', '.join(short)}" if short else ""
    caption = (
        "mismatch: 1 - overlap, mean over the curves of an observable; error bars as the"
        f" bands{at_least}:\n{_data(comparison)}"
    )
    return draw_bars(groups, floor, "mismatch with all-atom", title, caption)


def msd_picture(comparison: Comparison, title: str) -> Figure | None:
    """Mean-squared displacements where the time between frames is known."""
    known = [
        (label, analysis.diffusion)
        for label, analysis in _all(comparison)
        if not isinstance(analysis.diffusion, str)
    ]
    if len(known) < 2 or known[0][0] != "all-atom":
        return None
    panels = []
    for name in comparison.all_atom.source.beads.type_names:
        x = np.unique(np.concatenate([diffusion[name].lag_times[1:] for _, diffusion in known]))
        lines = []
        for label, diffusion in known:
            result = diffusion[name]
            y, band = (
                np.interp(x, result.lag_times, values, left=np.nan, right=np.nan)
                for values in (result.msd, 2 * result.msd_se)
            )
            y[x < result.lag_times[1]] = np.nan
            lines.append(Line(label, y, np.minimum(band, 0.9 * y)))
        panels.append(Panel(name, x, lines))
    axis = Axis("t / ps", "MSD / nm²", logarithmic=True)
    bounds = [
        f"{label} {name}"
        for label, diffusion in known
        for name, result in diffusion.items()
        if not result.independent
    ]
    caption = f"mean over all time origins; {_bands(comparison)}"
    caption += f", at least, for {', '.join(bounds)}" if bounds else ""
    return draw_curves(panels, axis, title, caption)


def order_picture(comparison: Comparison, title: str) -> Figure | None:
    """Distributions of the order parameter."""
    panels = _plain_panels(
        comparison, lambda analysis: {(name,): curve for name, curve in analysis.order.items()}
    )
    caption = f"12 nearest neighbours of whatever type; {_bands(comparison, 'order')}"
    return (
        draw_curves(panels, Axis("Steinhardt q₆", "density", x_limits=(0, 0.7)), title, caption)
        if panels
        else None
    )


def structure_factor_picture(comparison: Comparison, title: str) -> Figure | None:
    """Partial structure factors of all pairs."""
    if comparison.all_atom.structure_factor is None:
        return None
    whole = comparison.all_atom.structure_factor.whole
    lines = [
        (label, analysis.structure_factor.values, analysis.structure_factor.standard_error)
        for label, analysis in _all(comparison)
        if analysis.structure_factor is not None  # every trajectory has one, or none has
    ]
    filled = np.isfinite([values[0] for _, values, _ in lines]).all(axis=0)
    panels = [
        Panel(
            _DASH.join(map(str, pair)),
            whole.bin_centers[filled],
            [Line(label, y[k][filled], 2 * se[k][filled]) for label, y, se in lines],
        )
        for k, pair in enumerate(whole.pairs)
    ]
    axis = Axis("q / nm⁻¹", "S(q)", baseline=0, same_height=False, signed=True)
    caption = f"Ashcroft-Langreth partials; {_bands(comparison, 'structure_factor')}"
    return draw_curves(panels, axis, title, caption)


def _all(comparison: Comparison) -> list[tuple[str, Analysis]]:
    return [
        ("all-atom", comparison.all_atom),
        *(
            (_LEGEND.get(result.label, result.label), result.analysis)
            for result in comparison.results
        ),
    ]


def _plain_panels(comparison: Comparison, curves: Callable[[Analysis], dict]) -> list[Panel]:
    panels = []
    for types, reference in curves(comparison.all_atom).items():
        found = [(label, curves(analysis)[types]) for label, analysis in _all(comparison)]
        lines = [Line(label, curve.values, 2 * curve.standard_error) for label, curve in found]
        panels.append(Panel(_DASH.join(types), reference.whole.bin_centers, lines))
    return panels


def _panels(comparison: Comparison, kind: str, title: str = "", scale: float = 1) -> list[Panel]:
    """A panel per bead types with a line per model."""
    found = comparison.results[0].of_kind(kind)
    panels = []
    for types, first in found.items():
        whole = first.all_atom.whole
        lines = [Line("all-atom", first.all_atom.values, 2 * first.all_atom.standard_error)]
        for label, group in comparison.groups().items():
            lines.append(
                _line(
                    _LEGEND.get(label, label), [result.comparisons[kind, types] for result in group]
                )
            )
        lines = [Line(line.label, scale * line.y, scale * line.band) for line in lines]
        x = whole.numbers if kind == "coordination" else whole.bin_centers
        panels.append(
            Panel(
                title.format(*types) or _DASH.join(types),
                x,
                lines,
                _note(kind, comparison.results, types),
            )
        )
    return panels


def _line(label: str, comparisons: list[CurveComparison]) -> Line:
    curves = [comparison.coarse_grained for comparison in comparisons]
    if len(curves) == 1:
        return Line(label, curves[0].values, 2 * curves[0].standard_error)
    values = np.array([curve.values for curve in curves])
    return Line(label, values.mean(axis=0), values.std(axis=0, ddof=1))


def _note(kind: str, results: list[Result], types: tuple[str, ...]) -> str:
    """Error of an RDF of a single run, and that of a perfect model; empty for all else."""
    if kind != "rdf" or len(results) > 1:
        return ""
    comparison = results[0].comparisons[kind, types]
    error, spread = comparison.error.mean_absolute, comparison.error_se.mean_absolute
    words = error_words(spread, "mean_absolute" not in comparison.at_least, ".3f")
    perfect = comparison.systematic.perfect_mean_absolute
    return f"error {error:.3f} ± {words}\nperfect model {perfect:.3f}"
