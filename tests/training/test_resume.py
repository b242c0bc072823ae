"""What an interrupted training has left: whole, damaged, or of other inputs."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from openmm_cgkd.config.run import PriorConfig, TrainingConfig
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.checkpoint import read_checkpoint
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.training.fit import fit
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.resume import is_finished, partial_work
from openmm_cgkd.training.task import BEST, LAST, METRICS
from tests.cases.flips import outcomes
from tests.cases.training import CUTOFF, ignore, make_frames, make_task

FLIPS = 100  # of each file


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A finished training, the smallest; not to be changed."""
    frames = make_frames(20, 12, noise=1.0)[0]
    graphs = FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))
    folder = tmp_path_factory.mktemp("whole")
    task = make_task(folder, graphs, settings=TrainingConfig(epochs=1, batch_size=8))
    fit(task, ignore)
    return task


@pytest.fixture
def copy(task, tmp_path):
    shutil.copytree(task.folder, tmp_path / "copy")
    return dataclasses.replace(task, folder=tmp_path / "copy")


def interrupted(path: Path) -> None:
    """Make the state one that is not finished."""
    state = torch.load(path, weights_only=True)
    torch.save({**state, "finished": False}, path)


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(
            same(a, b) for a, b in zip(first, second, strict=True)
        )
    return first == second


def test_other_inputs_or_nothing(task, tmp_path):
    assert partial_work(tmp_path, task.fingerprint) is None
    assert partial_work(task.folder, "other inputs") is None
    assert partial_work(task.folder, task.fingerprint)["epoch"] == 0
    assert is_finished(task.folder, task.fingerprint)
    assert not list(task.folder.glob("*.damaged"))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", [LAST, BEST])
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_damaged_file_is_kept_and_the_training_starts_over(copy, caplog, finished, name, damage):
    path = copy.folder / name
    if not finished:
        interrupted(copy.folder / LAST)
    bad = {"empty": b"", "half": path.read_bytes()[: path.stat().st_size // 2], "text": b"foo\n"}
    path.write_bytes(bad[damage])
    assert partial_work(copy.folder, copy.fingerprint) is None
    assert f"{path}: is no" in caplog.text
    assert f"; its training starts over. Kept as {name}.damaged." in caplog.text
    assert not path.exists()
    assert path.with_name(f"{name}.damaged").read_bytes() == bad[damage]


def test_training_after_damage_is_that_of_a_fresh_start(task, copy):
    (copy.folder / LAST).write_bytes(b"")
    (copy.folder / METRICS).write_text("epoch,learning_ra")
    fit(copy, ignore)
    for name in (BEST, LAST):
        whole, again = (torch.load(t.folder / name, weights_only=True) for t in (task, copy))
        assert same(whole, again)
    assert (copy.folder / METRICS).read_text() == (task.folder / METRICS).read_text()


@pytest.mark.parametrize("name", [LAST, BEST])
def test_lost_best_checkpoint_or_state(copy, name):
    """The best one is written again only when an epoch is better, which may never be."""
    interrupted(copy.folder / LAST)
    (copy.folder / name).unlink()
    assert partial_work(copy.folder, copy.fingerprint) is None


@pytest.mark.parametrize("where", ["state_dict", "optimizer_states"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_numbers(copy, caplog, where, value):
    """Infinite ones may be constants, such as masks, of a user's own network."""
    path = copy.folder / LAST
    state = torch.load(path, weights_only=True)
    numbers = state[where]
    if where == "optimizer_states":
        numbers = numbers[0]["state"][0]
    tensor = next(t for t in numbers.values() if t.is_floating_point() and t.numel() > 1)
    tensor.view(-1)[1] = value
    torch.save(state, path)
    if value == float("inf"):
        assert partial_work(copy.folder, copy.fingerprint) is not None
        return
    assert partial_work(copy.folder, copy.fingerprint) is None
    assert "not numbers" in caplog.text


@pytest.mark.parametrize("name", [LAST, BEST])
def test_flipped_bit_never_changes_what_is_read(copy, name):
    """Whatever bit: the file is refused, or says the same as before, as in the time of a member."""
    load = read_checkpoint if name == BEST else partial(torch.load, weights_only=True)

    def read(path):
        if partial_work(copy.folder, copy.fingerprint) is None:
            for aside in copy.folder.glob("*.damaged"):
                aside.unlink()
            raise ModelFileError("was moved aside")
        return load(path)

    found = outcomes(copy.folder / name, read, FLIPS)
    assert set(found) <= {"refused", "same"}
    assert found["refused"] > FLIPS // 2


@pytest.mark.parametrize("content", ["bytearray", "stride", "loop"])
def test_states_that_would_take_all_memory_start_over(tmp_path, content, caplog):
    """Small files that torch would expand, or go through without end."""
    loop: list = []
    loop.append(loop)
    made = {"bytearray": bytearray(10**8), "stride": torch.zeros(1).expand(10**9), "loop": loop}
    state = {"state_dict": {}, "optimizer_states": [], "fingerprint": "a", "extra": made[content]}
    torch.save(state, tmp_path / LAST)
    assert partial_work(tmp_path, "a") is None
    assert "is no state to go on from" in caplog.text
    assert (tmp_path / f"{LAST}.damaged").exists()
