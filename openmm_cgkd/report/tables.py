"""Tables of a report, for the page and for the CSV files beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from openmm_cgkd.analysis.observables.rdf import first_peak

from .charts import REFERENCE_LABEL
from .run_record import Contents, Run

_OBSERVABLES = {
    "rdf": "RDF",
    "adf": "ADF",
    "cdf": "CDF",
    "coordination": "coordination",
    "combined": "combined",
}


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes
    ----------
    name : str
        Of the CSV file.
    title, caption : str
    header : list of str
    rows : list of list
        Text, numbers, and None where nothing is known.
    """

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[Any]]


def scores(contents: Contents) -> Table:
    """Overlap with all-atom by observable."""
    first = contents.runs[0].record["scores"]
    kinds = [kind for kind in _OBSERVABLES if kind in first]
    header = ["run", *(title for kind in kinds for title in (_OBSERVABLES[kind], "±"))]
    rows = [
        [run.name, *(run.record["scores"][f"{kind}{end}"] for kind in kinds for end in ("", "_se"))]
        for run in contents.runs
    ]
    for name, spread in contents.data["trainings"].items():
        values = (spread["scores"][kind][which] for kind in kinds for which in ("mean", "std"))
        rows.append([f"{name}, {len(spread['runs'])} trainings", *values])
    rows.append(
        ["all-atom halves", *(value for kind in kinds for value in (first[f"{kind}_halves"], None))]
    )
    caption = (
        "Score: mean overlap with all-atom of the curves of each observable, 1 for equal curves;"
        " combined: the mean of the observables. ±: standard error, jackknife over"
        f" {contents.blocks} time blocks of both trajectories; of several trainings the standard"
        " deviation over them. What counts is the distance to the last row, the halves of the"
        " all-atom frames against each other."
    )
    return Table("scores", "Scores", caption, header, rows)


def errors(contents: Contents, observables: tuple[str, ...], name: str) -> Table | None:
    """Errors of every curve of some observables."""
    rows = []
    for run in contents.runs:
        for curve in run.record["curves"]:
            if curve["observable"] in observables:
                error, floor = curve["mean_absolute"], curve["mean_absolute_halves"]
                measures = [curve[measure] for measure in ("rmse", "jensen_shannon", "overlap")]
                which = f"{_OBSERVABLES[curve['observable']]} {curve['types']}"
                rows.append(
                    [
                        run.name,
                        which,
                        error,
                        curve["mean_absolute_se"],
                        floor,
                        error / floor if floor else None,
                        *measures,
                    ]
                )
    if not rows:
        return None
    caption = (
        "mean |Δ|: mean absolute difference from all-atom over all bins, in the unit of the curve;"
        f" ±: its standard error (jackknife over {contents.blocks} time blocks of both"
        " trajectories); floor: the same between the halves of the all-atom frames."
    )
    header = [
        "run",
        "curve",
        "mean |Δ|",
        "±",
        "floor",
        "error / floor",
        "RMSE",
        "Jensen-Shannon / bit",
        "overlap",
    ]
    return Table(
        name,
        f"Errors: {', '.join(_OBSERVABLES[kind] for kind in observables)}",
        caption,
        header,
        rows,
    )


def peaks(contents: Contents) -> Table:
    """First peaks of the RDFs."""
    columns = contents.table("rdf")
    assert columns is not None  # without this table there is no chart, so no page
    r = np.array(columns["r / nm"], dtype=float)
    rows = []
    for types in contents.runs[0].curves("rdf"):
        for label, name in (
            ("AA", REFERENCE_LABEL),
            *((run.label, run.name) for run in contents.runs),
        ):
            peak = first_peak(r, np.array(columns[f"{types} {label} g"], dtype=float))
            rows.append([types, name, *((peak.position, peak.height) if peak else (None, None))])
    caption = "Position and height of the first peak of each RDF."
    return Table("peaks", "First peaks", caption, ["types", "run", "r / nm", "g(r)"], rows)


def dynamics(contents: Contents) -> Table | None:
    """Diffusion, and how much faster the models move than all-atom."""
    rows, absent = [], []
    sources = [
        (REFERENCE_LABEL, contents.data["all_atom"]),
        *((run.name, run.record) for run in contents.runs),
    ]
    for label, record in sources:
        if "absent" in record["dynamics"]:
            absent.append(f"{label}: {record['dynamics']['absent']}")
            continue
        for types, numbers in record["dynamics"].items():
            coefficient, error = (
                None if numbers[name] is None else 1000 * numbers[name]
                for name in ("coefficient", "coefficient_se")
            )
            row = [
                label,
                types,
                coefficient,
                error,
                numbers["exponent"],
                "yes" if numbers["diffusive"] else "no",
            ]
            factors = (
                [None, None]
                if label == REFERENCE_LABEL
                else [numbers.get("speed_up"), numbers.get("time_factor")]
            )
            rows.append([*row, *factors])
    if not rows:
        return None
    header = [
        "run",
        "type",
        "D / nm² ns⁻¹",
        "±",
        "MSD exponent",
        "diffusive",
        "D / D(all-atom)",
        "time factor",
    ]
    caption = (
        "D is one of diffusion only where diffusive; time factor: ratio of the times all-atom and"
        f" the model take for the same MSD. ±: standard error over {contents.blocks} time blocks."
        f" {' '.join(absent)}"
    )
    return Table("dynamics", "Dynamics", caption.strip(), header, rows)


def speed(contents: Contents) -> Table | None:
    """Speed and temperature of the runs."""
    known = [(run.name, run.simulation) for run in contents.runs if run.simulation]
    if not known:
        return None
    names = (
        "ns_per_day",
        "step_time_ms",
        "timestep_ps",
        "platform",
        "threads",
        "mean_temperature",
        "temperature",
        "frames",
    )
    header = [
        "run",
        "ns/day",
        "ms/step",
        "time step / ps",
        "platform",
        "threads",
        "mean T / K",
        "set T / K",
        "frames",
    ]
    rows = [[run, *(simulation.get(name) for name in names)] for run, simulation in known]
    if contents.all_atom_speed is not None:
        rows.append([REFERENCE_LABEL, contents.all_atom_speed, *[None] * (len(names) - 1)])
    caption = "Speeds as each run measured them, on the machine where it ran."
    if contents.all_atom_speed is not None:
        caption += " All-atom: median of the log of its production."
    return Table("speed", "Speed", caption, header, rows)


def stability(contents: Contents) -> Table | None:
    """Replicas: time and cause of failure, means and drifts."""
    names = (
        "index",
        "start",
        "time",
        "cause",
        "mean_temperature",
        "temperature_drift",
        "energy_drift",
        "largest_cluster",
        "pressure",
    )
    header = [
        "run",
        "replica",
        "start frame",
        "time / ps",
        "cause",
        "T / K",
        "T drift / K ns⁻¹",
        "E drift / kJ mol⁻¹ ns⁻¹",
    ]
    header += ["largest cluster", "pressure / bar", "in words"]
    rows, limits = [], []
    for run in contents.runs:
        if run.stability:
            rows += [
                [run.name, *(found[name] for name in names), found["detail"]]
                for found in run.stability["runs"]
            ]
            highest = run.stability["failures_per_ns_below"]
            rate = (
                ""
                if highest is None
                else f", fewer than {highest:.3g} failures per ns (one-sided 95 %)"
            )
            limits.append(
                f"{run.name}: {run.stability['failed']} of {run.stability['replicas']} failed{rate}"
            )
    if not rows:
        return None
    caption = (
        "Replicas from different all-atom frames; time to failure, or to the end where there is no"
        f" cause; means and drifts until then. {'; '.join(limits)}."
    )
    return Table("stability", "Replicas", caption, header, rows)


def provenance(contents: Contents) -> Table:
    """Where everything comes from, a column per run."""
    all_atom = {
        "all-atom data": _seen_from(contents, contents.data["all_atom"]["path"]),
        "all-atom data, SHA-256": contents.data["all_atom"]["sha256"],
        "report": f"openmm_cgkd {version('openmm_cgkd')}, bokeh {version('bokeh')}",
    }
    columns = [
        {**all_atom, "trajectory": _seen_from(contents, run.record["path"]), **_facts(run)}
        for run in contents.runs
    ]
    titles = dict.fromkeys(title for facts in columns for title in facts)
    rows = [[title, *(facts.get(title) for facts in columns)] for title in titles]
    caption = (
        "Paths start in the folder of the run or comparison. SHA-256 of trajectories and"
        " checkpoints is that of the file; of all-atom frames and of the potential that of their"
        " content."
    )
    return Table(
        "provenance",
        "Files, seeds, weights, versions",
        caption,
        ["", *(run.name for run in contents.runs)],
        rows,
    )


def _seen_from(contents: Contents, path: str) -> str:
    """A path that says nothing of the machine, for a page that is passed on."""
    return os.path.relpath(path, contents.root)


def _facts(run: Run) -> dict[str, Any]:
    facts = {"trajectory, SHA-256": run.record["sha256"]}
    if run.config is not None:
        facts["seed of the run"] = run.config.seed
    # otherwise it says nothing of how the potential was made
    if run.config is not None and run.config.potential is None:
        facts["training frames, at most"] = run.config.max_frames
        facts |= {
            "teachers": run.config.teachers.count,
            "on-policy rounds": run.config.student.on_policy.rounds,
        }
    if run.metadata is not None:
        training, network = run.metadata.training, run.metadata.network
        facts["network"] = (
            f"TensorNet of {network['channels']} channels, interaction layers: {network['layers']},"
            f" cutoff {run.metadata.cutoff:g} nm"
        )
        if training:
            facts |= {
                "role": training["role"],
                "targets": training.get("targets"),
                "seed of the training": training["seed"],
            }
            weights = {
                name.replace("_", " "): weight for name, weight in training["weights"].items()
            }
            facts["loss weights"] = ", ".join(
                f"{name} {weight:g}" for name, weight in weights.items()
            )
            facts["best epoch"] = f"{training['best']['epoch']} of {training['settings']['epochs']}"
        facts |= {
            "frames of the training, SHA-256": run.metadata.frames_sha256,
            "checkpoint, SHA-256": run.metadata.checkpoint_sha256,
        }
        facts |= {
            "potential, SHA-256": run.metadata.content_sha256,
            "exported": run.metadata.created,
        }
        facts["versions"] = ", ".join(
            f"{name} {number}" for name, number in run.metadata.versions.items()
        )
    return facts
