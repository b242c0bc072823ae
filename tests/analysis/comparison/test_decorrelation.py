"""Half-times with errors, refusals, ratios and samples per day of Brownian particles."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openmm_cgkd.analysis.comparison.decorrelation import (
    Decorrelation,
    Estimate,
    Undecayed,
    decorrelation,
    decorrelation_numbers,
    decorrelation_words,
    function_words,
    samples_numbers,
    samples_per_day,
    samples_words,
)
from openmm_cgkd.analysis.comparison.dynamics import all_diffusion
from openmm_cgkd.analysis.comparison.sources import Source, joined_source, read_source
from openmm_cgkd.analysis.comparison.speed import Speed
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.frames import read_frames, set_attributes
from tests.cases.comparison import BEADS, write_frames, write_run
from tests.cases.liquids import liquid

BOX = 2.0


def brownian(step: float, n: int = 400, beads: int = 24, seed: int = 1, interval=0.5) -> Source:
    """Particles of two types, of which the second moves twice as far in a step."""
    rng = np.random.default_rng(seed)
    steps = step * np.repeat([1.0, 2.0], beads // 2)[:, None]
    moves = np.cumsum(steps * rng.standard_normal((n, beads, 3)), axis=0)
    names = ["A"] * (beads // 2) + ["B"] * (beads // 2)
    return Source(
        "model",
        Path("model.dcd"),
        str(seed),
        rng.uniform(0, BOX, (beads, 3)) + moves,
        np.broadcast_to(BOX * np.eye(3), (n, 3, 3)),
        names,
        ("A", "B"),
        interval * np.arange(n),
        {},
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Decorrelation, Decorrelation]:
    """Particles that forget four times as fast as others."""
    fast, slow = decorrelation(brownian(0.04)), decorrelation(brownian(0.02, seed=2))
    assert isinstance(fast, Decorrelation)
    assert isinstance(slow, Decorrelation)
    return fast, slow


def test_half_times_of_brownian_particles(pair):
    """Those of exp(-k^2 D t), averaged over the waves of the box, within four errors."""
    fast, _ = pair
    numbers = np.array(list(np.ndindex(11, 11, 11))) - 5
    k = 2 * np.pi / BOX * np.linalg.norm(numbers, axis=1)
    k = k[(k >= 6) & (k < 14)]
    for name, step in (("A", 0.04), ("B", 0.08)):
        found = fast.half_times["self", name]
        decay = np.exp(-(k[:, None] ** 2) * step**2 / 2 * np.linspace(0, 40, 4001)).mean(axis=0)
        exact = 0.5 * np.linspace(0, 40, 4001)[np.argmax(decay < 0.5)]
        assert found.value == pytest.approx(exact, rel=0.1)
        assert abs(found.value - exact) < 4 * found.error
        assert 0.005 < found.error / found.value < 0.2
    name, slowest = fast.slowest
    assert name[1] == "A"
    assert slowest.value == max(found.value for found in fast.half_times.values())


def test_error_of_a_half_time_is_its_scatter():
    """Over independent trajectories."""
    found = [decorrelation(brownian(0.1, n=200, beads=2, seed=seed)) for seed in range(20)]
    each = [one.half_times["self", "A"] for one in found]
    scatter = np.std([one.value for one in each], ddof=1)
    assert np.sqrt(np.mean([one.error**2 for one in each])) == pytest.approx(scatter, rel=0.5)


def test_ratio_of_half_times(pair):
    fast, slow = pair
    numbers = decorrelation_numbers(fast, slow)
    assert [(row["function"], row["types"]) for row in numbers["functions"]] == [
        ("collective", "A"),
        ("collective", "B"),
        ("self", "A"),
        ("self", "B"),
    ]
    for row in numbers["functions"]:
        assert row["faster"] == pytest.approx(4, rel=0.4)
        assert abs(row["faster"] - 4) < 4 * row["faster_se"]
    assert numbers["slowest"]["faster"] == pytest.approx(4, rel=0.4)
    # shorter waves are forgotten faster
    by_k = numbers["functions"][2]["half_time_by_k"]
    assert by_k[0] > by_k[1] > by_k[2] > by_k[3]
    json.dumps(numbers, allow_nan=False)
    for curve, values in zip(fast.curves, fast.scattering.band, strict=True):
        np.testing.assert_array_equal(curve.mean, values)
    words = decorrelation_words(numbers)
    assert words.startswith(function_words(*fast.slowest[0]))
    assert "times faster than all-atom." in words
    assert decorrelation_words(decorrelation_numbers(fast)).endswith(" ps.")
    assert decorrelation_words({"absent": "No times."}) == "no half-time: No times."


def test_charges_have_a_function_of_their_own():
    charged = replace(brownian(0.1), charges=np.repeat([1.0, -1.0], 12))
    assert ("charge", "all") in decorrelation(charged).half_times
    assert ("charge", "all") not in decorrelation(replace(charged, charges=np.zeros(24))).half_times


def test_gaps_and_runs_are_not_crossed():
    """Frames after a gap start elsewhere; only within a stretch do they remember."""
    for source in (torn(0.05), joined_source([brownian(0.05, n=150, seed=k) for k in (4, 5)])):
        found = decorrelation(source).scattering
        assert found.lags[-1] == 60
        assert found.counts.sum(axis=0).tolist() == [300 - 2 * lag for lag in found.lags]


def torn(*steps: float) -> Source:
    """150 frames, and as many after a long gap, in which beads may move in other steps."""
    first, second = brownian(steps[0], n=150, seed=4), brownian(steps[-1], n=150, seed=5)
    return replace(
        first,
        positions=np.concatenate([first.positions, second.positions]),
        boxes=np.concatenate([first.boxes, second.boxes]),
        times=np.concatenate([first.times, second.times + 500]),
    )


def test_pieces_beside_a_long_gap_count_as_runs():
    """What changes slowly differs between them, and blocks of each do not see it."""
    source = torn(0.06, 0.04)
    runs = [replace(source, positions=source.positions[part], boxes=source.boxes[part],
                    times=source.times[part]) for part in source.stretches()[1]]  # fmt: skip
    assert source.pieces() == joined_source(runs).pieces() == [150, 150]
    found, joined = decorrelation(source), decorrelation(joined_source(runs))
    estimate = found.half_times["self", "A"]
    assert estimate == joined.half_times["self", "A"]
    assert not estimate.plateau
    values = [decorrelation(run).half_times["self", "A"].value for run in runs]
    assert estimate.error > 0.3 * abs(values[0] - values[1])
    alike = decorrelation(torn(0.06)).half_times["self", "A"]
    assert alike.error / alike.value < 0.3 * estimate.error / estimate.value
    # a gap too near to the end leaves a piece too small to compare, a short one remembers
    times = np.arange(300.0)
    for late in (500.0 * (times >= 290), 20.0 * (times >= 150)):
        assert replace(source, times=times + late).pieces() == [300]


def test_runs_whose_times_tell_nothing():
    known = brownian(0.05, n=20)
    for other, words in (
        (brownian(0.05, n=20, interval=1.0), "The runs have frames every 0.5 and 1 ps; save all"),
        (replace(known, times=None), "model.dcd: The time between frames is not known"),
        (replace(known, times=np.zeros(20)), "model.dcd: The times of the frames do not increase"),
    ):
        joined = joined_source([known, other])
        assert decorrelation(joined).startswith(words)
        assert all_diffusion(joined).startswith(words)


def test_charges_are_those_of_the_runs_that_know_them():
    charges = np.repeat([1.0, -1.0], 12)
    unknown = brownian(0.1, n=20)
    zero, charged = replace(unknown, charges=np.zeros(24)), replace(unknown, charges=charges)
    for runs in ((unknown, charged), (zero, charged), (charged, unknown), (charged, charged)):
        np.testing.assert_array_equal(joined_source(runs).charges, charges)
    assert joined_source([unknown, unknown]).charges is None
    other = replace(charged, charges=0.8 * charges)
    with pytest.raises(AnalysisError, match=r"bead 0 \(A\) has the charge 0\.800, in .* 1\.000"):
        joined_source([unknown, charged, other])


def test_what_has_not_decayed_is_refused():
    found = decorrelation(brownian(0.004, n=100))
    kept = found.half_times["self", "A"]
    assert isinstance(kept, Undecayed)
    # at k of 11 / nm an exponential falls to a half in 2 ln 2 / (k step)^2 frames of 0.5 ps
    assert kept.needed == pytest.approx(5 * 0.5 * 2 * np.log(2) / (11 * 0.004) ** 2, rel=0.6)
    assert "F_s(k,t) of A has fallen only to 0.9" in kept.words
    assert "within 10 ps" in kept.words
    assert "simulate at least" in kept.words
    numbers = decorrelation_numbers(decorrelation(brownian(0.05)), found)
    assert all("faster" not in row for row in numbers["functions"])
    assert numbers["slowest"]["faster_absent"].startswith("All-atom: F")
    words = samples_words(samples_numbers((found, Speed(1.0, None))))
    assert words.startswith("independent samples per day are not known. F")
    # nothing moves
    words = decorrelation(brownian(0.0, n=40)).slowest[1].words
    assert words.endswith("simulate much longer.")


def test_frames_too_far_apart_give_a_bound(pair):
    far = decorrelation(brownian(0.5))
    row = decorrelation_numbers(far, pair[1])["functions"][2]
    assert (row["half_time"], row["half_time_is_bound"], row["half_time_se"]) == (0.5, True, None)
    assert row["faster_is_bound"]
    assert row["half_time_by_k"] == [None] * 4
    numbers = samples_numbers((far, Speed(10.0, "x")), (pair[1], Speed(5.0, "x")))
    assert (numbers["per_day"], numbers["per_day_is_bound"]) == (1e4, True)
    assert (numbers["ratio_is_bound"], numbers["ratio_se"]) == (True, None)
    assert numbers["ratio"] == pytest.approx(2 * pair[1].slowest[1].value / 0.5)
    words = samples_words(numbers)
    assert words.startswith("at least 1e+04 independent samples")
    assert f"at least {numbers['ratio']:.2g} times as many as all-atom" in words
    # two bounds on half-times say nothing of their ratio
    numbers = samples_numbers((far, Speed(10.0, "x")), (far, Speed(5.0, "x")))
    assert "its frames are too far apart" in numbers["ratio_absent"]
    assert "ratio" not in numbers
    numbers = decorrelation_numbers(pair[0], far)
    assert "save all-atom frames more often" in numbers["slowest"]["faster_absent"]


def test_samples_per_day(pair):
    fast, slow = pair
    half = fast.slowest[1].value
    found = samples_per_day(fast, Speed(100.0, "x"))
    assert found.value == pytest.approx(100_000 / (2 * half))
    assert found.error / found.value == pytest.approx(fast.slowest[1].error / half)
    cases = {
        "x": "",
        "y": "on different hardware: the model on x, all-atom on y",
        None: "not known whether both ran on the same hardware",
    }
    for hardware, words in cases.items():
        numbers = samples_numbers((fast, Speed(100.0, "x")), (slow, Speed(10.0, hardware)))
        assert numbers["ratio"] == pytest.approx(10 * slow.slowest[1].value / half)
        told = samples_words(numbers)
        assert words in told
        assert "times as many as all-atom" in told
    assert "cgkd reference SYSTEM.yaml --independent-of FRAMES" in samples_words(
        samples_numbers((fast, Speed(100.0, "x")), (slow, None))
    )


def test_without_times_or_waves():
    source = brownian(0.05)
    assert "time between frames is not known" in decorrelation(replace(source, times=None))
    small = replace(source, boxes=0.1 * source.boxes, positions=0.1 * source.positions)
    assert "has no wave with k between 6 and 14" in decorrelation(small)


def test_speeds_come_from_frames_logs_and_records(tmp_path):
    positions = liquid(4, seed=3)
    path = write_frames(tmp_path / "frames.h5", positions)
    assert read_source(path).speed is None
    (tmp_path / "production.csv").write_text('#"Step","Speed (ns/day)"\n1,--\n2,9\n3,10\n4,30\n')
    assert read_source(path).speed == Speed(10.0, None)
    set_attributes(path, {"ns_per_day": 24.5, "hardware": "2 threads of X"})
    source = read_source(path)
    assert source.speed == Speed(24.5, "2 threads of X")
    np.testing.assert_array_equal(source.charges, BEADS.charges)
    assert read_frames(path).attributes["ns_per_day"] == 24.5
    set_attributes(path, {"ns_per_day": "fast"})
    assert read_source(path).speed == Speed(10.0, None)
    folder = write_run(tmp_path / "run", positions)
    assert read_source(folder).speed is None
    (folder / "simulation" / "simulation.json").write_text('{"ns_per_day": 40, "hardware": "GPU"}')
    assert read_source(folder).speed == Speed(40.0, "GPU")


def test_estimates():
    ratio = Estimate(10.0, 1.0, True).over(Estimate(2.0, 0.2, False))
    assert ratio.value == 5
    assert ratio.error == pytest.approx(5 * np.hypot(0.1, 0.1))
    assert not ratio.plateau
