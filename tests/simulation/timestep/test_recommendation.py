"""The recommended time step in its file: this version's, older and damaged ones."""

import json

import pytest

from openmm_cgkd.simulation.timestep.recommendation import (
    FORMAT,
    VERSION,
    Recommendation,
    read_recommendation,
    recommendation_path,
)
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "student.pt"
    file.write_bytes(b"weights")
    return file


def content(model, **changes):
    numbers = {"timestep_ps": 0.02, "temperature_error": 0.004, "temperature_error_se": 0.0005}
    known = {"format": FORMAT, "version": VERSION, "model_sha256": file_hash(model)}
    return {**known, **numbers, **changes}


def test_it_holds_for_one_potential(model):
    assert read_recommendation(model) is None
    write_record(recommendation_path(model), content(model))
    found = read_recommendation(model)
    assert found == Recommendation(0.02, 0.004, 0.0005)
    assert found.words == "20 fs, configurational temperature +0.40 +- 0.05 % off"
    model.write_bytes(b"others")
    assert read_recommendation(model) is None


def test_older_files_are_read_and_later_ones_named(model, caplog):
    caplog.set_level("INFO")
    path = recommendation_path(model)
    old = content(model, version=1)
    old = {name: old[name] for name in old if not name.startswith("temperature")}
    path.write_text(json.dumps(old))  # without a checksum, as version 0.1 wrote it
    found = read_recommendation(model)
    assert found == Recommendation(0.02)
    assert found.words == "20 fs"
    assert (
        "20 fs by the kinetic temperature alone; 'cgkd timestep' may find a longer" in caplog.text
    )
    write_record(path, content(model, version=3))
    assert read_recommendation(model) is None
    assert "is of version 3, and this package reads 2 at most; searching again" in caplog.text


def test_damaged_files_count_as_none(model, caplog):
    path = recommendation_path(model)
    write_record(path, content(model))
    path.write_text(path.read_text().replace("0.02", "0.03"))
    assert read_recommendation(model) is None
    assert "its checksum differs; the time step is searched again" in caplog.text
    for wrong in (0, -0.004, float("nan"), "4 fs", None):
        for name in ("timestep_ps", "temperature_error_se")[: 1 if wrong in (0, -0.004) else 2]:
            write_record(path, content(model, **{name: wrong}))
            assert read_recommendation(model) is None


@pytest.mark.parametrize("step", [1e-12, 1e300, 10**400, True, "0.02", None])
def test_time_steps_of_no_dynamics_count_as_none(model, caplog, step):
    write_record(recommendation_path(model), content(model, timestep_ps=step))
    assert read_recommendation(model) is None
    assert "holds no time step; searching again" in caplog.text
