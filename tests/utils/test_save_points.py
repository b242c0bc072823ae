"""Records of saves that somebody has made up."""

import pytest

from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.save_points import Progress, SavePoints

WHOLE = {
    "inputs": {},
    "equilibrated": True,
    "step": 30,
    "steps": 20,
    "measured": 20,
    "seconds": 0.5,
    "files": {"state.csv": {"size": 0, "sha256": "", "head": ""}},
    "checkpoint": "0" * 64,
    "state": "0" * 64,
}


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": {"state.csv": 7}},
        {"files": {"state.csv": {"size": -1, "sha256": "", "head": ""}}},
        {"files": {"state.csv": {"size": 0, "sha256": "", "head": 3}}},
        {"checkpoint": None},
        {"state": 5},
        {"steps": "20"},
        {"steps": None},
    ],
)
def test_a_made_up_record_is_damage(tmp_path, change):
    record = tmp_path / "progress.json"
    write_record(record, {**WHOLE, **change})
    saves, damage = SavePoints(tmp_path / "state.xml", record, [tmp_path / "state.csv"]).find()
    assert not saves
    assert "has no checksums of what was saved" in damage[0]


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"steps": 0, "measured": 0, "seconds": 0.0}, True),
        ({"measured": 0}, False),
        ({"seconds": 0.0}, False),
        ({"seconds": -1.0}, False),
        ({"steps": -1}, False),
        ({"steps": True}, False),
        ({"step": None}, False),
        ({"equilibrated": "yes"}, False),
    ],
)
def test_progress_is_what_a_simulation_tells(change, fits):
    assert Progress.fits({**WHOLE, **change}) is fits
