"""The curves of a comparison as charts, for the page and for the pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_cgkd.analysis.plotting import Axis, Line, MapRow, Panel
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import error_words

from .run_record import Contents, Run, error_column

REFERENCE_LABEL = "all-atom"
_DASH = "\u2013"  # as chemists write pairs
_STANDARD_ERRORS = 2  # half width of a band
_NOTED = 3  # errors are written into the panels of at most three models


@dataclass(frozen=True)
class Chart:
    """Panels side by side.

    Attributes
    ----------
    name : str
        Of the picture files and of the CSV file with the numbers.
    title, caption : str
    axis : Axis
    panels : list of Panel
        All-atom is the first line of each.
    columns : int or None
        Panels in a row, if that means something.
    """

    name: str
    title: str
    caption: str
    axis: Axis
    panels: list[Panel]
    columns: int | None = None


@dataclass(frozen=True)
class Maps:
    """Distance-angle distributions, the one furthest from all-atom first."""

    title: str
    caption: str
    rows: list[MapRow]


def charts(contents: Contents) -> list[Chart]:
    """All charts whose numbers are there, in the order of the page."""
    made = [
        _rdf(contents),
        _adf(contents),
        _coordination(contents),
        _msd(contents),
        _order(contents),
        _structure_factor(contents),
    ]
    return [chart for chart in made if chart is not None]


def data_sentence(contents: Contents, table: str) -> str:
    """Sentences on the frames behind the lines of a table, and on their bands."""
    frames = _shell_frames if table in ("adf", "coordination") else _frames
    return f"{frames(contents)} {_bands(contents, table)}"


def _frames(contents: Contents) -> str:
    numbers = sorted({run.record["frames"] for run in contents.runs})
    counts = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}{_DASH}{numbers[-1]}"
    runs = (
        "one trajectory"
        if len(contents.runs) == 1
        else f"each of {len(contents.runs)} trajectories, one of each run"
    )
    return (
        f"Data: {contents.data['all_atom']['frames']} all-atom frames of"
        f" {_trajectories(contents.data['all_atom']['runs'])} and {counts} coarse-grained frames"
        f" of {runs}."
    )


def _trajectories(number: int) -> str:
    return "one trajectory" if number == 1 else f"{number} independent trajectories"


def _shell_frames(contents: Contents) -> str:
    most = (
        f" At most {contents.shell_frames} of them, evenly spaced, of each trajectory."
        if contents.shell_frames
        else ""
    )
    return f"{_frames(contents)}{most}"


def _bands(contents: Contents, table: str) -> str:
    text = f"Bands: ±{_STANDARD_ERRORS} standard errors from blocks of time as long as needed"
    if short := contents.lower_bounds(table):
        text += f"; runs too short for that, so at least: {', '.join(short)}"
    several = [
        f"{name} ({len(runs)} trainings)" for name, runs in contents.models.items() if len(runs) > 1
    ]
    return (
        f"{text}; {', '.join(several)}: mean ±1 standard deviation over independent trainings."
        if several
        else f"{text}."
    )


# --- from tables to panels ---


def _rdf(contents: Contents) -> Chart:
    panels = _panels(contents, "rdf", "g")
    contact = min(
        panel.x[np.argmax(np.max([line.y for line in panel.lines], axis=0) > 0.02)]
        for panel in panels
    )
    axis = Axis("r / nm", "g(r)", x_limits=(max(0.0, contact - 0.1), contents.r_max), baseline=1)
    caption = (
        "Radial distribution functions of all pairs of bead types, 1 for an ideal gas. The error"
        f" is the mean of |Δg|, model against all-atom, from 0 to {contents.r_max:.3g} nm, ± its"
        " standard error; a perfect model would show the last figure by noise alone."
        f" {data_sentence(contents, 'rdf')}"
    )
    return Chart("rdf", "Radial distribution functions", caption, axis, panels)


def _adf(contents: Contents) -> Chart | None:
    panels = _panels(contents, "adf", "p / degree^-1", scale=1000)
    if not panels:
        return None
    # a row for every bead type in the middle, if all triples are there
    types = len({name for panel in panels for name in panel.title.split(_DASH)})
    columns = (
        types * (types + 1) // 2
        if len(panels) == types * types * (types + 1) // 2 and types > 1
        else None
    )
    axis = Axis(
        "angle / degrees", "p / 10⁻³ degree⁻¹", x_limits=(0, 180), same_height=False, angles=True
    )
    caption = (
        "Angular distribution functions: the angle at the middle bead of each triple, both arms"
        " within the first coordination shell (first minimum of the all-atom RDF)."
        f" {data_sentence(contents, 'adf')}"
    )
    return Chart("adf", "Angular distribution functions", caption, axis, panels, columns)


def _coordination(contents: Contents) -> Chart | None:
    panels = _panels(contents, "coordination", "share", "{1} around {0}")
    if not panels:
        return None
    last = max(
        panel.x[np.flatnonzero(line.y > 0.005).max()] for panel in panels for line in panel.lines
    )
    axis = Axis(
        "neighbours in the first shell",
        "share of beads",
        x_limits=(-0.3, last + 0.7),
        same_height=False,
        markers=True,
    )
    caption = (
        "How many neighbours beads have in their first coordination shell."
        f" {data_sentence(contents, 'coordination')}"
    )
    return Chart("coordination", "Coordination numbers", caption, axis, panels)


def _msd(contents: Contents) -> Chart | None:
    rows = _rows(contents, "msd", "type", ("t / ps", "msd / nm^2", "se"))
    labels = {label for _, label in rows}
    if "AA" not in labels or len(labels) < 2:
        return None
    axis = Axis("t / ps", "MSD / nm²", logarithmic=True)
    caption = (
        "Mean-squared displacement over all time origins, in the model's own time: where its curve"
        f" lies higher it moves faster than all-atom. {data_sentence(contents, 'msd')}"
    )
    panels = _row_panels(contents, rows)
    for panel in panels:
        for line in panel.lines:
            # the logarithm of what is left must exist
            np.minimum(line.band, 0.9 * line.y, out=line.band)
    return Chart("msd", "Mean-squared displacement", caption, axis, panels)


def _order(contents: Contents) -> Chart | None:
    rows = _rows(contents, "order", "type", ("q6", "density", "se"))
    if not rows:
        return None
    caption = (
        "Steinhardt's bond order parameter over the 12 nearest neighbours of whatever type."
        f" {data_sentence(contents, 'order')}"
    )
    axis = Axis("Steinhardt q₆", "density", x_limits=(0, 0.7))
    return Chart("order", "Bond order", caption, axis, _row_panels(contents, rows))


def _structure_factor(contents: Contents) -> Chart | None:
    rows = _rows(contents, "structure_factor", "types", ("q / nm^-1", "S", "se"))
    if not rows:
        return None
    axis = Axis("q / nm⁻¹", "S(q)", baseline=0, same_height=False, signed=True)
    caption = (
        "Partial structure factors (Ashcroft and Langreth): like types tend to 1, unlike ones to"
        f" 0. {data_sentence(contents, 'structure_factor')}"
    )
    return Chart(
        "structure_factor", "Structure factors", caption, axis, _row_panels(contents, rows)
    )


def _panels(
    contents: Contents, kind: str, value: str, title: str = "", scale: float = 1.0
) -> list[Panel]:
    """Panels of a table with a column per bead types and run."""
    columns = contents.table(kind)
    if columns is None:
        if contents.runs[0].curves(kind):
            raise AnalysisError(
                f"{contents.folder / kind}.csv: no such file, though comparison.json has its"
                " errors; compare again."
            )
        return []
    x = np.array(next(iter(columns.values())), dtype=float)
    panels = []
    for types in contents.runs[0].curves(kind):
        read = {
            label: (
                scale * np.array(columns[f"{types} {label} {value}"], dtype=float),
                scale * np.array(error_column(columns, f"{types} {label} {value}"), dtype=float),
            )
            for label in ("AA", *(run.label for run in contents.runs))
        }
        names = types.split("-")
        panels.append(
            Panel(
                title.format(*names) or _DASH.join(names),
                x,
                _lines(contents, read),
                _note(contents, kind, types),
            )
        )
    return panels


def _rows(
    contents: Contents, table: str, group: str, columns: tuple[str, str, str]
) -> dict[tuple[str, str], np.ndarray]:
    """Curves, shape (3, n), of a table with a row per point, by bead types and run."""
    found = contents.table(table)
    if found is None:
        return {}
    keys = list(zip(found[group], found["run"], strict=True))
    values = np.array([found[name] for name in columns], dtype=float)
    return {
        key: values[:, [k for k, other in enumerate(keys) if other == key]]
        for key in dict.fromkeys(keys)
    }


def _row_panels(contents: Contents, rows: dict[tuple[str, str], np.ndarray]) -> list[Panel]:
    panels = []
    for types in dict.fromkeys(types for types, _ in rows):
        curves = {
            label: curve[:, np.isfinite(curve[1]) & (curve[0] > 0)]
            for (found, label), curve in rows.items()
            if found == types
        }
        # trajectories may have other frame intervals: curves are brought to common points, within
        # what each covers
        x = np.unique(np.concatenate([curve[0] for curve in curves.values()]))
        read = {
            label: (
                np.interp(x, points, values, left=np.nan, right=np.nan),
                np.interp(x, points, errors, left=np.nan, right=np.nan),
            )
            for label, (points, values, errors) in curves.items()
        }
        panels.append(Panel(_DASH.join(types.split("-")), x, _lines(contents, read)))
    return panels


def _lines(contents: Contents, read: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Line]:
    """Lines of all-atom, which comes first, and of every model.

    A band shows standard errors, or the standard deviation over several trainings of a model.
    """
    y, se = read["AA"]
    lines = [Line(REFERENCE_LABEL, y, _STANDARD_ERRORS * se)]
    for name, runs in contents.models.items():
        if any(run.label not in read for run in runs):  # its times are not known
            continue
        values = np.array([read[run.label][0] for run in runs])
        band = (
            values.std(axis=0, ddof=1)
            if len(runs) > 1
            else _STANDARD_ERRORS * read[runs[0].label][1]
        )
        lines.append(Line(name, values.mean(axis=0), band))
    return lines


def mean_error(runs: list[Run], kind: str, types: str) -> tuple[float, float | None]:
    """Mean absolute error of a curve, and its standard error.

    Of several trainings the mean and the standard deviation over them.
    """
    found = [run.curves(kind)[types] for run in runs]
    values = [curve["mean_absolute"] for curve in found]
    error = float(np.std(values, ddof=1)) if len(values) > 1 else found[0]["mean_absolute_se"]
    return float(np.mean(values)), error


def _note(contents: Contents, kind: str, types: str) -> str:
    """Errors and floor of an RDF; empty for other observables and for many models."""
    if kind != "rdf" or len(contents.models) > _NOTED:
        return ""
    notes = []
    for name, runs in contents.models.items():
        value, error = mean_error(runs, kind, types)
        plateau = len(runs) > 1 or "mean_absolute" not in runs[0].curves(kind)[types]["at_least"]
        spread = "" if error is None else f" ± {error_words(error, plateau, '.3f')}"
        notes.append(f"{'error' if len(contents.models) == 1 else name} {value:.3f}{spread}")
    perfect = contents.runs[0].curves(kind)[types]["perfect_mean_absolute"]
    return "\n".join([*notes, f"perfect model {perfect:.3f}"])


# --- maps ---


def maps(contents: Contents) -> Maps | None:
    """Distance-angle distributions of all triples."""
    columns = contents.table("cdf")
    found = contents.runs[0].curves("cdf")
    if columns is None or not found:
        return None
    names = columns["types"]
    rows = []
    for types in sorted(
        found, key=lambda key: found[key]["overlap"] - found[key]["overlap_halves"]
    ):
        first, last = names.index(types), len(names) - names[::-1].index(types)
        r, angle = (
            np.unique(np.array(columns[axis][first:last], dtype=float))
            for axis in ("r / nm", "angle / degree")
        )
        shape = (len(r), len(angle))
        values = {
            label: _map(columns, label, slice(first, last), shape)
            for label in ("AA", *(run.label for run in contents.runs))
        }
        shown = {REFERENCE_LABEL: values["AA"]}
        for name, runs in contents.models.items():
            shown[name] = np.mean([values[run.label] for run in runs], axis=0)
        rows.append(MapRow(_DASH.join(types.split("-")), _edges(r), _edges(angle), shown))
    caption = (
        "Combined distance-angle distributions: the distance between the first two beads of a"
        " triple and the angle at the middle one, the third bead in the first shell of the middle"
        " one; an ideal gas is 1. The triple furthest from all-atom comes first."
        f" {_shell_frames(contents)}"
    )
    return Maps("Distance-angle distributions", caption, rows)


def _map(
    columns: dict[str, list[str]], label: str, part: slice, shape: tuple[int, int]
) -> np.ndarray:
    return np.array(columns[f"{label} h"][part], dtype=float).reshape(shape)


def _edges(centers: np.ndarray) -> np.ndarray:
    """Edges of equal bins."""
    half = 0.5 * (centers[1] - centers[0])
    return np.append(centers - half, centers[-1] + half)
