"""The table of the student's force errors on the test part."""

from __future__ import annotations

from typing import Any

from .run_record import Contents
from .tables import Table, error_cell

_HEADER = [
    "run",
    "beads",
    "single frames",
    "±",
    "teachers",
    "±",
    "mean force, implied",
    "±",
    "mean force, measured",
    "±",
    "configurations",
    "p",
]
_CAPTION = (
    "Root mean square error of a force component in kJ/mol/nm, on the all-atom frames that neither"
    " training nor any choice has used ({frames}). Single frames: against the forces that all atoms"
    " put on the beads in each frame. Most of this error is thermal noise: many arrangements of the"
    " atoms belong to one arrangement of the beads, and their forces differ. No model of beads can"
    " predict that, so this error does not reach zero. Teachers: against the mean of the teachers."
    " Mean force: against the mean over all arrangements of the atoms, which a perfect model gives;"
    " this is the error of the model itself. Implied: from the error of single frames and the"
    " measured noise, root of the difference of their squares. Measured: where mean forces were"
    " computed with held beads, on configurations held out of the training. p: how often chance"
    " alone makes implied and measured differ as much; below 0.01 one of the two is wrong. ±:"
    " standard error (>=: at least)."
)


def forces(contents: Contents) -> Table | None:
    """Errors of the students' forces, of all beads and by type; None if no run knows them."""
    tested = {run.name: run.test for run in contents.runs if run.test}
    if not tested:
        return None
    rows = [row for name, test in tested.items() for row in _rows(name, test)]
    counts = [f"{name}: {test['frames']} frames" for name, test in tested.items()]
    caption = _CAPTION.format(frames="; ".join(counts))
    return Table("forces", "Forces of the student on new frames", caption, _HEADER, rows)


def _rows(name: str, test: dict[str, Any]) -> list[list[Any]]:
    teachers, means = test.get("teachers", {}), test.get("mean_forces")
    rows = []
    for beads, mapped in test["mapped"].items():
        implied = means["implied"][beads] if means else None
        rows.append([name, beads, *_pair(mapped), *_pair(teachers.get(beads)), *_pair(implied)])
        if means and beads == "all":  # of single types nothing was compared
            measured = means["measured"]
            rows[-1] += [*_pair(measured), _places(measured), means["p_value"]]
        else:
            rows[-1] += [None] * 4
    return rows


def _pair(entry: dict[str, Any] | None) -> list[Any]:
    """An error and its standard error."""
    if entry is None:
        return [None, None]
    return [entry["rmse"], error_cell(entry["rmse_se"], not entry.get("at_least", False))]


def _places(measured: dict[str, Any]) -> str:
    """How many configurations were measured, and whether the student could have learned them."""
    return f"{measured['configurations']}{'' if measured['held_out'] else ', not all held out'}"
