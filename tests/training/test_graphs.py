"""Frames as graphs, and their targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import PriorConfig
from openmm_cgkd.exceptions import FramesError, TrainingError
from openmm_cgkd.potential.forces import energies_and_forces
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import fit_prior, read_prior
from openmm_cgkd.stages.inputs import load_frames
from openmm_cgkd.training.dataset import GraphDataset
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.targets import Targets, mapped_targets
from tests.cases.training import CUTOFF, SMALL, make_frames, make_run, true_forces, write_frames


@pytest.fixture(scope="module")
def frames():
    return make_frames(12, 12, noise=1.0)[0]


@pytest.fixture(scope="module")
def graphs(frames):
    return FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))


def test_batch_of_frames_equals_single_frames(graphs):
    network = build_tensornet(SMALL, 2, 2.5)
    forces, energies = predict(network, graphs, [3, 7, 8])
    for k, index in enumerate((3, 7, 8)):
        e, f = energies_and_forces(network, *graphs.batch([index]).graph)
        np.testing.assert_allclose(
            f.numpy(), forces[k], rtol=1e-4, atol=1e-4 * np.abs(forces).max()
        )
        np.testing.assert_allclose(e.detach().numpy(), energies[k], rtol=1e-4, atol=1e-5)


def test_positions_of_any_image_give_the_same_graph(frames, graphs):
    image = np.random.default_rng(0).integers(-300, 300, size=(1, frames.beads.n_beads, 3))
    moved = frames.positions.astype(float) + image @ frames.box[0]
    network = build_tensornet(SMALL, 2, 2.5)
    expected, _ = predict(network, graphs, [0])
    elsewhere = FrameGraphs(
        dataclasses.replace(frames, positions=moved), CUTOFF, fit_prior(frames, PriorConfig())
    )
    got, _ = predict(network, elsewhere, [0])
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_targets_plus_prior_are_the_mapped_forces(frames, graphs):
    prior = fit_prior(frames, PriorConfig())
    a, scale = np.log(1 / prior.p) / prior.distance, prior.force * prior.p
    k, box = 4, frames.box[4]
    delta = frames.positions[k][:, None].astype(float) - frames.positions[k][None]
    delta -= np.round(delta @ np.linalg.inv(box)) @ box
    distance = np.linalg.norm(delta, axis=-1) + 10 * np.eye(len(delta))
    types = frames.beads.types
    size = np.where(
        distance < CUTOFF,
        scale * np.exp(a * (np.array(prior.contact)[types[:, None], types[None]] - distance)),
        0,
    )
    expected = frames.forces[k] - (size[..., None] * delta / distance[..., None]).sum(1)
    np.testing.assert_allclose(
        mapped_targets(graphs).forces[k], expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max()
    )


def test_batch_holds_targets_in_the_asked_precision(frames, graphs):
    random = np.random.default_rng(2)
    forces, energies, weights = (
        random.normal(size=frames.forces.shape),
        *random.random((2, *frames.forces.shape[:2])),
    )
    batch = GraphDataset(
        graphs, Targets(forces, energies, weights), np.arange(12), torch.float64
    ).collate([5, 2])
    np.testing.assert_array_equal(batch.forces.numpy(), forces[[5, 2]].reshape(-1, 3))
    np.testing.assert_array_equal(batch.energies.numpy(), energies[[5, 2]].reshape(-1))
    np.testing.assert_array_equal(batch.force_weights.numpy(), weights[[5, 2]].reshape(-1))
    assert batch.energy_weights is None
    assert batch.positions.dtype == torch.float64
    assert batch.types.dtype == torch.int64
    whole = (batch.mapped - batch.prior).numpy().reshape(2, -1, 3)
    np.testing.assert_allclose(whole, mapped_targets(graphs).forces[[5, 2]], rtol=1e-5, atol=1e-3)
    with pytest.raises(
        FramesError,
        match=r"Targets have shape \(5, 12, 3\), frames \(12, 12, 3\); run .cgkd label. again",
    ):
        GraphDataset(graphs, Targets(forces[:5]), np.arange(5))


def test_max_frames_thins_evenly(tmp_path, frames):
    run = make_run(tmp_path, frames, max_frames=5)
    np.testing.assert_array_equal(load_frames(run).step, [0, 3, 6, 8, 11])


def test_nan_is_an_error_that_names_the_frame(frames):
    for name, message in (
        ("positions", "positions of frame 6"),
        ("forces", "target forces of frame 6"),
    ):
        values = getattr(frames, name).copy()
        values[6, 2, 1] = np.nan
        broken = dataclasses.replace(frames, **{name: values})
        with pytest.raises(TrainingError, match=message):
            mapped_targets(FrameGraphs(broken, CUTOFF, fit_prior(frames, PriorConfig())))
    energies = np.zeros(frames.forces.shape[:2])
    energies[9, 0] = np.inf
    with pytest.raises(TrainingError, match="target energies of frame 9"):
        Targets(frames.forces, energies)


def test_damaged_prior_is_refused(tmp_path, frames):
    write_frames(tmp_path / "frames.h5", frames)
    (tmp_path / "prior.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"is not a pair prior: .*; delete it and run 'cgkd"):
        read_prior(tmp_path / "prior.json")


def test_true_forces_of_the_test_case_are_a_gradient():
    """Guards the known truth itself: a curl-free field has a symmetric Jacobian."""
    frames, _ = make_frames(1, 6, noise=0.0)
    start, types, step = frames.positions[0].astype(float), frames.beads.types, 1e-5
    rows = []
    for component in range(start.size):
        shift = np.zeros(start.size)
        shift[component] = step
        shift = shift.reshape(start.shape)
        rows.append(
            (
                (true_forces(start + shift, types) - true_forces(start - shift, types)) / (2 * step)
            ).reshape(-1)
        )
    jacobian = np.array(rows)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-4 * np.abs(jacobian).max())
