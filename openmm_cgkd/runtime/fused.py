"""The potential that TorchForce runs: fused operations on the CPU, the portable module on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..export import box_numbers
from ..metadata import PotentialMetadata
from ..potential.cells import neighbours  # noqa: F401  registers the operator
from ..potential.fast import FastRepulsion, FastTensorNet
from ..potential.prior import PriorParameters
from ..potential.tensornet import build_tensornet


class FusedPotential(nn.Module):
    """Energy of beads from positions, equal to the portable potential to single precision and much faster on a CPU.

    Parameters
    ----------
    portable : torch.jit.ScriptModule
        A loaded potential file, with its bead types set.
    metadata : PotentialMetadata
        Of the same file.
    """

    def __init__(self, portable: torch.jit.ScriptModule, metadata: PotentialMetadata) -> None:
        super().__init__()
        settings = {name: value for name, value in metadata.network.items() if name != "scale"}  # the scale is among the weights
        network = build_tensornet(ModelConfig(**settings), len(metadata.type_names), 1.0)
        weights = {name.removeprefix("network."): value for name, value in portable.state_dict().items() if name.startswith("network.")}
        network.load_state_dict(weights)
        self.portable = portable
        self.cutoff = metadata.cutoff
        self.network = FastTensorNet(network)
        self.repulsion = FastRepulsion(PriorParameters(**metadata.prior).build(metadata.cutoff))
        self.register_buffer("types", portable.types.clone())

    def forward(self, positions: Tensor, boxvectors: Tensor | None = None) -> Tensor:
        """Potential energy, scalar, kJ/mol; arguments as `ExportedPotential.forward`."""
        if positions.is_cuda:
            return self.portable(positions, boxvectors)
        if positions.shape[0] != self.types.shape[0]:
            raise RuntimeError(f"Got positions of {positions.shape[0]} beads, the system has {self.types.shape[0]}.")
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError("Bead positions are not finite; use a smaller time step.")
        box = torch.empty(0, dtype=torch.float64)
        if boxvectors is not None:
            box_numbers(boxvectors, self.cutoff)  # refuses a box that is too small
            box = boxvectors.to(torch.float64)
        row, column, vectors = torch.ops.openmm_cgkd.neighbours(positions.to(torch.float64), box, self.cutoff)
        learned = self.network(self.types, row, column, vectors.to(torch.float32))
        energy = self.repulsion(self.types, row, column, vectors) + learned.to(torch.float64)
        return energy.to(positions.dtype)
