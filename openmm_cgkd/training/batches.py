"""Which frames an optimisation sees, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from openmm_cgkd.config.run import TeachersConfig
from openmm_cgkd.exceptions import TrainingError


class JointBatches(Sampler[list[int]]):
    """Batches in a random order that depends on the seed and the epoch only, so that resumed
    training sees what it would have seen.

    Several processes share every batch: each takes every `world`-th frame of it. A last incomplete
    batch is then left out, because the mean over processes is the mean over frames only if all have
    equally many.

    Parameters
    ----------
    length : int
        Number of frames.
    batch_size : int
        Frames in a batch, of all processes together; a multiple of `world`.
    seed : int
    rank, world : int
        This process, and how many there are.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self._length, self._size, self._seed, self._rank, self._world = (
            length,
            batch_size,
            seed,
            rank,
            world,
        )
        self._epoch = 0
        # where Lightning looks for `set_epoch`, which it calls before every epoch
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length // self._size if self._world > 1 else -(-self._length // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length)
        for k in range(len(self)):
            yield order[k * self._size : (k + 1) * self._size][self._rank :: self._world].tolist()


def frames_of_teacher(settings: TeachersConfig, indices: np.ndarray, seed: int) -> np.ndarray:
    """Training frames that one teacher sees, of those with these indices.

    Raises
    ------
    TrainingError
        As `resample_blocks`.
    """
    if settings.resample == "none":
        return indices
    return resample_blocks(indices, settings.blocks, seed)


def resample_blocks(indices: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """Block bootstrap: cut into contiguous blocks and draw as many with replacement, in time order.

    Blocks, not frames, because neighbouring frames are correlated.

    Raises
    ------
    TrainingError
        If there are fewer frames than blocks.
    """
    if len(indices) < blocks:
        raise TrainingError(
            f"teachers.blocks is {blocks}, but training has only {len(indices)} frames; use fewer"
            " blocks or more frames."
        )
    parts = np.array_split(indices, blocks)
    drawn = np.sort(np.random.default_rng(seed).integers(blocks, size=blocks))
    return np.concatenate([parts[k] for k in drawn])
