"""Packed chunks: the same numbers as HDF5 reads, and no trust in what they expand to."""

import tracemalloc
import zlib

import h5py
import numpy as np
import pytest

from openmm_cgkd.frames.values import DamageError, read_values

SHAPE, CHUNK = (23, 7, 3), (5, 4, 2)
VALUES = np.random.default_rng(1).normal(size=SHAPE)


@pytest.mark.parametrize("kind", ["f4", "f8", ">f4", "i8", "u2", "i1"])
@pytest.mark.parametrize(
    "packing",
    [{"compression": "gzip", "shuffle": True}, {"compression": "gzip"}, {"shuffle": True}],
)
def test_same_numbers_as_hdf5(tmp_path, kind, packing):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=(100 * VALUES).astype(kind), chunks=CHUNK, **packing)
    with h5py.File(tmp_path / "a.h5") as file:
        for first, last in ((0, 23), (0, 5), (4, 6), (7, 7), (9, 23), (3, 19), (22, 23), (5, 100)):
            found, expected = read_values(file["x"], slice(first, last)), file["x"][first:last]
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("options", [{}, {"chunks": CHUNK}, {"chunks": True, "maxshape": SHAPE}])
def test_not_packed(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=VALUES, **options)
        file["one"] = 3.5
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(read_values(file["x"], slice(4, 9)), VALUES[4:9])
        assert read_values(file["one"]) == 3.5


def test_chunk_without_its_filters(tmp_path):
    """One may be stored as it is, with a mark, where packing does not pay."""
    noise = np.random.default_rng(2).integers(0, 256, 1000).astype("u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (1000,), "u2", chunks=(1000,), compression="gzip", shuffle=True)
        file["x"].id.write_direct_chunk((0,), noise.tobytes(), 0b11)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(read_values(file["x"]), noise)
        assert np.array_equal(file["x"], noise)


def packed(size: int) -> bytes:
    """Zeros, so many megabytes of them."""
    stream = zlib.compressobj(9)
    return b"".join([stream.compress(bytes(2**20)) for _ in range(size)] + [stream.flush()])


@pytest.mark.parametrize(
    ("chunk", "mask"),
    [
        (packed(8), 0),  # HDF5 fills the memory with it
        (zlib.compress(bytes(80)), 0),  # HDF5 reads beyond its end, or crashes
        (b"1" * 80, 1),  # this, too
        (zlib.compress(bytes(8000))[:-1], 0),
        (b"no zlib", 0),
        (bytes(2**20), 0),
    ],
)
def test_chunks_of_another_size(tmp_path, chunk, mask):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (1000,), "f8", chunks=(1000,), compression="gzip")
        file["x"].id.write_direct_chunk((0,), chunk, mask)
    with h5py.File(tmp_path / "a.h5") as file:
        tracemalloc.start()
        with pytest.raises(
            DamageError, match=r"a chunk of /x (does not expand|cannot be unpacked|is longer)"
        ):
            read_values(file["x"])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20
