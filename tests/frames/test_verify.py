"""`cgkd verify`: what it reports, what it repairs without losing a frame, what it leaves alone."""

import hashlib
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames, FrameWriter, read_frames, write_frames, write_stream
from openmm_cgkd.frames.recovery import is_held, is_open, lookup3
from openmm_cgkd.frames.verify import verify_frames
from openmm_cgkd.mapping.beads import BeadTopology
from tests.cases.cli import call
from tests.cases.frames import (
    BEADS,
    check,
    edited,
    frame,
    kill,
    leave_open,
    start_writer,
    write,
)


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refuse(path: Path, message: str, repair: bool = False, temperature: str = "") -> None:
    """Exit code 2, one sentence, the file as before and nothing beside it."""
    before = hash_of(path) if path.is_file() else None
    options = [
        *(["--repair"] if repair else []),
        *(["--temperature", temperature] * bool(temperature)),
    ]
    result = call("verify", path, *options)
    assert result.exit_code == 2, result.output
    (sentence,) = [line for line in result.stderr.splitlines() if line]
    assert sentence.startswith("error: ")
    assert sentence.endswith(".")
    assert message in sentence
    assert ".tmp" not in sentence
    assert before is None or hash_of(path) == before
    assert not list(path.parent.glob("*.tmp*"))


def test_report(tmp_path, lj_frames):
    frames = read_frames(lj_frames)
    report = verify_frames(lj_frames)
    assert report.frames == len(frames) == 60
    assert (report.first, report.last) == pytest.approx((frames.time[0], frames.time[-1]))
    assert report.box == pytest.approx(1.9 * np.eye(3))
    assert report.volume_spread == pytest.approx(0, abs=1e-7)
    # 20 of 40 and 20 of 80 dalton in 1.9 nm cubed; 1 dalton/nm^3 = 1.66053907e-3 g/cm^3
    assert report.density == pytest.approx(2400 / 1.9**3 * 1.66053907e-3)
    assert report.force_rms == pytest.approx(np.sqrt((frames.forces.astype(float) ** 2).mean()))
    result = call("verify", lj_frames)
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["frames"].strip() == "60"
    assert lines["beads"].strip() == "40 (20 A, 20 B)"
    assert lines["box"].strip() == "1.9000 x 1.9000 x 1.9000 nm, constant volume"
    assert "all right" in lines["checks"]
    assert "force correlation" in lines


def test_constant_pressure(tmp_path):
    """The box of every frame counts."""
    path = write(tmp_path / "frames.h5", range(0, 400, 4))
    volume = np.linalg.det(np.array([frame(step)["box"] for step in range(0, 400, 4)]))
    report = verify_frames(path)
    assert report.volume_spread == pytest.approx(volume.std() / volume.mean(), rel=1e-6)
    assert report.density == pytest.approx((BEADS.masses.sum() / volume).mean() * 1.66053907e-3)
    assert (
        f"volume fluctuates by {100 * volume.std() / volume.mean():.2g} %"
        in dict(report.rows())["box"]
    )


@pytest.mark.parametrize("damage", ["checksum", "unfinished"])
def test_torn_tail(tmp_path, damage):
    path = write(tmp_path / "frames.h5", range(8))
    with h5py.File(path, "r+") as file:
        if damage == "checksum":
            file["forces"][7] = 0.0
        else:
            file["positions"].resize(9, axis=0)
    whole = 7 if damage == "checksum" else 8
    refuse(
        path,
        f"frames.h5: ends in 1 torn after {whole} whole frames; save these with 'cgkd verify {path}"
        " --repair'",
    )
    result = call("verify", path, "--repair")
    assert result.exit_code == 0, result.stderr
    assert f"kept {whole} whole frames, dropped 1 torn" in result.stderr
    check(path, range(whole))
    assert read_frames(path).attributes == {"temperature": 363.15, "system": "test"}
    assert call("verify", path).exit_code == 0
    assert list(tmp_path.iterdir()) == [path]


def test_original_stays_until_the_new_file_is_complete(tmp_path, monkeypatch):
    path = write(tmp_path / "frames.h5", range(8))
    with h5py.File(path, "r+") as file:
        file["forces"][7] = 0.0
    before = hash_of(path)
    original = h5py.Dataset.resize

    def full_disk(self, size, axis=None):
        if size == 5:
            assert hash_of(path) == before
            raise OSError("no space left on device")
        return original(self, size, axis)

    monkeypatch.setattr(h5py.Dataset, "resize", full_disk)
    with pytest.raises(OSError, match="no space left"):
        verify_frames(path, repair=True)
    assert hash_of(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_repair(tmp_path):
    path = write(tmp_path / "frames.h5", range(8))
    before = hash_of(path)
    assert verify_frames(path, repair=True).frames == 8
    assert hash_of(path) == before


def test_writer_alive_and_killed(tmp_path):
    path = tmp_path / "frames.h5"
    process = start_writer(path, -1)
    try:
        deadline = time.monotonic() + 60
        while len(read_frames(path, allow_empty=True)) < 5:
            assert time.monotonic() < deadline
        assert is_held(path)
        assert dict(verify_frames(path).rows())["writer"] == "a process is still writing this file"
        with pytest.raises(
            FramesError, match="is being written by another process; repair it when that has ended"
        ):
            verify_frames(path, repair=True)
    finally:
        kill(process)
    assert is_open(path)
    assert not is_held(path)
    n = len(read_frames(path))
    assert verify_frames(path, repair=True).frames == n
    assert not is_open(path)
    check(path, range(n))


@pytest.fixture(scope="module")
def long_file(tmp_path_factory) -> tuple[bytes, bytes]:
    """A file of 150 frames before and after its writer closed it."""
    path = tmp_path_factory.mktemp("long") / "frames.h5"
    writer = FrameWriter(path, BEADS, {"temperature": 363.15, "system": "test"})
    for step in range(150):
        writer.append(**frame(step))
    unclosed = path.read_bytes()
    writer.close()
    return unclosed, path.read_bytes()


@pytest.mark.parametrize(
    ("closed", "lost", "kept"),
    [(True, 1, 148), (True, 15000, 50), (False, 3000, 120), (False, 15000, 50)],
)
def test_lost_end_of_the_file(tmp_path, long_file, lost, kept, closed):
    """Cut off by a full disk or a broken copy, after the writer closed the file or before."""
    path = tmp_path / "frames.h5"
    path.write_bytes(long_file[closed][:-lost])
    report = verify_frames(path, repair=True)
    assert kept <= report.frames < 150
    check(path, range(report.frames))


def test_closed_file_without_its_end(tmp_path, long_file):
    path = tmp_path / "frames.h5"
    path.write_bytes(long_file[True][:-100])
    refuse(path, f"is damaged; try 'cgkd verify {path} --repair', or make it again")


def test_damage_in_the_middle_is_not_cut_off(tmp_path):
    path = write(tmp_path / "frames.h5", range(8))
    with h5py.File(path, "r+") as file:
        file["forces"][3] = 0.0
    for repair in (False, True):
        refuse(path, "frame 3 is damaged", repair)


def test_foreign_files(tmp_path):
    foreign, text, empty = tmp_path / "foreign.h5", tmp_path / "text.h5", tmp_path / "empty.h5"
    with h5py.File(foreign, "w") as file:
        file["positions"] = np.zeros((3, 7, 3))
    text.write_text("not HDF5\n" * 100)
    empty.write_bytes(b"")
    for repair in (False, True):
        refuse(foreign, "is not a file of mapped frames", repair)
        refuse(text, "is not an HDF5 file", repair)
        refuse(empty, "is not an HDF5 file", repair)
        refuse(tmp_path / "absent.h5", "no such file", repair)
        refuse(tmp_path, "is a folder", repair)
        refuse(write(tmp_path / "none.h5", []), "holds no whole frame", repair)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 20}, "step of frame 3 is 20, not after 20; remove repeated frames"),
        ({"time": 0.01}, "time of frame 3 is 0.01, not after 0.08"),
        ({"time": np.nan}, "time of frame 3 is nan, not after 0.08"),
        ({"box": np.diag([1.0, 1.0, 0.0])}, "the box of frame 3 has no volume"),
        ({"forces": np.full((7, 3), np.inf)}, "forces of frame 3 are not finite"),
    ],
)
def test_checks_of_frames(tmp_path, change, message):
    """Files of other writers, with right checksums."""
    parts = [{**frame(step), **(change if step == 30 else {})} for step in range(0, 60, 10)]
    arrays = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    path = tmp_path / "frames.h5"
    write_stream(
        path, BEADS, {"temperature": 300.0}, [Frames(**arrays, beads=BEADS, attributes={})]
    )
    refuse(path, message)
    refuse(path, message, repair=True)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("types", [0, 1, 0, 1, 0, 1, 2], "bead types are not indices into the 2 names"),
        ("types", [0, 1, 0, 1, 0, -1, 0], "bead types are not indices into the 2 names"),
        ("types", [0.0, 1, 0, 1, 0, 1, 0], "types of beads are not whole numbers but float64"),
        ("molecules", [0.5] * 7, "molecules of beads are not whole numbers but float64"),
        ("masses", [10.0, 20, 30, 0, 50, 60, 70], "bead 3 has the mass 0 dalton"),
        ("masses", [10.0, 20, 30, np.nan, 50, 60, 70], "bead 3 has the mass nan dalton"),
        ("masses", [10.0, 20, 30, np.inf, 50, 60, 70], "bead 3 has the mass inf dalton"),
        ("charges", [0.0] * 6 + [np.nan], "bead 6 has the charge nan"),
        ("charges", [0.0] * 6, "bead data have different lengths"),
        ("bonds", [[0, 7]], "has bonds of beads 0 to 7 of 7"),
        ("bonds", [[0, 1]], "has bonds between beads of two molecules"),
        ("bonds", [0, 1], "bonds have shape (2,), not two beads each"),
    ],
)
def test_checks_of_beads(tmp_path, name, values, message):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        if name in file["beads"]:
            del file["beads"][name]
        file["beads"][name] = values
    refuse(path, message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["A"], "bead types are not indices into the 1 names"),
        (["A", ""], "are empty or repeated"),
        (["A", "A"], "are empty or repeated"),
        ([f"A{k}" for k in range(101)], "has 101 bead types, at most 100 can be trained"),
    ],
)
def test_checks_of_type_names(tmp_path, names, message):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        file["beads"].attrs["type_names"] = names
    refuse(path, message)


@pytest.mark.parametrize("value", [0.0, -300.0, np.nan, np.inf, "300 K", [300.0, 310.0], True])
def test_checks_of_the_temperature(tmp_path, value):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        file.attrs["temperature"] = value
    refuse(path, "expected a positive number of kelvin; make the file again")


def test_temperature_is_needed(tmp_path):
    with FrameWriter(tmp_path / "frames.h5", BEADS, {"system": "x"}) as writer:
        writer.append(**frame(1))
    path = tmp_path / "frames.h5"
    message = (
        "the temperature of the all-atom run is not known; write it into the file with 'cgkd verify"
        f" {path} --temperature KELVIN'"
    )
    refuse(path, message)
    with pytest.raises(FramesError, match="cgkd verify FRAMES --temperature KELVIN"):
        read_frames(path).temperature  # noqa: B018
    for wrong in ("0", "-3", "nan", "1e9"):
        refuse(path, f"--temperature: got {float(wrong):g}, expected kelvin", temperature=wrong)
    refuse(path, message)
    verify_frames(path, temperature=310)  # the cure of the message
    found = read_frames(path)
    assert found.attributes == {"system": "x", "temperature": 310.0}
    check(path, [1])
    verify_frames(path, temperature=310.0)  # nothing is left to do
    refuse(
        path, "has the temperature 310 K already, which cannot be changed, got 300 K",
        temperature="300",
    )  # fmt: skip


def test_temperature_leaves_frames_packed(tmp_path):
    frames = read_frames(write(tmp_path / "whole.h5", range(20)))
    path = tmp_path / "packed.h5"
    write_frames(replace(frames, attributes={}), path)
    size = path.stat().st_size
    verify_frames(path, temperature=310.0)
    assert verify_frames(path).header.attributes == {"temperature": 310.0}
    check(path, range(20))
    with h5py.File(path) as file:
        assert file["forces"].compression == "gzip"
    assert path.stat().st_size < size + 2**12


def test_temperature_of_a_file_whose_writer_was_killed(tmp_path):
    path = tmp_path / "frames.h5"
    with FrameWriter(path, BEADS, {"system": "x"}) as writer:
        writer.append(**frame(1))
    leave_open(path)
    refuse(path, "its writer was killed; give --repair, too", temperature="310")
    verify_frames(path, repair=True, temperature=310.0)
    assert verify_frames(path).header.attributes["temperature"] == 310
    check(path, [1])


def test_lost_end_of_a_file_without_temperature(tmp_path):
    """Every message leads to the next cure, and the last one saves the frames."""
    path = tmp_path / "frames.h5"
    with FrameWriter(path, BEADS, {"system": "x"}) as writer:
        for step in range(8):
            writer.append(**frame(step))
    path.write_bytes(path.read_bytes()[:-300])
    damaged = f"is damaged; try 'cgkd verify {path} --repair'"
    refuse(path, damaged)
    refuse(path, damaged, temperature="310")
    cure = f"cgkd verify {path} --repair --temperature"
    refuse(path, f"save the whole frames with '{cure} KELVIN'", repair=True)
    result = call(*cure.split()[1:], "310")
    assert result.exit_code == 0, result.stderr
    kept = len(read_frames(path))
    assert 0 < kept < 8
    assert f"kept {kept} whole frames, dropped {8 - kept} torn" in result.stderr
    assert read_frames(path).attributes == {"system": "x", "temperature": 310.0}
    check(path, range(kept))


def test_checksum_of_the_superblock(tmp_path):
    """As HDF5 computed it itself."""
    data = write(tmp_path / "frames.h5", range(3)).read_bytes()
    assert lookup3(data[:44]) == struct.unpack("<I", data[44:48])[0]
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # from the author's own test


def test_memory_does_not_grow_with_the_file(tmp_path):
    """100,000 frames of 20 beads, 57 MB on disk, are written and verified in a fraction of that."""
    n, size = 100_000, 1000
    beads = BeadTopology(("A",), np.zeros(20, dtype=int), np.ones(20), np.arange(20))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(size, 20, 3)).astype("f4")
    box = np.tile(3 * np.eye(3), (size, 1, 1))

    def parts():
        for first in range(0, n, size):
            step = np.arange(first, first + size)
            yield Frames(values, values, box, 0.5 * step, step, beads, {})

    path = tmp_path / "frames.h5"
    peaks = {}
    tracemalloc.start()
    for name, action in (
        ("write", lambda: write_stream(path, beads, {"temperature": 300.0}, parts())),
        ("verify", lambda: verify_frames(path).frames),
    ):
        tracemalloc.reset_peak()
        assert action() == n
        peaks[name] = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert path.stat().st_size > 57e6
    assert max(peaks.values()) < 20, peaks


def test_thinning(tmp_path, lj_frames):
    """Forces that stay the same for four frames each.

    tau = 1/2 + 3/4 + 2/4 + 1/4 intervals, so one frame in four is kept.
    """
    forces = np.repeat(np.random.default_rng(3).normal(size=(100, 40, 3)), 4, axis=0).astype("f4")
    n, short = len(forces), read_frames(lj_frames)
    index = np.arange(n)
    frames = Frames(
        np.resize(short.positions, forces.shape),
        forces,
        short.box[np.zeros(n, int)],
        0.1 * index,
        index,
        short.beads,
        short.attributes,
    )
    write_frames(frames, tmp_path / "all.h5")
    before = hash_of(tmp_path / "all.h5")
    result = call("verify", tmp_path / "all.h5", "--thin", tmp_path / "few.h5")
    assert result.exit_code == 0, result.output
    assert "100" in result.stdout.splitlines()[0]
    few = read_frames(tmp_path / "few.h5")
    assert few.step.tolist() == list(range(0, 400, 4))
    assert np.array_equal(few.forces, read_frames(tmp_path / "all.h5").forces[::4])
    assert few.attributes["thinned"] == 4
    assert few.attributes["force_correlation_time"] == pytest.approx(0.2, rel=0.05)
    assert hash_of(tmp_path / "all.h5") == before
    result = call("verify", tmp_path / "all.h5", "--thin", tmp_path / "few.h5")
    assert result.exit_code == 2
    assert "few.h5: exists already; name a new file" in result.stderr
