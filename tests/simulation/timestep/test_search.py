"""Search for the time step: harmonic wells with known answers, criteria, and the file."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import openmm
import pytest
from typer.testing import CliRunner

from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.frames.frames import Frames, write_frames
from openmm_cgkd.simulation.timestep import search as search_module
from openmm_cgkd.simulation.timestep.criteria import Measurement, TimestepSearch, passing
from openmm_cgkd.simulation.timestep.criteria import objections as objections_to
from openmm_cgkd.simulation.timestep.integrate import Averages, Conservation, Integration, Start
from openmm_cgkd.simulation.timestep.recommendation import (
    FORMAT,
    read_recommendation,
    recommendation_path,
)
from openmm_cgkd.simulation.timestep.same_structure import (
    compare_sampling,
    lowest_p_value,
    time_block_rdfs,
)
from openmm_cgkd.simulation.timestep.search import measure, search_timestep, validate
from openmm_cgkd.stages.timestep import frames_of, simulation_settings
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import CHECKSUM, write_record
from tests.cases.potential import CUBIC, beads, liquid, write_toy_potential

TEMPERATURE, MASS, STIFFNESS = 200.0, 60.0, 1000.0
OMEGA = np.sqrt(STIFFNESS / MASS)  # 1/ps


def wells(
    energy: str = f"{STIFFNESS / 2}*((x-x0)^2+(y-y0)^2+(z-z0)^2)",
) -> tuple[Integration, np.ndarray]:
    """Beads that are held one by one and do not see each other, and the middles of their wells."""
    middles = np.random.default_rng(0).uniform(0, 2, (30, 3))
    system, force = openmm.System(), openmm.CustomExternalForce(energy)
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for k, middle in enumerate(middles):
        system.addParticle(MASS)
        force.addParticle(k, middle)
    system.addForce(force)
    return Integration(system, TEMPERATURE, 5.0, "Reference"), middles


@pytest.fixture(scope="module")
def harmonic() -> tuple[Integration, np.ndarray, list[Start]]:
    integration, middles = wells()
    return integration, middles, integration.starts(middles, 0.01, 5.0, 3, 1.0)


@pytest.mark.parametrize("timestep", [0.02, 0.05, 0.2])
def test_energy_fluctuates_as_the_shadow_energy_says(harmonic, timestep):
    """H = shadow + (omega h / 2)^2 U, and U of every coordinate oscillates on a known ellipse."""
    integration, middles, starts = harmonic
    small = (OMEGA * timestep) ** 2 / 4
    squares = []
    for start in starts:
        amplitude = (start.positions - middles) - 1j * start.velocities / (
            OMEGA * np.sqrt(1 - small)
        )
        squares.append((small * STIFFNESS * abs((amplitude**2).sum()) / 4) ** 2 / 2)
    expected = np.sqrt(np.mean(squares) / len(middles)) / integration.kt
    found = integration.conservation(starts, timestep, 30.0)
    assert found.fluctuation == pytest.approx(expected, rel=0.06)
    assert abs(found.drift) < 0.2 * expected / 0.030  # within the fluctuation over the whole run


def test_langevin_averages_are_those_of_baoab(harmonic):
    """Exact at half steps and in position, too cold by (omega h / 2)^2 at full steps.

    That is a quarter at omega h = 1.
    """
    integration, _, starts = harmonic
    found = integration.averages(starts[-1], 1 / OMEGA, 400.0)
    assert max(found.temperature_se, found.full_step_temperature_se) < 0.02 * TEMPERATURE
    assert found.temperature == pytest.approx(TEMPERATURE, abs=4 * found.temperature_se)
    assert found.full_step_temperature == pytest.approx(
        0.75 * TEMPERATURE, abs=4 * found.full_step_temperature_se
    )
    assert found.energy == pytest.approx(1.5, abs=4 * found.energy_se)
    assert found.energy_se < 0.03


def test_default_duration_gives_the_temperature_its_error():
    """Free beads, where the thermostat alone changes velocities.

    The error of an average is measured from many equal averages.
    """
    integration, middles = wells("0*x0")
    search = TimestepSearch(friction="5 / ps", max_temperature_error=0.05).long_enough(len(middles))
    assert 20 < search.nvt < 100
    start = integration.starts(middles, 0.02, 5.0, 1, 1.0)[0]
    found = [
        integration.averages(start, 0.02, search.nvt / 0.9).temperature / TEMPERATURE
        for _ in range(20)
    ]
    assert np.std(found) == pytest.approx(0.05 / 5, rel=0.5)
    assert TimestepSearch(nvt="3 ps").long_enough(1).nvt == 3


def test_search_ends_where_the_system_explodes():
    integration, middles = wells("20000*((x-x0)^4+(y-y0)^4+(z-z0)^4)")
    starts = integration.starts(middles, 0.01, 5.0, 2, 1.0)
    steps = ["600 fs", "20 fs", "50 fs", "400 fs"]
    search = TimestepSearch(
        timesteps=steps, nve="10 ps", nvt="200 ps", friction="5 / ps", max_temperature_error=0.05
    )
    done = []
    found = measure(integration, starts, search, done.append)
    # ascending, and 600 fs is not tried any more
    assert [m.timestep for m in found] == [0.02, 0.05, 0.4]
    # kT/4 per coordinate: <x dU/dx> = kT
    assert found[0].averages.energy == pytest.approx(0.75, abs=4 * found[0].averages.energy_se)
    assert passing(found) == [0.02, 0.05]
    assert "explodes" in found[-1].objections[0]
    assert done == [1, 2]


def numbers(**changes):
    values = {"drift": 0.1, "temperature": 200.5, "energy": 1.0, **changes}
    conservation = Conservation(values["drift"], 0.05, 0.01)
    return conservation, Averages(values["temperature"], 0.5, 199.0, 0.5, values["energy"], 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"drift": -0.95}, r"energy drift -0\.95 \+- 0\.05 kT/ns per bead, allowed 1"),
        ({"temperature": 204.0}, r"kinetic temperature off by 2 \+- 0\.25 %, allowed 2"),
        ({"energy": 0.92}, r"potential energy off by -0\.08 \+- 0\.014 kT per bead, allowed 0\.1"),
        ({"energy": np.nan}, "potential energy off by nan"),
    ],
)
def test_bounds_hold_with_two_standard_errors(changes, message):
    search = TimestepSearch()
    reference = numbers()[1]
    objections = objections_to(*numbers(**changes), reference, 200.0, search)
    if message is None:
        assert objections == []
    else:
        (objection,) = objections
        assert re.search(message, objection)


def test_what_passes_is_below_the_first_objection():
    def found(timestep, *objections):
        return Measurement(timestep, *numbers(), None, objections)

    assert passing([found(0.002), found(0.004), found(0.006, "drifts"), found(0.008)]) == [
        0.002,
        0.004,
    ]
    with pytest.raises(
        SimulationError, match=r"already 2 fs does not \(drifts\); try smaller ones"
    ):
        passing([found(0.002, "drifts"), found(0.004)])


def test_equilibration_that_explodes_is_one_sentence():
    integration, middles = wells()
    with pytest.raises(
        SimulationError,
        match=r"cannot be equilibrated with a time step of 1000 fs \(.*\); begin with a smaller",
    ):
        integration.starts(middles, 1.0, 50.0, 1, 1.0)


def test_structure_is_the_same_at_half_the_step_and_other_at_another_stiffness():
    """BAOAB samples a harmonic well exactly at any stable step; a softer well differs."""
    search = TimestepSearch(validation="200 ps", friction="5 / ps", blocks=8)
    names, box, found = ["A", "B"] * 15, 4 * np.eye(3), []
    for stiffness in (20 * STIFFNESS, 10 * STIFFNESS):
        integration, middles = wells(f"{stiffness / 2}*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
        step = 1.0 / np.sqrt(stiffness / MASS)
        (start,) = integration.starts(middles, step / 5, 5.0, 1, 1.0)
        result = validate(integration, start, step, box, names, search)
        assert result.p_value > 1e-3
        assert result.difference < 2 * result.expected
        frames = np.array(
            [
                state.getPositions(asNumpy=True)._value
                for state in integration.langevin(start, step, 100.0, 0.2)
            ]
        )
        found.append(time_block_rdfs(frames.astype(np.float32), box, names, 2.0, 8))
    softer = compare_sampling(*found)
    assert softer.p_value < 1e-3
    assert softer.difference > 2 * softer.expected


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 8])
def test_lowest_p_value_is_what_runs_as_different_as_can_be_get(blocks):
    first, second = np.zeros((blocks, 1, 4)), np.ones((blocks, 1, 4))
    found = compare_sampling(first, second).p_value
    assert found == pytest.approx(lowest_p_value(blocks), rel=1e-6) or blocks == 8
    assert lowest_p_value(blocks) <= found < 1e-3 or blocks < 8
    assert (found < 0.01) == (blocks > 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 4}, r"blocks: got 4, of which p .* never below 0\.029.*could not fail"),
        ({"blocks": 2, "min_p_value": 0.3}, r"never below 0\.33"),
        ({"blocks": 10, "min_p_value": 1e-5}, r"never below 0\.0001"),
    ],
)
def test_a_test_of_the_structure_that_cannot_fail_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TimestepSearch.of(validate_structure=True, **settings)
    TimestepSearch.of(**settings)  # without the test the blocks do nothing
    TimestepSearch.of(validate_structure=True, **{**settings, "blocks": 5, "min_p_value": 0.01})


def test_noise_that_hides_any_difference_does_not_pass():
    """A handful of frames: p is fine, but nothing could be seen."""
    names, box = ["A", "B"] * 15, 4 * np.eye(3)
    integration, middles = wells()
    (start,) = integration.starts(middles, 0.02, 5.0, 1, 1.0)
    search = TimestepSearch(validation="2 ps", friction="5 / ps", blocks=5)
    with pytest.raises(
        SimulationError,
        match=r"2 ps cannot tell whether the structure is the same.*lengthen the validation",
    ):
        validate(integration, start, 0.02, box, names, search)


def test_errors_that_are_lower_bounds_count_threefold():
    search = TimestepSearch()
    conservation, averages = numbers(temperature=202.0)
    reference = numbers()[1]
    assert objections_to(conservation, averages, reference, 200.0, search) == []
    short = dataclasses.replace(averages, at_least=("temperature",))
    (objection,) = objections_to(conservation, short, reference, 200.0, search)
    assert objection == (
        "kinetic temperature off by 1 +- >= 0.25 %, allowed 2 (the run is too short to know its"
        " error)"
    )
    # the error of a drift from two starts says little: Student's t is 14 there
    few = TimestepSearch(states=2)
    (objection,) = objections_to(conservation, averages, reference, 200.0, few) or [""]
    assert objection == ""
    drifting = Conservation(0.4, 0.05, 0.01)
    assert "energy drift" in objections_to(drifting, averages, reference, 200.0, few)[0]
    assert objections_to(drifting, averages, reference, 200.0, search) == []


def test_time_block_rdfs_of_an_ideal_gas():
    positions = np.random.default_rng(3).uniform(0, 3, (300, 40, 3)).astype(np.float32)
    curves = time_block_rdfs(positions, 3 * np.eye(3), ["A"] * 20 + ["B"] * 20, 1.5, 3)
    assert curves.shape == (3, 3, 75)
    np.testing.assert_allclose(curves[:, :, 30:].mean(axis=(0, 2)), 1.0, atol=0.03)
    with pytest.raises(SimulationError, match="300 frames do not make 301 time blocks"):
        time_block_rdfs(positions, 3 * np.eye(3), ["A"] * 40, 1.5, 301)


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
        "simulation": {"platform": "CPU"},
    }
    return parse(RunConfig, data, "run.yaml", tmp_path)


SHORT = {
    "nve": "0.01 ps",
    "nvt": "0.04 ps",
    "equilibration": "0.01 ps",
    "blocks": 2,
    "states": 2,
    "platform": "CPU",
}
LOOSE = {"max_drift": 1e9, "max_temperature_error": 1e3, "max_energy_error": 1e3}


def test_recommendation_is_kept_beside_the_potential_and_used(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(search_module, "SPACING", 0.01)
    model = tmp_path / "run" / "student.pt"
    assert read_recommendation(model) is None
    frames = frames_of(model, tmp_path / "frames.h5")
    search = TimestepSearch(timesteps=["1 fs", "2 fs"], **SHORT, **LOOSE)
    path = search_timestep(model, frames, search)
    content = json.loads(path.read_text())
    assert path == tmp_path / "run" / "timestep.json"
    assert content["timestep_ps"] == pytest.approx(0.002)
    assert content["platform"] == "CPU"
    with open(path.with_suffix(".csv")) as file:
        rows = list(csv.DictReader(file))
    assert [row["timestep_fs"] for row in rows] == ["1", "2"]
    assert float(rows[1]["temperature"]) == pytest.approx(
        content["measurements"][1]["averages"]["temperature"]
    )
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    assert simulation_settings(run).timestep == pytest.approx(0.002)
    explicit = run.model_copy(
        update={"simulation": run.simulation.model_copy(update={"timestep": 0.003})}
    )
    assert simulation_settings(explicit).timestep == 0.003

    # another potential has no recommendation, so that it is searched for
    model.write_bytes(model.read_bytes() + b"\0")
    assert read_recommendation(model) is None
    searched = []

    def found(file, frames, search):
        searched.append((file, frames.temperature, search.friction, search.platform))
        content["model_sha256"] = file_hash(file)
        write_record(path, {**content, "timestep_ps": 0.004})

    monkeypatch.setattr("openmm_cgkd.simulation.simulate.search_timestep", found)
    assert simulation_settings(run).timestep == 0.004
    assert simulation_settings(run).timestep == 0.004
    assert searched == [(model, 1000.0, 1.0, "CPU")]

    # a changed digit counts as none, and so does what is no time step
    whole = path.read_text()
    path.write_text(whole.replace("0.004", "0.005"))
    assert read_recommendation(model) is None
    assert "its checksum differs; the time step is searched again" in caplog.text
    for wrong in (0, -0.004, float("nan"), "4 fs", None):
        write_record(path, {**content, "timestep_ps": wrong})
        assert read_recommendation(model) is None
    old = {name: value for name, value in content.items() if name != CHECKSUM}
    path.write_text(json.dumps(old))
    assert read_recommendation(model) == content["timestep_ps"]


def test_nothing_passes_and_the_table_says_why(run, tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "SPACING", 0.01)
    model = tmp_path / "run" / "student.pt"
    search = TimestepSearch(timesteps=["1 fs", "2 fs"], **SHORT, max_temperature_error=1e-9)
    with pytest.raises(
        SimulationError, match=r"already 1 fs does not .*kinetic temperature off by"
    ):
        search_timestep(model, frames_of(model, tmp_path / "frames.h5"), search)
    assert "kinetic temperature" in (tmp_path / "run" / "timestep.csv").read_text()
    assert not (tmp_path / "run" / "timestep.json").exists()


def test_command(run, tmp_path, monkeypatch):
    model, frames = tmp_path / "run" / "student.pt", tmp_path / "frames.h5"

    def call(*arguments):
        return CliRunner().invoke(app, ["timestep", str(model), *arguments])

    def fake_search(file, frames, search):
        done.append((file, len(frames), search))
        facts = {
            "format": FORMAT,
            "version": 1,
            "model_sha256": file_hash(file),
            "timestep_ps": 0.006,
        }
        path = recommendation_path(file)
        path.write_text(json.dumps(facts))
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
        "--frames",
        str(frames),
        "--timestep",
        "6 fs",
        "--timestep",
        "3 fs",
        "--nvt",
        "2 ps",
        "--max-drift",
        "0.5",
        "--validate",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["6", "fs", str(tmp_path / "run" / "timestep.json")]
    expected = {
        "timesteps": ["3 fs", "6 fs"],
        "nvt": "2 ps",
        "max_drift": 0.5,
        "validate_structure": True,
    }
    assert done == [(model, 2, TimestepSearch(**expected))]
    (tmp_path / "run" / "run.yaml").write_text(
        "system: ../system.yaml\nfolder: .\nframes: ../frames.h5\n"
    )
    assert call().exit_code == 0  # now the frames are those of the run
    assert done[1][1:] == (2, TimestepSearch())


def test_one_time_step_is_not_enough():
    with pytest.raises(ConfigError, match=r"timesteps.*at least 2"):
        TimestepSearch.of(timesteps=["2 fs"])
