"""Checkpoints of trained models."""

import math

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import ModelConfig, PriorConfig
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.checkpoint import load_checkpoint, save_checkpoint
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.predict import predict
from tests.cases.flips import outcomes
from tests.cases.training import CUTOFF, SMALL, make_frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpoint_round_trip(tmp_path, dtype):
    frames = make_frames(1, 12, noise=0.0)[0]
    graphs = FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))
    network = build_tensornet(SMALL, 2, 2.5)
    save_checkpoint(
        tmp_path / "a.pt", network.to(dtype), SMALL, 2.5, "abc", ("A", "B"), {"seed": 1}
    )
    state = torch.get_rng_state()
    again, content = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(state, torch.get_rng_state())
    assert content["training"] == {"seed": 1}
    assert ModelConfig.model_validate(content["model"]) == SMALL
    assert {value.dtype for value in content["state"].values() if value.is_floating_point()} == {
        torch.float32
    }
    for one, other in zip(
        predict(network.float(), graphs, [0]), predict(again, graphs, [0]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    torch.save({"weights": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    network = build_tensornet(SMALL, 2, 2.5)
    save_checkpoint(
        tmp_path / "a.pt",
        network,
        SMALL.model_copy(update={"channels": 16}),
        2.5,
        "abc",
        ("A", "B"),
        {},
    )
    with pytest.raises(ModelFileError, match="do not fit the model"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.fixture
def content(tmp_path):
    save_checkpoint(
        tmp_path / "a.pt", build_tensornet(SMALL, 2, 2.5), SMALL, 2.5, "abc", ("A", "B"), {}
    )
    return torch.load(tmp_path / "a.pt", weights_only=True)


def endless():
    laughs = ["ha"]
    for _ in range(30):
        laughs = 10 * [laughs]
    return laughs


def deep():
    lists = []
    for _ in range(100):
        lists = [lists]
    return lists


def state(**changes):
    return lambda content: {"state": {**content["state"], **changes}}


BAD = [
    (state(scale=torch.tensor(math.nan)), "'scale' that are not finite"),
    (state(scale=torch.tensor(-math.inf)), "'scale' that are not finite"),
    (state(scale=torch.zeros(2)), "'scale' of shape"),
    (state(scale=torch.tensor(1)), "'scale' of type torch.int64"),
    (state(scale=3.0), "float as weights 'scale'"),
    (state(more=torch.zeros(1)), "has also the weights 'more'"),
    (lambda content: {"state": {}}, "lacks the weights"),
    (lambda content: {"state": torch.zeros(3)}, "has a Tensor as state"),
    (lambda content: {"type_names": ["A", "A"]}, "bead types"),
    (lambda content: {"type_names": ["A", 1]}, "bead types"),
    (lambda content: {"n_types": 3}, "3 as n_types"),
    (lambda content: {"n_types": 10**12, "type_names": ["A"]}, "as n_types"),
    (lambda content: {"scale": math.nan}, "nan as scale"),
    (lambda content: {"scale": -1.0}, "-1 as scale"),
    (lambda content: {"scale": "1"}, "has a str as scale"),
    (lambda content: {"frames": None}, "has a NoneType as frames"),
    (lambda content: {"model": []}, "has a list as model"),
    (lambda content: {"model": {}}, "do not fit"),
    (lambda content: {"model": {**content["model"], "channels": 4096}}, "of shape"),
    (lambda content: {"model": {**content["model"], "layers": 10**9}}, "do not fit"),
    (lambda content: {"model": {**content["model"], "cutoff": "1 nm**9**9**9"}}, "do not fit"),
    (lambda content: {"training": endless()}, "too many"),
    (lambda content: {"training": deep()}, "too deep"),
    (lambda content: {"training": {"weights": torch.zeros(1)}}, "no plain data"),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_checkpoints_of_strangers(content, tmp_path, change, reason):
    del content["checksum"]  # who changes a file on purpose can leave it out
    torch.save({**content, **change(content)}, tmp_path / "bad.pt")
    with pytest.raises(ModelFileError, match=f"bad.pt: .*{reason}.*; train the model"):
        load_checkpoint(tmp_path / "bad.pt")


@pytest.mark.parametrize("key", ["model", "n_types", "scale", "state", "type_names", "training"])
def test_missing_fields(content, tmp_path, key):
    del content[key]
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ModelFileError, match="lacks fields"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_flipped_bit_in_a_checkpoint_is_refused_or_changes_nothing(content, tmp_path):
    """torch itself reads most of them without a word: it does not look at the checksums."""

    def read(path):
        network, found = load_checkpoint(path)
        return network.state_dict(), {**found, "state": None}

    found = outcomes(tmp_path / "a.pt", read, 300, seed=5)
    assert set(found) == {"refused", "same"}
    assert found["refused"] > 100


def test_a_checkpoint_that_was_written_again_with_other_weights(content, tmp_path):
    """The checksums of the archive fit then; those of version 0.1 have no others."""
    content["state"]["scale"] = content["state"]["scale"] * 1.001
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(ModelFileError, match="does not fit its checksum"):
        load_checkpoint(tmp_path / "b.pt")
    del content["checksum"]
    torch.save(content, tmp_path / "b.pt")
    assert load_checkpoint(tmp_path / "b.pt")[0].scale == content["state"]["scale"]


def test_networks_that_are_loaded_can_be_trained(content, tmp_path):
    network, _ = load_checkpoint(tmp_path / "a.pt")
    assert all(parameter.requires_grad for parameter in network.parameters())
