"""The report: numbers against independent ones, verdicts, files, and the page in a real browser."""

import csv
import dataclasses
import json
import os
import shutil
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_cgkd.analysis.comparison.sources import read_source
from openmm_cgkd.analysis.observables.aggregation import AggregationLimits
from openmm_cgkd.analysis.observables.angles import CDF
from openmm_cgkd.analysis.observables.rdf import all_rdfs
from openmm_cgkd.analysis.stability.survival import Replica
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import SimulationConfig, StabilityConfig, load_run
from openmm_cgkd.exceptions import AnalysisError, CompatibilityError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.report.charts import charts, maps
from openmm_cgkd.report.force_table import forces
from openmm_cgkd.report.run_record import Contents, Run, read_contents, read_run
from openmm_cgkd.report.tables import provenance
from openmm_cgkd.report.verdict import Mark, verdicts
from openmm_cgkd.report.write import write_report
from openmm_cgkd.run_folder import RunFiles
from openmm_cgkd.stages import compare as compare_module
from openmm_cgkd.stages.compare import compare_run, compare_runs, comparison_settings
from openmm_cgkd.stages.stability import write_results
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record
from tests.cases.browser import browser
from tests.cases.comparison import BOX, write_frames, write_run
from tests.cases.liquids import beads_of, liquid
from tests.cases.liquids import make_run as make_run_folder
from tests.cases.potential import rewritten, write_toy_potential

SETTINGS = comparison_settings(bins=50, r_max="0.99 nm", angle_bins=30)
LABEL = 'good <i>&"'  # text, not markup
SIMULATION = {
    "ns_per_day": 40.0,
    "step_time_ms": 2.0,
    "timestep_ps": 0.002,
    "temperature": 300.0,
    "mean_temperature": 301.5,
    "mean_temperature_se": 0.4,
}
TEST = {
    "checkpoint_sha256": "c" * 64,
    "frames": 90,
    "mapped": {
        "all": {"rmse": 240.0, "rmse_se": 1.5, "at_least": False, "share": 0.8},
        "CL": {"rmse": 200.0, "rmse_se": None, "at_least": True},
    },
    "teachers": {
        "all": {"rmse": 9.0, "rmse_se": 0.5, "at_least": True},
        "CL": {"rmse": 8.0, "rmse_se": 0.25, "at_least": False},
    },
    "mean_forces": {
        "measured": {"configurations": 20, "held_out": True, "rmse": 41.0, "rmse_se": 2.0},
        "implied": {
            "all": {"rmse": 44.0, "rmse_se": 3.0, "at_least": False},
            "CL": {"rmse": 33.0, "rmse_se": 2.5, "at_least": False},
        },
        "p_value": 0.4,
    },
}
MANY_SAMPLES = {
    "per_day": 5000.0,
    "per_day_se": 100.0,
    "per_day_at_least": False,
    "per_day_is_bound": False,
    "ratio": 20.0,
    "ratio_se": 2.0,
    "ratio_at_least": True,
    "ratio_is_bound": False,
    "ratio_note": "",
}
TRAINING = {
    "role": "student",
    "targets": "ensemble",
    "weights": {"force": 1.0, "energy": 0.0, "bead_energy": 0.1},
    "settings": {"epochs": 7},
    "best": {"epoch": 5},
    "seed": 4711,
}


def write_stability(folder, frames, replicas: list[Replica]) -> None:
    """What the stability protocol leaves of these runs."""
    settings, protocol = (
        StabilityConfig(replicas=len(replicas), duration="6 ps", window="1 ps"),
        SimulationConfig(timestep="2 fs"),
    )
    limits = AggregationLimits.of(frames.positions, frames.box, frames.beads, 0.9)
    write_results(
        RunFiles(folder), replicas, [None] * len(replicas), frames, limits, settings, protocol
    )


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory):
    """Report of two trainings of one model with whole run folders, and of a bare trajectory."""
    folder = tmp_path_factory.mktemp("overlaid")
    write_frames(folder / "aa.h5", liquid(64, seed=1))
    (folder / "production.csv").write_text('#"Step","Speed (ns/day)"\n1,--\n2,9\n3,10\n4,30\n')
    for name, seed, diameter in (("a", 2, 0.34), ("b", 3, 0.33), ("c", 4, 0.25)):
        write_run(folder / name, liquid(56, seed=seed, diameter=diameter))
    replicas = [
        Replica(0, 3, 6.0, None, "Physical for all of 6 ps.", 300.0),
        Replica(1, 5, 2.5, "hot", "Too hot.", 420.0),
    ]
    for name in "ab":
        (folder / name / "simulation" / "simulation.json").write_text(json.dumps(SIMULATION))
        (folder / name / "run.yaml").write_text(
            "system: system.yaml\nfolder: .\nframes: ../aa.h5\nseed: 12\nteachers: {count: 3}\n"
        )
        write_stability(folder / name, read_frames(folder / "aa.h5"), replicas)
    rewritten(
        write_toy_potential(folder / "plain.pt"),
        folder / "a" / "student.pt",
        hashed=True,
        training=TRAINING,
        frames_sha256="f" * 64,
        checkpoint_sha256=TEST["checkpoint_sha256"],
    )
    recommendation = {
        "format": "openmm_cgkd time step",
        "version": 2,
        "model_sha256": file_hash(folder / "a" / "student.pt"),
        "timestep_ps": SIMULATION["timestep_ps"],
        "temperature_error": 0.004,
        "temperature_error_se": 0.0005,
    }
    write_record(folder / "a" / "timestep.json", recommendation)
    (folder / "a" / "student").mkdir()
    (folder / "a" / "student" / "test.json").write_text(json.dumps(TEST))
    models = [f"{LABEL}={folder / 'a'}", f"{LABEL}={folder / 'b'}", str(folder / "c")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "write_pictures", lambda *arguments: None)
        compare_runs(models, [folder / "aa.h5"], folder / "out", SETTINGS)
    return folder, write_report(folder / "out")


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    """Report of one run with nothing but RDFs and a speed: an ideal gas has no shells."""
    folder = tmp_path_factory.mktemp("basic")
    rng = np.random.default_rng(5)
    run = make_run_folder(
        folder, rng.uniform(0, 2, (40, 30, 3)), rng.uniform(0, 2, (40, 30, 3)), bins=4
    )
    (folder / "run" / "simulation" / "simulation.json").write_text(json.dumps(SIMULATION))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "write_pictures", lambda *arguments: None)
        compare_run(run)
    return folder / "run", write_report(folder / "run")


# --- numbers ---


def test_curves_are_those_of_independent_rdfs(overlaid):
    folder, _ = overlaid
    chart = charts(read_contents(folder / "out"))[0]
    beads, boxes = beads_of(12, 18, names=("CHO", "CL")), np.repeat(BOX[None], 64, axis=0)
    sources = {
        "aa": liquid(64, seed=1),
        "a": liquid(56, seed=2, diameter=0.34),
        "b": liquid(56, seed=3, diameter=0.33),
    }
    rdfs = {
        name: all_rdfs(x.astype("f4"), boxes[: len(x)], beads, 50, 0.99)
        for name, x in sources.items()
    }
    assert [panel.title for panel in chart.panels] == ["CHO\u2013CHO", "CHO\u2013CL", "CL\u2013CL"]
    for panel, pair in zip(chart.panels, rdfs["aa"], strict=True):
        all_atom, good, other = panel.lines
        assert (all_atom.label, good.label, other.label) == ("all-atom", LABEL, "c")
        np.testing.assert_allclose(panel.x, rdfs["aa"][pair].bin_centers, rtol=1e-5)
        np.testing.assert_allclose(all_atom.y, rdfs["aa"][pair].values, rtol=1e-5)
        trainings = np.array([rdfs[name][pair].values for name in "ab"])
        np.testing.assert_allclose(good.y, trainings.mean(axis=0), rtol=1e-5)
        # deviation of two
        np.testing.assert_allclose(
            good.band, np.abs(np.subtract(*trainings)) / np.sqrt(2), rtol=1e-3, atol=1e-4
        )
        # independent frames: at least two standard errors of their mean
        single = [
            all_rdfs(frame[None].astype("f4"), boxes[:1], beads, 50, 0.99)[pair].values
            for frame in sources["aa"]
        ]
        error = np.std(single, axis=0, ddof=1) / np.sqrt(64)
        assert 1 <= np.mean(all_atom.band**2) / np.mean((2 * error) ** 2) < 3


def test_a_table_that_was_changed_is_not_shown(basic, tmp_path):
    folder = shutil.copytree(basic[0], tmp_path / "run")
    table = folder / "comparison" / "rdf.csv"
    head, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join([head, "9" + first[1:], *rest]) + "\n")
    with pytest.raises(AnalysisError, match=r"rdf\.csv: was changed after it was written; remove"):
        charts(read_contents(folder))


def test_distributions_are_normalized(overlaid):
    contents = read_contents(overlaid[0] / "out")
    by_name = {chart.name: chart for chart in charts(contents)}
    assert list(by_name) == ["rdf", "adf", "coordination", "msd", "order", "structure_factor"]
    for panel in by_name["adf"].panels:
        for line in panel.lines:
            assert np.sum(line.y) * 6 / 1000 == pytest.approx(1, rel=1e-4)
    for panel in by_name["coordination"].panels:
        for line in panel.lines:
            assert np.sum(line.y) == pytest.approx(1, rel=1e-4)
    assert len(by_name["adf"].panels) > 3


def test_maps_are_those_of_independent_distributions(overlaid):
    folder, _ = overlaid
    contents = read_contents(folder / "out")
    source, cutoffs = read_source(folder / "c"), contents.data["cutoffs"]
    rows = maps(contents).rows
    assert len(rows) > 4
    for row in rows:
        first, apex, second = row.title.split("\u2013")
        cdf = CDF(
            (first, apex, second),
            (cutoffs[f"{apex}-{first}"], cutoffs[f"{apex}-{second}"]),
            bins=(40, 45),
        )
        for frame in source.frames(np.arange(len(source))):
            cdf.compute(frame, reset=False)
        np.testing.assert_allclose(row.maps["c"], cdf.values, rtol=1e-5)
        np.testing.assert_allclose(row.r_edges, cdf.r_edges, atol=1e-6)
        np.testing.assert_allclose(row.angle_edges, cdf.angle_edges, atol=1e-9)
    beyond = [
        curve["overlap"] - curve["overlap_halves"]
        for curve in contents.data["models"][0]["curves"]
        if curve["observable"] == "cdf"
    ]
    first = contents.runs[0].curves("cdf")[rows[0].title.replace("\u2013", "-")]
    assert first["overlap"] - first["overlap_halves"] == min(beyond)


def model(
    label: str = "model",
    errors=(0.03, 0.05),
    clumped: bool = False,
    systematic: float = 0.02,
    limit: float = 0.05,
    p: float = 1e-4,
    alone: bool = False,
    samples: dict | None = None,
    **known,
) -> Run:
    curves = [
        {"observable": "rdf", "types": str(k), "mean_absolute": x} for k, x in enumerate(errors)
    ]
    aggregation = {"first_frame": 3 if clumped else None, "share_of_frames": 0.4}
    without_noise = {
        "systematic": systematic,
        "systematic_square": systematic**2,
        "systematic_limit": limit,
        "systematic_p": p,
        "systematic_at_least": alone,
        "perfect_mean_absolute": 0.014,
    }
    record = {
        "label": label,
        "model": label,
        "curves": curves,
        "aggregation": aggregation,
        "systematic": {"rdf": without_noise},
        "samples": samples or {"absent": "Nothing was measured."},
    }
    return Run(record, **known)


def protocol(failed: int, duration: float = 6.0, production: float = 100.0) -> dict:
    causes = failed * ["hot"] + (4 - failed) * [None]
    return {
        "replicas": 4,
        "failed": failed,
        "duration": duration,
        "production": production,
        "runs": [{"cause": cause, "time": duration} for cause in causes],
        "causes": {"hot": failed, "aggregated": 0},
    }


@pytest.mark.parametrize(
    ("run", "all_atom", "marks", "words"),
    [
        (
            model(),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            "is close to all-atom: the mean RDF error is 0.040, a perfect model would show 0.014"
            " (0.020 rms without noise, p < 0.001).",
        ),
        (
            model(systematic=0.0, p=0.4),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            "The structure agrees with all-atom: the mean RDF error is 0.040, a perfect model would"
            " show 0.014 (without noise below 0.050 rms).",
        ),
        (
            model(systematic=0.1, limit=0.149, p=0.02),
            None,
            "UNKNOWN UNKNOWN UNKNOWN UNKNOWN",
            "The data do not tell how far the structure is from all-atom",
        ),
        (model(alone=True), None, "GOOD UNKNOWN UNKNOWN UNKNOWN", "the noise may be larger"),
        (model(systematic=0.06), None, "FAIR UNKNOWN UNKNOWN UNKNOWN", "is near all-atom"),
        (  # significant, and of a size that is not known
            model(limit=0.07),
            None,
            "UNKNOWN UNKNOWN UNKNOWN UNKNOWN",
            "The data do not tell how far the structure is from all-atom: the mean RDF error is"
            " 0.040, a perfect model would show 0.014 (0.020 rms without noise, p < 0.001, but"
            " up to 0.070).",
        ),
        (
            model(systematic=0.06, limit=0.31),
            None,
            "UNKNOWN UNKNOWN UNKNOWN UNKNOWN",
            "The data do not tell",
        ),
        (model(systematic=0.2), None, "POOR UNKNOWN UNKNOWN UNKNOWN", "is far from all-atom"),
        (model(clumped=True), None, "POOR UNKNOWN UNKNOWN UNKNOWN", "up to 40% of the frames"),
        (
            model(stability=protocol(0)),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            "4 of 4 runs of 6 ps stayed physical: fewer than 1.2e+02 failures per ns (95 %), which"
            " is too little to rely on for 100 ps; 1 ns without failure in all runs together are"
            " enough (stability.replicas and stability.duration).",
        ),
        (
            model(stability=protocol(0, 300.0)),
            None,
            "GOOD GOOD UNKNOWN UNKNOWN",
            "4 of 4 runs of 300 ps stayed physical: fewer than 2.5 failures per ns (95 %).",
        ),
        (
            model(stability=protocol(0, 300.0, 1000.0)),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            # e^(-3.0 / 4.33) = 1/2
            "too little to rely on for 1000 ps; 4.4 ns without failure",
        ),
        (
            model(stability=protocol(2)),
            None,
            "GOOD FAIR UNKNOWN UNKNOWN",
            "2 of 4 runs of 6 ps stayed physical (2 hot): 83 failures per ns (95 %: 10 to 3e+02).",
        ),
        (
            model(stability=protocol(0, 1100.0, 1000.0)),
            None,
            "GOOD GOOD UNKNOWN UNKNOWN",
            "4 of 4 runs of 1100 ps stayed physical",
        ),
        (model(stability=protocol(3)), None, "GOOD POOR UNKNOWN UNKNOWN", "1 of 4 runs"),
        (
            model(simulation=SIMULATION),
            None,
            "GOOD UNKNOWN GOOD UNKNOWN",
            "40 ns/day; the speed of all-atom is not known",
        ),
        (
            model(simulation=SIMULATION),
            10.0,
            "GOOD UNKNOWN GOOD GOOD",
            "4 times the 10 ns/day of all-atom",
        ),
        (
            model(simulation=SIMULATION),
            80.0,
            "GOOD UNKNOWN GOOD FAIR",
            "0.5 times the 80 ns/day of all-atom. Independent samples per day are not known."
            " Nothing was measured.",
        ),
        (
            model(simulation=SIMULATION, samples=MANY_SAMPLES),
            80.0,
            "GOOD UNKNOWN GOOD GOOD",  # what counts is samples
            "of all-atom. 5e+03 ± 1e+02 independent samples of the model per day, 20 ± >= 2 times"
            " as many as all-atom.",
        ),
        (
            model(simulation=SIMULATION, samples={**MANY_SAMPLES, "ratio": 1.5, "ratio_se": 0.2}),
            80.0,
            "GOOD UNKNOWN GOOD FAIR",  # the error is at least 0.2
            "1.5 ± >= 0.2 times as many as all-atom",
        ),
        (
            model(
                simulation={**SIMULATION, "mean_temperature": 600.0, "mean_temperature_se": None}
            ),
            None,
            "GOOD UNKNOWN POOR UNKNOWN",
            "600.0 K, 300 K was set",
        ),
        (
            model(simulation={**SIMULATION, "mean_temperature": 310.0}),
            None,
            "GOOD UNKNOWN FAIR UNKNOWN",
            "310.0 ± 0.4 K, 300 K was set",
        ),
        (
            model(simulation={**SIMULATION, "mean_temperature": 280.0}),
            None,
            "GOOD UNKNOWN POOR UNKNOWN",
            "280.0 ± 0.4 K, 300 K was set",
        ),
        (
            model(simulation={**SIMULATION, "mean_temperature_se": None}),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            "which does not tell whether",
        ),
        (
            model(
                simulation={
                    **SIMULATION,
                    "mean_temperature_se": 2.0,
                    "mean_temperature_at_least": True,
                }
            ),
            None,
            "GOOD UNKNOWN UNKNOWN UNKNOWN",
            "The mean temperature is 301.5 ± >= 2.0 K, which does not tell",
        ),
    ],
)
def test_verdict(run, all_atom, marks, words, tmp_path):
    (verdict,) = verdicts(
        Contents(tmp_path, tmp_path, {}, "toy", 300.0, 1.0, None, [run], all_atom)
    )
    assert [finding.mark.name for finding in verdict.findings.values()] == marks.split()
    assert words in verdict.text
    structure, stability, *_ = marks.split()
    worst = max(Mark[name] for name in marks.split())
    untested = "UNKNOWN" in (structure, stability)
    assert verdict.mark is (Mark.UNKNOWN if untested and worst is Mark.GOOD else worst)


def test_best_model_comes_first_and_trainings_count_together(tmp_path):
    runs = [model("b", (0.09, 0.11)), model("a", (0.02, 0.02)), model("a", (0.04, 0.06))]
    best, other = verdicts(Contents(tmp_path, tmp_path, {}, "toy", 300.0, 1.0, None, runs, None))
    # mean and deviation of 0.02 and 0.05
    assert (best.model, best.findings["structure"].value) == ("a", "0.035 ± 0.021")
    assert (other.model, other.findings["structure"].value) == ("b", "0.100")


# --- files ---


def read_table(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_and_tables_lie_beside_the_page(overlaid):
    folder, page = overlaid
    data = json.loads((folder / "out" / "comparison.json").read_text())
    assert page == folder / "out" / "report" / "report.html"
    names = (
        "rdf",
        "adf",
        "cdf",
        "coordination",
        "msd",
        "order",
        "structure_factor",
        "stability-1",
        "stability-2",
    )
    for name in names:
        assert (page.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (page.parent / f"{name}.svg").read_text().startswith("<?xml")
    assert (page.parent / "rdf.csv").read_bytes() == (folder / "out" / "rdf.csv").read_bytes()
    rows = read_table(page.parent / "errors_rdf.csv") + read_table(
        page.parent / "errors_shells.csv"
    )
    curves = [curve for model in data["models"] for curve in model["curves"]]
    assert len(rows) == len(curves)
    assert sorted(float(row["overlap"]) for row in rows) == pytest.approx(
        sorted(curve["overlap"] for curve in curves), rel=1e-5
    )
    score = {row["run"]: float(row["combined"]) for row in read_table(page.parent / "scores.csv")}
    assert score["c"] == pytest.approx(data["models"][2]["scores"]["combined"], rel=1e-5)
    assert score[f"{LABEL}, 2 trainings"] == pytest.approx(
        (score[f"{LABEL} 1"] + score[f"{LABEL} 2"]) / 2, rel=1e-5
    )
    speeds = {row["run"]: float(row["ns/day"]) for row in read_table(page.parent / "speed.csv")}
    errors = [
        row["error of T by the time step / %"] for row in read_table(page.parent / "speed.csv")
    ]
    assert errors == ["0.4", "", ""]
    # the median of what is known
    assert speeds == {f"{LABEL} 1": 40, f"{LABEL} 2": 40, "all-atom": 10}
    assert [row["cause"] for row in read_table(page.parent / "stability.csv")] == ["", "hot"] * 2


def test_samples_per_day_and_what_is_not_known_of_them(overlaid):
    """Configurations that were drawn anew have forgotten within the time between frames."""
    _, page = overlaid
    rows = {row["run"]: row for row in read_table(page.parent / "samples.csv")}
    assert rows["all-atom"]["samples/day"] == ">= 5e+03"  # 10 ns/day over twice 1 ps
    assert rows[f"{LABEL} 1"]["samples/day"] == ">= 4e+04"  # 40 ns/day over twice 0.5 ps
    assert rows["c"]["samples/day"] == rows["c"]["ns/day"] == ""
    functions = read_table(page.parent / "decorrelation.csv")
    assert [row["function"] for row in functions if row["run"] == "c"] == [
        "F(k,t) of CHO",
        "F(k,t) of CL",
        "F_s(k,t) of CHO",
        "F_s(k,t) of CL",
    ]
    text = page.read_text()
    assert "All-atom: its frames are too far apart; save them more often." in text
    assert "c: How fast its run was is not known" in text


def test_forces_on_the_test_part(overlaid, tmp_path):
    folder, page = overlaid
    with open(page.parent / "forces.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert rows == [
        [f"{LABEL} 1", "all", "240", "1.5", "9", ">= 0.5", "44", "3", "41", "2", "20", "0.4"],
        [f"{LABEL} 1", "CL", "200", "", "8", "0.25", "33", "2.5", "", "", "", ""],
    ]
    assert f"1: {TEST['frames']} frames)" in page.read_text()
    # without labels and mean forces, and of a student that was not exported
    contents = read_contents(folder / "out")
    bare = {name: TEST[name] for name in ("frames", "mapped")}
    first = dataclasses.replace(contents.runs[0], test=bare)
    table = forces(dataclasses.replace(contents, runs=[first]))
    assert [row[2:] for row in table.rows] == [[240.0, 1.5, *[None] * 8], [200.0, *[None] * 9]]
    run = shutil.copytree(folder / "a", tmp_path / "a")
    other = TEST | {"checkpoint_sha256": "d" * 64}
    (run / "student" / "test.json").write_text(json.dumps(other))
    record = {"label": "a", "model": "a"}
    assert read_run(record, folder / "a", load_run(folder / "a" / "run.yaml")).test == TEST
    assert read_run(record, run, load_run(run / "run.yaml")).test is None


def test_provenance_names_data_seeds_weights_and_versions(overlaid):
    folder, page = overlaid
    data = json.loads((folder / "out" / "comparison.json").read_text())
    facts = {row[""]: row for row in read_table(page.parent / "provenance.csv")}
    first, second, third = (f"{LABEL} 1", f"{LABEL} 2", "c")
    assert facts["all-atom data, SHA-256"][first] == read_frames(folder / "aa.h5").identity
    assert facts["trajectory, SHA-256"][third] == data["models"][2]["sha256"]
    assert (
        facts["seed of the run"][first],
        facts["teachers"][second],
        facts["teachers"][third],
    ) == ("12", "3", "")
    assert facts["potential, SHA-256"][second] == ""
    # nothing of the machine
    assert facts["all-atom data"][first] == os.path.relpath(folder / "aa.h5", folder / "out")
    assert not Path(facts["trajectory"][third]).is_absolute()

    assert facts["loss weights"][first] == "force 1, energy 0, bead energy 0.1"
    assert (facts["seed of the training"][first], facts["best epoch"][first]) == ("4711", "5 of 7")
    assert (facts["targets"][first], facts["frames of the training, SHA-256"][first]) == (
        "ensemble",
        "f" * 64,
    )
    assert f"torch {version('torch')}" in facts["versions"][first]


def test_provenance_of_a_potential_that_was_given(basic, tmp_path):
    """A run that trains nothing tells how its potential was trained, not its own defaults."""
    run = shutil.copytree(basic[0], tmp_path / "run")
    rewritten(
        write_toy_potential(tmp_path / "plain.pt"),
        tmp_path / "given.pt",
        hashed=True,
        training=TRAINING,
        frames_sha256="f" * 64,
    )
    (run / "run.yaml").write_text(
        "system: system.yaml\nfolder: .\nframes: ../frames.h5\npotential: ../given.pt\n"
    )
    (row,) = read_contents(run).runs
    assert row.metadata.frames_sha256 == "f" * 64
    facts = dict(provenance(read_contents(run)).rows)
    assert (facts["role"], facts["seed of the training"]) == ("student", 4711)
    assert not {"teachers", "on-policy rounds"} & facts.keys()


class Addresses(HTMLParser):
    """All addresses in a page, and the text of its policy on what may be loaded."""

    def __init__(self, page) -> None:
        super().__init__()
        self.found, self.policy = [], ""
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.found += [
            attributes[name] for name in ("src", "href", "action", "srcset") if name in attributes
        ]
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]


@pytest.mark.parametrize("which", ["overlaid", "basic"])
def test_page_holds_all_it_needs_and_links_to_what_is_there(which, request):
    _, page = request.getfixturevalue(which)
    addresses = Addresses(page)
    assert "default-src 'none'" in addresses.policy
    links = [
        address
        for address in addresses.found
        if not address.startswith("data:image/svg+xml;base64,")
    ]
    assert len(links) > 5
    for link in links:
        assert (page.parent / link).is_file(), link
    assert {path.name for path in page.parent.iterdir()} == {*links, "report.html"}


def test_page_alone_has_no_links(overlaid, tmp_path):
    folder, beside = overlaid
    page = write_report(folder / "out", tmp_path / "alone.html")
    assert [path.name for path in tmp_path.iterdir()] == ["alone.html"]
    assert all(
        address.startswith("data:image/svg+xml;base64,") for address in Addresses(page).found
    )
    assert len(Addresses(page).found) == sum(
        address.startswith("data:") for address in Addresses(beside).found
    )


def test_basic_report_says_what_is_not_known(basic):
    folder, page = basic
    data = json.loads((folder / "comparison" / "comparison.json").read_text())
    text = page.read_text()
    error, found = data["mean"]["mean_absolute_error"], data["systematic"]
    perfect = found["perfect_mean_absolute"]
    assert f"the mean RDF error is {error:.3f}, a perfect model would show {perfect:.3f}" in text
    assert "The all-atom run is a single one" in text
    assert (
        "40 all-atom frames of one trajectory and 40 coarse-grained frames of one trajectory"
        in text
    )
    assert "standard errors from blocks of time as long as needed" in text
    assert "has not been tested (cgkd stability)" in text
    assert "the speed of all-atom is not known" in text
    assert 'id="adf"' not in text


# --- the page in a browser ---


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


RENDERERS = """
const kinds = {};
for (const model of Bokeh.documents[0].all_models) {
  if (model.type === "GlyphRenderer") (kinds[model.tags.join(" ")] ??= []).push(model);
}
"""
INK = """
return [...document.querySelectorAll(".panel")].map((panel) => {
  const inside = (node) => (node.shadowRoot ? [...node.shadowRoot.querySelectorAll("*")] : []);
  const all = (node) => inside(node).flatMap((one) => [one, ...all(one)]);
  const find = (node) => all(node).filter((one) => one.tagName === "CANVAS");
  const canvases = [...panel.querySelectorAll("*")].flatMap(find).filter((canvas) => canvas.width);
  return canvases.map((canvas) => canvas.toDataURL()).join(" ");
});
"""


def test_basic_page_in_a_browser(basic, chromium):
    chromium.open(basic[1])
    assert chromium.complaints() == []
    assert chromium.requests() == [basic[1].as_uri()]
    assert len(chromium.run(INK)) == 3


def test_full_page_in_a_browser(overlaid, chromium):
    _, page = overlaid
    chromium.media()
    chromium.open(page)
    contents = read_contents(page.parents[1])
    drawn = [chart.panels for chart in charts(contents)]
    # maps of all-atom and two models; survival
    assert len(chromium.run(INK)) == sum(map(len, drawn)) + 3 + 1
    atlas = slice(len(drawn[0]) + len(drawn[1]), len(drawn[0]) + len(drawn[1]) + 3)
    before = chromium.run(INK)
    assert all(before)
    assert len(set(before)) == len(before)  # each shows something of its own

    # a label is text
    labels = chromium.run(
        "return [...document.querySelectorAll('label.curve')].map((label) =>"
        " label.textContent.trim())"
    )
    assert labels == ["all-atom", LABEL, "c"]
    assert chromium.run("return document.querySelectorAll('i:not(#ramp)').length") == 0

    # curves and bands come and go
    switch = "document.querySelector(`input[data-label='c']`).click();"
    visible = (
        f"{RENDERERS} return [kinds['line c'], kinds['band c'], kinds['line all-atom']].map((all)"
        " => all.every((one) => one.visible));"
    )
    assert chromium.run(visible) == [True, True, True]
    chromium.run(switch)
    chromium.settle()
    assert chromium.run(visible) == [False, False, True]
    assert chromium.run(INK)[0] != before[0]
    chromium.run(switch + "document.getElementById('bands').click();")
    assert chromium.run(visible) == [True, False, True]
    chromium.run("document.getElementById('bands').click();")
    chromium.settle()
    assert chromium.run(INK)[0] == before[0]

    # zoom, and back
    ranges = "const range = Bokeh.documents[0].roots()[0].x_range;"
    start, end = chromium.run(f"{ranges} return [range.start, range.end];")
    chromium.run(f"{ranges} range.start = 0.5; document.getElementById('reset').click();")
    assert chromium.run(f"{ranges} return [range.start, range.end];") == [start, end]
    assert end == pytest.approx(0.99)

    # another triple
    chromium.run(
        "const pick = document.getElementById('triple'); pick.value = 3; pick.dispatchEvent(new"
        " Event('change'));"
    )
    chromium.settle()
    assert all(new != old for new, old in zip(chromium.run(INK)[atlas], before[atlas], strict=True))

    # tables sort by number
    column = "document.querySelector('#errors details:nth-of-type(2) .numbers').rows"
    chromium.run(f"{column}[0].cells[2].click();")
    values = chromium.run(
        f"return [...{column}].slice(1).map((row) => Number(row.cells[2].dataset.value));"
    )
    assert values == sorted(values)
    assert len(values) == 9

    assert chromium.complaints() == []
    assert chromium.requests() == [page.as_uri()]


def test_theme_follows_the_system_and_the_button(overlaid, chromium):
    colors = (
        f"{RENDERERS} return [getComputedStyle(document.body).backgroundColor, kinds['line"
        " all-atom'][0].glyph.line_color.value];"
    )
    chromium.media(scheme="dark")
    chromium.open(overlaid[1])
    dark = chromium.run(colors)
    assert dark == ["rgb(20, 23, 27)", "#eceff2"]
    chromium.run("document.getElementById('theme').click();")
    assert chromium.run(colors) == ["rgb(255, 255, 255)", "black"]
    chromium.run("document.getElementById('theme').click();")
    assert chromium.run(colors) == dark

    # paper is white and shows the pictures
    chromium.media("print", "dark")
    assert (
        chromium.run("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    stills = chromium.run(
        "return [...document.querySelectorAll('img.still')].map((image) => [image.offsetWidth,"
        " image.naturalWidth]);"
    )
    assert len(stills) == 9
    assert all(width > 500 and own > 500 for width, own in stills)
    assert chromium.run(
        "return [...document.querySelectorAll('.live')].every((live) => live.offsetHeight === 0)"
    )
    chromium.media()


# --- bad input ---


def test_bad_input(basic, tmp_path):
    with pytest.raises(AnalysisError, match="absent: no such folder"):
        read_contents(tmp_path / "absent")
    with pytest.raises(AnalysisError, match="is not a run folder"):
        read_contents(tmp_path)
    run = shutil.copytree(basic[0], tmp_path / "run")
    with open(run / "simulation" / "trajectory.dcd", "ab") as file:
        file.write(b"more")
    with pytest.raises(
        AnalysisError,
        match=(
            r"compares another trajectory than .*trajectory\.dcd; run 'cgkd compare .*run\.yaml'"
            r" again"
        ),
    ):
        read_contents(run)
    # moved away to save room: what was compared can be reported
    (run / "simulation" / "trajectory.dcd").unlink()
    assert len(read_contents(run).runs) == 1
    (run / "comparison" / "rdf.csv").unlink()
    with pytest.raises(AnalysisError, match=r"rdf\.csv: no such file, though"):
        charts(read_contents(run))
    (run / "comparison" / "comparison.json").write_text('{"pairs": []}')
    with pytest.raises(AnalysisError, match=r"comparison\.json: has no field 'structure'"):
        read_contents(run)
    (run / "comparison" / "comparison.json").write_text("{")
    with pytest.raises(AnalysisError, match=r"comparison\.json: is not valid JSON"):
        read_contents(run)


def test_missing_library_is_named(basic, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm_cgkd.report.html", None)  # as if its imports failed
    with pytest.raises(
        CompatibilityError, match="needs Bokeh and Jinja2; install them with: pip install"
    ):
        write_report(basic[0], tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_stability_of_another_student_is_refused(basic, tmp_path):
    run = shutil.copytree(basic[0], tmp_path / "run")
    write_stability(run, read_frames(basic[0].parent / "frames.h5"), [Replica(0, 0, 6.0, None, "")])
    assert read_contents(run).runs[0].stability["failed"] == 0
    for stage, student in (("simulate", "old"), ("stability", "new")):
        (run / "stages" / f"{stage}.json").write_text(json.dumps({"model": student}))
    with pytest.raises(AnalysisError, match="are of different students; run 'cgkd stability"):
        read_contents(run)


def test_command(basic, tmp_path):
    folder, _ = basic
    (tmp_path / "run.yaml").write_text(f"system: system.yaml\nfolder: {folder}\n")
    result = CliRunner().invoke(
        app,
        ["report", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "page")],
        terminal_width=200,
    )
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "page" / "report.html") in result.output
    assert (tmp_path / "page" / "report.html").stat().st_size > 1e6
    run = shutil.copytree(
        folder, tmp_path / "new", ignore=shutil.ignore_patterns("comparison", "report")
    )
    result = CliRunner().invoke(app, ["report", str(run)], terminal_width=200)
    assert result.exit_code == 2
    assert (
        f"{run}: this run has not been compared with all-atom yet; run 'cgkd compare"
        f" {run / 'run.yaml'}' first." in result.stderr
    )
    assert "Traceback" not in result.output
