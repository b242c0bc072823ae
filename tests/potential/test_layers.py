"""Layers for weights from files, against torchmd-net's."""

import subprocess
import sys
import textwrap

import pytest
import torch

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.potential.layers import bare_tensornet
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.stored_weights import fill
from tests.cases.networks import TRICLINIC, random_system, tensors
from tests.cases.paths import ROOT


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_same_names_shapes_and_energies_as_torchmd_net(layers):
    config = ModelConfig(channels=9, layers=layers, cutoff="0.9 nanometer", radial_functions=7)
    expected, found = build_tensornet(config, 3, 2.5), bare_tensornet(config, 3)
    for parameter in expected.parameters():  # biases that start at zero would hide a dropped term
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    weights = expected.state_dict()
    assert [(name, tensor.shape, tensor.dtype) for name, tensor in found.state_dict().items()] == [
        (name, tensor.shape, tensor.dtype) for name, tensor in weights.items()
    ]
    assert [name for name, _ in found.named_parameters()] == [
        name for name, _ in expected.named_parameters()
    ]
    fill(found, dict(weights))
    positions, types = random_system(20)
    kinds, at, first, second, shifts = tensors(positions, types, TRICLINIC, 0.9, torch.float32)
    vectors = at[second] - at[first] + shifts
    for one, other in ((expected, found), (torch.jit.script(expected), torch.jit.script(found))):
        assert torch.equal(one(kinds, first, second, vectors), other(kinds, first, second, vectors))


def test_huge_networks_cost_no_memory():
    """2 GB, if they did; what a file says of itself is compared with its weights afterwards."""
    network = bare_tensornet(
        ModelConfig(channels=4096, layers=8, cutoff="1 nanometer", radial_functions=4096), 100
    )
    held = [tensor for tensor in network.state_dict().values() if not tensor.is_meta]
    assert sum(tensor.numel() for tensor in network.parameters()) > 5e8
    assert sum(tensor.numel() for tensor in held) < 1000


def test_potentials_run_without_torchmd_net():
    script = """
        import sys
        sys.modules["torchmdnet"] = None  # importing it now fails
        from openmm_cgkd import CGPotential
        for engine in ("fast", "portable"):
            CGPotential("tests/data/0.1/student.pt", engine).load()
    """

    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
