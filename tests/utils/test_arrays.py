"""Files of arrays: every damaged one is found."""

import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.utils.arrays import whole_arrays, write_arrays
from tests.cases.flips import outcomes


def test_a_flipped_bit_in_arrays_is_found_or_changes_nothing(tmp_path):
    path, rng = tmp_path / "part.npz", np.random.default_rng(0)
    arrays = {"forces": rng.normal(size=(20, 3)), "energy": np.array(-3.5)}
    assert not whole_arrays(path)
    write_arrays(path, arrays)

    def read(path):
        if not whole_arrays(path):
            path.with_name("part.npz.damaged").unlink()
            raise FramesError("was moved aside")
        with np.load(path) as found:
            return dict(found)

    found = outcomes(path, read, 300)
    assert set(found) == {"refused", "same"}
    assert found["refused"] > 150


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_files_that_are_no_archive(tmp_path, content, caplog):
    path = tmp_path / "box.npz"
    path.write_bytes(content)
    assert not whole_arrays(path)
    assert "box.npz: cannot be read as an NPZ file (File is not a zip file)" in caplog.text
    assert "; its work is done again. Kept as box.npz.damaged." in caplog.text


def test_files_of_earlier_versions(tmp_path):
    path = tmp_path / "part.npz"
    np.savez(path, forces=np.ones(3))
    assert whole_arrays(path)


def test_compressed_arrays_may_expand_without_end(tmp_path, caplog):
    path = tmp_path / "part.npz"
    np.savez_compressed(path, forces=np.zeros(10**6))
    assert not whole_arrays(path)
    assert "it is compressed, as this package never writes it" in caplog.text
