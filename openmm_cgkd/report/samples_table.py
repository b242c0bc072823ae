"""Tables of how fast the runs forget their arrangement, and of independent samples per day."""

from __future__ import annotations

from typing import Any

from openmm_cgkd.analysis.comparison.decorrelation import HALF_TIMES_PER_SAMPLE, function_words

from .charts import REFERENCE_LABEL
from .run_record import Contents
from .tables import Table, error_cell


def _records(contents: Contents) -> list[tuple[str, dict[str, Any]]]:
    return [
        (REFERENCE_LABEL, contents.data["all_atom"]),
        *((run.name, run.record) for run in contents.runs),
    ]


def samples(contents: Contents) -> Table | None:
    """Independent samples per day of all-atom and of the models; None if nothing is known."""
    rows: list[list[Any]] = []
    absent: dict[str, str] = {}  # who lacks something first, by the reason
    for label, record in _records(contents):
        speed, found = record["speed"] or {}, record["samples"]
        slowest = record["decorrelation"].get("slowest", {})
        rows.append(
            [
                label,
                speed.get("ns_per_day"),
                speed.get("hardware"),
                function_words(slowest["function"], slowest["types"]) if slowest else None,
                *_cells(slowest, "half_time", "<= "),
                *_cells(found, "per_day", ">= "),
                *_cells(found, "ratio", ">= "),
            ]
        )
        reason = found.get("absent") or found.get("ratio_absent") or found.get("ratio_note")
        if reason:
            absent.setdefault(reason, label)
    if all(value is None for row in rows for value in row[1:]):
        return None
    header = [
        "run",
        "ns/day",
        "measured on",
        "slowest function",
        "half-time / ps",
        "±",
        "samples/day",
        "±",
        "samples, times all-atom",
        "±",
    ]
    caption = (
        f"One independent sample per {HALF_TIMES_PER_SAMPLE} half-times of the slowest"
        " intermediate scattering function (next table), at the speed that each run measured. They"
        " are samples of each run's own model: more of them make the averages of that model more"
        " certain, not the model itself. ±: standard error (>=: at least)."
    )
    notes = " ".join(f"{label}: {_sentence(reason)}" for reason, label in absent.items())
    return Table("samples", "Independent samples", f"{caption} {notes}".strip(), header, rows)


def decorrelation(contents: Contents) -> Table | None:
    """Half-times of all functions; None if no trajectory has any."""
    rows, absent = [], []
    for label, record in _records(contents):
        found = record["decorrelation"]
        if "absent" in found:
            absent.append(f"{label}: {found['absent']}")
            continue
        for row in found["functions"]:
            words = function_words(row["function"], row["types"])
            rows.append(
                [label, words, *_cells(row, "half_time", "<= "), *_cells(row, "faster", ">= ")]
            )
            if "absent" in row:
                absent.append(f"{label}: {row['absent']}")
    if not rows:
        return None
    low, high = contents.data["all_atom"]["decorrelation"].get("k_range", (None, None))
    waves = f" of waves with k from {low:g} to {high:g} nm⁻¹" if low is not None else ""
    caption = (
        "Time after which the self (F_s) and the collective intermediate scattering functions"
        f"{waves} have fallen to a half; <=: they fall within the time between frames; times"
        " faster: half-time of all-atom over that of the model. ±: standard error (>=: at least)."
    )
    header = ["run", "function", "half-time / ps", "±", "times faster than all-atom", "±"]
    text = f"{caption} {' '.join(absent)}".strip()
    return Table("decorrelation", "Decorrelation", text, header, rows)


def _cells(numbers: dict[str, Any], name: str, bound: str) -> list[Any]:
    """A number and its standard error; a bound as text, nothing where it is not known."""
    value = numbers.get(name)
    if value is None:
        return [None, None]
    if numbers[f"{name}_is_bound"]:
        return [f"{bound}{value:.3g}", None]
    return [value, error_cell(numbers[f"{name}_se"], not numbers[f"{name}_at_least"])]


def _sentence(words: str) -> str:
    return words if words.endswith(".") else f"{words}."
