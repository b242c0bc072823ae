"""Search for the time step: a well where it must fail, the files, and the command."""

import csv
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.frames.frames import Frames, write_frames
from openmm_cgkd.simulation.timestep.criteria import TimestepSearch, judge
from openmm_cgkd.simulation.timestep.recommendation import (
    FORMAT,
    VERSION,
    Recommendation,
    read_recommendation,
    recommendation_path,
)
from openmm_cgkd.simulation.timestep.search import measure, search_timestep
from openmm_cgkd.stages.timestep import frames_of, simulation_settings
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record
from tests.cases.potential import CUBIC, beads, liquid, rewritten, write_toy_potential
from tests.cases.wells import TEMPERATURE, wells

NAMES, BOX = ["A", "B"] * 15, 4 * np.eye(3)


def test_search_finds_what_positions_have_wrong_and_ends_where_they_explode():
    """Quartic wells, whose positions are too cold with a long step while velocities are not."""
    integration, middles = wells("20000*((x-x0)^4+(y-y0)^4+(z-z0)^4)")
    integration.begin(middles)
    start = integration.equilibrated(0.01, 5.0)
    search = TimestepSearch(
        timesteps=["600 fs", "20 fs", "240 fs", "400 fs"], max_structure_error=10.0
    )
    forces = []
    found = measure(
        integration, start, search, 200.0, BOX, NAMES, lambda note, done: forces.append(done)
    )
    # ascending, and 600 fs is not tried any more
    assert [m.timestep for m in found] == [0.02, 0.24, 0.4]
    # kT/4 per coordinate: <x dU/dx> = kT
    assert found[0].averages.energy == pytest.approx(0.75, abs=4 * found[0].averages.energy_se)
    first, second = (m.averages for m in found[:2])
    assert first.configurational == pytest.approx(TEMPERATURE, abs=4 * first.configurational_se)
    assert abs(second.configurational - TEMPERATURE) > 5 * second.configurational_se
    assert abs(second.kinetic - TEMPERATURE) < 0.02 * TEMPERATURE
    objections = [judgment.objections for judgment in judge(found, TEMPERATURE, search)]
    assert "configurational temperature off" in objections[1][0]
    assert "explodes" in objections[2][0]
    assert found[0].structure is None
    assert found[1].structure is not None


def test_runs_too_short_to_compare_structures_are_refused_at_once():
    integration, middles = wells()
    integration.begin(middles)
    start = integration.equilibrated(0.02, 1.0)
    done = []
    with pytest.raises(
        SimulationError,
        match=r"Runs of 4 ps are too short .*not from 0\.02; about .* ps are needed",
    ):
        measure(
            integration, start, TimestepSearch(), 4.0, BOX, NAMES, lambda note, n: done.append(note)
        )
    assert set(done) == {"5 fs"}


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt")


@pytest.fixture
def run(tmp_path, potential) -> RunConfig:
    """A run folder with a potential and frames of 30 beads."""
    types, positions = liquid()
    fluid = beads(types)
    one = np.broadcast_to(positions, (2, 30, 3)).astype("f4")
    attributes = {"system": "small", "temperature": 1000.0}
    box = np.broadcast_to(CUBIC, (2, 3, 3))
    write_frames(
        Frames(one, np.zeros_like(one), box, np.arange(2.0), np.arange(2), fluid, attributes),
        tmp_path / "frames.h5",
    )
    (tmp_path / "run").mkdir()
    shutil.copy(potential, tmp_path / "run")
    data = {
        "system": "system.yaml",
        "folder": "run",
        "frames": "frames.h5",
        "simulation": {"platform": "CPU", "production": "1 us"},
    }
    return parse(RunConfig, data, "run.yaml", tmp_path)


SHORT = {
    "timesteps": ["4 fs", "8 fs"],
    "duration": "1.2 ps",
    "equilibration": "0.01 ps",
    "blocks": 5,
    "platform": "CPU",
    "max_structure_error": 1e3,
}
LOOSE = {"max_temperature_error": 1e3, "max_energy_error": 1e3, "min_p_value": 0.009}


def test_recommendation_is_kept_beside_the_potential_and_used(run, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    model = tmp_path / "run" / "student.pt"
    frames = frames_of(model, tmp_path / "frames.h5")
    path = search_timestep(model, frames, TimestepSearch(**SHORT, **LOOSE))
    assert path == tmp_path / "run" / "timestep.json"
    assert "2 time steps of 4 to 8 fs, 1.2 ps each on CPU: 494 forces of" in caplog.text
    content, found = json.loads(path.read_text()), read_recommendation(model)
    assert (content["version"], content["platform"]) == (VERSION, "CPU")
    assert found.timestep in (0.004, 0.008)
    chosen = content["judgments"][round(found.timestep / 0.004) - 1]
    assert found.error == content["temperature_error"] == chosen["temperature_error"]
    assert found.error_se == chosen["temperature_error_se"] > 0
    with open(path.with_suffix(".csv")) as file:
        rows = list(csv.DictReader(file))
    assert [row["timestep_fs"] for row in rows] == ["4", "8"]
    for name in ("configurational", "kinetic"):
        assert float(rows[1][name]) == content["measurements"][1]["averages"][name]
    assert float(rows[1]["p_value"]) == content["measurements"][1]["structure"]["p_value"]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    assert simulation_settings(run).timestep == found.timestep
    explicit = run.model_copy(
        update={"simulation": run.simulation.model_copy(update={"timestep": 0.003})}
    )
    assert simulation_settings(explicit).timestep == 0.003

    # another potential has no recommendation, so that it is searched for
    model.write_bytes(model.read_bytes() + b"\0")
    searched = []

    def fake(file, frames, search):
        searched.append((file, frames.temperature, search.friction, search.platform))
        changes = {"model_sha256": file_hash(file), "timestep_ps": 0.004}
        write_record(path, {**content, **changes})

    monkeypatch.setattr("openmm_cgkd.simulation.simulate.search_timestep", fake)
    assert simulation_settings(run).timestep == 0.004
    assert simulation_settings(run).timestep == 0.004
    assert searched == [(model, 1000.0, 1.0, "CPU")]


def test_a_short_run_is_not_worth_a_search(run, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(
        "openmm_cgkd.simulation.simulate.search_timestep", lambda *_: pytest.fail("searched")
    )
    changes = {"production": 100.0, "equilibration": 5.0}
    short = run.model_copy(update={"simulation": run.simulation.model_copy(update=changes)})
    assert simulation_settings(short).timestep == 0.002
    assert "2 fs is taken, with which this run needs 52,500 steps, while the search" in caplog.text


def test_nothing_passes_and_the_table_says_why(run, tmp_path):
    model = tmp_path / "run" / "student.pt"
    search = TimestepSearch(**SHORT, max_temperature_error=1e-9, min_p_value=0.009)
    with pytest.raises(
        SimulationError, match=r"already 4 fs does not .*configurational temperature off by"
    ):
        search_timestep(model, frames_of(model, tmp_path / "frames.h5"), search)
    assert "configurational temperature" in (tmp_path / "run" / "timestep.csv").read_text()
    assert not (tmp_path / "run" / "timestep.json").exists()


def test_another_temperature_than_that_of_the_potential_is_refused(run, tmp_path):
    model = tmp_path / "run" / "cold.pt"
    rewritten(tmp_path / "run" / "student.pt", model, hashed=True, temperature=300.0)
    frames = frames_of(model, tmp_path / "frames.h5")
    with pytest.raises(ConfigError, match=r"holds at 300 K.*the frames have 1000 K.*--other-temp"):
        search_timestep(model, frames, TimestepSearch(**SHORT, **LOOSE))


def test_command(run, tmp_path, monkeypatch):
    model, frames = tmp_path / "run" / "student.pt", tmp_path / "frames.h5"

    def call(*arguments):
        return CliRunner().invoke(app, ["timestep", str(model), *arguments])

    def fake_search(file, frames, search):
        done.append((file, len(frames), search))
        facts = {"format": FORMAT, "version": VERSION, "model_sha256": file_hash(file)}
        numbers = {
            "timestep_ps": 0.025,
            "temperature_error": 0.0066,
            "temperature_error_se": 0.0005,
        }
        path = recommendation_path(file)
        path.write_text(json.dumps(facts | numbers))
        return path

    done = []
    monkeypatch.setattr("openmm_cgkd.simulation.timestep.search.search_timestep", fake_search)
    result = call()
    assert result.exit_code == 2
    assert "has no run.yaml beside it" in result.output
    result = call("--timestep", "4")
    assert result.exit_code == 2
    assert "got '4' without a unit" in result.output
    result = call(
        *("--frames", str(frames), "--timestep", "6 fs", "--timestep", "3 fs"),
        *("--duration", "2 ps", "--max-energy-error", "0.1", "--other-temperature"),
    )
    assert result.exit_code == 0, result.output
    words = Recommendation(0.025, 0.0066, 0.0005).words
    assert result.stdout.strip() == f"{words}  {tmp_path / 'run' / 'timestep.json'}"
    expected = {
        "timesteps": ["3 fs", "6 fs"],
        "duration": "2 ps",
        "max_energy_error": 0.1,
        "other_temperature": True,
    }
    assert done == [(model, 2, TimestepSearch(**expected))]
    (tmp_path / "run" / "run.yaml").write_text(
        "system: ../system.yaml\nfolder: .\nframes: ../frames.h5\n"
    )
    assert call().exit_code == 0  # now the frames are those of the run
    assert done[1][1:] == (2, TimestepSearch())
