"""Message passing as fused loops, differentiable to any order.

Two multilinear sums do all the work between beads. Written as tensor expressions they would store nine numbers per
pair and channel; here nothing of that size exists. Their derivatives are sums of the same kind, so each
`autograd.Function` differentiates into the others and force matching (second derivatives) needs no further code.

Features are irreducible components: index 0 is the scalar (l=0), 1-3 the vector (l=1), 4-8 the rank-two part (l=2).
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

_jit = numba.njit(fastmath=True, cache=True, nogil=True)


@_jit
def _mix(out, weights, features, first, second):
    channels = features.shape[2]
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        for c in range(9):
            order = 0 if c == 0 else (1 if c < 4 else 2)
            for f in range(channels):
                w = weights[p, order, f]
                out[i, c, f] += w * features[j, c, f]
                out[j, c, f] += w * features[i, c, f]


@_jit
def _correlate(out, left, right, first, second):
    channels = left.shape[2]
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        for c in range(9):
            order = 0 if c == 0 else (1 if c < 4 else 2)
            for f in range(channels):
                out[p, order, f] += left[i, c, f] * right[j, c, f] + left[j, c, f] * right[i, c, f]


@_jit
def _gather(out, shape, weights, beads):
    channels = weights.shape[2]
    for e in range(beads.shape[0]):
        i = beads[e]
        for c in range(9):
            order = 0 if c == 0 else (1 if c < 4 else 2)
            g = shape[e, c]
            for f in range(channels):
                out[i, c, f] += g * weights[e, order, f]


@_jit
def _gather_shape(out, weights, features, beads):
    channels = weights.shape[2]
    for e in range(beads.shape[0]):
        i = beads[e]
        for c in range(9):
            order = 0 if c == 0 else (1 if c < 4 else 2)
            total = weights.dtype.type(0)
            for f in range(channels):
                total += weights[e, order, f] * features[i, c, f]
            out[e, c] = total


@_jit
def _gather_weights(out, shape, features, beads):
    channels = features.shape[2]
    for e in range(beads.shape[0]):
        i = beads[e]
        for c in range(9):
            order = 0 if c == 0 else (1 if c < 4 else 2)
            g = shape[e, c]
            for f in range(channels):
                out[e, order, f] += g * features[i, c, f]


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(weights, features, first, second)
        out = torch.zeros_like(features, memory_format=torch.contiguous_format)
        _mix(out.numpy(), *_arrays(weights, features, first, second))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, features, first, second = ctx.saved_tensors
        d_weights = _Correlate.apply(gradient, features, first, second) if ctx.needs_input_grad[0] else None
        d_features = _Mix.apply(weights, gradient, first, second) if ctx.needs_input_grad[1] else None
        return d_weights, d_features, None, None


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, first, second)
        out = left.new_zeros(first.shape[0], 3, left.shape[2])
        _correlate(out.numpy(), *_arrays(left, right, first, second))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        left, right, first, second = ctx.saved_tensors
        d_left = _Mix.apply(gradient, right, first, second) if ctx.needs_input_grad[0] else None
        d_right = _Mix.apply(gradient, left, first, second) if ctx.needs_input_grad[1] else None
        return d_left, d_right, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, shape: Tensor, weights: Tensor, beads: Tensor, n_beads: int) -> Tensor:
        ctx.save_for_backward(shape, weights, beads)
        out = weights.new_zeros(n_beads, 9, weights.shape[2])
        _gather(out.numpy(), *_arrays(shape, weights, beads))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        shape, weights, beads = ctx.saved_tensors
        d_shape = _GatherShape.apply(weights, gradient, beads) if ctx.needs_input_grad[0] else None
        d_weights = _GatherWeights.apply(shape, gradient, beads) if ctx.needs_input_grad[1] else None
        return d_shape, d_weights, None, None


class _GatherShape(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, features: Tensor, beads: Tensor) -> Tensor:
        ctx.save_for_backward(weights, features, beads)
        out = weights.new_empty(beads.shape[0], 9)
        _gather_shape(out.numpy(), *_arrays(weights, features, beads))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, features, beads = ctx.saved_tensors
        d_weights = _GatherWeights.apply(gradient, features, beads) if ctx.needs_input_grad[0] else None
        d_features = _Gather.apply(gradient, weights, beads, features.shape[0]) if ctx.needs_input_grad[1] else None
        return d_weights, d_features, None


class _GatherWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, shape: Tensor, features: Tensor, beads: Tensor) -> Tensor:
        ctx.save_for_backward(shape, features, beads)
        out = features.new_zeros(beads.shape[0], 3, features.shape[2])
        _gather_weights(out.numpy(), *_arrays(shape, features, beads))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        shape, features, beads = ctx.saved_tensors
        d_shape = _GatherShape.apply(gradient, features, beads) if ctx.needs_input_grad[0] else None
        d_features = _Gather.apply(shape, gradient, beads, features.shape[0]) if ctx.needs_input_grad[1] else None
        return d_shape, d_features, None


def mix(weights: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sum of neighbours' features, weighted per pair, order and channel.

    Parameters
    ----------
    weights : Tensor, shape (n_pairs, 3, channels)
        Last axis but one: l = 0, 1, 2.
    features : Tensor, shape (n_beads, 9, channels)
    first, second : Tensor, shape (n_pairs,)
        Each pair once; it contributes to both beads.

    Returns
    -------
    Tensor, shape (n_beads, 9, channels)
    """
    return _Mix.apply(weights, features, first, second)


def gather(shape: Tensor, weights: Tensor, beads: Tensor, n_beads: int) -> Tensor:
    """Sum over directed edges of ``shape`` (n_edges, 9) times ``weights`` (n_edges, 3, channels) onto ``beads`` (n_edges,)."""
    return _Gather.apply(shape, weights, beads, n_beads)
