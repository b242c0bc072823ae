"""TensorNet and prior for simulation: the same function as in training, with analytic forces,
from tables and fused loops.
"""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from .cpu.evaluate import N_INTERVALS, evaluate, workspace
from .cpu.neighbors import box_numbers, recent_list
from .cpu.network import OWN, PAIR
from .cpu.simd import padded
from .network import TensorNetEnergies
from .operator_errors import last_error, nan_on_error
from .prior import PairRepulsion

_NO_BONDS = np.zeros((0, 3), dtype=np.int64), np.zeros((0, 2))


def tabulate(function, cutoff: float, n_intervals: int = N_INTERVALS) -> Tensor:
    """Cubic polynomials that take the values and slopes of radial filters at the ends of every
    interval.

    Parameters
    ----------
    function : callable
        Maps distances (n,) to filters (n, 3, channels), differentiable.
    cutoff : float, nm

    Returns
    -------
    Tensor, shape (n_intervals, 4, 3, channels), float64
        Coefficients of 1, t, t^2, t^3, where t runs from 0 to 1 over the interval. Coefficients,
        not values: in single precision the slope would lose three digits as a difference of values.
    """
    knots = torch.linspace(0, cutoff, n_intervals + 1, dtype=torch.float64)
    values, slopes = torch.func.jvp(function, (knots,), (torch.ones_like(knots),))
    slopes = slopes * (cutoff / n_intervals)
    rise = values[1:] - values[:-1]
    square = 3 * rise - 2 * slopes[:-1] - slopes[1:]
    cube = slopes[:-1] + slopes[1:] - 2 * rise
    return torch.stack([values[:-1], slopes[:-1], square, cube], dim=1).detach()


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
        dtype = network.scale.dtype
        weights, offsets, hidden = _Packer(copy.deepcopy(network).double()).result()
        self.register_buffer("weights", weights.to(dtype))
        self.register_buffer("offsets", offsets)
        self.register_buffer(
            "contact",
            prior.contact.reshape(prior.n_types, prior.n_types).to(torch.float64).contiguous(),
        )
        self.sizes: list[int] = [network.channels, len(network.layers), hidden]
        self.numbers: list[float] = [network.cutoff, prior.height, prior.steepness]

    def forward(
        self,
        types: Tensor,
        positions: Tensor,
        box: Tensor,
        members: Tensor | None = None,
        terms: Tensor | None = None,
    ) -> Tensor:
        """Total energy.

        Parameters
        ----------
        types : Tensor, shape (n_beads,), int64
        positions : Tensor, shape (n_beads, 3), float64, nm
        box : Tensor, shape (3, 3) or (0, 3), float64, nm
            Reduced box vectors as rows; empty for open boundaries.
        members, terms : Tensor, optional
            Bonds and angles, as in `BondedPrior`.

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
            members,
            terms,
        )
        raise_failure(energy)
        return energy


def raise_failure(energy: Tensor) -> None:
    """Raise what went wrong in the operator that gave this energy, if anything did; TorchScript."""
    # to look at the number on a GPU would make the processor wait
    if energy.is_cuda or not bool(torch.isfinite(energy)):
        message: str = torch.ops.openmm_cgkd.failure(energy)
        if len(message) > 0:
            raise RuntimeError(message)


class _Packer:
    """All weights of a network in one flat array, channels padded to whole vectors, matrices
    transposed for x W.
    """

    def __init__(self, network: TensorNetEnergies) -> None:
        self.network, self.channels, self.c = network, network.channels, padded(network.channels)
        self.parts: list[Tensor] = []
        self.offsets: list[int] = []

    def result(self) -> tuple[Tensor, Tensor, int]:
        """Flat weights, where each part begins, and the padded width of the last hidden layer."""
        network, c = self.network, self.c
        embedding = network.embedding
        n_types = embedding.types.num_embeddings
        kinds = torch.arange(n_types)
        pair = embedding.pair_embedding(
            kinds.repeat_interleave(n_types), kinds.repeat(n_types)
        ).reshape(n_types, n_types, -1)
        at_zero = network.expansion(torch.zeros(1, dtype=torch.float64))
        own = math.sqrt(3.0) * torch.diagonal(pair).t() * embedding.radial_filters(at_zero)[:, 0]
        first, _, last = network.output.layers
        hidden = padded(first.out_features)
        self._put(torch.zeros(max(3 * c, 2 * c, hidden), dtype=torch.float64))
        self._put(self._pad(pair, c))
        self._put(self._pad(own, c))
        self._put(self._table(embedding))
        self._norm(embedding.norm, 1)
        self._affine(embedding.hidden, [c], [2 * c])
        self._affine(embedding.out, [2 * c], [c, c, c])
        self._orders(embedding.linears)
        self._norm(network.norm, 3)
        self._affine(network.linear, [c, c, c], [c])
        self._affine(first, [c], [hidden])
        scale = network.scale  # goes into the last layer
        self._put(self._pad(last.weight.reshape(-1) * scale, hidden))
        self._put(self._pad(last.bias * scale, padded(1)))
        for layer in network.layers:
            self._put(self._table(layer))
            self._put(self._pad(layer.radial_filters(at_zero)[0], c))
            self._orders(layer.before)
            self._orders(layer.after)
        return torch.cat(self.parts).detach().contiguous(), torch.tensor(self.offsets), hidden

    def _put(self, part: Tensor) -> None:
        self.offsets.append(sum(len(p) for p in self.parts))
        self.parts.append(part.reshape(-1))

    def _pad(self, x: Tensor, n: int) -> Tensor:
        """Zeros after the last axis, up to n."""
        return nn.functional.pad(x, (0, n - x.shape[-1]))

    def _norm(self, layer: nn.Module, segments: int) -> None:
        for part in (layer.weight, layer.bias):
            self._put(self._pad(part.reshape(segments, -1), self.c))

    def _affine(self, layer: nn.Linear, rows: list[int], columns: list[int]) -> None:
        """Matrix, bias and transpose; inputs and outputs come in equal groups, each padded to
        its own width.
        """
        matrix = layer.weight.t().reshape(
            len(rows), -1, len(columns), layer.out_features // len(columns)
        )
        matrix = nn.functional.pad(
            matrix, (0, columns[0] - matrix.shape[3], 0, 0, 0, rows[0] - matrix.shape[1])
        )
        matrix = matrix.reshape(sum(rows), sum(columns))
        self._put(matrix)
        self._put(self._pad(layer.bias.reshape(len(columns), -1), columns[0]))
        self._put(matrix.t())

    def _orders(self, linears: nn.Module) -> None:
        matrices = torch.stack(
            [linears.scalar.weight.t(), linears.vector.weight.t(), linears.tensor.weight.t()]
        )
        extra = self.c - self.channels
        matrices = nn.functional.pad(matrices, (0, extra, 0, extra))
        self._put(matrices)
        self._put(matrices.transpose(1, 2))

    def _table(self, part: nn.Module) -> Tensor:
        network = self.network

        def filters(distances: Tensor) -> Tensor:
            switch = 0.5 * (torch.cos(distances * (math.pi / network.cutoff)) + 1.0)
            return part.radial_filters(network.expansion(distances)) * switch.reshape(-1, 1, 1)

        return self._pad(tabulate(filters, network.cutoff), self.c)


@nan_on_error
def _potential(
    positions: Tensor,
    box: Tensor,
    types: Tensor,
    weights: Tensor,
    offsets: Tensor,
    contact: Tensor,
    sizes: list[int],
    numbers: list[float],
    members: Tensor | None = None,
    terms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Potential energy, kJ/mol, and its gradient with respect to the positions (n_beads, 3),
    kJ/mol/nm; float64.
    """
    points, cell = positions.detach().contiguous().numpy(), box.detach().contiguous().numpy()
    bonded = (
        _NO_BONDS
        if members is None or terms is None
        else (members.contiguous().numpy(), terms.contiguous().numpy())
    )
    listed = recent_list(points, cell, numbers[0])
    n_channels, n_layers, hidden = sizes
    array, at, n_types = weights.numpy(), offsets.numpy(), len(contact)
    if at[OWN] - at[PAIR] != n_types**2 * padded(n_channels) or hidden != padded(hidden):
        raise RuntimeError(
            "The weights are laid out as by an earlier version on some processors; export the"
            " potential again."
        )
    space = workspace(len(points), len(listed.column), n_channels, n_layers, array.dtype)
    energy, gradient = evaluate(
        points, box_numbers(cell), listed.row, listed.column, listed.reverse, types.numpy(), array,
        at,
        contact.numpy(), *sizes, *numbers, *bonded, space,
    )  # fmt: skip
    # not torch.tensor, which takes twenty times longer
    return torch.from_numpy(np.array(energy)), torch.from_numpy(gradient)


@nan_on_error
def _potential_on_gpu(*arguments: Tensor | list | None) -> tuple[Tensor, Tensor]:
    """The same on a GPU."""
    from .gpu.evaluate import evaluate  # here, because it imports Triton

    return evaluate(*arguments)


def _has_gpu_kernels(where: Tensor) -> bool:
    """Whether the operators run on the GPU that a tensor is on: Triton is installed and knows
    such GPUs.
    """
    return find_spec("triton") is not None and torch.cuda.get_device_capability(where.device) >= (
        7,
        0,
    )


def _keep_gradient(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])


def _gradient(ctx, d_energy: Tensor, _d_gradient: Tensor):
    (gradient,) = ctx.saved_tensors
    return d_energy * gradient, *[None] * 9


# not by torch.library.custom_op, which takes longer to get here than a small fluid needs for its
# forces
_library = torch.library.Library("openmm_cgkd", "DEF")
_ARGUMENTS = (
    "(Tensor positions, Tensor box, Tensor types, Tensor weights, Tensor offsets, Tensor contact,"
    " int[] sizes, float[] numbers, Tensor? members=None, Tensor? terms=None) -> (Tensor, Tensor)"
)
# `potential` can be differentiated; `evaluate` cannot, and spares what autograd costs around it: as
# long as OpenMM needs for all else
for _name in ("potential", "evaluate"):
    _library.define(_name + _ARGUMENTS)
    _library.impl(_name, _potential, "CPU")
    _library.impl(_name, _potential_on_gpu, "CUDA")
# TorchScript would call it once for all without an argument
_library.define("failure(Tensor energy) -> str")
_library.impl("failure", last_error, "CompositeExplicitAutograd")
_library.define("has_gpu_kernels(Tensor where) -> bool")
_library.impl("has_gpu_kernels", _has_gpu_kernels, "CUDA")
torch.library.register_autograd(
    "openmm_cgkd::potential", _gradient, setup_context=_keep_gradient, lib=_library
)
