"""Tables of a report, for the page and for the CSV files beside it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from openmm_cgkd.utils.statistics import error_words

from .charts import REFERENCE_LABEL
from .run_record import Contents, Run, rate_of

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


def error_cell(error: float | None, plateau: bool) -> float | str | None:
    """A standard error as a number, a lower bound as text."""
    return error if error is None or plateau else error_words(error, plateau)


def _with_errors(numbers: dict[str, Any], kinds: list[str]) -> list[Any]:
    """Scores, each with its standard error."""
    pairs = (
        (numbers[kind], error_cell(numbers[f"{kind}_se"], not numbers[f"{kind}_at_least"]))
        for kind in kinds
    )
    return [value for pair in pairs for value in pair]


def scores(contents: Contents) -> Table:
    """Overlap with all-atom by observable."""
    first = contents.runs[0].record["scores"]
    kinds = [kind for kind in _OBSERVABLES if kind in first]
    header = ["run", *(title for kind in kinds for title in (_OBSERVABLES[kind], "±"))]
    rows = [[run.name, *_with_errors(run.record["scores"], kinds)] for run in contents.runs]
    for name, spread in contents.data["trainings"].items():
        values = (spread["scores"][kind][which] for kind in kinds for which in ("mean", "std"))
        rows.append([f"{name}, {len(spread['runs'])} trainings", *values])
    rows.append(
        ["all-atom halves", *(value for kind in kinds for value in (first[f"{kind}_halves"], None))]
    )
    caption = (
        "Score: mean overlap with all-atom of the curves of each observable, 1 for equal curves;"
        " combined: the mean of the observables. ±: standard error from the scatter of both"
        " trajectories in time (>=: at least, the runs are too short to tell); of several trainings"
        " the standard deviation over them. Noise keeps every score below 1; the last row, the"
        " halves of the all-atom frames against each other, shows how much."
    )
    return Table("scores", "Scores", caption, header, rows)


def errors(contents: Contents, observables: tuple[str, ...], name: str) -> Table | None:
    """Errors of every curve of some observables."""
    rows = []
    for run in contents.runs:
        for curve in run.record["curves"]:
            if curve["observable"] in observables:
                error, perfect = curve["mean_absolute"], curve["perfect_mean_absolute"]
                measures = [curve[measure] for measure in ("rmse", "jensen_shannon", "overlap")]
                which = f"{_OBSERVABLES[curve['observable']]} {curve['types']}"
                rows.append(
                    [
                        run.name,
                        which,
                        error,
                        error_cell(
                            curve["mean_absolute_se"], "mean_absolute" not in curve["at_least"]
                        ),
                        perfect,
                        curve["systematic"],
                        error_cell(curve["systematic_se"], not curve["systematic_at_least"]),
                        curve["systematic_p"],
                        *measures,
                        *curve["independent_samples"],
                    ]
                )
    if not rows:
        return None
    caption = (
        "mean |Δ|: mean absolute difference from all-atom over all bins, in the unit of the curve;"
        " ±: its standard error from the scatter of both trajectories in time (>=: at least, the"
        " runs are too short to tell); perfect: what a perfect model would show by noise alone;"
        " systematic: root mean square difference without noise, from independent all-atom runs (±"
        " with >= where there is a single one, whose halves stand in); p: how often a perfect model"
        " would show as much; samples: how many independent stretches of each trajectory its curve"
        " is worth, of at most 128."
    )
    header = [
        "run",
        "curve",
        "mean |Δ|",
        "±",
        "perfect",
        "systematic",
        "±",
        "p",
        "RMSE",
        "Jensen-Shannon / bit",
        "overlap",
        "samples, all-atom",
        "samples, model",
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
    rows = []
    for types in contents.runs[0].curves("rdf"):
        for name, record in (
            (REFERENCE_LABEL, contents.data["all_atom"]),
            *((run.name, run.record) for run in contents.runs),
        ):
            peak = record["first_peaks"][types]
            values = (
                (peak[which], error_cell(peak[f"{which}_se"], which not in peak["at_least"]))
                for which in ("position", "height")
            )
            rows.append([types, name, *(value for pair in values for value in pair)])
    caption = (
        "Position and height of the first peak of each RDF, by a polynomial through the bins around"
        " it. ±: standard error (>=: at least)."
    )
    header = ["types", "run", "r / nm", "±", "g(r)", "±"]
    return Table("peaks", "First peaks", caption, header, rows)


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
                error_cell(error, not numbers["coefficient_at_least"]),
                numbers["exponent"],
                "yes" if numbers["diffusive"] else "no",
            ]
            factors = (
                [None, None, None]
                if label == REFERENCE_LABEL
                else [
                    numbers.get("speed_up"),
                    error_cell(numbers.get("speed_up_se"), not numbers.get("speed_up_at_least")),
                    numbers.get("time_factor"),
                ]
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
        "±",
        "time factor",
    ]
    caption = (
        "D is one of diffusion only where diffusive; time factor: ratio of the times all-atom and"
        " the model take for the same MSD. ±: standard error over eight blocks of time (>=: at"
        " least, beads do not diffuse within a block or remember the one before)."
        f" {' '.join(absent)}"
    )
    return Table("dynamics", "Dynamics", caption.strip(), header, rows)


def speed(contents: Contents) -> Table | None:
    """Speed and temperature of the runs."""
    known = [run for run in contents.runs if run.simulation]
    if not known:
        return None
    names = (
        "ns_per_day",
        "step_time_ms",
        "timestep_ps",
        "platform",
        "threads",
        "mean_temperature",
        "mean_temperature_se",
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
        "±",
        "set T / K",
        "frames",
        "error of T by the time step / %",
        "±",
    ]
    rows = []
    for run in known:
        simulation = run.simulation or {}
        values = {name: simulation.get(name) for name in names}
        values["mean_temperature_se"] = error_cell(
            values["mean_temperature_se"], not simulation.get("mean_temperature_at_least")
        )
        rows.append([run.name, *values.values(), *_timestep_error(run)])
    if contents.all_atom_speed is not None:
        rows.append([REFERENCE_LABEL, contents.all_atom_speed, *[None] * (len(header) - 2)])
    caption = (
        "Speeds as each run measured them, on the machine where it ran. Error by the time step: of"
        " the configurational temperature, as 'cgkd timestep' found it; none if the run took"
        " another step than the recommended one."
    )
    return Table("speed", "Speed", caption, header, rows)


def _timestep_error(run: Run) -> list[float | None]:
    """Error of the temperature by the time step of a run in percent, and its standard error."""
    found, simulation = run.recommendation, run.simulation or {}
    if found is None or found.error is None or found.error_se is None:
        return [None, None]
    if not math.isclose(found.timestep, simulation.get("timestep_ps") or 0.0, rel_tol=1e-6):
        return [None, None]
    return [100 * found.error, 100 * found.error_se]


def stability(contents: Contents) -> Table | None:
    """Replicas: time and cause of failure, means and drifts."""
    header = [
        "run",
        "replica",
        "start frame",
        "time / ps",
        "cause",
        "T / K",
        "±",
        "T drift / K ns⁻¹",
        "±",
        "E drift / kJ mol⁻¹ ns⁻¹",
        "±",
        "pressure / bar",
        "±",
    ]
    header += ["largest cluster", "in words"]
    rows, limits = [], []
    for run in contents.runs:
        if run.stability:
            rows += [
                [run.name, *_replica(found), found["largest_cluster"], found["detail"]]
                for found in run.stability["runs"]
            ]
            limits.append(
                f"{run.name}: {run.stability['failed']} of {run.stability['replicas']} failed,"
                f" {rate_of([run.stability]).words}"
            )
    if not rows:
        return None
    caption = (
        "Replicas from different all-atom frames; time to failure, or to the end where there is no"
        " cause; means and drifts until then, ±: standard error (>=: at least)."
        f" {'; '.join(limits)}."
    )
    return Table("stability", "Replicas", caption, header, rows)


def _replica(found: dict[str, Any]) -> list[Any]:
    """Where a replica began and how it ended, its means and drifts with their standard errors."""
    values = [found[name] for name in ("index", "start", "time", "cause")]
    for name in ("mean_temperature", "temperature_drift", "energy_drift", "pressure"):
        known = name not in found.get("at_least", ())
        values += [found[name], error_cell(found.get(f"{name}_se"), known)]
    return values


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
