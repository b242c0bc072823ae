"""Independent all-atom runs: which runs are made, with which seeds, in which folders.

What a run does with the frames of another one is in `test_run`.
"""

from pathlib import Path

import pytest

from openmm_cgkd.allatom.independent import run_independent, with_other_seed
from openmm_cgkd.config.section import dump
from tests.cases.all_atom import tiny_system
from tests.cases.cli import call


@pytest.fixture
def runs(monkeypatch):
    """The runs that are asked for, in place of running them: folder, seed, what they are beside."""
    asked = []

    def record(config, folder, start=None, independent_of=None):
        asked.append((folder, config.reference.seed, start, independent_of))
        return folder / "frames.h5"

    for module in ("run", "independent"):
        monkeypatch.setattr(f"openmm_cgkd.allatom.{module}.run_reference", record)
    return asked


def test_two_runs_by_default_the_second_in_the_box_of_the_first(runs):
    paths = run_independent(tiny_system(seed=5), Path("aa"), start=Path("start.h5"))
    assert paths == [Path("aa/frames.h5"), Path("aa/run_2/frames.h5")]
    (first, seed, *given), (second, other, *beside) = runs
    assert (first, second) == (Path("aa"), Path("aa/run_2"))
    assert given == [Path("start.h5"), None]
    assert beside == [None, Path("aa/frames.h5")]
    assert seed == 5
    assert other != seed


@pytest.mark.parametrize("number", [1, 3])
def test_as_many_runs_as_asked_for(runs, number):
    assert len(run_independent(tiny_system(runs=number), Path("aa"))) == number
    assert len({seed for _, seed, *_ in runs}) == number


def test_seeds_of_independent_runs_differ_from_each_other_and_from_those_of_another_seed():
    seeds = {
        with_other_seed(tiny_system(seed=seed), number).reference.seed
        for seed in (1, 2, 3)
        for number in (1, 2, 3)
    }
    assert len(seeds) == 9


def test_one_run_more_beside_frames_that_are_there(runs, tmp_path):
    """By hand it is what `run_independent` would have made."""
    system = tmp_path / "system.yaml"
    system.write_text(dump(tiny_system(), tmp_path))
    answer = call("reference", system, "--folder", tmp_path, "--independent-of", "frames.h5")
    assert answer.exit_code == 0, answer.output
    (by_hand,) = runs
    run_independent(tiny_system(), tmp_path)
    assert by_hand == (tmp_path, runs[-1][1], None, Path("frames.h5"))


def test_start_and_independent_of_exclude_each_other(runs, tmp_path):
    system = tmp_path / "system.yaml"
    system.write_text(dump(tiny_system(), tmp_path))
    frames = ("--start", "frames.h5", "--independent-of", "frames.h5")
    answer = call("reference", system, "--folder", tmp_path / "aa", *frames)
    assert answer.exit_code == 2
    assert "--start and --independent-of exclude each other" in answer.output
    assert not runs
