"""Order of the frames, shares of several processes, block bootstrap."""

from itertools import chain

import numpy as np
import pytest

from openmm_cgkd.config.run import TeachersConfig
from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.training.batches import JointBatches, frames_of_teacher, resample_blocks


def epoch(batches: JointBatches, number: int) -> list[list[int]]:
    batches.set_epoch(number)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    return drawn


def test_order_depends_on_seed_and_epoch_only():
    batches = JointBatches(50, 4, seed=3)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert [len(batch) for batch in first] == [4] * 12 + [2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(50))
    assert first != second
    assert epoch(JointBatches(50, 4, seed=3), 1) == second
    assert epoch(JointBatches(50, 4, seed=4), 0) != first


def test_processes_share_every_batch_equally():
    together = epoch(JointBatches(50, 6, seed=3), 2)
    shares = [epoch(JointBatches(50, 6, seed=3, rank=rank, world=3), 2) for rank in range(3)]
    # the last incomplete batch of two frames is left out
    assert [len(share) for share in shares] == [8, 8, 8]
    for batch, *parts in zip(together[:8], *shares, strict=True):
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sorted(chain(*parts)) == sorted(batch)


def test_bootstrap_draws_whole_blocks():
    indices = np.arange(100, 200)
    drawn = resample_blocks(indices, 10, seed=5)
    blocks = drawn.reshape(10, 10)
    assert len(drawn) == 100
    assert (blocks[:, 0] % 10 == 0).all()
    np.testing.assert_array_equal(blocks, blocks[:, :1] + np.arange(10))
    assert len(np.unique(blocks[:, 0])) < 10  # with replacement
    assert not np.array_equal(drawn, resample_blocks(indices, 10, seed=6))
    np.testing.assert_array_equal(drawn, resample_blocks(indices, 10, seed=5))
    with pytest.raises(
        TrainingError, match=r"teachers\.blocks is 10, but training has only 4 frames"
    ):
        resample_blocks(indices[:4], 10, seed=5)


def test_teachers_see_every_frame_without_resampling():
    indices = np.arange(100)
    whole = TeachersConfig(resample="none", blocks=200)
    np.testing.assert_array_equal(frames_of_teacher(whole, indices, seed=5), indices)
    drawn = frames_of_teacher(TeachersConfig(blocks=10), indices, seed=5)
    np.testing.assert_array_equal(drawn, resample_blocks(indices, 10, seed=5))
