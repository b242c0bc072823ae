"""Weights of potential files as plain tensors: those of the network, or refused by name."""

import json
import shutil
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.archive import ArchiveError
from openmm_cgkd.potential.metadata import WEIGHTS, read_members
from openmm_cgkd.potential.network import TensorNetEnergies
from openmm_cgkd.potential.stored_weights import packed, read_network
from openmm_cgkd.simulation.cgpotential import CGPotential
from tests.cases.flips import outcomes
from tests.cases.old_files import FOLDER
from tests.cases.potential import rewritten, torchmd_network, write_toy_potential


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt")


@pytest.fixture(scope="module")
def weights():
    return TensorNetEnergies(torchmd_network()).state_dict()


def test_round_trip(file, weights):
    found = read_network(*read_members(file))
    assert not any(parameter.requires_grad for parameter in found.parameters())
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("name", ["student.pt", "student-fast.pt"])
def test_old_files_without_plain_tensors(name):
    """Their script's own record of its weights is read, and nothing of it is run."""
    from openmm_cgkd import operators  # noqa: F401  torch needs them to read the fast file

    found = read_network(*read_members(FOLDER / name)).state_dict()
    script = torch.jit.load(FOLDER / name)
    expected = getattr(script, "portable", script).network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def changed(weights, name, value):
    return safetensors.torch.save({**weights, name: value})


def header(text, size=None):
    """A file of the format safetensors with this header, which may lie about its size."""
    data = text.encode()
    return struct.pack("<Q", len(data) if size is None else size) + data


HUGE = json.dumps({"scale": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
BAD = {
    "not a number": (
        lambda w: changed(w, "linear.bias", torch.full_like(w["linear.bias"], np.nan)),
        "'linear.bias' that are not finite",
    ),
    "infinite": (
        lambda w: changed(w, "scale", torch.tensor(np.inf)), "'scale' that are not finite"),
    "another shape": (
        lambda w: changed(w, "linear.bias", torch.zeros(7)),
        r"'linear.bias' of shape \(7,\), where its network has \(8,\)",
    ),
    "another type": (
        lambda w: changed(w, "scale", torch.tensor(3)), "'scale' of type torch.int64"),
    "half precision": (
        lambda w: changed(w, "scale", torch.tensor(3.0).half()), "torch.float16, torch.float32"),
    "one too many": (
        lambda w: changed(w, "more", torch.zeros(1)), "has also the weights 'more'"),
    "one too few": (
        lambda w: safetensors.torch.save({k: v for k, v in w.items() if k != "scale"}),
        "lacks the weights 'scale'",
    ),
    "none": (lambda w: b"", "has no"),
    "half of it": (lambda w: safetensors.torch.save(w)[:-100], "damaged"),
    "a huge tensor": (lambda w: header(HUGE), "damaged"),
    "a huge header": (lambda w: header("{}", 2**60), "has no"),
    "a deep header": (lambda w: header("[" * 100_000), "damaged"),
    "no header": (lambda w: header("energy"), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_weights_that_do_not_fit(file, weights, tmp_path, name):
    make, reason = BAD[name]
    content = make({key: tensor.clone() for key, tensor in weights.items()})
    bad = rewritten(
        file,
        tmp_path / "bad.pt",
        lambda member, data: content if member.endswith(WEIGHTS) else data,
        hashed=True,
    )
    with pytest.raises(ArchiveError, match=reason):
        read_network(*read_members(bad))
    with pytest.raises(ModelFileError, match=f"bad.pt: .*{reason}.*; export it again"):
        CGPotential(bad, "portable").load()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"channels": 4096}, "of shape"), ({"layers": 32}, "lacks"), ({"layers": 0}, "has also"),
     ({"radial_functions": 4096}, "of shape")],
)  # fmt: skip
def test_settings_of_another_network_cost_no_memory(file, tmp_path, changes, reason):
    network = read_members(file)[0].network | changes
    bad = rewritten(file, tmp_path / "bad.pt", hashed=True, network=network)
    with pytest.raises(ArchiveError, match=reason):
        read_network(*read_members(bad))


def test_double_precision_stays(file, weights, tmp_path):
    network = TensorNetEnergies(torchmd_network()).double()
    double = rewritten(
        file,
        tmp_path / "double.pt",
        lambda name, data: packed(network) if name.endswith(WEIGHTS) else data,
        hashed=True,
    )
    found = CGPotential(double, "portable").load()
    assert {tensor.dtype for tensor in found.network.parameters()} == {torch.float64}


def numbers(path):
    """All that energies and forces depend on."""
    metadata, members = read_members(path)
    state = read_network(metadata, members).state_dict()
    return metadata, {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.parametrize("kind", ["new", "old"])
def test_a_flipped_bit_is_refused_or_changes_nothing(file, tmp_path, kind):
    source = file if kind == "new" else FOLDER / "student.pt"
    path = shutil.copy(source, tmp_path / "flipped.pt")

    def read(path):
        try:
            return numbers(path)
        except ArchiveError as error:
            raise ModelFileError(str(error)) from error

    found = outcomes(path, read, 300, seed=17)
    assert set(found) <= {"refused", "same"}
    assert found["refused"] > 250


def test_a_file_that_ends_early_is_refused(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "part.pt"
    for size in [*range(0, len(data), len(data) // 40), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ModelFileError, match="not a TorchScript file"):
            read_members(path)
