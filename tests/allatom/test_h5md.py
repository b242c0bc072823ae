"""H5MD files: the numbers that MDAnalysis reads, and none that is elsewhere or expands."""

import struct
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import h5py
import MDAnalysis
import numpy as np
import pytest

from openmm_cgkd.allatom.h5md import H5mdTrajectory
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.gromacs_files import ParticlesError
from openmm_cgkd.frames.values import DamageError

N, FRAMES = 4, 5
ROWS = np.random.default_rng(1).normal(size=(FRAMES, N, 3)).astype("f4")
TRICLINIC = np.array([[3.0, 0, 0], [0.5, 2.5, 0], [-0.4, 0.3, 2.0]], "f4")


def write(path: Path, units=("nm", "kJ mol-1 nm-1", "ps"), box=TRICLINIC, **packing) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("particles/all")
        group.create_group("box").attrs.update({"dimension": 3, "boundary": ["periodic"] * 3})
        boxes = np.array([box * (1 + 0.1 * k) for k in range(FRAMES)])
        for name, values, unit in (
            ("position", ROWS, units[0]),
            ("force", ROWS[::-1], units[1]),
            ("box/edges", boxes, units[0]),
        ):
            place = group.create_group(name)
            place.create_dataset("value", data=values, **packing)
            place["step"], place["time"] = 10 * np.arange(FRAMES), 0.5 * np.arange(FRAMES)
            place["value"].attrs["unit"], place["time"].attrs["unit"] = unit, units[2]
    return path


@pytest.mark.parametrize(
    ("units", "box", "packing"),
    [
        (("nm", "kJ mol-1 nm-1", "ps"), TRICLINIC, {}),
        (("Angstrom", "kcal mol-1 Angstrom-1", "fs"), TRICLINIC, {"compression": "gzip"}),
        (("A", "kJ mol-1 Angstrom-1", "AKMA"), np.diag(TRICLINIC), {"chunks": True}),
        (("pm", "Newton", "ns"), TRICLINIC, {"compression": "gzip", "shuffle": True}),
        (("fm", "J m-1", "s"), TRICLINIC, {}),
    ],
)
@pytest.mark.parametrize("piece", [1, 2**22])
def test_same_numbers_as_mdanalysis(tmp_path, monkeypatch, units, box, packing, piece):
    monkeypatch.setattr("openmm_cgkd.allatom.h5md.PIECE", piece)
    path = write(tmp_path / "a.h5md", units, box, **packing)
    universe = MDAnalysis.Universe.empty(N, trajectory=True)
    universe.load_new(str(path), format="H5MD")
    found = H5mdTrajectory(path, N)
    assert len(found) == FRAMES
    for _ in range(2):  # can be gone through again
        for frame, expected in zip(found, universe.trajectory, strict=True):
            for one, other in (
                (frame.positions, expected.positions / 10),
                (frame.forces, expected.forces * 10),
                (frame.box, expected.triclinic_dimensions / 10),
                (frame.time, expected.time),
            ):
                scale = np.abs(other).max()
                np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6 * scale)
            assert frame.step == expected.data["step"]


def test_box_that_never_changes(tmp_path):
    """The format lets it be written once."""
    path = write(tmp_path / "a.h5md")
    with h5py.File(path, "r+") as file:
        box = file["particles/all/box"]
        del box["edges"]
        box["edges"] = np.array([3.0, 2.0, 1.0])
        box["edges"].attrs["unit"] = "nm"
    for frame in H5mdTrajectory(path, N):
        assert (frame.box == np.diag([3.0, 2.0, 1.0])).all()


def test_other_atoms(tmp_path):
    with pytest.raises(ParticlesError, match="are of 4 atoms"):
        H5mdTrajectory(write(tmp_path / "a.h5md"), 5)


def test_a_heap_that_never_ends(tmp_path):
    """One changed byte, the size of a text, makes HDF5 go round for ever."""
    path = write(tmp_path / "a.h5md")
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    at = data.rindex(b"ps\0\0", heap) - 8
    assert struct.unpack("<Q", data[at : at + 8]) == (2,)
    for wrong in (127, 2**40):
        data[at : at + 8] = struct.pack("<Q", wrong)
        path.write_bytes(data)
        with pytest.raises(DamageError, match="the text at byte"):
            H5mdTrajectory(path, N)


@pytest.mark.parametrize("name", ["position", "force", "box/edges"])
def test_chunks_that_expand(tmp_path, name):
    path = write(tmp_path / "a.h5md", compression="gzip", chunks=(FRAMES, 3, 3))
    with h5py.File(path, "r+") as file:
        file[f"particles/all/{name}/value"].id.write_direct_chunk(
            (0, 0, 0), zlib.compress(bytes(2**25), 9)
        )
    tracemalloc.start()
    with pytest.raises((FramesError, DamageError), match="longer than a chunk can be"):
        list(H5mdTrajectory(path, N))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda group: group.__setitem__("value", h5py.ExternalLink("/etc/passwd", "/")),
            "is a link, maybe to another file",
        ),
        (
            lambda group: group.create_dataset("value", (10**9, 4, 3), "f4", chunks=(1, 4, 3)),
            "declares .* MB of data",
        ),
        (
            lambda group: group.create_dataset("value", data=np.full((FRAMES, N, 3), b"text")),
            "value does not hold plain numbers",
        ),
    ],
)
def test_data_that_are_elsewhere_or_nowhere(tmp_path, change, message):
    path = write(tmp_path / "a.h5md")
    with h5py.File(path, "r+") as file:
        del file["particles/all/force/value"]
        change(file["particles/all/force"])
    with pytest.raises(FramesError, match=message):
        H5mdTrajectory(path, N)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/particles", "has no group /particles; write all atoms in it"),
        ("box", "has no group /particles/all/box; write the box; only periodic fluids"),
        ("box/edges", "has no box"),
        ("box/edges/value", "has no dataset /particles/all/box/edges/value"),
        ("force", "has no forces; write both"),
        ("force/value", "has no dataset /particles/all/force/value; write value, step and time of"),
        ("position/step", "has no dataset /particles/all/position/step"),
        ("force/time", "has no dataset /particles/all/force/time"),
    ],
)
def test_missing_parts(tmp_path, name, message):
    path = write(tmp_path / "a.h5md")
    with h5py.File(path, "r+") as file:
        del file["particles/all"][name]
    with pytest.raises(FramesError, match=message):
        H5mdTrajectory(path, N)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(N), None),
        (np.tile(np.arange(1, N + 1), (FRAMES, 1)), None),
        (np.arange(N)[::-1], "in another order than their ids"),
        (np.arange(N - 1), r"have shape \(3,\), expected one for each of 4 atoms"),
        (np.zeros(0, int), r"have shape \(0,\)"),
        (np.zeros((0, N), int), r"have shape \(0, 4\)"),
        (3, r"have shape \(\)"),
        (None, "has no dataset /particles/all/id/value"),
    ],
)
def test_ids(tmp_path, ids, message):
    path = write(tmp_path / "a.h5md")
    with h5py.File(path, "r+") as file:
        group = file["particles/all"]
        if np.ndim(ids) == 2 or ids is None:
            group = group.create_group("id")
        if ids is not None:
            group["value" if np.ndim(ids) == 2 else "id"] = ids
    with pytest.raises(FramesError, match=message) if message else nullcontext():
        assert len(H5mdTrajectory(path, N)) == FRAMES
