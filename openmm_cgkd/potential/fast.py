"""TensorNet for simulation: the same function as `TensorNetEnergies`, with analytic forces, from tables and fused loops."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from . import fused
from .cells import as_array
from .prior import PairRepulsion
from .tensornet import TensorNetEnergies

_N_INTERVALS = 1024
_ORDERS = ((0, 0, 1), (1, 1, 4), (2, 4, 9))  # order l, first and last component
_EPS = 1e-5  # of torch.nn.LayerNorm


def tabulate(function, cutoff: float, n_intervals: int = _N_INTERVALS) -> Tensor:
    """Cubic polynomials that take the values and slopes of radial filters at the ends of every interval.

    Parameters
    ----------
    function : callable
        Maps distances (n,) to filters (n, 3, channels), differentiable.
    cutoff : float, nm

    Returns
    -------
    Tensor, shape (n_intervals, 4, 3, channels), float64
        Coefficients of 1, t, t^2, t^3, where t runs from 0 to 1 over the interval. Coefficients, not values: in single
        precision the slope would lose three digits as a difference of values.
    """
    knots = torch.linspace(0, cutoff, n_intervals + 1, dtype=torch.float64)
    values, slopes = torch.func.jvp(function, (knots,), (torch.ones_like(knots),))
    slopes = slopes * (cutoff / n_intervals)
    rise = values[1:] - values[:-1]
    square = 3 * rise - 2 * slopes[:-1] - slopes[1:]
    cube = slopes[:-1] + slopes[1:] - 2 * rise
    return torch.stack([values[:-1], slopes[:-1], square, cube], dim=1).detach()


class FastTensorNet(nn.Module):
    """Evaluate a trained `TensorNetEnergies` on directed edges from `cells.neighbours`.

    Parameters
    ----------
    network : TensorNetEnergies
        Copied, so that later training does not change this module.
    """

    def __init__(self, network: TensorNetEnergies) -> None:
        super().__init__()
        self.spacing = network.cutoff / _N_INTERVALS
        self.n_layers = len(network.layers)
        dtype = network.scale.dtype
        # tables and weights in the order `_Evaluation` takes them; a plain list, because TorchScript cannot list buffers
        self.weights = [w.detach().to(dtype).contiguous() for w in _weights(copy.deepcopy(network).double())]

    def forward(self, types: Tensor, row: Tensor, column: Tensor, vectors: Tensor) -> Tensor:
        """Total energy, scalar, kJ/mol, differentiable in the vectors; edges as from `cells.neighbours`."""
        energies, _ = torch.ops.openmm_cgkd.tensornet(types, row, column, vectors, self.weights, self.spacing, self.n_layers)
        return energies.sum()


class FastRepulsion(nn.Module):
    """`PairRepulsion` on directed edges from `cells.neighbours`.

    Parameters
    ----------
    prior : PairRepulsion
    """

    def __init__(self, prior: PairRepulsion) -> None:
        super().__init__()
        self.height, self.steepness = prior.height, prior.steepness
        self.contact = prior.contact.reshape(prior.n_types, prior.n_types).contiguous()

    def forward(self, types: Tensor, row: Tensor, column: Tensor, vectors: Tensor) -> Tensor:
        """Total energy, scalar, kJ/mol, differentiable in the vectors."""
        energies, _ = torch.ops.openmm_cgkd.repulsion(types, row, column, vectors, self.contact, self.height, self.steepness)
        return energies.sum()


def _weights(network: TensorNetEnergies) -> list[Tensor]:
    """Everything `_Evaluation` needs, as a flat list; matrices transposed for right multiplication."""
    embedding = network.embedding
    n_types = embedding.types.num_embeddings
    kinds = torch.arange(n_types)
    pair = embedding.pair_embedding(kinds.repeat_interleave(n_types), kinds.repeat(n_types)).reshape(n_types, n_types, -1)
    at_zero = network.expansion(torch.zeros(1, dtype=torch.float64))
    own = math.sqrt(3.0) * torch.diagonal(pair).t() * embedding.radial_filters(at_zero)[:, 0]
    flat = [pair, own, _table(embedding, network), *_norm(embedding.norm), *_linear(embedding.hidden), *_linear(embedding.out)]
    flat += _orders(embedding.linears)
    for layer in network.layers:
        flat += [_table(layer, network), layer.radial_filters(at_zero)[0], *_orders(layer.before), *_orders(layer.after)]
    first, _, last = network.output.layers
    # the output scale goes into the last layer
    last_weight, last_bias = _linear(last)
    scale = network.scale
    return [*flat, *_norm(network.norm), *_linear(network.linear), *_linear(first), last_weight * scale, last_bias * scale]


def _norm(layer: nn.Module) -> list[Tensor]:
    return [layer.weight, layer.bias]


def _linear(layer: nn.Module) -> list[Tensor]:
    return [layer.weight.t(), layer.bias]


def _orders(linears: nn.Module) -> list[Tensor]:
    return [linears.scalar.weight.t(), linears.vector.weight.t(), linears.tensor.weight.t()]


def _table(part: nn.Module, network: TensorNetEnergies) -> Tensor:
    def filters(distances: Tensor) -> Tensor:
        switch = 0.5 * (torch.cos(distances * (math.pi / network.cutoff)) + 1.0)
        return part.radial_filters(network.expansion(distances)) * switch.reshape(-1, 1, 1)

    return tabulate(filters, network.cutoff)


def _apply(features: Tensor, matrices: list[Tensor], transpose: bool = False) -> Tensor:
    """One linear map per order: (9, n_beads, channels) -> same."""
    out = torch.empty_like(features)
    channels = features.shape[2]
    for order, first, last in _ORDERS:
        matrix = matrices[order].t() if transpose else matrices[order]
        torch.mm(features[first:last].reshape(-1, channels), matrix, out=out[first:last].view(-1, channels))
    return out


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, tuple]:
    out, mean, rstd = torch.native_layer_norm(x, [x.shape[1]], weight, bias, _EPS)
    return out, (x, mean, rstd, weight, bias)


def _layer_norm_backward(gradient: Tensor, saved: tuple) -> Tensor:
    x, mean, rstd, weight, bias = saved
    return torch.ops.aten.native_layer_norm_backward(gradient, x, [x.shape[1]], mean, rstd, weight, bias, [True, False, False])[0]


class _Evaluation:
    """One evaluation of energies and of their gradient with respect to the edge vectors."""

    def __init__(self, types: Tensor, row: Tensor, column: Tensor, vectors: Tensor, weights: list[Tensor], spacing: float, n_layers: int):
        self.types, self.spacing, self.n_layers = types, spacing, n_layers
        self.edges = [as_array(x) for x in (row, column, vectors)]
        self.n_beads, self.weights = len(types), iter(weights)

    def _take(self, n: int) -> list[Tensor]:
        return [next(self.weights) for _ in range(n)]

    def run(self) -> tuple[Tensor, Tensor]:
        """Per-bead energies (n_beads,) and gradient of their sum (n_edges, 3)."""
        self.d_vectors = np.zeros_like(self.edges[2])
        features = self._embed()
        layers = []
        for _ in range(self.n_layers):
            features, saved = self._interact(features)
            layers.append(saved)
        energies, gradient = self._output(features)
        for saved in reversed(layers):
            gradient = self._interact_backward(gradient, saved)
        self._embed_backward(gradient)
        return energies, torch.from_numpy(self.d_vectors)

    def _embed(self) -> Tensor:
        pair, own, table, *rest = self._take(12)
        norm_weight, norm_bias, w1, b1, w2, b2 = rest[:6]
        channels = table.shape[3]
        summed = table.new_zeros(9, self.n_beads, channels)
        arguments = (*self.edges, as_array(self.types), as_array(pair), as_array(table), self.spacing)
        fused.embed(*arguments, summed.numpy())
        summed[0] += own.index_select(0, self.types)
        normed, norm_saved = _layer_norm((summed * summed).sum(0), norm_weight, norm_bias)
        h1 = torch.addmm(b1, normed, w1)
        h2 = torch.addmm(b2, nn.functional.silu(h1), w2)
        gate = nn.functional.silu(h2).reshape(self.n_beads, 3, channels)
        linear = _apply(summed, rest[6:])
        features = torch.empty_like(linear)
        for order, first, last in _ORDERS:
            torch.mul(linear[first:last], gate[:, order], out=features[first:last])
        self.saved = (arguments, summed, norm_saved, w1, h1, w2, h2, gate, linear, rest[6:])
        return features

    def _embed_backward(self, gradient: Tensor) -> None:
        arguments, summed, norm_saved, w1, h1, w2, h2, gate, linear, matrices = self.saved
        d_gate = torch.stack([(gradient[first:last] * linear[first:last]).sum(0) for _, first, last in _ORDERS], dim=1)
        d_linear = torch.cat([gradient[first:last] * gate[:, order] for order, first, last in _ORDERS])
        d_h2 = torch.ops.aten.silu_backward(d_gate.reshape(self.n_beads, -1), h2)
        d_h1 = torch.ops.aten.silu_backward(torch.mm(d_h2, w2.t()), h1)
        d_squares = _layer_norm_backward(torch.mm(d_h1, w1.t()), norm_saved)
        d_summed = _apply(d_linear, matrices, transpose=True).addcmul_(summed, d_squares.unsqueeze(0), value=2)
        fused.embed_backward(*arguments, d_summed.numpy(), self.d_vectors)

    def _interact(self, features: Tensor) -> tuple[Tensor, tuple]:
        table, self_filter, *matrices = self._take(8)
        out, prod = torch.empty_like(features), torch.empty_like(features)
        fused.normalise(features.numpy(), out.numpy())
        ours = _apply(out, matrices[:3])
        message = torch.cat([ours[first:last] * self_filter[order] for order, first, last in _ORDERS])
        fused.mix(*self.edges, as_array(table), self.spacing, ours.numpy(), message.numpy())
        fused.product(ours.numpy(), message.numpy(), prod.numpy())
        update = _apply(prod, matrices[3:])
        fused.add_update(out.numpy(), update.numpy())
        return out, (table, self_filter, matrices, features, ours, message, update)

    def _interact_backward(self, gradient: Tensor, saved: tuple) -> Tensor:
        table, self_filter, matrices, features, ours, message, update = saved
        d_update, d_ours, d_message = (torch.empty_like(features) for _ in range(3))
        fused.add_update_backward(update.numpy(), gradient.numpy(), d_update.numpy())
        d_product = _apply(d_update, matrices[3:], transpose=True)
        fused.product_backward(ours.numpy(), message.numpy(), d_product.numpy(), d_ours.numpy(), d_message.numpy())
        for order, first, last in _ORDERS:
            d_ours[first:last].addcmul_(d_message[first:last], self_filter[order])
        fused.mix_backward(*self.edges, as_array(table), self.spacing, ours.numpy(), d_message.numpy(), d_ours.numpy(), self.d_vectors)
        gradient = gradient + _apply(d_ours, matrices[:3], transpose=True)
        fused.normalise_backward(features.numpy(), gradient.numpy())
        return gradient

    def _output(self, features: Tensor) -> tuple[Tensor, Tensor]:
        norm_weight, norm_bias, w1, b1, w2, b2, w3, b3 = self._take(8)
        squares = features * features
        invariants = torch.cat([squares[first:last].sum(0) for _, first, last in _ORDERS], dim=1)
        normed, norm_saved = _layer_norm(invariants, norm_weight, norm_bias)
        h1 = torch.addmm(b1, normed, w1)
        h2 = torch.addmm(b2, nn.functional.silu(h1), w2)
        energies = torch.addmm(b3, nn.functional.silu(h2), w3).squeeze(1)

        d_h2 = torch.ops.aten.silu_backward(w3.t().expand_as(h2).contiguous(), h2)
        d_h1 = torch.ops.aten.silu_backward(torch.mm(d_h2, w2.t()), h1)
        d_invariants = _layer_norm_backward(torch.mm(d_h1, w1.t()), norm_saved)
        channels = features.shape[2]
        gradient = torch.empty_like(features)
        for order, first, last in _ORDERS:
            torch.mul(features[first:last], 2 * d_invariants[:, order * channels : (order + 1) * channels], out=gradient[first:last])
        return energies, gradient


@torch.library.custom_op("openmm_cgkd::tensornet", mutates_args=())
def tensornet(
    types: Tensor, row: Tensor, column: Tensor, vectors: Tensor, weights: list[Tensor], spacing: float, n_layers: int
) -> tuple[Tensor, Tensor]:
    """Per-bead energies (n_beads,), kJ/mol, and the gradient of their sum with respect to the vectors (n_edges, 3), kJ/mol/nm."""
    return _Evaluation(types, row, column, vectors, weights, spacing, n_layers).run()


@torch.library.custom_op("openmm_cgkd::repulsion", mutates_args=())
def repulsion(
    types: Tensor, row: Tensor, column: Tensor, vectors: Tensor, contact: Tensor, height: float, steepness: float
) -> tuple[Tensor, Tensor]:
    """As `tensornet`, for the pair prior; contact distances (n_types, n_types), nm, height in kJ/mol, steepness in 1/nm."""
    energies, gradient = vectors.new_zeros(len(types)), torch.empty_like(vectors)
    arrays = map(as_array, (row, column, vectors, types, contact.to(vectors.dtype)))
    fused.repulsion(*arrays, height, steepness, energies.numpy(), gradient.numpy())
    return energies, gradient


def _keep_gradient(ctx, inputs, output) -> None:
    ctx.inputs = [[None] * len(x) if isinstance(x, list | tuple) else None for x in inputs]
    ctx.save_for_backward(output[1])


def _gradient(ctx, d_energies: Tensor, _d_gradient: Tensor):
    # the gradient is that of the sum, so all energies must enter with one weight, as they do in the modules above
    (d_vectors,) = ctx.saved_tensors
    types, row, column, _, *others = ctx.inputs
    return types, row, column, d_vectors * d_energies[0], *others


torch.library.register_autograd("openmm_cgkd::tensornet", _gradient, setup_context=_keep_gradient)
torch.library.register_autograd("openmm_cgkd::repulsion", _gradient, setup_context=_keep_gradient)
