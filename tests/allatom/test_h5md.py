"""H5MD files on which HDF5 would hang, or whose data are elsewhere."""

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from openmm_cgkd.allatom.h5md import check_h5md
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.values import DamageError


def write(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("particles/all")
        for name, shape, unit in (
            ("position", (2, 4, 3), "nm"),
            ("force", (2, 4, 3), "kJ mol-1 nm-1"),
            ("box/edges", (2, 3, 3), "nm"),
        ):
            place = group.create_group(name)
            place["value"] = np.tile(np.eye(*shape[1:]), (shape[0], 1, 1))
            place["step"], place["time"] = np.arange(2), np.arange(2.0)
            place["value"].attrs["unit"], place["time"].attrs["unit"] = unit, "ps"
        group["box"].attrs["boundary"] = ["periodic"] * 3
    return path


def test_whole_file(tmp_path):
    check_h5md(write(tmp_path / "a.h5md"), 4)


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
            check_h5md(path, 4)


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
    ],
)
def test_data_that_are_elsewhere_or_nowhere(tmp_path, change, message):
    path = write(tmp_path / "a.h5md")
    with h5py.File(path, "r+") as file:
        del file["particles/all/force/value"]
        change(file["particles/all/force"])
    with pytest.raises(FramesError, match=message):
        check_h5md(path, 4)
