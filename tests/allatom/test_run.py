"""The all-atom stage from packing to frames, killed and resumed."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openmm
import pytest
import yaml
from openmm import unit

from openmm_cgkd.allatom import phases
from openmm_cgkd.allatom.build import build_topology, load_molecule, pack
from openmm_cgkd.allatom.equilibration import Volume, used_volumes
from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.allatom.run import at_volume, mean_volume, run_reference
from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import BoxError, ConfigError, ForceFieldError, SimulationError
from openmm_cgkd.frames.frames import read_frames, write_frames
from openmm_cgkd.utils.save_points import SavePoints
from tests.cases.all_atom import TINY_COUNTS, tiny_system
from tests.cases.fluids import small_config

PRODUCTION = list(range(5, 101, 5))  # 0.4 ps at 4 fs, a frame every 20 fs


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Save every 25 steps instead of every 10 s."""
    monkeypatch.setattr(phases, "PIECE", 25)
    monkeypatch.setattr(phases, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(phases, "WARM_UP", 0.2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of one uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference") / "aa"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PIECE", 25)
        patch.setattr(phases, "SAVE_EVERY", 0.0)
        patch.setattr(phases, "WARM_UP", 0.2)
        assert run_reference(tiny_system(), folder) == folder / "frames.h5"
    return folder


@pytest.fixture
def equilibrated(finished, tmp_path) -> Path:
    """A folder whose production has not begun."""
    folder = tmp_path / "aa"
    shutil.copytree(finished, folder)
    for path in (*folder.glob("production*"), folder / "frames.h5"):
        path.unlink()
    return folder


def test_whole_run(finished):
    frames = read_frames(finished / "frames.h5")
    assert frames.step.tolist() == PRODUCTION
    assert frames.time == pytest.approx(0.004 * frames.step)
    assert frames.beads.names == ["CHO"] * 2 + ["CL"] * 2 + ["EGL"] * 2
    assert frames.beads.charges == pytest.approx([0.8] * 2 + [-0.8] * 2 + [0] * 2)
    assert len(np.unique(frames.box.reshape(len(frames), 9), axis=0)) == 1  # NVT
    assert frames.temperature == pytest.approx(363.15)
    mass, volume = frames.beads.masses.sum(), np.linalg.det(frames.box[0])
    assert frames.attributes["density"] == pytest.approx(mass / volume / 602.214, rel=1e-3)
    assert frames.attributes["n_atoms"] == 2 * 21 + 2 + 2 * 10
    assert frames.attributes["seed"] == 20261123
    assert frames.attributes["ns_per_day"] > 0
    assert " of " in frames.attributes["hardware"]
    assert (
        yaml.safe_load(frames.attributes["configuration"])["reference"]["timestep"]
        == "0.004 picosecond"
    )
    assert {"openmm_cgkd", "openmm", "python"} <= set(
        frames.attributes["versions"].replace(",", "").split()
    )
    assert not list(finished.glob("*.tmp"))
    assert not list(finished.glob("*.partial.xml"))
    assert "packed 64 atoms" in (finished / "reference.log").read_text()
    again = load_system(finished / "system.yaml")  # usable from where it stands
    assert again.path(again.force_field).exists()


def test_nvt_runs_at_the_mean_volume_of_npt(finished):
    with open(finished / "npt.csv") as file:
        volume = [float(row["Box Volume (nm^3)"]) for row in csv.DictReader(file)]
    assert len(volume) == 8
    assert len(set(volume)) > 1
    expected = np.mean(volume[8 // 3 :])
    assert np.linalg.det(read_frames(finished / "frames.h5").box[0]) == pytest.approx(
        expected, rel=1e-5
    )


def test_error_of_the_density_is_told(finished):
    """Two thirds of eight rows say little of it: a lower bound in the frames, a warning."""
    attributes = read_frames(finished / "frames.h5").attributes
    volume = Volume.of(used_volumes(finished / "npt.csv"))
    assert attributes["density_error_at_least"]
    assert attributes["density_error"] == pytest.approx(
        attributes["density"] * volume.error, rel=1e-4
    )
    log = (finished / "reference.log").read_text()
    assert log.count(f"mean volume of NPT {volume.words}") == log.count(volume.words) == 1
    assert volume.doubt in log  # too short, or adrift: which one, chance tells
    assert "set a longer reference.npt in system.yaml" in log


def test_scaling_to_the_mean_volume_keeps_molecules(finished):
    """Molecules are moved as rigid bodies: bonds before and after are the same."""
    config = tiny_system()
    npt = openmm.XmlSerializer.deserialize((finished / "npt.xml").read_text())
    topology = build_topology(config)
    scaled = at_volume(npt, topology, mean_volume(npt, finished / "npt.csv"))
    before = npt.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    after = scaled.getPositions().value_in_unit(unit.nanometer)
    for a, b in topology.bonds():
        lengths = [np.linalg.norm(x[a.index] - x[b.index]) for x in (before, after)]
        assert lengths[0] == pytest.approx(lengths[1], abs=1e-9)
    assert not np.allclose(before, after)


@pytest.fixture
def other_frames(finished, equilibrated, tmp_path):
    """Makes frames of another run whose volume is so many times the mean one of NPT."""
    (equilibrated / "nvt.xml").unlink()
    npt = openmm.XmlSerializer.deserialize((finished / "npt.xml").read_text())
    mean = mean_volume(npt, finished / "npt.csv")

    def make(ratio: float) -> tuple[Path, float]:
        frames, path = read_frames(finished / "frames.h5"), tmp_path / "other.h5"
        box = np.broadcast_to(np.eye(3) * (ratio * mean) ** (1 / 3), frames.box.shape)
        write_frames(dataclasses.replace(frames, box=box.copy()), path)
        return path, ratio * mean

    return make


def test_an_independent_run_has_the_volume_of_the_other(equilibrated, other_frames, caplog):
    path, volume = other_frames(0.98)
    frames = read_frames(run_reference(tiny_system(), equilibrated, independent_of=path))
    assert np.linalg.det(frames.box[0]) == pytest.approx(volume, rel=1e-6)
    assert "differ by 2.0 %; the density is known no better than that" in caplog.text
    assert "all later runs stay at this density" not in caplog.text  # they do not


def test_a_run_of_another_density_is_no_second_run(equilibrated, other_frames):
    path, _ = other_frames(0.8)
    with pytest.raises(SimulationError, match=r"differ by 25.0 %; at least one of the two runs is"):
        run_reference(tiny_system(), equilibrated, independent_of=path)
    assert not (equilibrated / "frames.h5").exists()


def test_finished_work_is_skipped(finished, monkeypatch):
    monkeypatch.setattr(
        "openmm_cgkd.allatom.run.create_system", lambda *_: pytest.fail("built the system again")
    )
    stamp = (finished / "frames.h5").stat().st_mtime_ns
    assert run_reference(tiny_system(), finished) == finished / "frames.h5"
    assert (finished / "frames.h5").stat().st_mtime_ns == stamp


def test_interrupted_in_production(equilibrated, monkeypatch):
    """Stopped between a frame and the next saved state, twice.

    The frames are as of an uninterrupted run.
    """
    original = MappedReporter.report
    for stop in (65, 90):

        def report(self, simulation, state, stop=stop):
            original(self, simulation, state)
            if simulation.currentStep == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MappedReporter, "report", report)
            with pytest.raises(KeyboardInterrupt):
                run_reference(tiny_system(), equilibrated)
        assert read_frames(equilibrated / "frames.h5").step[-1] == stop
        assert not (equilibrated / "production.xml").exists()
    frames = read_frames(run_reference(tiny_system(), equilibrated))
    assert frames.step.tolist() == PRODUCTION
    assert frames.time == pytest.approx(0.004 * frames.step)
    assert "production: resuming at 0.3 ps" in (equilibrated / "reference.log").read_text()


KILLED = """
import sys
from pathlib import Path
from openmm_cgkd.allatom import phases, run
from tests.cases.all_atom import tiny_system
phases.PIECE, phases.SAVE_EVERY = 25, 0.0
run.run_reference(tiny_system(production="400 ps"), Path(sys.argv[1]))
"""


def test_killed_in_production(equilibrated):
    """SIGKILL of the process at an arbitrary instruction of a long production.

    Then a shorter one to its end.
    """
    path = equilibrated / "frames.h5"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(equilibrated)])
    try:
        deadline = time.monotonic() + 120
        while not path.exists() or len(read_frames(path, allow_empty=True)) < 12:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = read_frames(path)
    assert before.step.tolist() == list(range(5, 5 * len(before) + 1, 5))
    n = len(before) + 10
    frames = read_frames(run_reference(tiny_system(production=f"{n * 20} fs"), equilibrated))
    assert frames.step.tolist() == list(range(5, 5 * n + 1, 5))
    # states are saved every 25 steps; the last one may not have been reached
    saved = 25 * (before.step[-1] // 25 - 1)
    kept = before.step <= saved
    assert np.array_equal(frames.positions[: kept.sum()], before.positions[kept])


def stopped_in_production(folder: Path, step: int) -> None:
    """Interrupt the production at a time step."""
    original = MappedReporter.report

    def report(self, simulation, state):
        original(self, simulation, state)
        if simulation.currentStep == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MappedReporter, "report", report)
        with pytest.raises(KeyboardInterrupt):
            run_reference(tiny_system(platform="Reference"), folder)


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory) -> Path:
    """A folder whose production has stopped at step 65, with states of steps 25 and 50."""
    folder = tmp_path_factory.mktemp("stopped") / "aa"
    shutil.copytree(finished, folder)
    for path in (*folder.glob("production*"), folder / "frames.h5"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PIECE", 25)
        patch.setattr(phases, "SAVE_EVERY", 0.0)
        stopped_in_production(folder, 65)
    return folder


@pytest.fixture(scope="module")
def whole(stopped, tmp_path_factory) -> np.ndarray:
    """Positions of a production that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole") / "aa"
    shutil.copytree(stopped, folder)
    for path in (*folder.glob("production*"), folder / "frames.h5"):
        path.unlink()
    run_reference(tiny_system(platform="Reference"), folder)
    return read_frames(folder / "frames.h5").positions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_costs_no_work(stopped, whole, tmp_path, monkeypatch, caplog, number):
    """It comes while a frame is written, long before the next save is due.

    The frames are to the last bit those of a production that nothing has stopped.
    """
    folder = tmp_path / "aa"
    shutil.copytree(stopped, folder)
    for path in (*folder.glob("production*"), folder / "frames.h5"):
        path.unlink()
    original = MappedReporter.report

    def report(self, simulation, state):
        if simulation.currentStep == 60:
            os.kill(os.getpid(), number)
        original(self, simulation, state)

    def end(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(number, end)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(phases, "SAVE_EVERY", 1e9)
            patch.setattr(MappedReporter, "report", report)
            with pytest.raises(KeyboardInterrupt):
                run_reference(tiny_system(platform="Reference"), folder)
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)
    assert read_frames(folder / "frames.h5").step[-1] == 75
    with caplog.at_level("INFO", "openmm_cgkd"):
        frames = read_frames(run_reference(tiny_system(platform="Reference"), folder))
    assert "production: resuming at 0.3 ps" in caplog.text  # after 75 steps
    assert frames.step.tolist() == PRODUCTION
    np.testing.assert_array_equal(frames.positions, whole)
    assert not list(folder.glob("*.tmp"))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "harm", "resumes"),
    [
        (None, None, 0.2),
        ("production.partial.chk", flipped, 0.1),  # at the state before
        ("production.partial.xml", flipped, 0.2),
        ("production.partial.json", flipped, 0.1),
        ("production.partial.json", emptied, 0.1),
        ("production.csv", emptied, 0.1),  # when it was empty
        ("frames.h5", Path.unlink, None),
        ("nvt.xml", flipped, 0.2),  # not asked for any more
        ("box.npz", flipped, 0.2),
    ],
)
def test_damaged_files_cost_work_and_nothing_else(
    stopped, whole, tmp_path, caplog, name, harm, resumes
):
    """The frames are to the last bit those of a production that nothing has stopped."""
    folder = tmp_path / "aa"
    shutil.copytree(stopped, folder)
    if name:
        harm(folder / name)
    with caplog.at_level("INFO", "openmm_cgkd"):
        frames = read_frames(run_reference(tiny_system(platform="Reference"), folder))
    assert frames.step.tolist() == PRODUCTION
    np.testing.assert_array_equal(frames.positions, whole)
    if resumes is None:
        assert "production: cannot be continued and starts over" in caplog.text
        assert list(folder.glob("production.*.damaged"))
    else:
        assert f"production: resuming at {resumes} ps" in caplog.text
    with open(folder / "production.csv") as file:
        assert [int(row['#"Step"']) for row in csv.DictReader(file)] == [50, 100]


@pytest.mark.parametrize("harm", [flipped, emptied])
def test_a_damaged_phase_is_done_again(equilibrated, caplog, harm):
    harm(equilibrated / "nvt.xml")
    with caplog.at_level("INFO", "openmm_cgkd"):
        frames = read_frames(run_reference(tiny_system(), equilibrated))
    assert frames.step.tolist() == PRODUCTION
    assert "Its phase starts over. Kept as nvt.xml.damaged, nvt.json.damaged." in caplog.text
    assert (equilibrated / "nvt.xml.damaged").exists()


def test_a_finished_run_without_its_frames(finished, tmp_path, caplog):
    folder = tmp_path / "aa"
    shutil.copytree(finished, folder)
    (folder / "frames.h5").unlink()
    assert len(read_frames(run_reference(tiny_system(), folder))) == len(PRODUCTION)
    assert "frames.h5: is missing, production starts over" in caplog.text


def test_phase_of_an_earlier_version_goes_on(stopped, tmp_path, caplog):
    """Version 0.1 left a state and no record."""
    folder = tmp_path / "aa"
    shutil.copytree(stopped, folder)
    for path in folder.glob("production.partial*"):
        if path.name != "production.partial.xml":
            path.unlink()
    with caplog.at_level("INFO", "openmm_cgkd"):
        frames = read_frames(run_reference(tiny_system(platform="Reference"), folder))
    assert frames.step.tolist() == PRODUCTION
    assert "production: resuming at 0.2 ps" in caplog.text


def test_interrupted_before_production(tmp_path, monkeypatch):
    """Stopped during NPT: the thermodynamics file has no row twice."""
    folder, original = tmp_path / "aa", SavePoints.write

    def save(self, simulation, data):
        original(self, simulation, data)
        if (folder / "annealing.xml").exists() and simulation.currentStep == 100:
            simulation.step(60)  # writes a row beyond the saved state
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "write", save)
        with pytest.raises(KeyboardInterrupt):
            run_reference(tiny_system(), folder)
    assert (folder / "npt.csv").read_text().count("\n") == 1 + 3
    run_reference(tiny_system(), folder)
    with open(folder / "npt.csv") as file:
        assert [int(row['#"Step"']) for row in csv.DictReader(file)] == list(range(50, 401, 50))


def test_a_default_that_has_changed_does_not_stop_a_run(equilibrated):
    """Earlier versions annealed at 450 K where system.yaml does not say."""
    config = tiny_system()
    assert config.reference.annealing_temperature == 450
    reference = config.reference.model_copy(update={"annealing_temperature": None})
    run_reference(config.model_copy(update={"reference": reference}), equilibrated)
    kept = load_system(equilibrated / "system.yaml").reference
    assert kept.annealing_temperature == 450
    reference = config.reference.model_copy(update={"annealing_temperature": 400.0})
    with pytest.raises(ConfigError, match="annealing_temperature 450 kelvin, got 400 kelvin"):
        run_reference(config.model_copy(update={"reference": reference}), equilibrated)


def test_other_settings_in_the_same_folder(finished):
    with pytest.raises(
        ConfigError,
        match=r"friction 1 picosecond\S+, got 2 picosecond\S+; put it back or use another folder",
    ):
        run_reference(tiny_system(friction="2 / ps"), finished)
    with pytest.raises(ConfigError, match=r"holds a run with production 0\.4 picosecond, got 0\.8"):
        run_reference(tiny_system(production="0.8 ps"), finished)
    with pytest.raises(ConfigError, match="holds a run with counts"):
        run_reference(
            small_config(
                {**TINY_COUNTS, "EGL": 3},
                **yaml.safe_load((finished / "system.yaml").read_text())["reference"],
            ),
            finished,
        )
    assert (
        yaml.safe_load((finished / "system.yaml").read_text())["reference"]["friction"]
        == "1 picosecond**-1"
    )


def test_box_below_twice_the_cutoff(tmp_path):
    with pytest.raises(
        BoxError,
        match=(
            r"nonbonded_cutoff 1 nm is above half the box .* use more molecules or a shorter cutoff"
        ),
    ):
        run_reference(tiny_system(nonbonded_cutoff="1 nm"), tmp_path)


def test_refused_run_binds_nobody(tmp_path):
    """Settings may change until the first simulation has begun; the box is packed anew then."""
    boxes = []
    for seed in (1, 2):
        with pytest.raises(ConfigError, match="Abacus"):
            run_reference(tiny_system(platform="Abacus", seed=seed), tmp_path)
        boxes.append((tmp_path / "box.pdb").read_text())
    assert boxes[0] != boxes[1]
    (tmp_path / "annealing.csv").touch()
    with pytest.raises(ConfigError, match="holds a run with seed 2, got 3"):
        run_reference(tiny_system(platform="Abacus", seed=3), tmp_path)


def test_unknown_platform(tmp_path):
    with pytest.raises(
        ConfigError, match=r"reference\.platform: got Abacus, but this OpenMM has Reference"
    ):
        run_reference(tiny_system(platform="Abacus"), tmp_path)


def test_time_step_that_explodes(tmp_path):
    with pytest.raises(
        SimulationError,
        match=r"failed in phase annealing: .*; lower the time step or initial_density",
    ):
        run_reference(tiny_system(timestep="200 fs", annealing="200 ps"), tmp_path)
    assert not (tmp_path / "frames.h5").exists()


def test_packing(monkeypatch):
    config = tiny_system(initial_density="0.5 g/cm^3")
    topology, positions = pack(config)
    edge = topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    mass = sum(atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms())
    assert mass / edge**3 / 602.214 == pytest.approx(0.5, rel=1e-4)
    assert positions.shape == (topology.getNumAtoms(), 3)
    assert positions.min() > 0
    assert positions.max() < edge
    molecule = np.array([atom.residue.index for atom in topology.atoms()])
    delta = positions[:, None] - positions[None]
    delta -= edge * np.round(delta / edge)
    between = np.linalg.norm(delta, axis=-1)[molecule[:, None] != molecule[None]]
    assert between.min() > 0.19  # Packmol's 2 angstrom, across the box edge too
    for a, b in topology.bonds():
        assert np.linalg.norm(positions[a.index] - positions[b.index]) < 0.17
    assert np.array_equal(pack(config)[1], positions)  # the seed decides


def test_packing_that_cannot_succeed():
    with pytest.raises(
        ForceFieldError,
        match=r"Packmol could not pack the box at 9(\.0)? g/cm\^3; lower initial_density",
    ):
        pack(tiny_system(initial_density="9 g/cm^3", nonbonded_cutoff="0.2 nm"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" EGL ", " GOL ", r"expected one residue named EGL, got \['GOL'\]"),
        ("HETATM", "REMARK", r"expected one residue named EGL, got \[\]"),
        ("  C1  EGL", "  XX  EGL", "atom XX needs its element in columns 77-78, they are empty"),
    ],
)
def test_molecule_file_that_does_not_fit(tmp_path, old, new, message):
    config = small_config({"EGL": 1})
    text = config.path(config.molecules[0].structure).read_text().replace(old, new)
    tmp_path.joinpath("EGL.pdb").write_text(
        "\n".join(line[:60] if "XX" in line else line for line in text.splitlines())
    )
    molecule = config.molecules[0].model_copy(update={"structure": tmp_path / "EGL.pdb"})
    with pytest.raises(ForceFieldError, match=message):
        load_molecule(config.model_copy(update={"molecules": [molecule]}), "EGL")
