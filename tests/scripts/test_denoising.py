"""The denoising benchmark: its known truth, a tiny run of it, and the arithmetic of its tables."""

import dataclasses
import json
import math

import numpy as np
import openmm
import pytest
import scipy.stats
import torch

from openmm_cgkd.exceptions import ConfigError, FramesError
from openmm_cgkd.frames.frames import read_frames, write_frames
from openmm_cgkd.mean_forces.file import read_mean_forces, write_mean_forces
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.forces import SumModel, energies_and_forces
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder
from scripts.claims import p_value, verdict
from scripts.denoising import __main__ as denoising_main
from scripts.denoising import plan
from scripts.denoising.report import markdown, read_rows, summarize, write_files
from scripts.denoising.training_sets import finished, make_data, run_training_sets, work
from scripts.denoising.truth import (
    PARAMETERS,
    add_noise,
    as_frames,
    box_length,
    known_beads,
    known_system,
)

TINY = plan.Settings(
    levels=(3,),
    seeds=1,
    frames=25,
    sizes=(25,),
    held_out=4,
    trajectories=1,
    teachers=2,
    passes=20,
    fluid_frames=25,
    fluid_epochs=1,
)


# --- known truth ----------------------------------------------------------------------------------


def energy(positions: np.ndarray) -> float:
    """The potential in the words of the module's docstring, kJ/mol."""
    sizes, cutoff, switch = (
        np.array(PARAMETERS["sizes"])[known_beads().types],
        PARAMETERS["cutoff"],
        0.6,
    )
    delta = positions[:, None] - positions[None]
    delta -= np.round(delta / box_length()) * box_length()
    r = np.linalg.norm(delta, axis=-1) + 9 * np.eye(len(positions))
    s = (sizes[:, None] + sizes[None]) / 2
    x = np.clip((r - switch) / (cutoff - switch), 0, 1)
    smooth = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    pairs = PARAMETERS["depth"] * (2 * (s / r) ** 9 - 3 * (s / r) ** 6) * smooth
    density = np.where(r < cutoff, (1 - r / cutoff) ** 2, 0).sum(1)
    return (
        pairs.sum() / 2
        + PARAMETERS["stiffness"] / 2 * ((density - PARAMETERS["preferred_density"]) ** 2).sum()
    )


def test_true_forces_are_the_slope_of_the_written_potential():
    random = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = sites * box_length() / 4 + random.normal(scale=0.04, size=(64, 3))
    context = openmm.Context(
        known_system(),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value == pytest.approx(energy(positions), rel=1e-9)
    forces = state.getForces(asNumpy=True)._value
    for bead, axis in random.integers([64, 3], size=(12, 2)):
        step = np.zeros((64, 3))
        step[bead, axis] = 1e-5
        slope = (energy(positions + step) - energy(positions - step)) / 2e-5
        assert forces[bead, axis] == pytest.approx(-slope, abs=1e-4)


def test_noise_has_the_size_asked_for_and_changes_with_the_seed():
    random = np.random.default_rng(1)
    clean = as_frames(
        random.normal(size=(50, 64, 3)).astype("f4"),
        random.normal(scale=7, size=(50, 64, 3)).astype("f4"),
    )
    noises = [(add_noise(clean, 3, seed).forces - clean.forces).astype(float) for seed in (1, 2)]
    expected = 3 * 7 * np.array([[1, 0], [0, 1]]) * 21
    np.testing.assert_allclose(
        np.cov([noise.ravel() for noise in noises]), expected, atol=6 * 441 / math.sqrt(9600)
    )
    assert add_noise(clean, 3, 1).attributes["noise_rms"] == pytest.approx(21, rel=0.02)


# --- a tiny run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """All training sets of a tiny benchmark, trained in this process."""
    folder = tmp_path_factory.mktemp("denoising")
    training_sets = plan.known_training_sets(folder, *make_data(folder / "data", TINY), TINY)
    reports = []
    for training_set in training_sets:
        assert not finished(training_set)
        work(training_set, lambda done, note: reports.append(done))
    assert max(reports) == pytest.approx(1)
    return folder, training_sets


def test_frames_are_sampled_at_the_temperature(tiny):
    """Configurational temperature, kT = <F^2> / <-div F> (Rugh, Phys. Rev. Lett. 1997, 78,
    772), of forces by OpenMM and their slopes.
    """
    folder, _ = tiny
    frames = read_frames(folder / "data" / "trajectory-1.h5")
    context = openmm.Context(
        known_system(), openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU")
    )
    squares, slopes = [], []
    for positions in frames.positions[::2].astype(float):
        for component in np.random.default_rng(0).choice(positions.size, 48, replace=False):
            step = np.zeros(positions.size)
            step[component] = 1e-3
            forces = []
            for sign in (1, -1):
                context.setPositions(positions + sign * step.reshape(positions.shape))
                forces.append(
                    context.getState(forces=True).getForces(asNumpy=True)._value.ravel()[component]
                )
            squares.append(np.mean(forces) ** 2)
            slopes.append((forces[1] - forces[0]) / 2e-3)
    assert np.mean(squares) / np.mean(slopes) / 0.0083145 == pytest.approx(
        PARAMETERS["temperature"], rel=0.25
    )


def forces_by_hand(checkpoints, prior, mean_forces):
    """Mean force of networks and the prior, double precision, one configuration after the other."""
    types = torch.from_numpy(mean_forces.beads.types)
    networks = [load_checkpoint(path)[0].double() for path in checkpoints]
    found = []
    for positions, box in zip(mean_forces.positions.astype(float), mean_forces.box, strict=True):
        pairs = find_pairs(positions, box, networks[0].cutoff)
        arrays = [
            torch.from_numpy(array)
            for array in (positions, pairs.first, pairs.second, pairs.shifts)
        ]
        models = [
            SumModel(read_prior(prior).build(network.cutoff).double(), network)
            for network in networks
        ]
        found.append(
            np.mean(
                [energies_and_forces(model, types, *arrays)[1].numpy() for model in models], axis=0
            )
        )
    return np.array(found)


def test_errors_are_those_of_the_trained_networks_against_the_true_forces(tiny):
    folder, training_sets = tiny
    training_set = next(c for c in training_sets if c.noise == 3)
    errors = {row["variant"]: row["rmse"] for row in read_rows([training_set])}
    assert set(errors) == set(plan.ORDER)
    mean_forces, teachers = (
        read_mean_forces(training_set.mean_forces),
        RunFolder(training_set.teachers),
    )
    members = [teachers.teacher(k) / "best.pt" for k in range(2)]
    for name, checkpoints in {
        plan.ENSEMBLE: members,
        plan.DIRECT: [RunFolder(training_set.variants[plan.DIRECT]).student / "best.pt"],
        plan.STUDENT: [RunFolder(training_set.variants[plan.STUDENT]).student / "best.pt"],
    }.items():
        wrong = forces_by_hand(checkpoints, teachers.prior, mean_forces) - mean_forces.forces
        assert errors[name] == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-3), name
    singles = [
        forces_by_hand([member], teachers.prior, mean_forces) - mean_forces.forces
        for member in members
    ]
    assert errors[plan.TEACHER] == pytest.approx(
        np.mean([np.sqrt(np.mean(wrong**2)) for wrong in singles]), rel=1e-3
    )
    clean, noisy = (
        read_frames(folder / "data" / name) for name in ("noise-0-seed-1.h5", "noise-3-seed-1.h5")
    )
    assert errors[plan.LABELS] == pytest.approx(
        np.sqrt(np.mean((noisy.forces - clean.forces) ** 2)), rel=0.03
    )


def test_students_differ_in_what_they_learn_alone(tiny):
    _, training_sets = tiny
    runs = next(c for c in training_sets if c.noise == 3).variants
    settings = {
        name: load_checkpoint(RunFolder(run).student / "best.pt")[1]["training"]
        for name, run in runs.items()
    }
    shared = [
        (s["seed"], s["settings"]["learning_rate"], s["best"]["epoch"] <= s["settings"]["epochs"])
        for s in settings.values()
    ]
    assert len(set(shared)) == 1
    weights = {name: tuple(s["weights"].values()) for name, s in settings.items()}
    assert weights == {
        plan.DIRECT: (1, 0, 0),
        "student F": (1, 0, 0),
        "student F+E": (1, 0.1, 0),
        plan.STUDENT: (1, 0, 0.1),
        plan.EXTRA: (1, 0, 0.1),
    }
    assert {name for name, s in settings.items() if s["targets"] == "noisy"} == {plan.DIRECT}
    assert (
        settings[plan.EXTRA]["configurations_beyond_frames"]
        > 0
        == settings[plan.STUDENT]["configurations_beyond_frames"]
    )


def test_finished_training_sets_are_kept_until_their_data_change(tiny):
    folder, training_sets = tiny
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    make_data(folder / "data", TINY)
    run_training_sets(training_sets, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == made
    other = dataclasses.replace(training_sets[0], mean_forces=folder / "data" / "noise-0-seed-1.h5")
    assert not finished(other)


def test_results_are_written(tiny):
    folder, training_sets = tiny
    rows = read_rows(training_sets)
    summary = summarize(rows, TINY, training_sets)
    write_files(folder, rows, summary, training_sets, TINY)
    assert json.loads(json.dumps(summary, allow_nan=False))["reduced"]
    assert (folder / "denoising.png").stat().st_size > 20_000
    assert (folder / "results.csv").read_text().count("\n") == 1 + len(rows)
    assert "known truth,3,25,student F+e," in (folder / "summary.csv").read_text()


def test_a_fluid_is_measured_against_its_mean_forces(tiny, tmp_path):
    folder, training_sets = tiny
    noisy = read_frames(folder / "data" / "noise-3-seed-1.h5")
    noisy = dataclasses.replace(
        noisy, time=100 * noisy.time, attributes={"temperature": noisy.temperature}
    )
    write_frames(noisy, tmp_path / "frames.h5")
    truth = read_mean_forces(training_sets[0].mean_forces)
    write_mean_forces(tmp_path / "mean_forces.h5", truth)
    training_set = plan.plan_training_set(
        tmp_path,
        (tmp_path / "frames.h5", tmp_path / "mean_forces.h5"),
        plan.FLUID,
        None,
        1,
        25,
        (plan.DIRECT,),
        TINY,
    )
    work(training_set, lambda done, note: None)
    labels, direct = read_rows([training_set])
    assert labels["rmse"] == pytest.approx(
        np.sqrt(np.mean(noisy.forces**2) - np.mean(truth.forces**2)), rel=1e-4
    )
    assert 0 < direct["error"] < direct["rmse"]


# --- tables ---------------------------------------------------------------------------------------


def test_means_deviations_and_ratios(tiny):
    _, training_sets = tiny
    values = {
        plan.LABELS: (9, 9),
        plan.DIRECT: (4, 6),
        plan.TEACHER: (8, 4),
        plan.ENSEMBLE: (2, 2),
        plan.STUDENT: (2, 3),
    }
    place = {"data": plan.KNOWN, "noise": 3, "frames": 25}
    rows = [
        place | {"seed": k + 1, "variant": name, "rmse": pair[k]}
        for name, pair in values.items()
        for k in (1, 0)
    ]
    rows.append(place | {"seed": 1, "noise": 0, "variant": plan.DIRECT, "rmse": 1.5})
    summary = summarize(rows, TINY, training_sets)
    assert summary["rmse_true"]["3"][plan.DIRECT] == {"mean": 5, "std": pytest.approx(math.sqrt(2))}
    # 2/8 and 3/4
    assert summary["student_over_teacher"]["3"] == {
        "mean": 0.5,
        "std": pytest.approx(math.sqrt(0.125)),
    }
    assert summary["student_over_ensemble"]["3"]["mean"] == 1.25
    assert summary["rmse_trained_on_true_forces"] == {"mean": 1.5, "std": None}
    assert summary["data_efficiency"]["ensemble"] == [{"mean": 2, "std": 0}]
    claims = summary["claims"]["3"]
    assert claims["teachers denoise"]["mean"] == pytest.approx((8 / 9 + 4 / 9) / 2)
    assert claims["distillation is better than direct force matching"] == {
        "mean": 0.5,
        "std": 0,
        "p": 0,
        "holds": "yes",
    }
    assert "per-bead energies help" not in claims
    page = markdown(summary)
    assert "| direct | 5.00 ± 1.41 |" in page
    assert (
        "| distillation is better than direct force matching | 0.500 ± 0.000 yes, p < 0.001 |"
        in page
    )


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((0.80, 0.82, 0.84), "yes"),
        ((0.9, 0.99, 1.0), "open"),
        ((1.2, 1.21, 1.25), "no"),
        ((0.99, 1.0, 1.01), "open"),
        ((0.5,), "open"),
    ],
)
def test_a_claim_holds_where_the_interval_of_the_ratio_is_below_one(ratios, expected):
    ratio = {
        "mean": float(np.mean(ratios)),
        "std": float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
    }
    assert verdict(ratio, len(ratios)) == expected
    if len(ratios) > 1:  # the same from the p value of a t-test
        p = scipy.stats.ttest_1samp(ratios, 1).pvalue
        assert p_value(ratio, len(ratios)) == pytest.approx(p)
        assert (p < 0.05) == (expected != "open")


def test_the_full_benchmark_trains_what_its_page_says():
    noisy = {
        (level, seed): plan.Path("x") for level in (0, *plan.FULL.levels) for seed in (1, 2, 3)
    }
    training_sets = plan.known_training_sets(
        plan.Path("folder"), noisy, plan.Path("truth"), plan.FULL
    )
    assert (
        len({training_set.name for training_set in training_sets})
        == len(training_sets)
        == 3 * (1 + 3 + 3)
    )
    assert sum(len(training_set.costs) for training_set in training_sets) == 3 * (
        1 + 3 * (8 + 5) + 3 * (8 + 2)
    )
    at_size = {
        training_set.frames: training_set
        for training_set in training_sets
        if training_set.noise == 3 and training_set.seed == 1
    }
    assert sorted(at_size) == [50, 100, 200, 400]
    assert [at_size[n].teachers.teachers.training.epochs for n in (50, 100, 200, 400)] == [
        48,
        24,
        12,
        6,
    ]
    fluid = plan.fluid_training_sets(
        plan.Path("folder"), plan.Path("x"), plan.Path("mean"), plan.FULL
    )
    assert [len(training_set.costs) for training_set in fluid] == [8 + 4] * 3
    assert {training_set.teachers.teachers.training.epochs for training_set in fluid} == {2}


def test_what_does_not_fit_is_refused_before_any_work(tiny, tmp_path):
    _, training_sets = tiny
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ConfigError, match="other settings"):
        denoising_main.benchmark(
            denoising_main.parse_arguments(["--quick", "--folder", str(tmp_path)])
        )
    # not ethaline's
    arguments = [
        "--quick",
        "--folder",
        str(tmp_path / "new"),
        "--meanforce",
        str(training_sets[0].mean_forces),
    ]
    with pytest.raises(FramesError, match="same system"):
        denoising_main.benchmark(denoising_main.parse_arguments(arguments))
    assert not (tmp_path / "new" / "data").exists()
