"""`scripts.study`: a study of seconds, continued, and its numbers against other ways to them."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from openmm import unit

from openmm_cgkd import CGPotential
from openmm_cgkd.analysis.stability import failures
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.section import parse
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.mean_forces.file import MeanForces, write_mean_forces
from openmm_cgkd.stages import compare as compare_module
from openmm_cgkd.stages import stability as stability_module
from openmm_cgkd.training import ensemble
from openmm_cgkd.utils.seeds import derived_seed
from scripts.study import __main__ as study_main
from scripts.study import run as study_run
from scripts.study.pictures import pareto_front
from scripts.study.plan import BASE, Costs, ablation_variants, merge, study_variants
from scripts.study.sizes import BIG_TEACHERS, size_claims, size_variants
from scripts.study.tables import claim_rows, claims_markdown, peak_rows, summarize
from scripts.study.variant_runs import work
from tests.cases.paths import ROOT

pytestmark = pytest.mark.slow

VARIANTS = ["direct", "ensemble-F+e", "committee"]
TINY = {
    "max_frames": 40,
    "split": {"gap": "0 ps", "test": 0.2},
    "model": {"channels": 8, "cutoff": "0.9 nm", "radial_functions": 8},
    "teachers": {"blocks": 4},
    "student": {"max_spread": 1e6, "on_policy": {"production": "0.4 ps", "snapshots": 4}},
    "simulation": {
        "timestep": "4 fs",
        "equilibration": "0.02 ps",
        "production": "0.4 ps",
        "frame_interval": "0.02 ps",
        "platform": "Reference",
    },
    "comparison": {"bins": 20, "shell_frames": 4},
    "stability": {"replicas": 1, "duration": "0.08 ps", "window": "0.04 ps"},
}


def serially(function, tasks, execution, folder, workers=None, on_result=None, on_report=None):
    """`map_tasks` without processes, which spares their imports."""
    for name, arguments in tasks.items():
        on_result(
            name, function(*arguments, lambda done, note, name=name: on_report(name, done, note))
        )


@pytest.fixture(scope="module")
def fluid(tmp_path_factory, lj_frames) -> Path:
    folder = tmp_path_factory.mktemp("fluids") / "lj"
    folder.mkdir()
    shutil.copyfile(lj_frames, folder / "frames.h5")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def command(fluid: Path, folder: Path, *options: str, only=VARIANTS) -> list[str]:
    given = [
        "--quick",
        "--system",
        fluid,
        "--folder",
        folder,
        "--config",
        fluid / "tiny.yaml",
        "--epochs",
        "1",
    ]
    return [str(word) for word in [*given, *options, "--only", *only]]


def call(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["scripts.study", *arguments])
        for module in (study_run, ensemble):
            patch.setattr(module, "map_tasks", serially)
        # have tests of their own, and take most of the time
        patch.setattr(compare_module, "write_pictures", lambda *_: None)
        patch.setattr(stability_module, "draw_stability", lambda *_: None)
        patch.setattr(failures, "PRESSURE_FRAMES", 2)
        study_main.main()


@pytest.fixture(scope="module")
def finished(fluid, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    call(command(fluid, folder, "--publish", str(folder / "published")))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def row(folder: Path, variant: str) -> dict[str, str]:
    return next(row for row in rows(folder / "results.csv") if row["variant"] == variant)


def openmm_forces(model: Path, frames, chosen) -> np.ndarray:
    context = openmm.Context(
        CGPotential(model).createSystem(frames.beads, boxVectors=frames.box[0]),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    found = []
    for k in chosen:
        context.setPositions(frames.positions[k])
        found.append(context.getState(forces=True).getForces(asNumpy=True)._value)
    return np.array(found)


def test_force_errors_are_those_of_the_exported_potentials(finished, fluid):
    """OpenMM's forces against the mapped ones of the last fifth of all frames."""
    frames = read_frames(fluid / "frames.h5")
    test = np.arange(len(frames) - round(0.2 * len(frames)), len(frames))
    teachers = [
        finished / "seed-1" / "teachers" / "teachers" / f"{k:02d}" / "potential.pt"
        for k in range(2)
    ]
    models = {"direct": [finished / "seed-1" / "direct" / "student.pt"], "committee": teachers}
    for variant, files in models.items():
        forces = np.mean([openmm_forces(file, frames, test) for file in files], axis=0)
        expected = np.sqrt(np.mean((forces - frames.forces[test]) ** 2))
        assert float(row(finished, variant)["mapped_rmse"]) == pytest.approx(expected, rel=1e-4)
        assert row(finished, variant)["test_frames"] == str(len(test))


def test_rdf_error_is_that_of_mdtraj(finished, fluid):
    frames, folder = (
        read_frames(fluid / "frames.h5"),
        finished / "seed-1" / "committee" / "simulation",
    )
    curves = []
    all_atom = mdtraj.Trajectory(frames.positions, mdtraj.load(folder / "topology.pdb").topology)
    all_atom.unitcell_vectors = frames.box
    r_max = json.loads((folder.parent / "comparison" / "comparison.json").read_text())["r_max"]
    for trajectory in (
        all_atom,
        mdtraj.load(folder / "trajectory.dcd", top=folder / "topology.pdb"),
    ):
        pairs = trajectory.topology.select_pairs("name A", "name B")
        curves.append(mdtraj.compute_rdf(trajectory, pairs, r_range=(0, r_max), n_bins=20)[1])
    expected = np.abs(curves[1] - curves[0]).mean()
    assert float(row(finished, "committee")["rdf_error A-B"]) == pytest.approx(expected, rel=1e-3)


def test_variants_share_teachers_and_labels(finished):
    seed = finished / "seed-1"
    assert (seed / "ensemble-F+e" / "labels.h5").read_bytes() == (
        seed / "teachers" / "labels.h5"
    ).read_bytes()
    assert not (seed / "ensemble-F+e" / "teachers").exists()
    weights = load_run(seed / "ensemble-F+e" / "run.yaml").student.weights
    assert (weights.force, weights.energy, weights.bead_energy) == (1, 0, 0.1)
    assert float(row(finished, "committee")["simulated_ps"]) == pytest.approx(0.1)
    assert row(finished, "committee")["survived"] == ""


def test_same_command_only_reports(finished, fluid, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.pt")}
    table = (finished / "results.csv").read_text()
    monkeypatch.setattr("openmm_cgkd.training.fit.fit", lambda *_: pytest.fail("trained again"))
    call(command(fluid, finished))
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.pt")}
    assert table == (finished / "results.csv").read_text()


def test_mean_forces_that_come_later(finished, fluid, tmp_path, monkeypatch):
    """A bead is a particle here, so mapped forces are mean forces and both errors agree."""
    folder, later = shutil.copytree(finished, tmp_path / "study"), tmp_path / "mean_forces.h5"
    frames = read_frames(fluid / "frames.h5")
    part = frames[split_frames(frames.time, 0.1, 0.2, 0).test]
    known = MeanForces(
        part.positions, part.forces, 0 * part.forces, part.box, part.time, part.beads, {}
    )
    write_mean_forces(later, known)
    monkeypatch.setattr("openmm_cgkd.training.fit.fit", lambda *_: pytest.fail("trained again"))
    call(command(fluid, folder, "--mean-forces", str(later)))
    for variant in VARIANTS:
        found = row(folder, variant)
        assert float(found["mean_force_rmse"]) == pytest.approx(
            float(found["mapped_rmse"]), rel=1e-4
        )
        share = float(found["mean_force_rmse"]) ** 2 / np.mean(part.forces.astype(float) ** 2)
        assert float(found["mean_force_share"]) == pytest.approx(share, rel=1e-4)
    assert "RMSE against mean forces" in (folder / "results.md").read_text()
    assert "mean_force_rmse" not in rows(finished / "results.csv")[0]


def test_published_files_name_no_folder(finished, fluid):
    published = finished / "published"
    names = {path.name for path in published.iterdir()}
    assert {
        "results.csv",
        "summary.csv",
        "peaks.csv",
        "wall_times.csv",
        "study.yaml",
        "results.md",
        "metrics.png",
    } <= names
    for path in published.iterdir():
        if path.suffix != ".png":
            assert not any(
                str(folder) in path.read_text()
                for folder in (finished, fluid.parent, Path.home(), ROOT)
            )
    written = yaml.safe_load((published / "study.yaml").read_text())
    assert written["run"]["model"]["channels"] == 8
    assert written["variants"]["ensemble-F+e"]["student"]["weights"] == {
        "force": 1,
        "energy": 0,
        "bead_energy": 0.1,
    }
    assert written["machine"]["cores"] >= 1
    stages = {(entry["folder"], entry["stage"]) for entry in rows(published / "wall_times.csv")}
    assert {
        ("teachers", "teachers"),
        ("teachers", "labels"),
        ("direct", "train"),
        ("committee", "simulate"),
    } <= stages


def test_time_budget(fluid, finished, tmp_path, capsys):
    call(command(fluid, tmp_path / "later", "--hours", "0"))
    assert "3 variant runs are left; the same command goes on" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))
    copy = shutil.copytree(finished, tmp_path / "study")
    (copy / "seed-1" / "direct" / "errors.json").unlink()
    call(command(fluid, copy, "--hours", "0"))
    assert [entry["variant"] for entry in rows(copy / "results.csv")] == [
        "ensemble-F+e",
        "committee",
    ]
    assert "Not finished" in (copy / "results.md").read_text()


def test_explosion_is_a_result(fluid, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "study")
    changes = merge(
        TINY,
        {
            "simulation": {
                "timestep": "0.4 ps",
                "equilibration": "0 ps",
                "production": "40 ps",
                "frame_interval": "0.4 ps",
            }
        },
    )
    changes = merge(changes, {"stability": {"duration": "4 ps", "window": "0.4 ps"}})
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(changes))
    arguments = command(fluid, copy, only=["direct"])
    arguments[arguments.index("--config") + 1] = str(tmp_path / "long.yaml")
    call(arguments)
    assert "The simulation stopped" in row(copy, "direct")["failure"]
    assert row(copy, "direct")["survived"] == "0"
    assert not {"rdf_error", "ns_per_day"} & set(row(copy, "direct"))
    assert "- direct, seed 1: The simulation stopped" in (copy / "results.md").read_text()


def plan(frames: Path, **changes) -> RunConfig:
    return parse(
        RunConfig,
        merge(BASE, {"system": "system.yaml", "folder": ".", "frames": str(frames), **changes}),
        "test",
        Path(),
    )


def test_variant_runs_reach_processes_whole_and_seeds_do_not_meet(fluid, tmp_path):
    common = plan(fluid / "frames.h5")
    study = study_run.Study(
        tmp_path, common.model_dump(mode="json"), tuple(study_variants(common)), 3
    )
    variant_runs = study.variant_runs()
    assert len(variant_runs) == 24
    assert len({variant_run.run.run_folder for variant_run in variant_runs}) == 24
    assert (
        len(
            {
                variant_run.teachers.run_folder
                for variant_run in variant_runs
                if variant_run.teachers
            }
        )
        == 3
    )
    used = [
        {derived_seed(variant_run.run.seed, "student")}
        | {
            derived_seed(variant_run.run.seed, "teacher", k)
            for k in range(variant_run.run.teachers.count)
        }
        for variant_run in variant_runs[::8]
    ]
    assert not used[0] & used[1] | used[1] & used[2] | used[0] & used[2]
    function, again = pickle.loads(pickle.dumps((work, variant_runs[3])))
    assert function is work
    assert again == variant_runs[3]
    assert again.run.run_folder == tmp_path / "seed-1" / "single-F+e"
    expected = {
        "direct": ("noisy", 1, 0, 0),
        "single-F": ("single", 1, 0, 0),
        "single-F+E": ("single", 1, 0.1, 0),
        "single-F+e": ("single", 1, 0, 0.1),
        "ensemble-F": ("ensemble", 1, 0, 0),
        "ensemble-F+E": ("ensemble", 1, 0.1, 0),
        "ensemble-F+e": ("ensemble", 1, 0, 0.1),
    }
    for variant_run in variant_runs:
        student = variant_run.run.student
        if not variant_run.variant.committee:
            assert (student.targets, *student.weights.model_dump().values()) == expected[
                variant_run.variant.name
            ]
        # one budget for all
        assert student.training == variant_run.run.teachers.training == common.teachers.training


def differences(first: dict, second: dict, prefix: str = "") -> set[str]:
    """Dotted names of the values that differ."""
    found = set()
    for name in first:
        if isinstance(first[name], dict):
            found |= differences(first[name], second[name], f"{prefix}{name}.")
        elif first[name] != second[name]:
            found.add(f"{prefix}{name}")
    return found


@pytest.mark.parametrize("kind", ["direct", "distilled"])
def test_ablation_changes_one_setting(kind, fluid, tmp_path):
    frames = read_frames(fluid / "frames.h5")  # 60 frames, box edge 1.9 nm
    common = plan(
        fluid / "frames.h5", model={"channels": 24, "cutoff": "0.9 nm", "radial_functions": 24}
    )
    study = study_run.Study(
        tmp_path, common.model_dump(mode="json"), tuple(ablation_variants(common, frames, kind)), 1
    )
    runs = {
        variant_run.variant.name: variant_run.run.model_dump(mode="json")
        for variant_run in study.variant_runs()
    }
    base = runs.pop("base")
    epochs = {"teachers.training.epochs", "student.training.epochs"}
    for name, run in runs.items():
        changed = differences(base, run) - {"folder"}
        assert len(changed - epochs) == (0 if name.startswith("epochs") else 1), name
        assert epochs <= changed if name.startswith(("epochs", "frames")) else not epochs & changed
    assert {
        "channels-16",
        "channels-32",
        "channels-48",
        "cutoff-0.8",
        "epochs-6",
        "epochs-12",
        "frames-30",
    } <= set(runs)
    # the base's own, and beyond half the box
    assert not {"channels-24", "cutoff-1.0", "cutoff-1.2"} & set(runs)
    assert (
        runs["frames-30"]["max_frames"] * runs["frames-30"]["student"]["training"]["epochs"]
        == 60 * 3
    )
    teachers = {variant_run.variant.teachers for variant_run in study.variant_runs()}
    # an on-policy round needs no ensemble of its own
    assert len(teachers) == (1 if kind == "direct" else len(runs))
    assert ("on-policy" in runs) == (kind == "distilled")


def test_on_policy_round_of_an_ablation(fluid, tmp_path):
    call(command(fluid, tmp_path, "--ablation", "distilled", only=["on-policy"]))
    seed = tmp_path / "seed-1"
    assert (seed / "on-policy" / "on_policy" / "01" / "labels.h5").exists()
    assert (seed / "base-teachers" / "labels.h5").read_bytes() == (
        seed / "on-policy" / "labels.h5"
    ).read_bytes()
    assert float(row(tmp_path, "on-policy")["mapped_rmse"]) > 0


def test_mean_and_standard_deviation_over_seeds():
    peaks = {
        "peak_height A-B": 2.0,
        "peak_height_all_atom A-B": 3.0,
        "peak_position A-B": 0.4,
        "peak_position_all_atom A-B": 0.5,
    }
    made_up = [
        {"variant": "direct", "seed": 1, "rdf_error": 0.1, "failure": "", **peaks},
        {
            "variant": "direct",
            "seed": 2,
            "rdf_error": 0.3,
            "failure": "",
            "survived": None,
            **peaks,
        },
        {"variant": "committee", "seed": 1, "rdf_error": 0.2, "failure": "hot"},
    ]
    direct, committee = summarize(made_up)
    assert direct["rdf_error"] == pytest.approx(0.2)
    assert direct["rdf_error_std"] == pytest.approx(0.02**0.5)  # two values 0.2 apart
    assert (direct["seeds"], committee["seeds"], committee["rdf_error_std"]) == (2, 1, None)
    assert "survived" not in direct
    first, second, third = peak_rows([direct, committee])
    assert (first["variant"], first["height"], first["position"]) == ("all-atom", 3.0, 0.5)
    assert (second["height"], second["height_std"], third["height"]) == (2.0, 0.0, None)


def test_claims_are_judged_by_pairs_of_one_seed():
    """Seeds differ by more than the variants, which are always 10 % apart; one seed has no
    partner.
    """
    made_up = [
        {"variant": "ensemble-F+e", "seed": seed, "rdf_error": 0.9 * error}
        for seed, error in ((1, 0.1), (2, 0.3), (3, 0.2))
    ]
    made_up += [
        {"variant": "direct", "seed": seed, "rdf_error": error}
        for seed, error in ((1, 0.1), (2, 0.301), (3, 0.199), (4, 9.0))
    ]
    made_up += [{"variant": "ensemble-F", "seed": 1, "rdf_error": 0.1, "cdf_error": None}]
    distillation, energies = claim_rows(made_up)
    assert (distillation["claim"], distillation["error"]) == (
        "distillation is better than direct force matching",
        "rdf_error",
    )
    assert (distillation["seeds"], distillation["holds"]) == (3, "yes")
    ratios = [0.9, 0.9 * 0.3 / 0.301, 0.9 * 0.2 / 0.199]
    assert distillation["mean"] == pytest.approx(np.mean(ratios))
    assert distillation["std"] == pytest.approx(np.std(ratios, ddof=1))
    assert (energies["claim"], energies["std"], energies["holds"]) == (
        "per-bead energies help",
        None,
        "open",
    )
    assert "| per-bead energies help | 0.900 open |" in claims_markdown([distillation, energies])
    assert claims_markdown([]) == ""


def test_estimate_of_a_known_run(ethaline, monkeypatch):
    """The quickstart trains for eight to ten minutes on two cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    run = load_run(ethaline.with_name("quickstart.yaml"))
    costs = Costs.of(read_frames(ethaline.with_name("frames.h5")))
    assert 400 < costs.teachers(run) + costs.training(run, run.student.training) < 800


@pytest.mark.parametrize(
    "module",
    ["scripts.study.__main__", "scripts.denoising.__main__", "scripts.benchmarks.__main__"],
)
def test_script_starts_without_the_libraries_of_its_workers(module):
    """Their threads are counted when they are imported, which must come after the worker has
    set the number.
    """
    check = (
        f"import sys, {module}; print(sorted({{'torch', 'openmm', 'numba', 'numpy'}} &"
        " set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--only", "ensemble"],
            "--only: there is no variant ensemble; choose among direct, single-F, ",
        ),
        (
            ["--config", "absent.yaml"],
            "absent.yaml: no such file; give sections of a run.yaml for --config",
        ),
        (["--data", "absent.h5"], "absent.h5: no such file; make frames with 'cgkd reference"),
        (["--md-time", "3"], "simulation.production: got '3' without a unit"),
    ],
)
def test_mistakes_are_told(fluid, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        call(["--system", str(fluid), "--folder", str(tmp_path / "study"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_time_step_must_be_given(fluid, tmp_path):
    (tmp_path / "auto.yaml").write_text("simulation: {timestep: auto}")
    with pytest.raises(SystemExit):
        call(
            [
                "--system",
                str(fluid),
                "--folder",
                str(tmp_path / "study"),
                "--config",
                str(tmp_path / "auto.yaml"),
            ]
        )


def test_speeds(finished):
    record = json.loads((finished / "seed-1" / "speed.json").read_text())
    assert set(record["steps"]) == set(VARIANTS)
    step = record["steps"]["direct"]
    day = unit.day.conversion_factor_to(unit.second)
    assert step["ns_per_day"] == pytest.approx(4e-6 * day / (step["step_time_ms"] * 1e-3))
    assert float(row(finished, "direct")["ns_per_day"]) == pytest.approx(
        step["ns_per_day"], rel=1e-5
    )


def test_students_of_many_sizes_share_big_teachers(fluid, tmp_path):
    """Distilled and trained directly, with the picture of errors over costs."""
    variants = size_variants(epochs=2)
    claims = size_claims(variants)
    assert claims["8-1-1.0: distilled is better than direct, longer"] == (
        "distilled-8-1-1.0",
        "direct-longer-8-1-1.0",
    )
    assert len(claims) == 25
    assert len(variants) == 45
    longer = next(variant for variant in variants if variant.name == "direct-longer-32-1-1.0")
    paths = {"system": "system.yaml", "folder": "."}
    run = parse(
        RunConfig, merge(merge(BASE, BIG_TEACHERS), longer.changes) | paths, "run", tmp_path
    )
    assert run.student.training.epochs == 6
    assert run.student.model.channels == 32
    assert run.teachers.resample == "none"
    assert run.model.channels == 48

    names = ["distilled-8-1-0.8", "direct-8-1-0.8"]
    call(command(fluid, tmp_path, "--sizes", only=names))
    assert (tmp_path / "errors_and_costs.png").exists()
    assert "8-1-0.8: distilled is better than direct" in (tmp_path / "claims.csv").read_text()
    found = {row["variant"]: float(row["mapped_rmse"]) for row in rows(tmp_path / "results.csv")}
    assert set(found) == set(names)
    assert found[names[0]] != found[names[1]]


def test_pareto_front_is_what_no_other_point_beats():
    points = [tuple(point) for point in np.random.default_rng(3).random((50, 2))]
    expected = {
        point
        for point in points
        if not any(other[0] < point[0] and other[1] < point[1] for other in points)
    }
    assert set(pareto_front(points)) == expected
