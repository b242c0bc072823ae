"""Where configurations lie that were taken from a trajectory, by their positions and their time."""

import dataclasses

import numpy as np
import pytest

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.split import apply_split, locate, split_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mean_forces.file import read_mean_forces
from tests.cases.paths import ETHALINE

# 50 beads walk in a triclinic box, 0.05 nm along each axis from frame to frame
BOX = np.array([[3.0, 0.0, 0.0], [1.2, 2.5, 0.0], [-0.7, 0.9, 2.2]])
N_BEADS, N_FRAMES = 50, 100


def walk(seed: int) -> Frames:
    random = np.random.default_rng(seed)
    steps = random.normal(scale=0.05, size=(N_FRAMES, N_BEADS, 3))
    steps[0] = random.random((N_BEADS, 3)) @ BOX
    index = np.arange(N_FRAMES)
    beads = BeadTopology(("A",), np.zeros(N_BEADS, int), np.full(N_BEADS, 50.0), np.arange(N_BEADS))
    positions = steps.cumsum(axis=0).astype("f4")
    boxes = np.repeat(BOX[None], N_FRAMES, 0)
    return Frames(positions, 0 * positions, boxes, 10.0 * index, index, beads, {})


def find(frames: Frames, positions: np.ndarray, time: np.ndarray) -> list[str]:
    split = split_frames(frames.time, 0.2, 0.2, 30.0)
    return list(locate(frames, split, positions, frames.box[: len(positions)], time))


KNOWN = {0: "training", 56: "training", 58: "outside", 60: "validation", 76: "validation"} | {
    78: "outside",
    80: "test",
    99: "test",
}


def test_positions_tell_the_frame_whatever_the_time_and_the_image():
    frames, chosen = walk(0), np.array(list(KNOWN))
    images = np.random.default_rng(1).integers(-2, 3, size=(len(chosen), N_BEADS, 3)) @ BOX
    held = frames.positions[chosen] + images
    held += np.random.default_rng(2).normal(scale=0.002, size=held.shape)  # beads on restraints
    for times in (frames.time[chosen], 0 * frames.time[chosen], 1e6 + frames.time[chosen]):
        assert find(frames, held, times) == list(KNOWN.values())


def test_time_tells_the_part_between_frames():
    """Between frames, and of frames that a thinned file does not hold."""
    frames = walk(0)
    between = (frames.positions[:-1] + frames.positions[1:]) / 2 + 0.03
    times = (frames.time[:-1] + frames.time[1:]) / 2
    chosen = np.array([0, 50, 60, 75, 85, 98])
    expected = ["training", "training", "validation", "validation", "test", "test"]
    assert find(frames, between[chosen], times[chosen]) == expected
    odd = np.array([1, 55, 61, 75, 85, 99])
    thinned = frames[np.arange(0, N_FRAMES, 2)]
    # the last one is after the end of the thinned frames
    assert find(thinned, frames.positions[odd], frames.time[odd]) == [*expected[:-1], "outside"]


def test_another_trajectory_with_the_same_times_is_outside():
    other = walk(1)
    assert set(find(walk(0), other.positions, other.time)) == {"outside"}


def test_shipped_mean_forces_lie_half_in_the_validation_part():
    """What systems/ethaline/README.md says."""
    frames = read_frames(ETHALINE / "frames.h5")
    given = read_mean_forces(ETHALINE / "mean_forces.h5")
    split = apply_split(frames, SplitConfig())
    for times in (given.time, given.time + 5000):
        found = locate(frames, split, given.positions, given.box, times)
        names, counts = np.unique(found, return_counts=True)
        assert dict(zip(names, counts, strict=True)) == {
            "outside": 1,
            "test": 9,
            "validation": 10,
        }
    shaken = dataclasses.replace(frames, time=frames.time + 1e4)
    with pytest.raises(AssertionError):  # a shift of the file's own times moves nothing
        assert (
            locate(shaken, split, given.positions, given.box, given.time)[:19] != found[:19]
        ).any()
