"""Any number of runs against all-atom: sources, curves, scores, tables and pictures."""

import csv
import json
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from openmm_cgkd.analysis.comparison.compare import compare
from openmm_cgkd.analysis.comparison.dynamics import all_diffusion, structure_factor_numbers
from openmm_cgkd.analysis.comparison.models import compare_models, report
from openmm_cgkd.analysis.comparison.sources import joined_source, read_source
from openmm_cgkd.analysis.comparison.tables import write_tables
from openmm_cgkd.analysis.observables.angles import ADF, CDF
from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.analysis.observables.rdf import all_rdfs, block_rdfs
from openmm_cgkd.cli.commands import app
from openmm_cgkd.exceptions import AnalysisError, ConfigError, FramesError
from openmm_cgkd.stages import compare as compare_module
from openmm_cgkd.stages.compare import (
    compare_run,
    compare_runs,
    comparison_settings,
    read_run_or_source,
)
from openmm_cgkd.utils.statistics import curve_error
from tests.cases.comparison import BEADS, BOX, NAMES, SETTINGS, write_frames, write_run
from tests.cases.liquids import liquid, make_run


def walk(positions: np.ndarray, step: float, seed: int) -> np.ndarray:
    """One configuration that is carried along a random walk; enough for an MSD."""
    rng = np.random.default_rng(seed)
    return positions[0] + np.cumsum(rng.normal(0, step, positions.shape), axis=0)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two trainings of one model and one other model against all-atom; folder and report."""
    folder = tmp_path_factory.mktemp("compared")
    write_frames(folder / "aa.h5", liquid(64, seed=1))
    for name, seed, diameter in (("a", 2, 0.34), ("b", 3, 0.33), ("c", 4, 0.25)):
        write_run(folder / name, liquid(56, seed=seed, diameter=diameter))
    models = [f"good={folder / 'a'}", f"good={folder / 'b'}", str(folder / "c")]
    path = compare_runs(models, [folder / "aa.h5"], folder / "out", SETTINGS)
    return folder, json.loads(path.read_text())


def test_report_holds_what_independent_observables_give(compared):
    folder, data = compared
    assert (data["system"], data["temperature"], data["r_max"]) == ("toy", 300.0, 0.99)
    assert [model["label"] for model in data["models"]] == ["good 1", "good 2", "c"]
    assert [model["model"] for model in data["models"]] == ["good", "good", "c"]
    cutoffs = data["cutoffs"]
    assert cutoffs["CHO-CL"] == cutoffs["CL-CHO"]
    aa, cg = read_source(folder / "aa.h5"), read_source(folder / "c")
    curves = {(curve["observable"], curve["types"]): curve for curve in data["models"][2]["curves"]}
    assert {kind for kind, _ in curves} == {"rdf", "adf", "cdf", "coordination"}

    def accumulated(source, observable):
        for frame in source.frames(np.arange(len(source))):
            observable.compute(frame, reset=False)
        return observable

    arms = (cutoffs["CHO-CL"], cutoffs["CHO-CL"])
    cases = {
        ("adf", "CL-CHO-CL"): (lambda: ADF(("CL", "CHO", "CL"), arms, bins=60), 3.0),
        ("cdf", "CL-CHO-CL"): (
            lambda: CDF(("CL", "CHO", "CL"), arms, bins=(40, 45)),
            arms[0] / 40 * 4,
        ),
        ("coordination", "CL-CHO"): (lambda: CoordinationNumbers(("CL", "CHO"), arms[0]), 1.0),
    }
    for key, (make, cell) in cases.items():
        all_atom, model = accumulated(aa, make()).density, accumulated(cg, make()).density
        expected = curve_error(model, all_atom, cell)
        for name in ("mean_absolute", "integrated_absolute", "rmse", "jensen_shannon", "overlap"):
            assert curves[key][name] == pytest.approx(getattr(expected, name), rel=1e-6), (
                key,
                name,
            )
        assert curves[key]["overlap_se"] > 0


def test_scores_are_means_of_overlaps_and_tell_the_models_apart(compared):
    _, data = compared
    for model in data["models"]:
        scores = model["scores"]
        for kind in ("rdf", "adf", "cdf", "coordination"):
            assert scores[kind] == pytest.approx(
                np.mean([c["overlap"] for c in model["curves"] if c["observable"] == kind])
            )
            assert scores[f"{kind}_halves"] == pytest.approx(
                np.mean([c["overlap_halves"] for c in model["curves"] if c["observable"] == kind])
            )
        assert scores["combined"] == pytest.approx(
            np.mean([scores[kind] for kind in ("rdf", "adf", "cdf", "coordination")])
        )
        assert 0 < scores["combined_se"] < 0.1
    good, other = data["models"][0]["scores"], data["models"][2]["scores"]
    assert good["combined"] > other["combined"] + 2 * other["combined_se"]


def test_spread_over_independent_trainings(compared):
    _, data = compared
    assert list(data["trainings"]) == ["good"]
    spread = data["trainings"]["good"]
    values = [model["scores"]["rdf"] for model in data["models"][:2]]
    assert spread["scores"]["rdf"] == pytest.approx(
        {"mean": np.mean(values), "std": np.std(values, ddof=1)}
    )
    first = next(c for c in spread["curves"] if (c["observable"], c["types"]) == ("rdf", "CHO-CL"))
    errors = [
        c["rmse"]
        for model in data["models"][:2]
        for c in model["curves"]
        if (c["observable"], c["types"]) == ("rdf", "CHO-CL")
    ]
    assert first["rmse"] == pytest.approx({"mean": np.mean(errors), "std": np.std(errors, ddof=1)})


def test_tables_and_pictures(compared):
    folder, data = compared
    out = folder / "out"
    with open(out / "errors.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(model["curves"]) for model in data["models"])
    assert float(rows[0]["rmse"]) == pytest.approx(data["models"][0]["curves"][0]["rmse"], rel=1e-5)
    with open(out / "adf.csv") as file:
        columns = {row[0]: row[1:] for row in zip(*csv.reader(file), strict=True)}
    assert np.sum(
        np.array(columns["CL-CHO-CL good 1 p / degree^-1"], dtype=float)
    ) * 3 == pytest.approx(1, rel=1e-4)
    with open(out / "cdf.csv") as file:
        header, *cells = csv.reader(file)
    assert header == ["types", "r / nm", "angle / degree", "AA h", "good 1 h", "good 2 h", "c h"]
    assert len(cells) == 8 * 40 * 45
    with open(out / "structure_factor.csv") as file:
        found = [
            row for row in csv.DictReader(file) if row["run"] == "AA" and row["types"] == "CL-CL"
        ]
    assert float(found[-1]["S"]) == pytest.approx(1, abs=0.2)  # far out
    for name in ("rdf", "adf", "cdf", "coordination", "scores", "msd", "order", "structure_factor"):
        assert imread(out / f"{name}.png").std() > 0.05
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
    rdf = imread(out / "rdf.png")[..., :3]
    for color in ([0, 0, 0], [0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2]):  # all-atom and two models
        assert (np.abs(rdf - np.array(color) / 255).max(axis=-1) < 0.02).sum() > 1000


def test_dynamics_of_a_known_walk(tmp_path):
    start = liquid(1, seed=5)
    slow, fast = (
        walk(np.repeat(start, 200, axis=0), step, seed) for step, seed in ((0.02, 6), (0.04, 7))
    )
    slow[120:] += 7.0  # time is lost there
    write_frames(
        tmp_path / "aa.h5", slow, np.concatenate([np.arange(120.0), np.arange(500.0, 580.0)])
    )
    write_run(tmp_path / "cg", fast, interval=0.5)
    found = report(
        compare_models(
            read_source(tmp_path / "aa.h5"),
            [read_source(tmp_path / "cg")],
            SETTINGS,
            everything=False,
        )
    )
    # D = step^2 / 2 interval: 2e-4 and 1.6e-3 nm^2/ps
    for name in NAMES:
        assert found["all_atom"]["dynamics"][name]["coefficient"] == pytest.approx(2e-4, rel=0.3)
        model = found["models"][0]["dynamics"][name]
        assert model["coefficient"] == pytest.approx(1.6e-3, rel=0.3)
        assert model["speed_up"] == pytest.approx(8, rel=0.4)
        assert model["time_factor"] == pytest.approx(8, rel=0.4)
    (tmp_path / "cg" / "simulation" / "state.csv").unlink()
    assert "time between frames is not known" in all_diffusion(read_source(tmp_path / "cg"))


def test_clumped_model_is_called_aggregated(tmp_path):
    write_frames(tmp_path / "aa.h5", liquid(40, seed=8))
    clumped = liquid(20, seed=9)
    clumped[8:, 0] = clumped[8:, 1] + [0.1, 0, 0]
    write_run(tmp_path / "bad", clumped)
    comparison = compare_models(
        read_source(tmp_path / "aa.h5"), [read_source(tmp_path / "bad")], SETTINGS, everything=False
    )
    found = report(comparison)["models"][0]["aggregation"]
    assert found["first_frame"] == 8
    assert found["share_of_frames"] == pytest.approx(0.6)
    assert found["smallest_distances"]["CHO-CHO"] == pytest.approx(0.1, abs=1e-4)


def test_stage_and_command_agree(tmp_path, monkeypatch):
    # another test looks at them
    monkeypatch.setattr(compare_module, "write_pictures", lambda *arguments: None)
    run = make_run(
        tmp_path,
        liquid(12, seed=10),
        liquid(12, seed=11),
        bins=60,
        r_max="0.99 nanometer",
    )
    # of the second run a log beside its frames tells the speed
    frames = [tmp_path / "frames.h5", tmp_path / "second" / "frames.h5"]
    frames[1].parent.mkdir()
    write_frames(frames[1], liquid(12, seed=12))
    (frames[1].parent / "production.csv").write_text('#"Step","Speed (ns/day)"\n1,9\n2,9\n')
    run = run.model_copy(update={"second_frames": Path("second/frames.h5")})
    stage = json.loads(compare_run(run).read_text())
    command = json.loads(
        compare_runs([f"CG={tmp_path / 'run'}"], frames, tmp_path / "out", SETTINGS).read_text()
    )
    found = stage["structure"]["all_atom"]
    assert found == {name: command["all_atom"][name] for name in found}
    assert found["speed"] == {"ns_per_day": 9.0, "hardware": None}
    first, second = stage["structure"]["models"][0], command["models"][0]
    assert first["curves"] == second["curves"]
    assert first["scores"] == second["scores"]
    assert [pair["rmse"] for pair in stage["pairs"]] == [
        c["rmse"] for c in second["curves"] if c["observable"] == "rdf"
    ]
    assert {path.name for path in (tmp_path / "run" / "comparison").iterdir()} >= {
        "rdf.csv",
        "adf.csv",
        "cdf.csv",
        "msd.csv",
    }


# --- sources ---


def test_every_kind_of_source_is_the_same_trajectory(tmp_path):
    positions = liquid(5, seed=12).astype("f4")
    folder = write_run(tmp_path / "run", positions)
    write_frames(tmp_path / "frames.h5", positions, 0.5 * np.arange(1, 6))
    trajectory = mdtraj.load(
        str(folder / "simulation" / "trajectory.dcd"),
        top=str(folder / "simulation" / "topology.pdb"),
    )
    trajectory.time = 0.5 * np.arange(1, 6)
    trajectory.save_xtc(tmp_path / "alone.xtc")
    trajectory[0].save_pdb(tmp_path / "alone.pdb")
    (tmp_path / "run.yaml").write_text("system: system.yaml\nfolder: run\n")
    paths = [
        folder,
        folder / "simulation",
        folder / "simulation" / "trajectory.dcd",
        tmp_path / "frames.h5",
        tmp_path / "alone.xtc",
    ]
    sources = [read_run_or_source(path) for path in (*paths, tmp_path / "run.yaml")]
    assert [source.label for source in sources] == [
        "run",
        "simulation",
        "trajectory",
        "frames",
        "alone",
        "run",
    ]
    for source in sources:
        np.testing.assert_allclose(source.positions, positions, atol=1e-3)
        np.testing.assert_allclose(source.boxes[0], BOX, atol=1e-4)
        assert source.names == BEADS.names
        interval, stretches = source.stretches()
        assert interval == pytest.approx(0.5)
        assert stretches == [slice(0, 5)]
    assert isinstance(sources[0].frames(np.array([3]))[0], Frame)


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(AnalysisError, match="no such file or folder"):
        read_source(tmp_path / "absent.dcd")
    with pytest.raises(AnalysisError, match="holds no trajectory"):
        read_source(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        read_run_or_source(tmp_path / "run.yaml")
    folder = write_run(tmp_path / "run", liquid(3, seed=13))
    (folder / "simulation" / "topology.pdb").unlink()
    with pytest.raises(AnalysisError, match="has no topology beside it"):
        read_source(folder)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["coordinates"] = np.zeros((1, 30, 3))
    with pytest.raises(FramesError, match="not a file of mapped frames"):
        read_source(tmp_path / "foreign.h5")


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"names": ("CHO", "EGL")}, {}, r"bad.*: holds other beads \(12 CHO, 18 EGL\)"),
        ({"counts": (13, 17)}, {}, r"holds other beads \(13 CHO, 17 CL\)"),
        ({"length": 2.1}, {}, r"mean box volume is 9\.261 nm\^3"),
        (
            {"n": 3},
            {},
            r"trajectory\.dcd: 3 frames of the trajectory are too few for standard errors, which"
            r" need at least 4",
        ),
        ({}, {"r_max": "1.2 nm"}, r"r_max of 1\.2 nm is above half the smallest box height"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, options, settings, message):
    write_frames(tmp_path / "aa.h5", liquid(8, seed=14))
    write_run(tmp_path / "fine", liquid(8, seed=15))
    write_run(tmp_path / "bad", liquid(options.pop("n", 6), seed=15), **options)
    settings = comparison_settings(**{"bins": 20, **settings})
    with pytest.raises(AnalysisError, match=message):
        compare_runs(
            [str(tmp_path / "fine"), str(tmp_path / "bad")],
            [tmp_path / "aa.h5"],
            tmp_path / "out",
            settings,
        )
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="comparison: r_max: got 'far'"):
        comparison_settings(r_max="far")
    with pytest.raises(ConfigError, match="comparison: shell_frames: got 3"):
        comparison_settings(shell_frames=3)


def test_number_of_blocks_of_older_files_is_accepted(caplog):
    assert comparison_settings(blocks=5) == comparison_settings()
    assert "comparison.blocks has no effect any more" in caplog.text


def test_fluid_without_shells_has_no_angles(tmp_path):
    """An ideal gas has no first minimum: RDFs are compared, the rest is named as missing."""
    rng = np.random.default_rng(16)
    write_frames(tmp_path / "aa.h5", rng.uniform(0, 2, (60, 30, 3)))
    write_run(tmp_path / "gas", rng.uniform(0, 2, (60, 30, 3)))
    settings = comparison_settings(bins=4)
    data = json.loads(
        compare_runs(
            [str(tmp_path / "gas")], [tmp_path / "aa.h5"], tmp_path / "out", settings
        ).read_text()
    )
    assert data["pairs_without_first_minimum"] == ["CHO-CHO", "CHO-CL", "CL-CL"]
    assert {curve["observable"] for curve in data["models"][0]["curves"]} == {"rdf"}
    assert data["models"][0]["scores"]["combined"] == data["models"][0]["scores"]["rdf"]
    assert not (tmp_path / "out" / "adf.csv").exists()
    assert (tmp_path / "out" / "scores.png").exists()


# --- independent all-atom runs ---


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A perfect and a wrong model against two all-atom runs; folder and comparison."""
    folder = tmp_path_factory.mktemp("two")
    paths = [
        write_frames(folder / "1.h5", liquid(60, seed=21)),
        write_frames(folder / "2.h5", liquid(40, seed=22)),
    ]
    write_run(folder / "perfect", liquid(80, seed=23))
    write_run(folder / "wrong", liquid(80, seed=24, diameter=0.25))
    models = [folder / name for name in ("perfect", "wrong")]
    return folder, compare(paths, models, settings=SETTINGS)


def test_systematic_error_of_a_perfect_and_of_a_wrong_model(two_runs):
    _, comparison = two_runs
    perfect, wrong = (result.systematic for result in comparison.results)
    assert set(perfect) == {"rdf", "adf", "cdf", "coordination"}
    for error in perfect.values():
        assert error.independent
        assert error.p > 0.001
        assert error.rmse < error.perfect_rmse
    for kind in ("rdf", "coordination"):
        assert wrong[kind].significant
        assert wrong[kind].rmse > 1.5 * perfect[kind].upper_limit


def test_systematic_error_is_that_of_plain_rdfs(two_runs):
    """By hand, from RDFs of the two runs and of the single frames of the model."""
    folder, comparison = two_runs
    sources = [read_source(folder / name) for name in ("1.h5", "2.h5", "wrong")]
    first, second, model = (
        all_rdfs(source.positions, source.boxes, source.beads, SETTINGS.bins, 0.99)
        for source in sources
    )
    frames = block_rdfs(
        sources[2].positions, sources[2].boxes, sources[2].beads, SETTINGS.bins, 0.99, 80
    )
    for pair, found in comparison.results[1].of_kind("rdf").items():
        c, a, b = (rdfs[pair].values for rdfs in (model, first, second))
        noise = np.var([rdf.values for rdf in frames[pair]], axis=0, ddof=1).mean() / 80
        plain = np.mean((c - a) * (c - b)) - noise
        assert found.systematic.square == pytest.approx(plain, abs=0.2 * noise)
        pooled = (60 * a + 40 * b) / 100
        assert found.error.mean_absolute == pytest.approx(np.mean(np.abs(c - pooled)), rel=1e-6)


def test_structure_factor_of_a_perfect_and_of_a_wrong_model(two_runs):
    """A perfect one shows what noise makes, as drawn from frames that are independent here."""
    _, comparison = two_runs
    perfect, wrong = (
        structure_factor_numbers(
            result.analysis.structure_factor, comparison.all_atom.structure_factor
        )
        for result in comparison.results
    )
    all_atom = comparison.all_atom.structure_factor
    for k, pair in enumerate(("CHO-CHO", "CHO-CL", "CL-CL")):
        frames = np.array([part.density[k] for part in all_atom.parts])
        spread = np.nanmean(frames.var(axis=0, ddof=1))
        n_model = len(comparison.results[0].analysis.source)
        expected = np.sqrt(spread * (1 / len(frames) + 1 / n_model))
        assert perfect["structure_factor_rmse_perfect"][pair] == pytest.approx(expected, rel=0.25)
        assert perfect["structure_factor_rmse"][pair] == pytest.approx(expected, rel=0.5)
    assert wrong["structure_factor_rmse"]["CL-CL"] > (
        1.4 * wrong["structure_factor_rmse_perfect"]["CL-CL"]
    )
    json.dumps([perfect, wrong], allow_nan=False)


def test_report_tells_of_the_runs(two_runs, tmp_path):
    _, comparison = two_runs
    data = report(comparison)
    assert (data["all_atom"]["runs"], data["all_atom"]["frames"]) == (2, 100)
    row = data["models"][1]["curves"][0]
    curve = comparison.results[1].of_kind("rdf")["CHO", "CHO"]
    assert row["systematic"] == pytest.approx(curve.systematic.rmse)
    assert data["models"][1]["systematic"]["rdf"]["systematic_p"] < 0.01
    write_tables(comparison, tmp_path)
    assert "systematic_limit" in (tmp_path / "errors.csv").read_text()


def test_dynamics_of_two_runs_are_those_of_each(tmp_path):
    """Nothing is measured from one run to the next, which starts elsewhere."""
    start = liquid(1, seed=25)
    sources = [
        read_source(
            write_frames(tmp_path / f"{k}.h5", walk(start.repeat(60, axis=0), 0.02, k) + 0.3 * k)
        )
        for k in (1, 2)
    ]
    alone, joint = (all_diffusion(source) for source in (sources[0], joined_source(sources)))
    for name, result in alone.items():
        assert joint[name].coefficient == pytest.approx(result.coefficient, rel=0.3)


def test_a_single_run_is_told_by_its_halves(compared):
    _, data = compared
    for model in data["models"]:
        assert all(error["systematic_at_least"] for error in model["systematic"].values())
    assert data["models"][2]["systematic"]["rdf"]["systematic"] > 0.05
    assert data["models"][2]["systematic"]["rdf"]["systematic_p"] < 0.01


def test_runs_of_other_beads_are_refused(tmp_path):
    paths = [write_frames(tmp_path / "1.h5", liquid(8, seed=28))]
    write_run(tmp_path / "other", liquid(8, seed=29)[:, :6], counts=(3, 3))
    with pytest.raises(AnalysisError, match="holds other beads"):
        compare([*paths, tmp_path / "other"], paths[0], settings=SETTINGS)


# --- the command ---


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)


def test_command_compares_runs_with_all_atom(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "write_pictures", lambda *arguments: None)
    write_frames(tmp_path / "aa.h5", liquid(8, seed=17))
    write_run(tmp_path / "cg", liquid(8, seed=18))
    options = (
        "--against",
        tmp_path / "aa.h5",
        "--output",
        tmp_path / "out",
        "--bins",
        40,
        "--r-max",
        "9 angstrom",
    )
    result = call("compare", f"model={tmp_path / 'cg'}", *options)
    assert result.exit_code == 0, result.output
    path = tmp_path / "out" / "comparison.json"
    assert str(path) in result.output
    assert "overlap with all-atom" in result.output
    settings = json.loads(path.read_text())["settings"]
    assert (settings["bins"], settings["r_max"]) == (40, "0.9 nanometer")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("a", "b"),
            "2 runs were given without all-atom frames to compare with; name them with --against.",
        ),
        (("a", "--against", "frames.h5", "--folder", "x"), "--folder belongs to a single RUN.yaml"),
        (("a", "--against", "frames.h5", "--r-max", "1"), "got '1' without a unit"),
        (("a", "--against", "absent.h5"), "absent.h5: no such file or folder"),
    ],
)
def test_command_refuses(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("compare", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
