"""The file of mapped frames: what survives a crash, what is refused, how it is split."""

import dataclasses
import threading
import time
from itertools import pairwise

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FolderInUseError, FramesError
from openmm_cgkd.frames.frames import FrameWriter, read_frames, write_frames
from openmm_cgkd.frames.hdf5 import checksums
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.box import smallest_height
from openmm_cgkd.utils.lock import locked_file
from tests.cases.frames import (
    BEADS,
    TRICLINIC,
    N,
    check,
    edited,
    frame,
    kill,
    leave_open,
    start_writer,
    write,
)


def test_round_trip(tmp_path):
    path = write(tmp_path / "frames.h5", range(0, 500, 50))
    check(path, range(0, 500, 50))
    frames = read_frames(path)
    assert frames.temperature == 363.15
    assert frames.attributes["system"] == "test"
    assert frames.beads.names == ["A", "B", "A", "B", "A", "B", "A"]
    for name in ("types", "masses", "molecules", "charges"):
        assert np.array_equal(getattr(frames.beads, name), getattr(BEADS, name))
    assert list(tmp_path.iterdir()) == [path]


def test_identity_follows_the_numbers(tmp_path):
    one = read_frames(write(tmp_path / "one.h5", [1, 2, 3]))
    assert read_frames(write(tmp_path / "two.h5", [1, 2, 3])).identity == one.identity
    assert read_frames(write(tmp_path / "three.h5", [1, 2, 4])).identity != one.identity


def test_compressed_copy_is_the_same_and_smaller(tmp_path):
    path = write(tmp_path / "frames.h5", range(40))
    write_frames(read_frames(path), tmp_path / "small.h5")
    check(tmp_path / "small.h5", range(40))
    assert read_frames(tmp_path / "small.h5").identity == read_frames(path).identity
    assert (tmp_path / "small.h5").stat().st_size < 0.8 * path.stat().st_size
    write_frames(read_frames(path)[::10], tmp_path / "every.h5")
    check(tmp_path / "every.h5", [0, 10, 20, 30])
    assert not list(tmp_path.glob("*.tmp"))


def test_slices(tmp_path):
    frames = read_frames(write(tmp_path / "frames.h5", range(10)))
    assert frames[2:5].step.tolist() == [2, 3, 4]
    assert frames[np.array([7, 1])].step.tolist() == [7, 1]
    assert len(frames[::2]) == 5


def test_continue_and_drop(tmp_path):
    path = write(tmp_path / "frames.h5", range(10))
    write(path, [10, 11])
    check(path, range(12))
    write(path, range(6, 9), after_step=5)
    check(path, range(9))
    write(path, [3], after_step=-1)
    check(path, [3])


def test_continue_with_other_beads(tmp_path):
    path = write(tmp_path / "frames.h5", [1])
    for other in (
        BeadTopology(("A", "C"), BEADS.types, BEADS.masses, BEADS.molecules),
        BeadTopology(("A", "B"), 1 - BEADS.types, BEADS.masses, BEADS.molecules),
        BeadTopology(("A", "B"), BEADS.types[:3], BEADS.masses[:3], BEADS.molecules[:3]),
    ):
        with pytest.raises(FramesError, match="holds other beads"):
            FrameWriter(path, other, {})
    check(path, [1])


def test_bead_types_that_pdb_files_would_confuse(tmp_path):
    beads = dataclasses.replace(BEADS, type_names=("ION_P", "ION_M"))
    with pytest.raises(FramesError, match="ION_P and ION_M are alike in their first four charact"):
        FrameWriter(tmp_path / "frames.h5", beads, {"temperature": 300.0})
    assert not (tmp_path / "frames.h5").exists()


def test_step_must_grow(tmp_path):
    path = write(tmp_path / "frames.h5", [1, 5])
    with FrameWriter(path, BEADS, {}) as writer:
        for step in (5, 2):
            with pytest.raises(FramesError, match=f"step {step} is not after the last frame"):
                writer.append(**frame(step))
        writer.append(**frame(6))
    check(path, [1, 5, 6])


@pytest.mark.parametrize("name", ["positions", "forces", "box"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_are_refused_on_writing(tmp_path, name, bad):
    values = frame(2)
    values[name] = values[name].copy()
    values[name][1, 2] = bad
    path = write(tmp_path / "frames.h5", [1])
    with FrameWriter(path, BEADS, {}) as writer:
        with pytest.raises(FramesError, match=f"{name} at step 2 are not finite"):
            writer.append(**values)
        writer.append(**frame(3))
    check(path, [1, 3])


def test_wrong_shape_is_refused(tmp_path):
    path = tmp_path / "frames.h5"
    with FrameWriter(path, BEADS, {"temperature": 1.0}) as writer:
        for name, value in (
            ("positions", np.zeros((N + 1, 3))),
            ("forces", np.zeros(3)),
            ("box", np.zeros(3)),
            ("time", np.zeros(2)),
        ):
            with pytest.raises(FramesError, match=f"expected {name} of shape"):
                writer.append(**{**frame(1), name: value})
        writer.append(**frame(2))
    check(path, [2])


def test_non_finite_values_are_refused_on_reading(tmp_path):
    """A file of another writer, with right checksums."""
    path = write(tmp_path / "frames.h5", range(5))
    values = frame(3)
    values["forces"][0, 0] = np.nan
    with h5py.File(path, "r+") as file:
        file["forces"][3] = values["forces"]
        file["checksum"][3] = checksums(
            {name: np.asarray(value)[None] for name, value in values.items()}
        )[0]
    with pytest.raises(FramesError, match="forces of frame 3 are not finite"):
        read_frames(path)


@pytest.mark.parametrize("name", ["positions", "forces", "box", "time", "step", "checksum"])
def test_damaged_frame(tmp_path, name):
    path = write(tmp_path / "frames.h5", range(6))
    with h5py.File(path, "r+") as file:
        damaged = np.array(file[name][2])
        damaged[...] = damaged + 1
        file[name][2] = damaged
    with pytest.raises(
        FramesError, match=r"frame 2 is damaged \(checksum differs\) but later ones are not"
    ):
        read_frames(path)


def test_torn_last_frame_does_not_count(tmp_path):
    path = write(tmp_path / "frames.h5", range(6))
    with h5py.File(path, "r+") as file:
        file["forces"][5] = 0.0
    # its writer has closed it, so this is damage
    with pytest.raises(FramesError, match="ends in 1 torn after 5 whole frames; save these with"):
        read_frames(path)
    leave_open(path)
    check(path, range(5))
    write(path, [7])
    check(path, [0, 1, 2, 3, 4, 7])
    with h5py.File(path, "r+", libver="latest") as file:
        file["positions"].resize(9, axis=0)
    with pytest.raises(FramesError, match="ends in 3 torn after 6 whole frames; save these with"):
        read_frames(path)
    leave_open(path)
    check(path, [0, 1, 2, 3, 4, 7])


@pytest.mark.parametrize("missing", [["forces"], ["positions"], ["forces", "box"], ["checksum"]])
def test_missing_quantity(tmp_path, missing):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        for name in missing:
            del file[name]
    with pytest.raises(
        FramesError, match=f"has no {missing[0]}.*force matching needs positions and forces"
    ):
        read_frames(path)


def test_missing_bead_data(tmp_path):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        del file["beads/masses"]
    with pytest.raises(FramesError, match="or is damaged; try 'cgkd verify"):
        read_frames(path)


def test_number_of_beads_must_fit(tmp_path):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        for name in ("types", "masses", "molecules", "charges"):
            values = file[f"beads/{name}"][:4]
            del file[f"beads/{name}"]
            file[f"beads/{name}"] = values
    with pytest.raises(
        FramesError, match=r"positions have shape \(7, 3\) per frame, expected \(4, 3\) for 4 beads"
    ):
        read_frames(path)


def test_foreign_files(tmp_path):
    with pytest.raises(
        FramesError, match="no such file; make mapped frames with 'cgkd reference' or 'cgkd map'"
    ):
        read_frames(tmp_path / "absent.h5")
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["positions"] = np.zeros((3, 7, 3))
    with pytest.raises(FramesError, match="is not a file of mapped frames"):
        read_frames(foreign)
    text = tmp_path / "text.h5"
    text.write_text("not HDF5\n" * 100)
    with pytest.raises(FramesError, match="is not an HDF5 file"):
        read_frames(text)
    with pytest.raises(FramesError, match="is a folder; give a file of mapped frames"):
        read_frames(tmp_path)


def test_empty_file(tmp_path):
    path = write(tmp_path / "frames.h5", [])
    with pytest.raises(FramesError, match="holds no whole frame"):
        read_frames(path)
    assert len(read_frames(path, allow_empty=True)) == 0
    write(path, [1])
    check(path, [1])


def test_newer_version(tmp_path):
    path = write(tmp_path / "frames.h5", [1])
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 2
    with pytest.raises(
        FramesError, match="has format version 2, this package reads up to 1; upgrade"
    ):
        read_frames(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, kept):
    path = write(tmp_path / "frames.h5", range(20))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FramesError, match="is not an HDF5 file of mapped frames, or is damaged"):
        read_frames(path)


def test_killed_writer(tmp_path):
    """Kill at an arbitrary instruction, read, resume from an earlier step, again and again."""
    path, after = tmp_path / "frames.h5", -1
    for pause in (0.11, 0.03):
        process = start_writer(path, after)
        try:
            deadline = time.monotonic() + 60
            # reads while the process writes
            while not path.exists() or len(read_frames(path, allow_empty=True)) < after + 10:
                assert time.monotonic() < deadline
            time.sleep(pause)
        finally:
            kill(process)
        last = int(read_frames(path).step[-1])
        assert last >= after + 8
        check(path, range(last + 1))
        after = last - 3  # the simulation's saved state is older than its last frame
    write(path, range(after + 1, after + 6), after_step=after)
    check(path, range(after + 6))
    assert list(tmp_path.iterdir()) == [path]


def test_reading_while_another_process_writes(tmp_path):
    path = tmp_path / "frames.h5"
    process = start_writer(path, -1)
    try:
        seen = [len(read_frames(path, allow_empty=True)) for _ in range(20)]
        steps = read_frames(path, allow_empty=True).step.tolist()
        assert steps == list(range(len(steps)))
        deadline = time.monotonic() + 60
        while len(read_frames(path, allow_empty=True)) <= seen[0]:
            assert time.monotonic() < deadline
        assert process.poll() is None  # the reader did not disturb the writer
    finally:
        kill(process)
    assert seen == sorted(seen)
    check(path, range(len(read_frames(path))))


def test_writer_killed_before_it_took_the_name(tmp_path):
    """A half-made copy beside the file is overwritten, the file itself is untouched."""
    path = write(tmp_path / "frames.h5", range(4))
    path.with_name("frames.h5.tmp").write_bytes(b"half a file")
    check(path, range(4))
    write(path, [4])
    check(path, range(5))
    assert list(tmp_path.iterdir()) == [path]


def test_resuming_is_one_copy(tmp_path, monkeypatch):
    """Resuming a long file writes each quantity once, not frame by frame."""
    path = write(tmp_path / "frames.h5", range(60))
    calls = []
    original = h5py.Dataset.__setitem__
    monkeypatch.setattr(
        h5py.Dataset, "__setitem__", lambda self, *args: calls.append(1) or original(self, *args)
    )
    FrameWriter(path, BEADS, {}).close()
    assert len(calls) < 20
    check(path, range(60))


def test_smallest_height():
    assert smallest_height(np.diag([3.0, 2.0, 4.0])) == pytest.approx(2.0)
    a, b, c = TRICLINIC
    volume = abs(np.linalg.det(TRICLINIC))
    heights = [volume / np.linalg.norm(np.cross(*pair)) for pair in ((b, c), (c, a), (a, b))]
    assert smallest_height(TRICLINIC) == pytest.approx(min(heights))
    assert smallest_height(np.array([TRICLINIC, 0.5 * TRICLINIC])) == pytest.approx(
        0.5 * min(heights)
    )


@pytest.mark.parametrize(
    ("n", "validation", "test", "gap"),
    [(1000, 0.1, 0.1, 5.0), (100, 0.2, 0.3, 0.0), (57, 0.15, 0.1, 3.5)],
)
def test_split(n, validation, test, gap):
    times = 10 + np.arange(n) * 1.0
    split = split_frames(times, validation, test, gap)
    parts = [split.training, split.validation, split.test]
    for part in parts:
        assert np.array_equal(part, np.arange(part[0], part[-1] + 1))  # contiguous
    for before, after in pairwise(parts):
        assert times[after[0]] - times[before[-1]] > gap
        assert times[after[0]] - times[before[-1]] <= gap + 2.0  # and no more is lost than needed
    assert split.training[0] == 0
    assert split.test[-1] == n - 1
    assert len(split.test) == round(n * test)
    assert len(split.validation) == pytest.approx(n * validation, abs=gap + 2)


def test_split_of_uneven_times():
    times = np.sort(np.random.default_rng(1).uniform(0, 200, size=300))
    split = split_frames(times, 0.2, 0.2, 10.0)
    assert times[split.validation[0]] - times[split.training[-1]] > 10
    assert times[split.test[0]] - times[split.validation[-1]] > 10


@pytest.mark.parametrize(
    ("n", "validation", "test", "gap"),
    [
        (0, 0.1, 0.1, 1),
        (3, 0.1, 0.1, 0),
        (100, 0.1, 0.1, 50),
        (100, 0.5, 0.5, 0),
        (100, 0.1, 0.1, 200),
    ],
)
def test_split_that_leaves_a_part_empty(n, validation, test, gap):
    with pytest.raises(
        FramesError,
        match=(
            f"{n} frames over .* cannot be split .* use more frames, larger shares or a smaller gap"
        ),
    ):
        split_frames(np.arange(n) * 1.0, validation, test, gap)


def test_two_writers_of_one_file(tmp_path):
    """The second one would take the file away from under the first."""
    path = tmp_path / "frames.h5"
    first = FrameWriter(path, BEADS, {"temperature": 300.0})
    with pytest.raises(FramesError, match="is being written; write to another file"):
        FrameWriter(path, BEADS, {"temperature": 300.0})
    first.close()
    FrameWriter(path, BEADS, {"temperature": 300.0}).close()
    assert not path.with_name("frames.h5.tmp").exists()


def test_two_that_begin_a_file_at_the_same_time(tmp_path):
    """Both would write into the same unfinished file; the second one is refused."""
    path = tmp_path / "frames.h5"
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked_file(path):
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        with pytest.raises(FolderInUseError, match=r"frames\.h5: in use by"):
            FrameWriter(path, BEADS, {"temperature": 300.0})
    finally:
        done.set()
        thread.join()
    with FrameWriter(path, BEADS, {"temperature": 300.0}):
        pass
