"""The folder that a fluid of one's own begins with."""

import shutil

import pytest
import yaml

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import BoxError, ConfigError, ForceFieldError
from openmm_cgkd.stages.new_fluid import write_new_fluid
from tests.cases.cli import call
from tests.cases.paths import ETHALINE

MOLECULES = [
    f"{ETHALINE}/molecules/{name}.pdb:{count}"
    for name, count in (("CHO", 40), ("CL", 40), ("EGL", 80))
]


def test_both_files_can_be_run_as_they_are(tmp_path):
    folder = tmp_path / "mine"
    fluid = write_new_fluid(
        folder, MOLECULES, "363.15 K", ETHALINE / "forcefield.xml", "1.079 g/cm^3"
    )
    system, run = load_system(folder / "system.yaml"), load_run(folder / "run.yaml")
    assert run.path(run.system) == folder / "system.yaml"
    assert run.run_folder == folder / "run"
    assert [(m.name, m.count) for m in system.molecules] == [("CHO", 40), ("CL", 40), ("EGL", 80)]
    assert build_topology(system).getNumAtoms() == fluid.n_atoms == 40 * 21 + 40 + 80 * 10
    assert fluid.n_beads == 160
    # 40 choline chloride and 80 ethylene glycol, by hand
    mass = 40 * 139.62 + 80 * 62.068
    assert fluid.edge == pytest.approx((mass / (1.079 * 602.214)) ** (1 / 3), rel=1e-4)
    assert system.reference.initial_density == pytest.approx(0.85 * 1.079, rel=1e-2)
    protocol = system.reference
    one = protocol.annealing + protocol.npt + protocol.nvt + protocol.production
    assert fluid.simulated == 2 * one
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_command_tells_what_comes_next(tmp_path):
    molecules = [word for each in MOLECULES for word in ("--molecule", each)]
    result = call("init", tmp_path / "mine", *molecules, "--temperature", "363 K")
    assert result.exit_code == 0, result.output
    assert "1,680 atoms, 160 beads" in result.stdout
    assert f"put an OpenMM force field into {tmp_path}/mine/forcefield.xml" in result.stdout
    assert f"cgkd run {tmp_path}/mine/run.yaml" in result.stdout


def test_a_molecule_may_be_given_another_name(tmp_path):
    write_new_fluid(
        tmp_path / "mine", [f"GLY={ETHALINE}/molecules/EGL.pdb:200"], "300 K", density="1.1 g/cm^3"
    )
    system = load_system(tmp_path / "mine/system.yaml")
    assert system.molecules[0].name == "GLY"
    assert [residue.name for residue in build_topology(system).residues()] == ["GLY"] * 200


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"molecules": ["water.pdb"]}, ConfigError, "write FILE:COUNT or NAME=FILE:COUNT"),
        ({"molecules": ["water.pdb:0"]}, ConfigError, "write FILE:COUNT or NAME=FILE:COUNT"),
        ({"molecules": ["absent.pdb:5"]}, ConfigError, r"absent\.pdb: no such file"),
        (
            {"molecules": [f"TOOLONG={MOLECULES[0]}"]},
            ForceFieldError,
            "the name 'TOOLONG' does not fit into PDB files",
        ),
        ({"molecules": MOLECULES[2:] * 2}, ConfigError, "two are named EGL; give NAME="),
        (
            {"molecules": [f"{ETHALINE}/molecules/CHO.pdb:80"]},
            ForceFieldError,
            r"charge of \+64\.0000 e",
        ),
        ({"temperature": "300"}, ConfigError, "temperature: got '300' without a unit"),
        ({"density": "1 g"}, ConfigError, "density: got '1 g', which does not convert"),
        ({"density": "-1 g/cm^3"}, ConfigError, "density: got -1 g/cm"),
        ({"force_field": "absent.xml"}, ConfigError, r"absent\.xml: no such file"),
        ({"density": "20 g/cm^3"}, BoxError, "take at least 1551 molecules"),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(tmp_path, change, error, message):
    given = {
        "molecules": MOLECULES,
        "temperature": "363 K",
        "force_field": ETHALINE / "forcefield.xml",
    }
    with pytest.raises(error, match=message):
        write_new_fluid(tmp_path / "mine", **{**given, **change})
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(tmp_path):
    shutil.copytree(ETHALINE / "molecules", tmp_path / "mine")
    with pytest.raises(ConfigError, match="exists already; give the name of a new folder"):
        write_new_fluid(tmp_path / "mine", MOLECULES, "363 K")
    assert (tmp_path / "mine/CHO.pdb").exists()


def test_other_folders_beside_it_are_kept(tmp_path):
    other = tmp_path / "mine.new"
    other.mkdir()
    other.joinpath("thesis.txt").write_text("years")
    write_new_fluid(tmp_path / "mine", MOLECULES, "363 K")
    assert other.joinpath("thesis.txt").read_text() == "years"


def test_the_folder_may_be_the_one_where_one_is(tmp_path, monkeypatch):
    tmp_path.joinpath("mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    write_new_fluid(".", MOLECULES, "363 K")
    assert load_system("system.yaml").name == "mine"


def test_messages_name_the_users_own_files(tmp_path):
    text = (ETHALINE / "forcefield.xml").read_text()
    broken = tmp_path / "own.xml"
    broken.write_text(text.replace('type="chN" charge="0.791"', 'type="chN" charge="0.781"'))
    with pytest.raises(ForceFieldError, match=rf"correct the charges in {broken}\.$"):
        write_new_fluid(tmp_path / "mine", MOLECULES, "363 K", broken)


def test_a_file_of_two_molecules_is_refused_whatever_they_are_called(tmp_path):
    lines = (ETHALINE / "molecules/EGL.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("HETATM")]
    second = [f"{line[:22]}{2:4d}{line[26:]}" for line in atoms]
    path = tmp_path / "two.pdb"
    path.write_text("\n".join([*atoms, *second, "END", ""]))
    with pytest.raises(ForceFieldError, match=r"two\.pdb: has 2 residues"):
        write_new_fluid(tmp_path / "mine", [f"EGL={path}:200"], "363 K")


def test_defaults_are_comments(tmp_path):
    write_new_fluid(tmp_path / "mine", MOLECULES, "363 K")
    run = yaml.safe_load((tmp_path / "mine/run.yaml").read_text())
    assert {name: value for name, value in run.items() if isinstance(value, str)} == {
        "system": "system.yaml",
        "folder": "run",
    }
    assert dump(load_run(tmp_path / "mine/run.yaml")) == dump(
        parse(RunConfig, {"system": "system.yaml", "folder": "run"}, "run.yaml", tmp_path)
    )
