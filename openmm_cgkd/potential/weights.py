"""The one layout of a packed network's weights, and the packer.

All weights stand in one flat array, channels padded to whole vectors, matrices transposed for
x W. An array of offsets says where each part begins: first the parts of `NetworkParts`, then those
of `LayerParts` for every layer. The packer, the CPU kernels and the GPU kernels all read the order
from these two classes. To change it is to break every fast file that was exported before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .network import Embedding, Interaction, Linears, TensorNetEnergies

N_INTERVALS = 512  # of the distance, in radial tables
# widest vector of any processor in single precision: potential files go from one to another
_WIDEST = 16


class NetworkParts(NamedTuple):
    """Something for each part of a whole network: its numbers, its place, a view of it.

    Matrices come with their bias and their transpose (``_t``); c is the padded number of channels.
    """

    zeros: Any  # as many as the longest bias, where there is none
    pair: Any  # (n_types, n_types, c) weight of a neighbour's type
    own: Any  # (n_types, c) a bead as its own neighbour
    table: Any  # (N_INTERVALS, 4, 3, c) radial filters of the embedding
    norm_gain: Any
    norm_bias: Any
    hidden: Any  # c to 2 c
    hidden_bias: Any
    hidden_t: Any
    gates: Any  # 2 c to 3 c, one gate for each order
    gates_bias: Any
    gates_t: Any
    linears: Any  # (3, c, c) a matrix for each order
    linears_t: Any
    output_norm_gain: Any
    output_norm_bias: Any
    output_first: Any  # 3 c to c
    output_first_bias: Any
    output_first_t: Any
    output_second: Any  # c to the last hidden width
    output_second_bias: Any
    output_second_t: Any
    output_last: Any  # the last hidden width to one number, times the network's scale
    output_last_bias: Any


class LayerParts(NamedTuple):
    """Something for each part of one layer."""

    table: Any  # (N_INTERVALS, 4, 3, c) radial filters
    own: Any  # (3, c) the filters at distance zero, for a bead as its own neighbour
    before: Any  # (3, c, c) a matrix for each order, before messages
    before_t: Any
    after: Any  # after messages
    after_t: Any


# places in the array of offsets: of a part of the network, and of a part among its layer's
NETWORK_PARTS = NetworkParts(*range(len(NetworkParts._fields)))
LAYER_PARTS = LayerParts(*range(len(LayerParts._fields)))


def layer_place(layer, part):
    """Place in the array of offsets of one of `LAYER_PARTS`; plain, because CPU kernels compile it.

    Parameters
    ----------
    layer, part : int

    Returns
    -------
    int
    """
    return len(NETWORK_PARTS) + len(LAYER_PARTS) * layer + part


def padded(n):
    """Smallest multiple of the widest vector that is not below n; CPU kernels compile it, too."""
    return -(-n // _WIDEST) * _WIDEST


def tabulate(
    function: Callable[[Tensor], Tensor], cutoff: float, n_intervals: int = N_INTERVALS
) -> Tensor:
    """Cubic polynomials with the values and slopes of radial filters at the ends of each interval.

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


def pack_weights(network: TensorNetEnergies) -> tuple[Tensor, Tensor, int]:
    """All weights of a network, computed in double precision.

    Returns
    -------
    weights : Tensor, shape (n,), float64
    offsets : Tensor, shape (n_parts,), int64
        Where each part begins.
    hidden : int
        Padded width of the last hidden layer.
    """
    network = copy.deepcopy(network).double()
    whole = _network_parts(network)
    parts: list[Tensor] = [*whole]
    for layer in network.layers:
        parts += _layer_parts(network, layer)
    flat = [part.reshape(-1) for part in parts]
    offsets = [sum(len(part) for part in flat[:k]) for k in range(len(flat))]
    return torch.cat(flat).detach().contiguous(), torch.tensor(offsets), whole.output_last.shape[-1]


def _network_parts(network: TensorNetEnergies) -> NetworkParts:
    embedding, c = network.embedding, padded(network.channels)
    n_types = embedding.n_types
    kinds = torch.arange(n_types)
    pair = embedding.pair_embedding(
        kinds.repeat_interleave(n_types), kinds.repeat(n_types)
    ).reshape(n_types, n_types, -1)
    at_zero = network.expansion(torch.zeros(1, dtype=torch.float64))
    own = math.sqrt(3.0) * torch.diagonal(pair).t() * embedding.radial_filters(at_zero)[:, 0]
    first, _, last = network.output.layers
    width = padded(first.out_features)
    scale = network.scale  # goes into the last layer
    return NetworkParts(
        torch.zeros(max(3 * c, 2 * c, width), dtype=torch.float64),
        _pad(pair, c),
        _pad(own, c),
        _filter_table(network, embedding),
        *_norm(embedding.norm, 1, c),
        *_affine(embedding.hidden, [c], [2 * c]),
        *_affine(embedding.out, [2 * c], [c, c, c]),
        *_linears(embedding.linears, c),
        *_norm(network.norm, 3, c),
        *_affine(network.linear, [c, c, c], [c]),
        *_affine(first, [c], [width]),
        _pad(last.weight.reshape(-1) * scale, width),
        _pad(last.bias * scale, padded(1)),
    )


def _layer_parts(network: TensorNetEnergies, layer: Interaction) -> LayerParts:
    c = padded(network.channels)
    at_zero = network.expansion(torch.zeros(1, dtype=torch.float64))
    return LayerParts(
        _filter_table(network, layer),
        _pad(layer.radial_filters(at_zero)[0], c),
        *_linears(layer.before, c),
        *_linears(layer.after, c),
    )


def _pad(x: Tensor, n: int) -> Tensor:
    """Zeros after the last axis, up to n."""
    return nn.functional.pad(x, (0, n - x.shape[-1]))


def _norm(norm: nn.LayerNorm, segments: int, c: int) -> tuple[Tensor, Tensor]:
    """Gain and bias, whose channels come in equal segments, each padded to c."""
    return _pad(norm.weight.reshape(segments, -1), c), _pad(norm.bias.reshape(segments, -1), c)


def _affine(layer: nn.Linear, rows: list[int], columns: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix, bias and transpose.

    Inputs and outputs come in equal groups, each padded to its own width.
    """
    matrix = layer.weight.t().reshape(
        len(rows), -1, len(columns), layer.out_features // len(columns)
    )
    matrix = nn.functional.pad(
        matrix, (0, columns[0] - matrix.shape[3], 0, 0, 0, rows[0] - matrix.shape[1])
    )
    matrix = matrix.reshape(sum(rows), sum(columns))
    return matrix, _pad(layer.bias.reshape(len(columns), -1), columns[0]), matrix.t()


def _linears(linears: Linears, c: int) -> tuple[Tensor, Tensor]:
    """Matrices of the three orders, shape (3, c, c), and their transposes."""
    matrices = torch.stack(
        [linears.scalar.weight.t(), linears.vector.weight.t(), linears.tensor.weight.t()]
    )
    extra = c - matrices.shape[-1]
    matrices = nn.functional.pad(matrices, (0, extra, 0, extra))
    return matrices, matrices.transpose(1, 2)


def _filter_table(network: TensorNetEnergies, part: Embedding | Interaction) -> Tensor:
    def filters(distances: Tensor) -> Tensor:
        switch = 0.5 * (torch.cos(distances * (math.pi / network.cutoff)) + 1.0)
        return part.radial_filters(network.expansion(distances)) * switch.reshape(-1, 1, 1)

    return _pad(tabulate(filters, network.cutoff), padded(network.channels))
