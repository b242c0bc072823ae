"""Random networks and configurations of beads, without a file."""

from __future__ import annotations

import numpy as np
import torch
from torchmdnet.models.model import create_model

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.potential.network import TensorNetEnergies, network_arguments
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import PairRepulsion

TRICLINIC = np.array([[2.2, 0, 0], [0.4, 2.1, 0], [-0.3, 0.5, 2.3]])


def random_system(n=40, seed=0, box=TRICLINIC, n_types=3):
    rng = np.random.default_rng(seed)
    positions = []
    while len(positions) < n:  # keep beads apart, as in a liquid
        trial = rng.random(3) @ box
        deltas = (np.array(positions).reshape(-1, 3) - trial) @ np.linalg.inv(box)
        if (
            not len(deltas)
            or np.linalg.norm((deltas - np.round(deltas)) @ box, axis=1).min() > 0.25
        ):
            positions.append(trial)
    return np.array(positions), rng.integers(0, n_types, n)


def tensors(positions, types, box, cutoff, dtype):
    pairs = find_pairs(positions, box, cutoff)
    return (
        torch.from_numpy(types),
        torch.from_numpy(positions).to(dtype),
        torch.from_numpy(pairs.first),
        torch.from_numpy(pairs.second),
        torch.from_numpy(pairs.shifts).to(dtype),
    )


def torchmd_pair(layers, channels=8, cutoff="0.9 nanometer", dtype=torch.float64, seed=0):
    """torchmd-net's model and this package's on the same random weights."""
    torch.manual_seed(seed)
    config = ModelConfig(channels=channels, layers=layers, cutoff=cutoff, radial_functions=12)
    arguments = network_arguments(config, 3) | {"derivative": True, "reduce_op": "sum"}
    torchmd = create_model(arguments, std=torch.tensor(2.5)).to(dtype)
    for parameter in torchmd.parameters():  # zero-initialised biases would hide a dropped term
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return torchmd, TensorNetEnergies(torchmd).to(dtype)


# some pairs of `random_system` are beyond the bend, some not
PRIOR = PairRepulsion(torch.full((3, 3), 0.27), 100.0, 0.05, 0.015, 0.9, stiffness=5e3)
