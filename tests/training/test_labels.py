"""The file of labels: its checksums, and what is refused."""

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.seal import seal
from openmm_cgkd.training.label_parts import Parts
from openmm_cgkd.training.labels import LABELS, UNITS, load_labels
from tests.cases.flips import outcomes
from tests.cases.frames import edited
from tests.cases.training import make_frames


@pytest.fixture(scope="module")
def frames() -> Frames:
    return make_frames(4, 12, noise=1.0)[0]


@pytest.fixture
def path(tmp_path, frames):
    """Labels of the frames in every respect but that no teachers made them."""
    random = np.random.default_rng(5)
    with h5py.File(tmp_path / "labels.h5", "w", libver="latest") as file:
        for name in UNITS:
            shape = (4, 12, 3) if name.endswith("forces") else (4, 12)
            file.create_dataset(
                name, data=random.normal(size=shape).astype("f4"), chunks=(1, *shape[1:]),
                compression="gzip", shuffle=True,
            )  # fmt: skip
        names = list(frames.beads.type_names)
        file.attrs.update({**LABELS.attributes, "type_names": names, "frames": frames.identity})
        file.attrs.update({"teachers": ["0" * 64, "1" * 64], "energy_offsets": np.eye(2)})
        seal(file)
    return tmp_path / "labels.h5"


def test_flipped_bits(path, frames):
    found = outcomes(path, lambda file: load_labels(file, frames), 200)
    assert found["refused"] > 20
    assert found["refused"] + found["same"] == 200, found


@pytest.mark.parametrize("name", list(UNITS))
def test_changed_values(path, frames, name):
    with h5py.File(path, "r+") as file:
        file[name][2] = file[name][1]
    with pytest.raises(FramesError, match=f"the checksum of {name} differs"):
        load_labels(path, frames)


def test_values_that_do_not_fit(path, frames):
    with edited(path) as file:
        values = file["energies"][:]
        values[3, 5] = np.nan
        file["energies"][:] = values
    with pytest.raises(FramesError, match="energies of frame 3 are not finite; run 'cgkd label'"):
        load_labels(path, frames)
    with edited(path) as file:
        del file["energies"]
        file["energies"] = np.zeros((4, 11))
    with pytest.raises(FramesError, match=r"energies have shape \(4, 11\) .* expected \(4, 12\)"):
        load_labels(path, frames)
    with edited(path) as file:
        file.attrs["type_names"] = ["A", "C"]
    with pytest.raises(FramesError, match=r"labels beads of the types \('A', 'C'\)"):
        load_labels(path, frames)


@pytest.mark.parametrize("damage", ["bit", "cut", "stamp"])
def test_damaged_part_is_done_again(tmp_path, damage, caplog, monkeypatch):
    """Whatever comes of an interruption and a disk that forgets."""
    parts = Parts(tmp_path / "parts", "these inputs")
    for first in (0, 2):
        parts.write(first, np.full((2, 2, 12, 3), first + 1.0), np.ones((2, 2, 12)), refuse=True)
    path = tmp_path / "parts" / "000000002.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "stamp":
        (tmp_path / "parts" / "inputs").write_bytes(b"\xff\0")
    else:
        path.write_bytes(data if damage == "bit" else data[:-40])

    class Ensemble:
        networks, cutoff, prior = [None, None], 0.5, None

    done = []
    monkeypatch.setattr("openmm_cgkd.training.label_parts.BEADS_PER_PART", 24)
    monkeypatch.setattr("openmm_cgkd.training.label_parts.device", lambda: "cpu")
    monkeypatch.setattr("openmm_cgkd.training.label_parts.FrameGraphs", lambda part, *_: part)
    monkeypatch.setattr(
        "openmm_cgkd.training.label_parts.predict",
        lambda network, part, _: (
            done.append(part.step[0]) or (np.ones((2, 12, 3)), np.ones((2, 12)))
        ),
    )
    Ensemble.networks = [type("Network", (), {"to": lambda self, where: self})()] * 2
    again = Parts(tmp_path / "parts", "these inputs")
    again.compute(Ensemble(), make_frames(4, 12, noise=1.0)[0], "labels", refuse=True)
    assert sorted(set(done)) == ([0, 2] if damage == "stamp" else [2])
    assert [first for first, _ in again] == [0, 2]
    assert ("; its work is done again. Kept as" in caplog.text) == (damage != "stamp")
