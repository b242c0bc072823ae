"""Files of strangers: nothing outside the file is read, and none fills the memory."""

import os
import resource
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.frames.hdf5 import checksums
from tests.cases.frames import BEADS, N, check, edited, frame, write

SECRET = b"root:x:0:0:root:/root:/bin/bash\n" * 2


def other_file(folder: Path) -> str:
    with h5py.File(folder / "other.h5", "w") as file:
        file["charges"] = np.zeros(N)
    (folder / "secret").write_bytes(SECRET)
    return str(folder / "other.h5")


def external_link(file, folder):
    del file["beads/charges"]
    file["beads/charges"] = h5py.ExternalLink(other_file(folder), "/charges")


def external_link_of_a_group(file, folder):
    del file["beads"]
    file["beads"] = h5py.ExternalLink(other_file(folder), "/")


def soft_link(file, folder):
    del file["beads/charges"]
    file["beads/charges"] = h5py.SoftLink("/beads/masses")


def soft_link_to_itself(file, folder):
    del file["beads/charges"]
    file["beads/charges"] = h5py.SoftLink("/beads/charges")


def virtual_dataset(file, folder):
    del file["beads/charges"]
    layout = h5py.VirtualLayout((N,), "f8")
    layout[:] = h5py.VirtualSource(other_file(folder), "charges", shape=(N,))
    file.create_virtual_dataset("beads/charges", layout)


def external_storage(file, folder):
    other_file(folder)
    del file["beads/charges"]
    file.create_dataset(
        "beads/charges", (N,), "f8", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    )


def a_billion_frames(file, folder):
    for name in ("positions", "forces", "box", "time", "step", "checksum"):
        file[name].resize(10**9, axis=0)


def a_billion_beads(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (10**9,), "f8")


def a_billion_beads_compressed(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (10**9,), "f8", chunks=(10**6,), compression="gzip")


def a_huge_chunk(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), "f8", chunks=(10**8,), maxshape=(None,))


def declared_without_data(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), "f8")


def bomb(file, folder):
    stream = zlib.compressobj(9)
    chunk = b"".join([stream.compress(bytes(2**20)) for _ in range(256)] + [stream.flush()])
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), "f8", chunks=(N,), compression="gzip")
    file["beads/charges"].id.write_direct_chunk((0,), chunk)


def huge_attribute(file, folder):
    file.attrs.create("note", np.zeros(10**7))


def many_texts(file, folder):
    file.attrs["note"] = ["text"] * 2000


def compound(file, folder):
    file.attrs["note"] = np.zeros(1, dtype=[("a", "f8"), ("b", "i4")])


def compound_dataset(file, folder):
    file["note"] = np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])


def lists(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), h5py.vlen_dtype("f8"))


def texts(file, folder):
    del file["beads/charges"]
    file["beads/charges"] = ["0.1"] * N


def references(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), h5py.ref_dtype)


def committed_type(file, folder):
    file["note"] = np.dtype("f8")


def dataset_of_a_committed_type(file, folder):
    file["kind"] = np.dtype("f8")
    del file["beads/charges"]
    file.create_dataset("beads/charges", (N,), file["kind"], data=np.zeros(N))


def other_filter(file, folder):
    del file["beads/charges"]
    file.create_dataset("beads/charges", data=np.zeros(N), compression="lzf")


def cycle(file, folder):
    """Honest, if odd: the walk over all objects ends."""
    file["beads/above"] = file["/"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_link, "/beads/charges is a link, maybe to another file; put the data themselves"),
        (external_link_of_a_group, "/beads is a link, maybe to another file"),
        (soft_link, "/beads/charges is a link"),
        (soft_link_to_itself, "/beads/charges is a link"),
        (virtual_dataset, "the data of /beads/charges lie in another file; put them into this one"),
        (external_storage, "the data of /beads/charges lie in another file"),
        (a_billion_frames, "MB of data up to .*, far more than a file of 0.0 MB can hold"),
        (a_billion_beads, "/beads/charges declares 8000000000 bytes, of which the file holds 0"),
        (a_billion_beads_compressed, "declares 7629 MB of data up to /beads/charges, far more"),
        (a_huge_chunk, "declares 763 MB of data up to /beads/charges, far more"),
        (declared_without_data, "/beads/charges declares 56 bytes, of which the file holds 0"),
        (bomb, "a chunk of /beads/charges is longer than a chunk can be"),
        (huge_attribute, "attribute 'note' of / is larger than an attribute may be; remove it"),
        (many_texts, "attribute 'note' of / is larger than an attribute may be; remove it"),
        (compound, "attribute 'note' of / is neither numbers nor text; remove it"),
        (compound_dataset, "/note does not hold plain numbers of at most 64 bits"),
        (lists, "/beads/charges does not hold plain numbers of at most 64 bits"),
        (texts, "/beads/charges does not hold plain numbers of at most 64 bits"),
        (references, "/beads/charges does not hold plain numbers of at most 64 bits"),
        (committed_type, "/note is no group and no dataset; remove it"),
        (dataset_of_a_committed_type, "is no group and no dataset|does not hold plain numbers"),
        (other_filter, "/beads/charges is packed in a way that is not read; write it with gzip"),
    ],
)
def test_refused_in_one_sentence(tmp_path, change, message):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        change(file, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FramesError, match=message) as refusal:
        read_frames(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # kB
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).endswith(".")


def test_cycle_of_groups(tmp_path):
    path = write(tmp_path / "frames.h5", range(3))
    with edited(path) as file:
        cycle(file, tmp_path)
    check(path, range(3))


def test_pipe_and_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for path in (tmp_path / "pipe.h5", Path("/dev/zero")):
        with pytest.raises(FramesError, match="is a device or a pipe and no file"):
            read_frames(path)


@pytest.mark.parametrize("packing", [{}, {"compression": "gzip", "compression_opts": 9}])
@pytest.mark.parametrize("fixed", [False, True])
def test_file_by_hand(tmp_path, packing, fixed):
    """As docs/formats.md describes it, written with nothing but h5py, in other types of numbers."""
    steps = range(0, 50, 10)
    arrays = {name: np.array([frame(step)[name] for step in steps]) for name in frame(0)}
    arrays |= {name: arrays[name].astype("f4") for name in ("positions", "forces")}
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = np.bytes_("openmm_cgkd frames") if fixed else "openmm_cgkd frames"
        file.attrs["version"] = np.int32(1)
        file.attrs["temperature"] = 300
        file.attrs["checked"] = True
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **packing)
        file.create_dataset("checksum", data=checksums(arrays), **packing)
        beads = file.create_group("beads")
        beads.attrs["type_names"] = np.array([b"A", b"B"]) if fixed else ["A", "B"]
        beads.create_dataset("types", data=BEADS.types.astype("i4"), **packing)
        beads.create_dataset("masses", data=BEADS.masses.astype("f4"), **packing)
        beads["molecules"], beads["charges"] = BEADS.molecules, BEADS.charges
        file["notes/numbers"] = np.arange(4)
    check(path, steps)
    frames = read_frames(path)
    assert frames.beads.type_names == ("A", "B")
    assert frames.temperature == 300
    assert frames.attributes["checked"] is True
    assert frames.beads.masses == pytest.approx(BEADS.masses)
