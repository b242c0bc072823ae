"""The operators that fast files call: network and prior with analytic forces, compiled.

The same function as in training, with radial filters from tables.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openmm_cgkd.utils.box import kernel_box

from .cpu.evaluate import evaluate
from .cpu.jit import follow_torch
from .cpu.layout import kernel_network
from .cpu.lists import recent_list
from .network import TensorNetEnergies
from .operator_errors import last_error, nan_on_error
from .prior import PairRepulsion
from .signature import SCHEMA, Numbers, OperatorArguments, Sizes
from .weights import pack_weights

_NO_BONDS = np.zeros((0, 3), dtype=np.int64), np.zeros((0, 2))


class PackedNetwork(nn.Module):
    """Evaluate a trained network and its prior.

    Parameters
    ----------
    network : TensorNetEnergies
        Copied, so that later training does not change this module; evaluated in the type of its
        weights.
    prior : PairRepulsion
        Evaluated in double precision.
    """

    def __init__(self, network: TensorNetEnergies, prior: PairRepulsion) -> None:
        super().__init__()
        self.weights: Tensor
        self.offsets: Tensor
        self.contact: Tensor
        weights, offsets, hidden = pack_weights(network)
        self.register_buffer("weights", weights.to(network.scale.dtype))
        self.register_buffer("offsets", offsets)
        self.register_buffer(
            "contact",
            prior.contact.reshape(prior.n_types, prior.n_types).to(torch.float64).contiguous(),
        )
        self.sizes: list[int] = [*Sizes(network.channels, len(network.layers), hidden)]
        self.numbers: list[float] = [
            *Numbers(network.cutoff, prior.height, prior.steepness, prior.bend)
        ]

    def forward(
        self,
        types: Tensor,
        positions: Tensor,
        box: Tensor,
        bonded_beads: Tensor | None = None,
        bonded_parameters: Tensor | None = None,
    ) -> Tensor:
        """Total energy.

        Parameters
        ----------
        types : Tensor, shape (n_beads,), int64
        positions : Tensor, shape (n_beads, 3), float64, nm
        box : Tensor, shape (3, 3) or (0, 3), float64, nm
            Reduced box vectors as rows; empty for open boundaries.
        bonded_beads, bonded_parameters : Tensor, optional
            Bonds and angles: ``members`` and ``terms`` of `BondedPrior`.

        Returns
        -------
        Tensor, scalar, float64, kJ/mol
            Differentiable once in the positions.
        """
        energy, _ = torch.ops.openmm_cgkd.potential(
            positions,
            box,
            types,
            self.weights,
            self.offsets,
            self.contact,
            self.sizes,
            self.numbers,
            bonded_beads,
            bonded_parameters,
        )
        raise_last_error(energy)
        return energy


def raise_last_error(energy: Tensor) -> None:
    """Raise what went wrong in the operator that gave this energy, if anything did; TorchScript."""
    # to look at the number on a GPU would make the processor wait
    if energy.is_cuda or not bool(torch.isfinite(energy)):
        message: str = torch.ops.openmm_cgkd.failure(energy)
        if len(message) > 0:
            raise RuntimeError(message)


@nan_on_error
def _evaluate_on_cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Potential energy, kJ/mol, and its gradient with respect to the positions.

    Parameters
    ----------
    *arguments
        As `OperatorArguments`.

    Returns
    -------
    energy : Tensor, scalar, float64, kJ/mol
    gradient : Tensor, shape (n_beads, 3), float64, kJ/mol/nm
    """
    given = OperatorArguments(*arguments)
    sizes, numbers = Sizes(*given.sizes), Numbers(*given.numbers)
    points = given.positions.detach().contiguous().numpy()
    box = given.box.detach().contiguous().numpy()
    bonded = _NO_BONDS
    if given.bonded_beads is not None and given.bonded_parameters is not None:
        bonded = (
            given.bonded_beads.contiguous().numpy(),
            given.bonded_parameters.contiguous().numpy(),
        )
    follow_torch()
    network = kernel_network(given.weights, given.offsets, sizes, len(given.contact))
    energy, gradient = evaluate(
        network,
        points,
        kernel_box(box.tolist()),
        recent_list(points, box, numbers.cutoff),
        given.types.numpy(),
        given.contact.numpy(),
        numbers,
        bonded,
    )
    # not torch.tensor, which takes twenty times longer
    return torch.from_numpy(np.array(energy)), torch.from_numpy(gradient)


@nan_on_error
def _evaluate_on_gpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The same on a GPU."""
    from .gpu.evaluate import evaluate  # here, because it imports Triton

    return evaluate(OperatorArguments(*arguments))


def _has_gpu_kernels(where: Tensor) -> bool:
    """Whether the operators run on a tensor's GPU: Triton is installed and knows such GPUs."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(where.device) >= (
        7,
        0,
    )


def _keep_gradient(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])


def _gradient(ctx, d_energy: Tensor, _d_gradient: Tensor):
    (gradient,) = ctx.saved_tensors
    return d_energy * gradient, *[None] * (len(OperatorArguments._fields) - 1)


# not by torch.library.custom_op, which takes longer to get here than a small fluid needs for its
# forces
_library = torch.library.Library("openmm_cgkd", "DEF")
# `potential` can be differentiated; `evaluate` cannot, and spares what autograd costs around it: as
# long as OpenMM needs for all else
for _name in ("potential", "evaluate"):
    _library.define(_name + SCHEMA)
    _library.impl(_name, _evaluate_on_cpu, "CPU")
    _library.impl(_name, _evaluate_on_gpu, "CUDA")
# TorchScript would call it once for all without an argument
_library.define("failure(Tensor energy) -> str")
_library.impl("failure", last_error, "CompositeExplicitAutograd")
_library.define("has_gpu_kernels(Tensor where) -> bool")
_library.impl("has_gpu_kernels", _has_gpu_kernels, "CUDA")
torch.library.register_autograd(
    "openmm_cgkd::potential", _gradient, setup_context=_keep_gradient, lib=_library
)
