"""The command line: help, version, and one sentence with exit code 2 for bad input."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from openmm_cgkd.frames.frames import FrameWriter, read_frames
from tests.cases.cli import call
from tests.conftest import cgkd

STAGES = ["reference", "map", "teach", "label", "distill", "export", "simulate", "compare", "run"]


def write(path: Path, data: dict) -> Path:
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def assert_refused(result, folder: Path, *words: str) -> None:
    """Exit code 2, one sentence with these words, no traceback, no result.

    Nothing half-written is left in the run folder.
    """
    assert result.exit_code == 2, result.output
    sentence = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentence) == 1, result.stderr
    assert sentence[0].endswith(".")
    for word in words:
        assert word in sentence[0]
    assert "Traceback" not in result.output
    left = {path.name for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()
    assert left <= {
        "run.yaml",
        "teach.log",
        "simulate.log",
        "export.log",
        "reference.log",
        "system.yaml",
    }


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_each_stage_shows_fields_units_and_defaults(stage):
    result = call(stage, "--help")
    assert result.exit_code == 0
    if stage in ("reference", "map"):
        assert "required (kelvin)" in result.stdout
    else:
        assert "results, logs and checkpoints" in " ".join(result.stdout.split())
    shown = {
        "reference": ["timestep", "4 femtosecond", "initial_density"],
        "map": ["selection"],
        "teach": ["gap", "5 picosecond", "cutoff", "1.0 nanometer"],
        "distill": ["bead_energy", "0.1"],
        "simulate": ["timestep", "friction", "1 / picosecond"],
        "compare": ["r_max", "absent (nanometer)"],
    }
    for word in shown.get(stage, []):
        assert word in result.stdout


def test_help_lists_the_stages():
    result = cgkd("--help")
    assert result.returncode == 0
    for stage in STAGES:
        assert stage in result.stdout


def test_version_reports_the_stack():
    result = cgkd("--version")
    assert result.returncode == 0
    for word in (
        "openmm_cgkd",
        "torch ",
        torch.__version__.split("+")[0],
        "openmm ",
        "openmmtorch",
        "Reference",
        "CPU",
    ):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["teach", "run.yaml", "--epochz", "3"], "--epochz"),
        (["--no-such"], "--no-such"),
        (["dance"], "dance"),
        (["teach"], "RUN.yaml"),
    ],
)
def test_wrong_usage(arguments, word):
    result = call(*arguments)
    assert result.exit_code == 2
    assert word in result.stderr
    assert "Traceback" not in result.output


def test_exit_code_of_the_real_command(tmp_path):
    result = cgkd("run", tmp_path / "run.yaml")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'run.yaml'}: no such file; give the path of a run.yaml."
    ]
    assert not list(tmp_path.iterdir())


def change(data: dict, path: str, value: object) -> dict:
    """Copy of plain data with the field at a dotted path set."""
    head, _, rest = path.partition(".")
    return {**data, head: change(data.get(head, {}), rest, value) if rest else value}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.cutoff", 1.2, ["model.cutoff", "1.2", "without a unit", "nanometer"]),
        ("model.cutoff", "1.2", ["model.cutoff", "1.2", "without a unit"]),
        ("simulation.timestep", "5 kelvin", ["simulation.timestep", "5 kelvin", "picosecond"]),
        ("simulation.timestep", "5 foot-seconds", ["simulation.timestep", "5 foot-seconds"]),
        ("simulation.production", "-5 ps", ["simulation.production", "-5 ps"]),
        ("teachers.cuont", 3, ["teachers.cuont", "unknown field"]),
        ("teachers.count", 0, ["teachers.count", "0"]),
        ("teachers.count", "many", ["teachers.count", "many"]),
        ("student.targets", "teachers", ["student.targets", "teachers"]),
        ("folder", None, ["folder"]),
        ("frames", "nowhere.h5", ["nowhere.h5", "no such file"]),
    ],
)
def test_bad_run_file(tmp_path, small_run, field, value, words):
    result = call("teach", write(tmp_path / "run.yaml", change(small_run, field, value)))
    assert_refused(result, tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "no such file"),
        ("a: [1", "YAML"),
        ("- 1", "mapping"),
        ("\x00", "YAML"),
        ("", "mapping"),
    ],
)
def test_not_a_run_file(tmp_path, text, word):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    assert_refused(call("run", path), tmp_path / "run", "run.yaml", word)


def test_folder_that_is_a_file(tmp_path, small_run):
    (tmp_path / "run").touch()
    result = call("teach", write(tmp_path / "run.yaml", small_run))
    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_cutoff_above_half_the_box(tmp_path, small_run):
    result = call(
        "teach", write(tmp_path / "run.yaml", change(small_run, "model.cutoff", "1.0 nm"))
    )
    assert_refused(result, tmp_path / "run", "cutoff of 1 nm", "1.9", "0.95")


def test_frames_without_forces(tmp_path, small_run, lj_frames):
    shutil.copy(lj_frames, tmp_path / "frames.h5")
    with h5py.File(tmp_path / "frames.h5", "a", libver="latest") as file:
        del file["forces"], file.attrs["content_sha256"]
    result = call("teach", write(tmp_path / "run.yaml", change(small_run, "frames", "frames.h5")))
    assert_refused(result, tmp_path / "run", "frames.h5", "no forces")


def test_nan_in_frames(tmp_path, small_run, lj_frames, monkeypatch):
    frames = read_frames(lj_frames)
    frames.forces[7, 3, 0] = float("nan")
    # our writer refuses to write it
    monkeypatch.setattr("openmm_cgkd.frames.frames.np.isfinite", np.ones_like)
    with FrameWriter(tmp_path / "frames.h5", frames.beads, frames.attributes) as writer:
        for k in range(len(frames)):
            writer.append(
                frames.positions[k],
                frames.forces[k],
                frames.box[k],
                frames.time[k],
                int(frames.step[k]),
            )
    monkeypatch.undo()
    result = call("teach", write(tmp_path / "run.yaml", change(small_run, "frames", "frames.h5")))
    assert_refused(result, tmp_path / "run", "forces of frame 7")


@pytest.mark.parametrize("kind", ["text", "checkpoint", "foreign"])
def test_potential_that_is_not_ours(tmp_path, small_run, kind):
    path = write(tmp_path / "run.yaml", small_run)
    model = tmp_path / "run" / "student.pt"
    model.parent.mkdir()
    if kind == "text":
        model.write_text("not a potential")
    elif kind == "checkpoint":
        torch.save({"state": torch.zeros(3)}, model)
    else:
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 3)), str(model))
    result = call("simulate", path)
    model.unlink()
    assert_refused(result, tmp_path / "run", "student.pt", "cgkd export")


def test_stage_before_its_input(tmp_path, small_run):
    path = write(tmp_path / "run.yaml", small_run)
    for stage, needed in (
        ("label", "teach"),
        ("distill", "label"),
        ("export", "distill"),
        ("simulate", "export"),
        ("compare", "simulate"),
    ):
        result = call(stage, path)
        assert result.exit_code == 2
        assert f"'cgkd {needed}'" in result.stderr
        assert "Traceback" not in result.stderr


def test_force_field_without_a_parameter(tmp_path, ethaline):
    shutil.copytree(ethaline.parent, tmp_path / "system", ignore=shutil.ignore_patterns("*.h5"))
    path = tmp_path / "system" / "system.yaml"
    data = yaml.safe_load(path.read_text())
    write(path, {**data, "molecules": [{**molecule, "count": 2} for molecule in data["molecules"]]})
    path = tmp_path / "system" / "forcefield.xml"
    path.write_text(
        "\n".join(
            line
            for line in path.read_text().splitlines()
            if not ("<Bond class1=" in line and "egC" in line)
        )
    )
    result = call("reference", tmp_path / "system" / "system.yaml", "--folder", tmp_path / "out")
    assert result.exit_code == 2
    assert "no bond parameter" in result.stderr
    assert "of EGL" in result.stderr
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_unexpected_error_leaves_its_traceback_in_the_run_folder(tmp_path, small_run, monkeypatch):
    def fail(run):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("openmm_cgkd.stages.teach.train_teachers", fail)
    path = write(tmp_path / "run.yaml", small_run)
    result = call("teach", path)
    assert result.exit_code == 1
    assert "ZeroDivisionError: nobody thought of this" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in (tmp_path / "run" / "error.log").read_text()

    for arguments in (["--debug", "teach", path], ["teach", path, "--debug"]):
        result = call(*arguments)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr


def test_interrupt_says_how_to_go_on(tmp_path, small_run, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr("openmm_cgkd.stages.teach.train_teachers", interrupt)
    result = call("teach", write(tmp_path / "run.yaml", small_run))
    assert result.exit_code == 130
    assert "run the same command to resume" in result.stderr


def test_folder_option_puts_results_elsewhere(tmp_path, small_run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "openmm_cgkd.stages.teach.train_teachers", lambda run: seen.append(run.run_folder) or []
    )
    path = write(tmp_path / "run.yaml", small_run)
    monkeypatch.chdir(tmp_path)
    assert call("teach", path).exit_code == 0
    assert call("teach", path, "--folder", "elsewhere").exit_code == 0
    assert seen == [tmp_path / "run", tmp_path / "elsewhere"]
