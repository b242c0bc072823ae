"""The whole pipeline as one command: what it makes, what it skips, what it does again."""

import json
import shutil
from pathlib import Path

import h5py
import pytest
import yaml
from typer.testing import CliRunner

from openmm_cgkd.cli import options
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import load_run
from openmm_cgkd.config.system import load_system
from openmm_cgkd.potential.metadata import read_metadata
from openmm_cgkd.stages import workflow

RESULTS = [
    "prior.json",
    "teachers/00/best.pt",
    "teachers/01/best.pt",
    "labels.h5",
    "student/best.pt",
    "student.pt",
    "simulation/trajectory.dcd",
    "simulation/topology.pdb",
    "simulation/simulation.json",
    "comparison/comparison.json",
    "comparison/rdf.png",
]
STAGES = ["teach", "label", "distill", "export", "simulate", "compare"]


@pytest.fixture
def copied_run(finished_run, tmp_path) -> Path:
    """run.yaml of a copy of the finished run."""
    path, result = finished_run
    assert result.returncode == 0, result.stderr
    shutil.copytree(path.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run.yaml"


def call(*arguments: object):
    """Run the command line in this process, which spares the imports."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def stamps(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in RESULTS}


def test_run_makes_every_result_and_prints_the_table(finished_run, small_run):
    path, result = finished_run
    assert result.returncode == 0, result.stderr
    folder = path.parent / "run"
    for name in RESULTS:
        assert (folder / name).stat().st_size > 0
    for stage in STAGES:
        assert (folder / "logs" / f"{stage}.log").read_text()
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "error.log").exists()

    # fully expanded, and it still points to the same files
    expanded = load_run(folder / "run.yaml")
    assert expanded.run_folder == folder.resolve()
    assert str(expanded.path(expanded.frames)) == small_run["frames"]
    assert "weight_decay" in (folder / "run.yaml").read_text()

    assert read_metadata(folder / "student.pt").type_names == ["A", "B"]
    with h5py.File(folder / "labels.h5") as labels:
        assert labels["forces"].shape == (60, 40, 3)
    report = json.loads((folder / "comparison" / "comparison.json").read_text())
    for pair in report["pairs"]:
        row = next(
            line
            for line in result.stderr.splitlines()
            if line.startswith("-".join(pair["types"]) + " ")
        )
        assert f"{pair['mean_absolute_error']:.3f}" in row
    summary = next(line for line in result.stdout.splitlines() if line.startswith("RDF error"))
    assert f"{report['mean']['mean_absolute_error']:.3f}" in summary
    for words in ("student.pt", "trajectory.dcd", "rdf.png", "ns/day", "samples", "time per step"):
        assert words in result.stdout
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


def test_second_run_reuses_everything(copied_run):
    before = stamps(copied_run.parent / "run")
    result = call("run", copied_run)
    assert stamps(copied_run.parent / "run") == before
    for stage in STAGES:
        assert f"{stage}: finished before, skipped" in result.stderr
    assert "ns/day" in result.stdout


def test_changed_input_runs_again_from_there(copied_run):
    folder = copied_run.parent / "run"
    before = stamps(folder)
    data = yaml.safe_load(copied_run.read_text())
    data["simulation"]["production"] = "1.2 ps"
    copied_run.write_text(yaml.safe_dump(data))
    call("run", copied_run)
    changed = {name for name, stamp in stamps(folder).items() if stamp != before[name]}
    assert changed >= {
        "simulation/trajectory.dcd",
        "simulation/simulation.json",
        "comparison/comparison.json",
        "comparison/rdf.png",
    }
    assert not any(name.startswith(("teachers", "labels", "student", "prior")) for name in changed)


def test_committee_watches_the_simulation(copied_run):
    folder = copied_run.parent / "run"
    data = yaml.safe_load(copied_run.read_text())
    data["simulation"]["committee"] = {"interval": "0.2 ps", "max_ratio": 1e-6}
    copied_run.write_text(yaml.safe_dump(data))
    result = call("simulate", copied_run)
    rows = (folder / "simulation" / "committee.csv").read_text().splitlines()
    assert rows[0].startswith("step,time (ps),A mean (kJ/mol/nm),A largest (kJ/mol/nm),B mean")
    assert [int(row.split(",")[0]) for row in rows[1:]] == [100, 200, 300, 400]
    assert (folder / "teachers" / "01" / "potential.pt").exists()
    # a warning for each bead type
    assert result.stderr.count("outside of what the student has learnt") == 2


def test_lost_result_is_made_again(copied_run):
    folder = copied_run.parent / "run"
    before = stamps(folder)
    (folder / "student.pt").unlink()
    result = call("export", copied_run)
    assert Path(result.stdout.strip()) == folder / "student.pt"
    after = stamps(folder)
    assert [name for name in RESULTS if after[name] != before[name]] == ["student.pt"]


def test_without_frames_the_all_atom_stage_comes_first(
    tmp_path, ethaline, lj_frames, small_run, monkeypatch
):
    data = {**small_run, "system": str(ethaline)}
    del data["frames"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data))
    run = load_run(tmp_path / "run.yaml")
    calls = []

    def reference(system, folder):
        calls.append(("reference", system, folder))
        folder.mkdir(parents=True)
        return shutil.copy(lj_frames, folder / "frames.h5")

    def stage(name):
        return lambda config: calls.append(
            (name, config, workflow.RunFolder(config).frames.exists())
        )

    monkeypatch.setattr("openmm_cgkd.allatom.independent.run_independent", reference)
    monkeypatch.setattr(workflow, "stages_of", lambda run: {name: stage(name) for name in STAGES})
    workflow.run_all(run)
    assert calls == [
        ("reference", load_system(ethaline), tmp_path / "run" / "reference"),
        *((name, run, True) for name in STAGES),
    ]


def test_a_finished_potential_runs_in_another_folder_without_training(
    finished_run, small_run, tmp_path
):
    potential = finished_run[0].parent / "run" / "student.pt"
    path = tmp_path / "simulate.yaml"
    path.write_text(yaml.safe_dump({**small_run, "folder": "again", "potential": str(potential)}))
    call("run", path)
    folder = tmp_path / "again"
    assert (folder / "simulation" / "trajectory.dcd").stat().st_size > 0
    assert (folder / "comparison" / "comparison.json").exists()
    assert not [
        name
        for name in ("teachers", "labels.h5", "student", "student.pt")
        if (folder / name).exists()
    ]
    result = CliRunner().invoke(app, ["export", str(path)])
    assert result.exit_code == 2
    assert "exported before" in result.output


def test_a_fluid_with_a_student_runs_by_its_name(finished_run, small_run, tmp_path, monkeypatch):
    potential = finished_run[0].parent / "run" / "student.pt"
    fluid = tmp_path / "systems" / "water"
    fluid.mkdir(parents=True)
    settings = {**small_run, "folder": "../../runs/water", "potential": str(potential)}
    (fluid / "simulate.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(options, "SYSTEMS", tmp_path / "systems")
    call("simulate", "water", "--folder", tmp_path / "out")
    assert (tmp_path / "out" / "simulation" / "trajectory.dcd").stat().st_size > 0
    result = CliRunner().invoke(app, ["simulate", "wine"])
    assert result.exit_code == 2
    assert "(water)" in result.output
