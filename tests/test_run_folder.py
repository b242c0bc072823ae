"""Records of finished stages: what is damaged makes the stage run again."""

import json

import pytest

from openmm_cgkd.run_folder import RunFolder, StageRecord
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
