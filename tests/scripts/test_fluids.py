"""`scripts.fluids`: a run of seconds, resumed, and its numbers against known time series."""

import csv
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from openmm_cgkd.allatom import phases
from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.analysis.observables.peaks import first_peak
from openmm_cgkd.analysis.observables.rdf import all_rdfs
from openmm_cgkd.exceptions import AnalysisError, ConfigError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.statistics import blocked_mean
from scripts.fluids import __main__ as fluids
from scripts.fluids.results import Response, State, Value, load_literature
from tests.cases.fluids import DONOR, small_config
from tests.cases.paths import SYSTEMS

PAIRS, HOT, COLD = 4, 400.0, 363.15
STATES = [(PAIRS, HOT), (PAIRS, COLD)]
TIMES = {"npt": 4.0, "production": 0.4}
UNIT_MASS = 139.624 + 2 * 60.056  # choline chloride and two urea, g/mol


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """system.yaml of reline with a short protocol and a cutoff that fits a box of 12 molecules."""
    folder = tmp_path_factory.mktemp("fluid") / "reline"
    shutil.copytree(SYSTEMS / "reline", folder)
    data = yaml.safe_load((folder / "system.yaml").read_text())
    data["reference"].update(
        annealing="0.4 ps",
        nonbonded_cutoff="0.5 nm",
        initial_density="0.6 g/cm^3",
        platform="CPU",
        threads=1,
    )
    (folder / "system.yaml").write_text(yaml.safe_dump(data))
    return folder / "system.yaml"


@pytest.fixture(scope="module")
def finished(tiny) -> Path:
    folder = tiny.parent / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "WARM_UP", 0.2)
        command = [
            "scripts.fluids",
            str(tiny),
            "--temperature",
            str(HOT),
            "--temperature",
            str(COLD),
        ]
        command += [
            "--ion-pairs",
            str(PAIRS),
            "--npt",
            "4",
            "--production",
            "0.4",
            "--folder",
            str(folder),
            "--at-once",
            "1",
        ]
        patch.setattr("sys.argv", command)
        fluids.main()
    return folder


def test_report_of_a_whole_run(finished, capsys):
    text = (finished / "validation.md").read_text()
    for heading in (
        "Density",
        "Thermal expansion and heat capacity",
        "Enthalpy",
        "Structure",
        "Equilibration",
    ):
        assert f"\n## {heading}\n" in text
    assert f"--temperature {HOT} --temperature {COLD} --ion-pairs {PAIRS} --npt 4" in text
    assert "Box size" not in text  # one size
    assert (finished / "validation.png").read_bytes().startswith(b"\x89PNG")
    with open(finished / f"{PAIRS}-{COLD:g}K" / "npt.csv") as file:
        density = np.array([float(row["Density (g/mL)"]) for row in csv.DictReader(file)])
    kept = density[len(density) // 3 :]
    assert f"| 363.15 | {PAIRS} | 4 | {Value.of(blocked_mean(kept))} |" in text
    known = 1.148 - 5.3e-4 * (COLD - 298.15)
    assert f"{known:.4f} ({100 * (kept.mean() / known - 1):+.1f} %)" in text


def test_second_call_only_reports(finished, tiny, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.xml")}
    monkeypatch.setattr(
        "openmm_cgkd.allatom.run.create_system", lambda *_: pytest.fail("built the system again")
    )
    states = fluids.validate(tiny, STATES, TIMES, finished, "again", None)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.xml")}
    assert capsys.readouterr().out.startswith("# Validation of reline")
    assert [state.temperature for state in states] == [HOT, COLD]
    frames = read_frames(finished / f"{PAIRS}-{COLD:g}K" / "frames.h5")
    r_max = largest_r_max(frames.box)
    for pair, rdf in all_rdfs(
        frames.positions, frames.box, frames.beads, round(r_max / 0.01), r_max
    ).items():
        peak = first_peak(rdf.bin_centers, rdf.values)  # so few molecules may show none
        found = states[1].peaks[tuple(sorted(pair))].mean
        assert found == pytest.approx(peak.position if peak else math.nan, abs=1e-9, nan_ok=True)


def test_unfinished_states_go_to_processes(finished, tiny, tmp_path):
    """Two processes at a time; one state has lost its last phase, the other is left alone."""
    folder = shutil.copytree(finished, tmp_path / "runs")
    lost, kept = folder / f"{PAIRS}-{COLD:g}K", folder / f"{PAIRS}-{HOT:g}K"
    (lost / "production.xml").unlink()
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    fluids.validate(tiny, STATES, TIMES, folder, "again", 2)
    assert (lost / "production.xml").exists()
    assert read_frames(lost / "frames.h5").time[-1] == pytest.approx(0.4)
    assert before == {path: path.stat().st_mtime_ns for path in kept.iterdir()}


def test_another_size_at_one_temperature(tiny, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(fluids, "validate", lambda path, states, *_: found.extend(states))
    options = [
        "--temperature",
        "363.15",
        "--temperature",
        "333.15",
        "--ion-pairs",
        "30",
        "--check-size",
        "60",
        "--folder",
        str(tmp_path),
    ]
    monkeypatch.setattr("sys.argv", ["scripts.fluids", str(tiny), *options])
    fluids.main()
    assert found == [(30, 363.15), (30, 333.15), (60, 363.15)]


def test_every_state_has_its_own_seed_and_counts(tiny):
    config = fluids.state_config(
        tiny, 333.15, 30, {"annealing": 50.0, "npt": 200.0, "production": 100.0}
    )
    assert [molecule.count for molecule in config.molecules] == [30, 30, 60]
    assert (
        config.temperature,
        config.reference.annealing,
        config.reference.npt,
        config.reference.production,
    ) == (333.15, 50, 200, 100)
    assert config.path(config.force_field).exists()
    seeds = {
        fluids.state_config(tiny, t, n, TIMES).reference.seed
        for t in (333.15, 363.15)
        for n in (30, 60)
    }
    assert len(seeds) == 4


def made_up(
    finished: Path, folder: Path, temperature: float, volume: np.ndarray, potential: np.ndarray
) -> State:
    """A finished state whose NPT series are replaced."""
    shutil.copytree(finished / f"{PAIRS}-{COLD:g}K", folder)
    names = "Time (ps)", "Potential Energy (kJ/mole)", "Box Volume (nm^3)"
    with open(folder / "npt.csv", "w") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        rows.writerows(zip(0.2 * np.arange(1, len(volume) + 1), potential, volume, strict=True))
    counts = {"CHO": PAIRS, "CL": PAIRS, "URE": 2 * PAIRS}
    return State(
        small_config(counts, "reline").model_copy(update={"temperature": temperature}),
        folder,
        PAIRS,
    )


def test_expansion_and_heat_capacity(finished, tmp_path):
    """V = V0 exp(alpha T), U = c T: alpha comes back, and Cp is c, the kinetic share and the
    work of expansion.
    """
    alpha, c, v0 = 5e-4, 0.9, 1.4
    states = [
        made_up(
            finished,
            tmp_path / f"{t}",
            t,
            np.full(60, v0 * math.exp(alpha * (t - 300))),
            np.full(60, c * t),
        )
        for t in (333.15, 363.15)
    ]
    response = Response(*states)
    assert states[0].density.mean == pytest.approx(
        PAIRS * UNIT_MASS / 602.214 / (v0 * math.exp(alpha * 33.15)), rel=1e-5
    )
    assert response.expansion.mean == pytest.approx(alpha, rel=1e-9)
    freedom = PAIRS * (3 * (21 + 1 + 2 * 8) - 14 - 2 * 4) - 3
    growth = v0 * (math.exp(alpha * 63.15) - math.exp(alpha * 33.15)) / 30
    expected = (
        (c + freedom / 2 * 8.314463e-3 + 1e5 * growth * 1e-27 * 6.02214e23 / 1000)
        / (PAIRS * UNIT_MASS)
        * 1000
    )
    assert response.heat_capacity.mean == pytest.approx(expected, rel=1e-5)
    literature = load_literature(SYSTEMS / "ethaline" / "literature.yaml").density[0]
    # slope over density, at the middle
    assert response.literature_expansion(literature) == pytest.approx(5.6e-4 / 1.0875, rel=1e-3)


def test_errors_of_a_noisy_series(finished, tmp_path):
    """White noise of known width; the first third, which is different, does not count."""
    rng = np.random.default_rng(4)
    volume = 1.4 + rng.normal(scale=0.02, size=9000)
    volume[:3000] += 1
    state = made_up(finished, tmp_path / "noisy", 363.15, volume, np.full(9000, -500.0))
    expected = PAIRS * UNIT_MASS / 602.214 / 1.4
    error = expected * 0.02 / 1.4 / math.sqrt(6000)
    assert state.density.mean == pytest.approx(expected, abs=4 * error + expected * 0.0003)
    assert 0.9 * error < state.density.error < 1.4 * error
    assert state.density.plateau
    # of a straight line through white noise, per 100 ps
    slope_error = 100 * error / (6000 * 0.2 / math.sqrt(12))
    assert 0.9 * slope_error < state.density_drift.error < 1.4 * slope_error
    assert abs(state.density_drift.mean) < 4 * slope_error


def test_drift_of_a_straight_line(finished, tmp_path):
    # 3 kJ per mole of ion pairs and 100 ps
    potential = -500 + 0.03 * 0.2 * np.arange(1, 601) * PAIRS
    state = made_up(finished, tmp_path / "drifting", 363.15, np.full(600, 1.4), potential)
    assert state.enthalpy_drift.mean == pytest.approx(3, rel=1e-6)
    assert state.density_drift.mean == pytest.approx(0, abs=1e-12)


def test_box_size_table():
    states = [
        SimpleNamespace(temperature=t, pairs=n, density=Value(rho, 0.003))
        for t, n, rho in ((363, 60, 1.15), (363, 30, 1.14), (333, 30, 1.16))
    ]
    table = fluids.size_table(states).splitlines()
    assert table[2:] == ["| 363 | 30 to 60 | 0.010(4) | 2.4 |"]


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (1.08291, 0.0003, "1.0829(3)"),
        (1.08291, 0.0012, "1.0829(12)"),
        (1234.5, 12, "1234(12)"),
        (0.5, 0.0, "0.5"),
        (-0.02, 0.3, "-0.0(3)"),
    ],
)
def test_value_in_words(mean, error, text):
    assert str(Value(mean, error)) == text


def test_lower_bound_in_words():
    assert str(Value(1.08291, 0.00031, False)) == "1.0829(>=3)"
    assert str(Value(1234.0, 56.0, False)) == "1234(>=56)"


@pytest.mark.parametrize(
    ("fluid", "density"), [("ethaline", 1.0792), ("glyceline", 1.1507), ("reline", 1.1136)]
)
def test_shipped_literature(fluid, density):
    literature = load_literature(SYSTEMS / fluid / "literature.yaml")
    assert literature.density[0].at(363.15) == pytest.approx(density, abs=1e-4)
    assert {bead for peak in literature.peaks for bead in peak.pair} <= {"CHO", "CL", DONOR[fluid]}
    assert all(0.3 < peak.position < 0.8 for peak in literature.peaks)
    assert all(1 < each.value < 3 for each in literature.heat_capacity)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "value: 1.148 gram/centimeter**3",
            "value: 1.148",
            r"literature\.yaml: density\.0\.value: got 1\.148 without a unit",
        ),
        (
            "slope: -5.3e-4 gram/centimeter**3/kelvin",
            "slope: 1 kelvin",
            r"density\.0\.slope: got '1 kelvin', which does not convert",
        ),
        ("density:", "densities:", r"literature\.yaml: density: required field is missing; add it"),
        ("density:", "density: ]", r"literature\.yaml, line \d: cannot be read as YAML"),
    ],
)
def test_literature_that_does_not_fit(tmp_path, old, new, message):
    text = (SYSTEMS / "reline" / "literature.yaml").read_text()
    (tmp_path / "literature.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_literature(tmp_path / "literature.yaml")


def test_missing_literature_is_said_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv",
        [
            "scripts.fluids",
            str(tmp_path / "system.yaml"),
            "--temperature",
            "363",
            "--folder",
            str(tmp_path),
        ],
    )
    with pytest.raises(SystemExit) as stop:
        fluids.main()
    assert stop.value.code == 2
    assert (
        "literature.yaml: no such file; give the literature values of the fluid"
        in capsys.readouterr().err
    )


def test_npt_that_is_too_short(finished, tmp_path):
    with pytest.raises(
        AnalysisError, match="holds 12 rows, at least 20 are needed; use a longer --npt"
    ):
        made_up(finished, tmp_path / "short", 363.15, np.full(12, 1.4), np.full(12, 0.0))


def test_other_length_in_the_same_folder(finished, tiny):
    config = fluids.state_config(tiny, COLD, PAIRS, TIMES | {"npt": 8.0})
    with pytest.raises(ConfigError, match="npt 4 picosecond, got 8 picosecond"):
        run_reference(config, finished / f"{PAIRS}-{COLD:g}K")
