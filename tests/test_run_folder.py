"""Records of finished stages, which run again if damaged; stages that work side by side."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openmm_cgkd.config.section import dump
from openmm_cgkd.exceptions import FolderInUseError
from openmm_cgkd.run_folder import RunFiles, RunFolder, StageRecord
from tests.cases.training import make_frames, make_run


@pytest.fixture
def stage(tmp_path):
    """A function that opens the record of a stage with some inputs."""
    folder = RunFolder(make_run(tmp_path, make_frames(20, 12, noise=1.0)[0]))
    output = tmp_path / "output"
    output.touch()
    return lambda **inputs: StageRecord(folder, "teach", inputs, [output])


def test_finished_with_the_same_inputs(stage):
    record = stage(seed=1, weights=(0.1, 2))
    assert not record.finished
    record.finish()
    assert stage(seed=1, weights=(0.1, 2)).finished
    assert not stage(seed=2, weights=(0.1, 2)).finished
    record.outputs[0].unlink()
    assert not stage(seed=1, weights=(0.1, 2)).finished


@pytest.mark.parametrize("damage", ["digit", "cut", "binary", "list"])
def test_damaged_record(stage, tmp_path, damage, caplog):
    stage(seed=1, other=2).finish()
    path = tmp_path / "run" / "stages" / "teach.json"
    text = path.read_text()
    path.write_bytes(
        {
            "digit": text.replace('"other": 2', '"other": 3').encode(),
            "cut": text[:20].encode(),
            "binary": b"\xff\0\1",
            "list": b"[1, 2]",
        }[damage]
    )
    # not even where the changed record fits the inputs
    assert not stage(seed=1, other=3 if damage == "digit" else 2).finished
    assert f"{path}" in caplog.text
    assert "The stage teach runs again." in caplog.text


def test_old_record(stage, tmp_path):
    stage(seed=1).finish()
    path = tmp_path / "run" / "stages" / "teach.json"
    path.write_text(json.dumps({"seed": 1}))
    assert stage(seed=1).finished


def started(files: RunFiles, stage: str) -> bool:
    """Whether a stage may work, in another thread, while those of this thread do."""
    others = {
        "simulate": {"output": files.simulation},
        "stability": {"output": files.stability},
        "compare": {"output": files.comparison, "reads": [files.simulation]},
    }

    def enter() -> bool:
        try:
            with files.at_work(stage, **others.get(stage, {})):
                return True
        except FolderInUseError:
            return False

    with ThreadPoolExecutor(1) as other:
        return other.submit(enter).result()


def test_stages_that_only_read_the_run_work_side_by_side(tmp_path):
    files = RunFiles(tmp_path / "run")
    with files.at_work("simulate", files.simulation):
        assert started(files, "stability")
        assert not started(files, "simulate")
        assert not started(files, "compare")  # of a trajectory that grows
        assert not started(files, "teach")
    with files.at_work("compare", files.comparison, reads=[files.simulation]):
        assert started(files, "stability")
        assert not started(files, "simulate")
        assert not started(files, "distill")
    with files.at_work("teach"):
        assert not started(files, "simulate")
        with files.at_work("simulate", files.simulation):  # as in 'cgkd run'
            assert not started(files, "stability")
    left = {str(path.relative_to(files.root)) for path in files.root.rglob("*")}
    logs = {f"logs/{name}.log" for name in ("simulate", "stability", "compare", "teach")}
    assert left == {"logs", *logs}  # of those that were refused nothing


def test_stages_side_by_side_write_run_yaml_in_turn(tmp_path):
    folder = RunFolder(make_run(tmp_path, make_frames(20, 12, noise=1.0)[0]))

    def record(name: str) -> None:
        with folder.at_work(name, folder.root / name):
            for _ in range(5):
                StageRecord(folder, name, {}, []).finish()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(record, name) for name in ("simulate", "stability")]:
            done.result()
    assert [path.name for path in folder.root.iterdir() if path.is_file()] == ["run.yaml"]


def test_a_run_yaml_of_the_user_keeps_its_comments(tmp_path):
    """In the folder of its results."""
    run = make_run(tmp_path, make_frames(20, 12, noise=1.0)[0])
    run = run.model_copy(update={"folder": Path()}).relative_to(tmp_path / "run")
    folder = RunFolder(run)
    folder.root.mkdir(exist_ok=True)
    text = "# why I chose this\n" + dump(run, folder.root)
    folder.run_file.write_text(text)
    StageRecord(folder, "teach", {}, [])
    assert folder.run_file.read_text() == text
    StageRecord(RunFolder(run.model_copy(update={"seed": 7})), "teach", {}, [])
    assert "seed: 7" in folder.run_file.read_text()
