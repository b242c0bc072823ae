"""Loss, averaged weights, learning rate, and errors while training."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import LossWeights, PriorConfig, TrainingConfig
from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.training.dataset import GraphDataset
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.lightning_module import NetworkFit, average
from openmm_cgkd.training.loss import distillation_loss
from openmm_cgkd.training.targets import Targets, Variances, mapped_targets, target_variances
from openmm_cgkd.training.task import FORCES_ONLY
from tests.cases.training import CUTOFF, SMALL, make_frames


@pytest.fixture(scope="module")
def frames():
    return make_frames(12, 12, noise=1.0)[0]


@pytest.fixture(scope="module")
def graphs(frames):
    return FrameGraphs(frames, CUTOFF, fit_prior(frames, PriorConfig()))


def module(weights=FORCES_ONLY, variances=Variances(1.0), **settings) -> NetworkFit:  # noqa: B008 - frozen
    return NetworkFit(
        build_tensornet(SMALL, 2, 2.5),
        weights,
        variances,
        TrainingConfig(**settings),
        ("A", "B"),
        "",
    )


@pytest.mark.parametrize("beads_weighted", [False, True])
@pytest.mark.parametrize("weights", [(1, 0, 0), (1.5, 0.3, 0), (0.7, 0, 2.0), (1, 2, 3), (0, 1, 0)])
def test_loss_against_numpy(frames, graphs, weights, beads_weighted):
    random = np.random.default_rng(1)
    shape = frames.forces.shape
    of_beads = random.random((2, *shape[:2])) if beads_weighted else (None, None)
    targets = Targets(
        random.normal(size=shape) * 80, random.normal(size=shape[:2]) * 3 + 1, *of_beads
    )
    indices = [2, 9, 11]
    batch = GraphDataset(graphs, targets, indices, torch.float64).collate(indices)
    n = frames.beads.n_beads
    forces, energies = random.normal(size=(3, n, 3)) * 70, random.normal(size=(3, n)) * 2
    variances = target_variances(targets, np.arange(5, 12))
    assert variances.force == pytest.approx(targets.forces[5:12].var())
    w_force, w_energy, w_bead = weights
    force_beads, energy_beads = (1 if values is None else values[indices] for values in of_beads)
    squares = ((forces - targets.forces[indices]) ** 2).mean(axis=-1)
    expected = w_force * np.mean(force_beads * squares) / targets.forces[5:12].var()
    totals, wanted = energies.sum(1) / n, targets.energies.sum(1) / n
    expected += w_energy * np.var(totals - wanted[indices], ddof=1) / wanted[5:12].var()
    expected += (
        w_bead
        * np.mean(energy_beads * (energies - targets.energies[indices]) ** 2)
        / targets.energies[5:12].var()
    )
    got = distillation_loss(
        torch.tensor(energies.reshape(-1)),
        torch.tensor(forces.reshape(-1, 3)),
        batch,
        LossWeights(force=w_force, energy=w_energy, bead_energy=w_bead),
        variances,
    )
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_zero_of_total_energies_does_not_count(graphs):
    """Neither in the loss nor, to the last term, in its gradient: finite differences with the
    mean of the batch left free.
    """
    random, n = np.random.default_rng(2), graphs.frames.beads.n_beads
    shape = graphs.frames.forces.shape
    targets = Targets(random.normal(size=shape), random.normal(size=shape[:2]))
    batch = GraphDataset(graphs, targets, [1, 4, 6], torch.float64).collate([1, 4, 6])
    weights, forces = (
        LossWeights(force=0, energy=0.7, bead_energy=0),
        torch.zeros(3 * n, 3, dtype=torch.float64),
    )

    def loss(energies):
        return distillation_loss(energies, forces, batch, weights, Variances(1.0, 2.0))

    energies = torch.tensor(random.normal(size=3 * n), requires_grad=True)
    assert loss(energies + 1e3).item() == pytest.approx(loss(energies).item(), rel=1e-9)
    assert torch.autograd.gradcheck(loss, energies)
    assert torch.autograd.grad(loss(energies), energies)[0].sum().item() == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize("name", ["force", "energy", "bead_energy"])
def test_constant_targets_are_refused(name):
    variances = dataclasses.replace(Variances(1.0), **{name: 0.0})
    weights = LossWeights(**{"force": 0, "energy": 0, "bead_energy": 0, name: 1})
    with pytest.raises(
        TrainingError, match=rf"{name} targets have variance 0 over training; set weights\.{name}"
    ):
        module(weights, variances)


@pytest.mark.parametrize("limit", [0.0, 0.5, 0.999])
def test_average_of_the_weights(limit):
    """Against the recursion w <- d w + (1 - d) x with d = min(limit, (1 + n) / (10 + n)), from
    the first x on.
    """
    network = torch.nn.Linear(1, 1, bias=False)
    averaged, expected, path = (
        average(network, limit),
        None,
        np.random.default_rng(0).normal(size=60),
    )
    for n, value in enumerate(path):
        with torch.no_grad():
            network.weight.fill_(value)
        averaged.update_parameters(network)
        decay = min(limit, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert not averaged.module.weight.requires_grad
    assert limit or averaged.module.weight.item() == pytest.approx(path[-1])


def rates(module: NetworkFit, steps: int) -> list[float]:
    module.trainer = SimpleNamespace(estimated_stepping_batches=steps)
    configured = module.configure_optimizers()
    scheduler, found = configured["lr_scheduler"]["scheduler"], []
    for _ in range(steps):
        found.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        scheduler.step()
    return found


def test_learning_rate_rises_and_falls():
    cosine = rates(module(learning_rate=0.01, warm_up=0.1), 100)
    np.testing.assert_allclose(cosine[:10], 0.001 * np.arange(1, 11))
    np.testing.assert_allclose(cosine[10:], 0.005 * (1 + np.cos(np.pi * np.arange(90) / 90)))
    plateau = rates(module(learning_rate=0.01, warm_up=0.1, schedule="plateau"), 100)
    np.testing.assert_allclose(plateau[:10], cosine[:10])
    np.testing.assert_allclose(plateau[10:], 0.01)


def test_plateau_halves_the_rate_after_half_the_patience():
    trained = module(learning_rate=0.01, warm_up=0, schedule="plateau", patience=4)
    factors = []
    for loss in (1.0, 0.9, 0.95, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9):
        trained.step_plateau(loss)
        factors.append(trained.plateau["factor"])
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    np.testing.assert_allclose(rates(trained, 5)[1:], 0.01 / 8)


def test_frame_with_a_bad_force_is_named(graphs):
    dataset = GraphDataset(graphs, mapped_targets(graphs), [3, 5, 8])
    batch = dataset.collate([3, 5, 8])
    batch.positions[batch.frame == 1] = 1e30
    with pytest.raises(
        TrainingError,
        match=(
            r"The loss is (nan|inf) at frame 5 in epoch 1; .* checkpoint of the epoch before is"
            r" kept"
        ),
    ):
        module().training_step(batch, 0)


def test_bad_gradient_stops_before_it_reaches_the_weights():
    trained = module()
    trained.batch_frames = [4, 6]
    for parameter in trained.network.parameters():
        parameter.grad = torch.full_like(parameter, 1.0)
    trained.configure_gradient_clipping(None)
    norm = torch.cat([p.grad.reshape(-1) for p in trained.network.parameters()]).norm().item()
    assert norm == pytest.approx(trained.settings.gradient_clip, rel=1e-4)
    next(trained.network.parameters()).grad[0] = float("nan")
    with pytest.raises(TrainingError, match=r"The gradient is nan at one of the frames \[4, 6\]"):
        trained.configure_gradient_clipping(None)
