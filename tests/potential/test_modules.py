"""`PortableModule` with a network that is no TensorNet."""

import pytest
import torch
from torch import Tensor, nn

from openmm_cgkd.potential.bonded import BondedPrior
from openmm_cgkd.potential.modules import PortableModule
from tests.cases.networks import PRIOR, TRICLINIC, random_system, tensors


class PairNetwork(nn.Module):
    """Half of w (cutoff - r)^2 to either bead of every pair."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoff = 0.9
        self.weight = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, types: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
        half = 0.5 * self.weight * (self.cutoff - torch.linalg.vector_norm(vectors, dim=1)) ** 2
        energies = torch.zeros(types.shape[0], dtype=vectors.dtype, device=vectors.device)
        return energies.index_add(0, first, half).index_add(0, second, half)


def test_any_network_that_gives_energies_of_beads():
    network = PairNetwork()
    none = BondedPrior(torch.zeros(3, 3, 2), torch.zeros(3, 3, 3, 2))
    module = torch.jit.script(PortableModule(PRIOR, network, none).eval())
    positions, types = random_system()
    module.set_types(torch.from_numpy(types))
    found = module(torch.from_numpy(positions), torch.from_numpy(TRICLINIC))
    types, points, first, second, shifts = tensors(positions, types, TRICLINIC, 0.9, torch.float64)
    vectors = points[second] - points[first] + shifts
    expected = network(types, first, second, vectors) + PRIOR(types, first, second, vectors)
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-12)
