"""Numbers of a study as tables: a row per variant and seed, and statistics over the seeds."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.utils.records import read_record
from scripts.claims import mean_and_deviation, p_value, verdict, words

from .plan import VariantRun
from .variant_runs import ERRORS, FAILURE, WALL, speed_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A column that is shown.

    Attributes
    ----------
    key : str
        Of the row.
    heading : str
    digits : int
    floor : str
        Key of what all-atom itself shows, if it does.
    """

    key: str
    heading: str
    digits: int
    floor: str = ""


METRICS = (
    Metric("mean_force_rmse", "RMSE against mean forces / kJ/mol/nm", 1),
    Metric("mapped_share", "force loss, held-out / label variance", 4),
    Metric("rdf_error", "RDF error", 3, "rdf_halves"),
    Metric("adf_error", "ADF error", 3, "adf_halves"),
    Metric("cdf_error", "CDF error", 3, "cdf_halves"),
    Metric("peak_error", "first-peak height error", 3),
    Metric("aggregated", "share of frames aggregated", 2),
    Metric("survived", "share of replicas that survive", 2),
    Metric("step_time_ms", "ms per step", 2),
    Metric("ns_per_day", "ns/day", 0),
)
# each holds where errors of the first are below those of the second, trained with the same seed
CLAIMS = {
    "the ensemble is better than direct force matching": ("committee", "direct"),
    "a student of the ensemble is better than one of a single teacher": (
        "ensemble-F+e",
        "single-F+e",
    ),
    "the student is better than the ensemble": ("ensemble-F+e", "committee"),
    "distillation is better than direct force matching": ("ensemble-F+e", "direct"),
    "per-bead energies help": ("ensemble-F+e", "ensemble-F"),
    "total energies help": ("ensemble-F+E", "ensemble-F"),
}
CLAIMED = ("mean_force_rmse", "rdf_error", "adf_error", "cdf_error")
# measure of each observable in comparison.json: distributions integrate to 1, so their
# difference is a number from 0 to 2
_MEASURES = {"rdf": "mean_absolute", "adf": "integrated_absolute", "cdf": "integrated_absolute"}


def read_row(variant_run: VariantRun) -> Row:
    """Everything that is known of a finished variant run.

    What it does not have, such as a comparison after an early explosion, is absent.
    """
    folder = RunFolder(variant_run.run)
    row: Row = {
        "variant": variant_run.variant.name,
        "seed": variant_run.seed,
        **_json(folder.root / ERRORS),
    }
    row |= _structure(_json(folder.comparison / "comparison.json"))
    row |= _stability(_json(folder.root / "stability" / "stability.json"))
    simulation, failure = _json(folder.simulation / "simulation.json"), _json(folder.root / FAILURE)
    row["simulated_ps"] = (
        simulation["steps"] * simulation["timestep_ps"] if simulation else failure.get("time")
    )
    row["mean_temperature"] = simulation.get("mean_temperature")
    row["failure"] = failure.get("detail", "")
    row |= speed_of(variant_run)
    row["wall_hours"] = sum(_json(folder.root / WALL).values()) / 3600
    return row


def _json(path: Path) -> dict[str, Any]:
    return read_record(path) if path.exists() else {}


def _structure(report: dict[str, Any]) -> Row:
    if not report:
        return {}
    model = report["structure"]["models"][0]
    row: Row = {}
    for observable, measure in _MEASURES.items():
        curves = [curve for curve in model["curves"] if curve["observable"] == observable]
        if curves:
            row[f"{observable}_error"] = float(np.mean([curve[measure] for curve in curves]))
            row[f"{observable}_halves"] = float(
                np.mean([curve[f"{measure}_halves"] for curve in curves])
            )
    ratios = []
    for pair in report["pairs"]:
        name, peaks = "-".join(pair["types"]), pair["first_peak"]
        row[f"rdf_error {name}"] = pair["mean_absolute_error"]
        for what in ("height", "position"):
            row[f"peak_{what} {name}"] = peaks["coarse_grained"][what]
            row[f"peak_{what}_all_atom {name}"] = peaks["all_atom"][what]
        if None not in (
            heights := [peaks[who]["height"] for who in ("coarse_grained", "all_atom")]
        ):
            ratios.append(abs(heights[0] / heights[1] - 1))
    row["peak_error"] = float(np.mean(ratios)) if ratios else None
    row["score"], row["score_halves"] = (
        model["scores"]["combined"],
        model["scores"]["combined_halves"],
    )
    row["aggregated"] = model["aggregation"]["share_of_frames"]
    return row


def _stability(report: dict[str, Any]) -> Row:
    if not report:
        return {}
    return {
        "replicas": report["replicas"],
        "replica_ps": report["duration"],
        "survived": report["survival_at_end"]["share"],
        "mean_time_ps": float(np.mean([run["time"] for run in report["runs"]])),
        "failures_per_ns_below": report["failures_per_ns_below"],
    }


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation (n - 1) over the seeds of every number of every variant.

    The standard deviation needs two seeds.
    """
    summary = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        group = [row for row in rows if row["variant"] == name]
        entry: Row = {"variant": name, "seeds": len(group)}
        for key in columns(group):
            values = [row[key] for row in group if _is_number(row.get(key))]
            if key in ("variant", "seed") or not values:
                continue
            entry[key] = float(np.mean(values))
            entry[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary.append(entry)
    return summary


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def columns(rows: Sequence[Row]) -> list[str]:
    """Keys of all rows in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file; what a row does not have stays empty."""
    header = columns(rows)
    write_csv(path, header, ([row.get(key) for key in header] for row in rows))


def peak_rows(summary: Sequence[Row]) -> list[Row]:
    """First peaks of the RDFs, pair by pair: all-atom, then every variant.

    Variants have mean and standard deviation over seeds.
    """
    pairs = [
        key.removeprefix("peak_height ")
        for key in columns(summary)
        if key.startswith("peak_height ") and not key.endswith("_std")
    ]
    rows = []
    for pair in pairs:
        known = next(entry for entry in summary if f"peak_height_all_atom {pair}" in entry)
        rows.append(
            {
                "pair": pair,
                "variant": "all-atom",
                **{w: known.get(f"peak_{w}_all_atom {pair}") for w in ("height", "position")},
            }
        )
        for entry in summary:
            found = {
                f"{what}{end}": entry.get(f"peak_{what} {pair}{end}")
                for what in ("height", "position")
                for end in ("", "_std")
            }
            rows.append({"pair": pair, "variant": entry["variant"], **found})
    return rows


def shown(entry: Row, metric: Metric) -> str:
    """Mean and standard deviation in words."""
    value, deviation = entry.get(metric.key), entry.get(f"{metric.key}_std")
    if value is None:
        return "-"
    return f"{value:.{metric.digits}f}" + (
        "" if deviation is None else f" ± {deviation:.{metric.digits}f}"
    )


def markdown(summary: Sequence[Row]) -> str:
    """The main numbers as a table, on top what all-atom shows itself."""
    used = [metric for metric in METRICS if any(metric.key in entry for entry in summary)]
    lines = [["variant", "seeds", *(metric.heading for metric in used)], ["---"] * (len(used) + 2)]
    known = next((entry for entry in summary if "rdf_halves" in entry), {})
    lines.append(
        [
            "all-atom halves",
            "",
            *(shown({metric.key: known.get(metric.floor)}, metric) for metric in used),
        ]
    )
    lines += [
        [entry["variant"], str(entry["seeds"]), *(shown(entry, metric) for metric in used)]
        for entry in summary
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def claim_rows(
    rows: Sequence[Row], claims: Mapping[str, tuple[str, str]] | None = None
) -> list[Row]:
    """Ratios of errors of pairs of variants, and whether they are below 1.

    They are taken over the seeds that both variants have.

    Parameters
    ----------
    rows : sequence of Row
    claims : mapping, optional
        Pairs of variants by what is claimed; `CLAIMS` if absent.
    """
    found = []
    for claim, (variant, other) in (claims or CLAIMS).items():
        first, second = (
            {row["seed"]: row for row in rows if row["variant"] == name}
            for name in (variant, other)
        )
        for key in CLAIMED:
            pairs = [
                (first[seed].get(key), second[seed].get(key))
                for seed in sorted(first.keys() & second.keys())
            ]
            ratios = [one / two for one, two in pairs if _is_number(one) and _is_number(two)]
            if ratios:
                value = mean_and_deviation(ratios)
                found.append(
                    {
                        "claim": claim,
                        "error": key,
                        "seeds": len(ratios),
                        **value,
                        "p": p_value(value, len(ratios)),
                        "holds": verdict(value, len(ratios)),
                    }
                )
    return found


def claims_markdown(claims: Sequence[Row]) -> str:
    """Claims from top to bottom, errors from left to right; empty if none was tested."""
    headings = {metric.key: metric.heading for metric in METRICS}
    keys = [key for key in CLAIMED if any(row["error"] == key for row in claims)]
    if not keys:
        return ""
    lines = [
        ["ratio of errors below 1?", *(headings[key] for key in keys)],
        ["---"] * (len(keys) + 1),
    ]
    for claim in dict.fromkeys(row["claim"] for row in claims):
        by_key = {row["error"]: row for row in claims if row["claim"] == claim}
        lines.append(
            [
                claim,
                *(
                    words(row, row["p"], row["holds"], 3) if (row := by_key.get(key)) else "-"
                    for key in keys
                ),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def wall_rows(variant_runs: Sequence[VariantRun]) -> list[Row]:
    """Wall time of every stage, seconds.

    Variant runs go side by side, so the sum is more than the time that passed.
    """
    folders = dict.fromkeys(
        RunFolder(run).root
        for variant_run in variant_runs
        for run in (variant_run.teachers, variant_run.run)
        if run is not None
    )
    found = [(folder.parent.name, folder.name, _json(folder / WALL)) for folder in folders]
    return [
        {"seed": seed, "folder": name, "stage": stage, "seconds": wall[stage]}
        for seed, name, wall in found
        for stage in wall
    ]


def machine() -> dict[str, Any]:
    """What the numbers were made on; nothing that names the machine or its folders."""
    import torch

    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("openmm_cgkd", "torch", "openmm", "torchmd-net", "numba", "numpy")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
