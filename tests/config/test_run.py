"""system.yaml and run.yaml: every mistake is one sentence that names the field."""

from pathlib import Path

import pytest
import yaml

from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import MOST_TYPES, SystemConfig, load_system
from openmm_cgkd.exceptions import ConfigError
from tests.cases.fluids import ETHALINE

SYSTEM = yaml.safe_load((ETHALINE / "system.yaml").read_text())
RUN = {"system": "system.yaml", "folder": "results"}


def changed(data: dict, path: str, value: object) -> dict:
    """Deep copy with one entry replaced; `path` is dotted."""
    data = yaml.safe_load(yaml.safe_dump(data))
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[int(key)]
    place[last] = value
    return data


def test_ethaline():
    config = load_system(ETHALINE / "system.yaml")
    assert config.temperature == pytest.approx(363.15)
    assert config.reference.timestep == pytest.approx(0.004)
    assert [bead.selection for bead in config.beads] == ["all"] * 3
    assert config.path(config.force_field) == ETHALINE / "forcefield.xml"
    assert all(config.path(molecule.structure).exists() for molecule in config.molecules)


@pytest.mark.parametrize(
    ("kind", "data", "path", "value", "message"),
    [
        (
            SystemConfig,
            SYSTEM,
            "temperature",
            363.15,
            "temperature: got 363.15 without a unit; write for example '363.15 kelvin'",
        ),
        (
            SystemConfig,
            SYSTEM,
            "temperature",
            "363 nm",
            "temperature: got '363 nm', which does not convert to kelvin",
        ),
        (SystemConfig, SYSTEM, "temperature", "-3 kelvin", "temperature: got .*greater than 0"),
        (
            SystemConfig,
            SYSTEM,
            "temprature",
            "363 kelvin",
            "temprature: unknown field; check the spelling or remove it",
        ),
        (SystemConfig, SYSTEM, "reference.timestp", "4 fs", r"reference\.timestp: unknown field"),
        (
            SystemConfig,
            SYSTEM,
            "reference.timestep",
            4,
            r"reference\.timestep: got 4 without a unit",
        ),
        (
            SystemConfig,
            SYSTEM,
            "molecules.0.count",
            0,
            r"molecules\.0\.count: got 0: input should be greater than 0",
        ),
        (SystemConfig, SYSTEM, "molecules.1.name", "CHO", "molecule names repeat"),
        (SystemConfig, SYSTEM, "beads.0.type", "A B", r"beads\.0\.type: got 'A B'"),
        (
            SystemConfig,
            SYSTEM,
            "beads.2.molecule",
            "GLY",
            "bead EGL belongs to molecule GLY, which is not among",
        ),
        (SystemConfig, SYSTEM, "beads", [], "beads: .*at least 1 item"),
        (
            RunConfig,
            RUN,
            "student.weights",
            {"force": 0, "bead_energy": 0},
            "all loss weights are 0",
        ),
        (
            RunConfig,
            {**RUN, "student": {"training": {"batch_size": 1}}},
            "student.weights",
            {"energy": 0.1},
            (
                "weights.energy compares the frames of a batch, and batch_size is 1; set batch_size"
                " to 2"
            ),
        ),
        (RunConfig, RUN, "student.targets", "noisy", "mapped all-atom frames carry no CG energy"),
        (RunConfig, RUN, "student.targets", "best", r"student\.targets: got 'best'"),
        (RunConfig, RUN, "max_frames", True, "max_frames: got True; write a number or text"),
        (RunConfig, RUN, "max_frames", "yes", "max_frames: got 'yes': .*valid integer"),
        (RunConfig, RUN, "teachers.count", 10**9, "teachers.count: .*less than or equal to 1000"),
        (RunConfig, RUN, "comparison.bins", 10**8, "comparison.bins: .*less than or equal"),
        (RunConfig, RUN, "prior.threshold", float("inf"), "prior.threshold: .*finite number"),
        (RunConfig, RUN, "prior.threshold", "1e999", "prior.threshold: .*finite number"),
        (RunConfig, RUN, "split.test", float("nan"), "split.test: got nan"),
        (RunConfig, RUN, "student.extra.trajectories", [True], "got .True.; write a number"),
        (RunConfig, RUN, "folder", "a\0b", r"folder: got 'a.x00b'; leave out what cannot be"),
        (RunConfig, RUN, "simulation.platform", "\x1b[2J", r"got '.x1b\[2J'; leave out"),
        (SystemConfig, SYSTEM, "beads.0.type", "A\x07", "leave out what cannot be printed"),
        (SystemConfig, SYSTEM, "molecules.0.masses", {"\x1b": "1 Da"}, "leave out what cannot"),
        (RunConfig, RUN, "folder", "x" * 300, "no file can have that name"),
        (RunConfig, RUN, "simulation.platform", "x" * 20_000, "at most 10000 characters"),
        (SystemConfig, SYSTEM, "molecules.0.count", 10**8, "less than or equal to 10000000"),
        (SystemConfig, SYSTEM, "temperature", "1e6 kelvin", "less than or equal to 100000"),
        (
            RunConfig,
            RUN,
            "student.training",
            {"batch_size": 4, "devices": 3},
            "batch_size 4 is not a multiple of devices 3",
        ),
        (
            RunConfig,
            RUN,
            "student.training",
            {"ema_decay": 1},
            r"student\.training\.ema_decay: got 1: input should be less than 1",
        ),
        (
            RunConfig,
            {**RUN, "teachers": {"count": 1}},
            "student.spread_weights",
            True,
            "one teacher has no spread.*count to 2 or more",
        ),
        (
            RunConfig,
            {**RUN, "teachers": {"count": 1}},
            "student.on_policy.rounds",
            1,
            "one teacher has no spread.*count to 2 or more",
        ),
        (
            RunConfig,
            {**RUN, "student": {"targets": "noisy", "weights": {"bead_energy": 0}}},
            "student.extra.perturbed",
            5,
            "extra, on_policy and spread_weights need labels of teachers",
        ),
        (RunConfig, RUN, "split.test", 1.5, r"split\.test: got 1\.5"),
        (RunConfig, RUN, "model.cutoff", 1.0, r"model\.cutoff: got 1\.0 without a unit"),
        (RunConfig, RUN, "seed", 0, "seed: got 0"),
        (RunConfig, RUN, "teachers.count", "many", r"teachers\.count: got 'many'"),
        (RunConfig, RUN, "simulation.timestep", 5, r"simulation\.timestep: got 5 without a unit"),
        (
            RunConfig,
            RUN,
            "simulation.committee",
            {"interval": 1},
            r"simulation\.committee\.interval: got 1 without a unit",
        ),
        (RunConfig, RUN, "execution.backend", "slurm", r"execution\.backend: got 'slurm'"),
        (
            RunConfig,
            RUN,
            "execution.accelerators",
            [0, 1],
            "accelerators and slurm are for backend parsl, got backend local",
        ),
        (
            RunConfig,
            RUN,
            "execution",
            {"backend": "parsl", "slurm": {"walltime": "1 day"}},
            r"slurm\.walltime: got '1 day'",
        ),
    ],
)
def test_mistakes(kind, data, path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(kind, changed(data, path, value), "file.yaml", Path())
    text = str(caught.value)
    assert text.startswith("file.yaml: ")
    assert "\n" not in text


@pytest.mark.parametrize("field", ["name", "temperature", "molecules", "beads", "force_field"])
def test_missing_field(field):
    data = {key: value for key, value in SYSTEM.items() if key != field}
    with pytest.raises(ConfigError, match=f"{field}: required field is missing; add it"):
        parse(SystemConfig, data, "file.yaml", Path())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [unclosed", "cannot be read as YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("\x00", r"it is no text; give the path of a system\.yaml"),
    ],
)
def test_not_a_configuration(tmp_path, text, message):
    path = tmp_path / "system.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_system(path)


def test_the_line_of_a_mistake(tmp_path):
    """Of a value, of an unknown field, and of the section that lacks a field."""
    text = "system: system.yaml\nfolder: results\nteachers:\n  blocks: 5\n  count: none\n"
    path = tmp_path / "run.yaml"
    for old, new, message in (
        ("", "", r"teachers\.count: got 'none': .* \(line 5\)\."),
        ("count: none", "cuont: 3", r"teachers\.cuont: unknown field.* \(line 5\)\."),
        ("count: none", "count: 3\n  count: 4", r"run\.yaml, line 6: the key 'count' stands twice"),
        ("folder: results\n", "", r"folder: required field is missing; add it \(line 1\)\."),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError, match=message):
            load_run(path)


def test_switches_may_be_written_in_words(tmp_path):
    """YAML 1.2 has only true and false; yes is text that such a field still understands."""
    path = tmp_path / "run.yaml"
    for word, value in (("yes", True), ("off", False), ("true", True)):
        path.write_text(f"system: system.yaml\nfolder: results\ntensorboard: {word}\n")
        assert load_run(path).tensorboard is value


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load_run(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; give the path of a run\.yaml\.$"):
        load_run(tmp_path)


def test_paths_are_relative_to_the_file(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    folder.joinpath("run.yaml").write_text(yaml.safe_dump({**RUN, "frames": "../frames.h5"}))
    config = load_run(folder / "run.yaml")
    assert config.run_folder == folder / "results"
    assert config.path(config.system) == folder / "system.yaml"
    assert config.path(config.frames) == tmp_path / "frames.h5"


def test_dump_spells_out_defaults_and_reads_back():
    config = parse(RunConfig, changed(RUN, "model.cutoff", "12 angstrom"), "run.yaml", Path())
    text = dump(config)
    assert "cutoff: 1.2 nanometer" in text
    assert "learning_rate: 0.001" in text
    assert parse(RunConfig, yaml.safe_load(text), "run.yaml", Path()) == config


def test_dump_into_another_folder_points_to_the_same_files(tmp_path):
    config = load_system(ETHALINE / "system.yaml")
    folder = tmp_path / "results" / "reference"
    folder.mkdir(parents=True)
    folder.joinpath("system.yaml").write_text(dump(config, folder))
    again = load_system(folder / "system.yaml")
    assert again.path(again.force_field) == ETHALINE / "forcefield.xml"
    assert [again.path(m.structure) for m in again.molecules] == [
        config.path(m.structure) for m in config.molecules
    ]
    assert again.reference == config.reference


def test_frozen():
    config = load_system(ETHALINE / "system.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.temperature = 300


def test_bead_types_that_pdb_files_would_confuse():
    """Different in the first four characters is enough."""
    data = changed(SYSTEM, "beads.0.type", "ION_P")
    assert parse(SystemConfig, data, "system.yaml", ETHALINE).beads[0].type == "ION_P"
    data = changed(data, "beads.1.type", "ION_M")
    with pytest.raises(ConfigError, match="ION_P and ION_M are alike in their first four"):
        parse(SystemConfig, data, "system.yaml", ETHALINE)


def test_more_bead_types_than_a_potential_can_have():
    def with_types(n: int) -> dict:
        return {**SYSTEM, "beads": [{**SYSTEM["beads"][0], "type": f"A{k}"} for k in range(n)]}

    most = parse(SystemConfig, with_types(MOST_TYPES), "system.yaml", ETHALINE)
    assert len(most.beads) == MOST_TYPES
    with pytest.raises(ConfigError, match="has 101 bead types, at most 100 can be trained"):
        parse(SystemConfig, with_types(MOST_TYPES + 1), "system.yaml", ETHALINE)


def test_annealing_is_a_fifth_hotter_than_the_run_unless_it_is_given():
    config = parse(SystemConfig, {**SYSTEM, "reference": {}}, "system.yaml", Path())
    assert config.annealing_temperature == pytest.approx(1.2 * config.temperature)
    given = {**SYSTEM, "reference": {"annealing_temperature": "450 kelvin"}}
    assert parse(SystemConfig, given, "system.yaml", Path()).annealing_temperature == 450
