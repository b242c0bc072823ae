"""Checkpoints of trained models."""

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
