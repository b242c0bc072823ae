"""The data of a report, from the files that compare, simulate, stability and export have left."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.analysis.stability.survival import FailureRate
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.exceptions import AnalysisError, RecordError
from openmm_cgkd.potential.metadata import PotentialMetadata, read_metadata
from openmm_cgkd.run_folder import RunFiles, RunFolder
from openmm_cgkd.simulation.timestep.recommendation import Recommendation, read_recommendation
from openmm_cgkd.training.task import TEST
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import read_record

_AT_LEAST = ", at least"  # end of the title of a column with lower bounds
_WORDS = {"CG": "coarse-grained"}  # the label of a run in its own comparison, written out


@dataclass(frozen=True)
class Run:
    """One coarse-grained trajectory that was compared, and the data in its run folder.

    Attributes
    ----------
    record : dict
        Its entry of ``comparison.json``.
    folder : Path or None
        Run folder, if it is there and still holds this trajectory.
    config : RunConfig or None
    simulation, stability : dict or None
        ``simulation.json`` and ``stability.json``.
    test : dict or None
        ``test.json`` of the student that was exported.
    survival : dict or None
        Columns of ``survival.csv``.
    metadata : PotentialMetadata or None
    recommendation : Recommendation or None
        Of a time step, for the potential that ran.
    """

    record: dict[str, Any]
    folder: Path | None = None
    config: RunConfig | None = None
    simulation: dict[str, Any] | None = None
    stability: dict[str, Any] | None = None
    survival: dict[str, np.ndarray] | None = None
    metadata: PotentialMetadata | None = None
    test: dict[str, Any] | None = None
    recommendation: Recommendation | None = None

    @property
    def label(self) -> str:
        """Name in the tables of the comparison."""
        return self.record["label"]

    @property
    def name(self) -> str:
        """Name in words."""
        return _WORDS.get(self.label, self.label)

    @property
    def model(self) -> str:
        """Name of the model; runs of one model are independent trainings."""
        return _WORDS.get(self.record["model"], self.record["model"])

    @property
    def configuration(self) -> str | None:
        """Text of its run.yaml."""
        if self.config is None or self.folder is None:
            return None
        return RunFiles(self.folder).run_file.read_text()

    def stability_picture(self, suffix: str) -> Path:
        """Picture of its stability protocol."""
        assert self.folder is not None  # `stability` has been read from there
        return RunFiles(self.folder).stability / f"stability.{suffix}"

    def curves(self, kind: str) -> dict[str, dict[str, Any]]:
        """Errors of one observable by bead types, such as "CHO-CL"."""
        return {
            curve["types"]: curve for curve in self.record["curves"] if curve["observable"] == kind
        }


@dataclass(frozen=True)
class Contents:
    """A comparison and its runs.

    Attributes
    ----------
    root : Path
        The run folder, or that of the comparison.
    folder : Path
        Of ``comparison.json`` and its tables.
    data : dict
        ``comparison.json``, of a single run its "structure".
    system : str
    temperature : float or None, kelvin
    r_max : float, nm
    shell_frames : int or None
        Most frames for angles and coordination numbers.
    runs : list of Run
    all_atom_speed : float or None, ns/day
    tables : dict of str
        SHA-256 of the tables, empty of earlier versions.
    """

    root: Path
    folder: Path
    data: dict[str, Any]
    system: str
    temperature: float | None
    r_max: float
    shell_frames: int | None
    runs: list[Run]
    all_atom_speed: float | None
    tables: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, list[Run]]:
        """Runs by model."""
        return {
            name: [run for run in self.runs if run.model == name]
            for name in dict.fromkeys(run.model for run in self.runs)
        }

    @property
    def title(self) -> str:
        return (
            self.system if self.temperature is None else f"{self.system} at {self.temperature:g} K"
        )

    def table(self, name: str) -> dict[str, list[str]] | None:
        """Columns of a CSV file of the comparison, or None if it was not written."""
        path = self.folder / f"{name}.csv"
        cure = f"remove {self.folder / 'rdf.csv'} and run 'cgkd compare' again"
        return read_columns(path, self.tables, cure) if path.exists() else None

    def lower_bounds(self, name: str) -> list[str]:
        """All-atom and the runs for which errors of a table are lower bounds."""
        columns = self.table(name) or {}
        labels = {"AA": "all-atom"} | {run.label: run.name for run in self.runs}
        bounds = {
            label
            for label, bound in zip(columns.get("run", []), columns.get("bound", []), strict=True)
            if bound
        }
        titles = [title for title in columns if title.endswith(_AT_LEAST)]
        return [
            shown
            for label, shown in labels.items()
            if label in bounds or any(f" {label} " in title for title in titles)
        ]


def rate_of(reports: list[dict[str, Any]]) -> FailureRate:
    """Failures of the stability protocols of some runs together."""
    runs = [run for report in reports for run in report["runs"]]
    return FailureRate(
        sum(run["cause"] is not None for run in runs), sum(run["time"] for run in runs) / 1000
    )


def error_column(columns: dict[str, list[str]], curve: str) -> list[str]:
    """Standard errors of a curve, with or without the words that they are lower bounds."""
    title = f"{curve} se"
    return columns[title] if title in columns else columns[f"{title}{_AT_LEAST}"]


def read_columns(path: Path, tables: dict[str, str], cure: str) -> dict[str, list[str]]:
    """Columns of a CSV file by their titles.

    Raises
    ------
    AnalysisError
        If it was changed, by the checksums of `tables`.
    """
    if tables.get(path.name) not in (None, file_hash(path)):
        raise AnalysisError(f"{path}: was changed after it was written; {cure}.")
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return {title: [row[k] for row in rows] for k, title in enumerate(header)}


def read_contents(run: Path | str) -> Contents:
    """Read what there is to report.

    Parameters
    ----------
    run : path
        A run folder, its run.yaml, or the folder of ``cgkd compare --against``.

    Raises
    ------
    AnalysisError
        If it is none of these, has not been compared, or the comparison is damaged or of another
        trajectory.
    ConfigError, ModelFileError
        If its run.yaml or student.pt is not valid.
    """
    folder = Path(run)
    if folder.suffix in (".yaml", ".yml"):
        folder = RunFolder(load_run(folder)).root
    if not folder.is_dir():
        raise AnalysisError(
            f"{folder}: no such folder; name a run folder, or the folder of 'cgkd compare"
            " --against'."
        )
    if (folder / "comparison.json").exists():
        return _of_many(folder)
    if RunFiles(folder).comparison_report.exists():
        return _of_one(folder)
    if RunFiles(folder).run_file.exists():
        raise AnalysisError(
            f"{folder}: this run has not been compared with all-atom yet; run 'cgkd compare"
            f" {RunFiles(folder).run_file}' first."
        )
    raise AnalysisError(
        f"{folder}: is not a run folder (it holds neither run.yaml nor comparison.json); name one"
        " that 'cgkd run' or 'cgkd compare' made."
    )


def _of_one(root: Path) -> Contents:
    """A run folder with its own comparison."""
    files = RunFiles(root)
    folder = files.comparison
    whole = _read_json(files.comparison_report, "structure", "r_max")
    config = _config(root)
    _check_current(files.comparison_report, whole["structure"])
    record = whole["structure"]["models"][0]
    trajectory = next(iter(sorted(files.simulation.glob("trajectory.*"))), None)
    if trajectory is not None and file_hash(trajectory) != record["sha256"]:
        raise AnalysisError(
            f"{folder}: compares another trajectory than {trajectory}; run 'cgkd compare"
            f" {files.run_file}' again."
        )
    run = read_run(record, root, config)
    frames = config.comparison.shell_frames if config else None
    return Contents(
        root,
        folder,
        whole["structure"],
        *_state(whole),
        whole["r_max"],
        frames,
        [run],
        _all_atom_speed(whole["structure"]),
        whole.get("tables", {}),
    )


def _of_many(folder: Path) -> Contents:
    """The folder of ``cgkd compare --against``.

    Run folders are read only if they still hold the trajectories that were compared.
    """
    data = _read_json(folder / "comparison.json", "models", "settings", "r_max")
    _check_current(folder / "comparison.json", data)
    runs = []
    for record in data["models"]:
        path = Path(record["path"])
        root = path.parent
        if path.parent == RunFiles(path.parent.parent).simulation:
            root = path.parent.parent
        if (
            path.suffix in (".dcd", ".xtc")
            and path.exists()
            and file_hash(path) == record["sha256"]
        ):
            runs.append(read_run(record, root, _config(root)))
        else:
            runs.append(Run(record))
    settings = data["settings"]
    return Contents(
        folder,
        folder,
        data,
        *_state(data),
        data["r_max"],
        settings["shell_frames"],
        runs,
        _all_atom_speed(data),
        data.get("tables", {}),
    )


def _state(data: dict[str, Any]) -> tuple[str, float | None]:
    return data["system"], data["temperature"]


def read_run(record: dict[str, Any], root: Path, config: RunConfig | None) -> Run:
    """What a run folder holds beside the trajectory that was compared.

    Parameters
    ----------
    record : dict
        The entry of ``comparison.json``.
    root : path
    config : RunConfig or None
        Its run.yaml, if there is one.

    Raises
    ------
    AnalysisError, ModelFileError
        As `read_contents`.
    """
    files = RunFiles(root)
    simulation, stability = files.simulation_report, files.stability_report
    survival, tested = None, None
    if stability.exists():
        _check_student(root)
        tested = _read_json(stability, "runs", "causes")
        cure = f"remove {files.survival} and run 'cgkd stability' again"
        survival = {
            name: np.array(values, dtype=float)
            for name, values in read_columns(files.survival, tested.get("tables", {}), cure).items()
        }
    model = RunFolder(config).model if config else files.exported
    metadata = read_metadata(model) if model.exists() else None
    return Run(
        record,
        root,
        config,
        _read_json(simulation, "ns_per_day") if simulation.exists() else None,
        tested,
        survival,
        metadata,
        _test(config, metadata),
        read_recommendation(model) if model.exists() else None,
    )


def _test(config: RunConfig | None, metadata: PotentialMetadata | None) -> dict[str, Any] | None:
    """How the student of a run did on the test part; None if it is not the one that ran."""
    if config is None or config.potential is not None:
        return None
    path = RunFolder(config).student / TEST
    if not path.exists():
        return None
    found = _read_json(path, "checkpoint_sha256", "frames", "mapped")
    exported = metadata.checkpoint_sha256 if metadata else None
    return found if exported in (None, found["checkpoint_sha256"]) else None


def _check_student(root: Path) -> None:
    """Refuse a stability protocol of another student than the one whose trajectory was compared."""
    stamps = [RunFiles(root).stage(name) for name in ("simulate", "stability")]
    if all(stamp.exists() for stamp in stamps):
        simulated, tested = (_read_json(stamp, "model")["model"] for stamp in stamps)
        if simulated != tested:
            raise AnalysisError(
                f"{root}: simulation and stability are of different students; run 'cgkd stability"
                f" {RunFiles(root).run_file}' again."
            )


def _config(root: Path) -> RunConfig | None:
    path = RunFiles(root).run_file
    return load_run(path) if path.exists() else None


def _all_atom_speed(comparison: dict[str, Any]) -> float | None:
    speed = comparison["all_atom"]["speed"]
    return speed["ns_per_day"] if speed else None


def _check_current(path: Path, comparison: dict[str, Any]) -> None:
    """Refuse a comparison that another version wrote."""
    if "samples" not in comparison["all_atom"]:  # the newest field
        raise AnalysisError(
            f"{path}: has no field 'samples', so another version wrote it; compare again."
        )


def _read_json(path: Path, *required: str) -> dict[str, Any]:
    try:
        data = read_record(path, "run the command that writes it again")
    except RecordError as error:
        raise AnalysisError(str(error)) from error
    missing = [name for name in required if name not in data]
    if missing:
        raise AnalysisError(
            f"{path}: has no field {missing[0]!r}, so another version wrote it; run the command"
            " that writes it again."
        )
    return data
