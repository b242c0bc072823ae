"""Products of features as one loop over beads, differentiable to any order.

Components as in `messages`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from openmm_cgkd.potential.compile_cache import compiled_once

_jit = partial(compiled_once, fastmath=True)

_R2, _R3, _R6 = 2**-0.5, 3**-0.5, 6**-0.5
# entries of a 3x3 matrix, row by row, from its components, and back: each is a sum of three,
# (index, factor)
_TO_MATRIX = (
    ((0, _R3), (7, _R2), (8, -_R6)),
    ((4, _R2), (3, -_R2), (0, 0.0)),
    ((5, _R2), (2, _R2), (0, 0.0)),
    ((4, _R2), (3, _R2), (0, 0.0)),
    ((0, _R3), (7, -_R2), (8, -_R6)),
    ((6, _R2), (1, -_R2), (0, 0.0)),
    ((5, _R2), (2, -_R2), (0, 0.0)),
    ((6, _R2), (1, _R2), (0, 0.0)),
    ((0, _R3), (8, 2 * _R6), (0, 0.0)),
)
_TO_COMPONENTS = (
    ((0, _R3), (4, _R3), (8, _R3)),
    ((7, _R2), (5, -_R2), (0, 0.0)),
    ((2, _R2), (6, -_R2), (0, 0.0)),
    ((3, _R2), (1, -_R2), (0, 0.0)),
    ((1, _R2), (3, _R2), (0, 0.0)),
    ((2, _R2), (6, _R2), (0, 0.0)),
    ((5, _R2), (7, _R2), (0, 0.0)),
    ((0, _R2), (4, -_R2), (0, 0.0)),
    ((8, 2 * _R6), (0, -_R6), (4, -_R6)),
)


@_jit
def _combine(out, values, terms):
    """Nine sums of three values each; shapes (9, channels)."""
    for r in range(9):
        to, x, y, z = (
            out[r],
            values[int(terms[r, 0, 0])],
            values[int(terms[r, 1, 0])],
            values[int(terms[r, 2, 0])],
        )
        a, b, c = terms[r, 0, 1], terms[r, 1, 1], terms[r, 2, 1]
        for f in range(to.shape[0]):
            to[f] = a * x[f] + b * y[f] + c * z[f]


@_jit
def _anticommute(out, left, right, transposed, to_matrix, to_components):
    channels = left.shape[2]
    a, b, product = (
        np.empty((9, channels), left.dtype),
        np.empty((9, channels), left.dtype),
        np.empty((9, channels), left.dtype),
    )
    for i in range(left.shape[0]):
        _combine(a, left[i], to_matrix)
        _combine(b, right[i], to_matrix)
        for r in range(3):
            for c in range(3):
                to = product[3 * r + c]
                to[:] = 0
                for k in range(3):
                    a_rk, a_kc = a[3 * r + k], a[3 * k + c]
                    b_rk, b_kc = (
                        (b[3 * k + r], b[3 * c + k]) if transposed else (b[3 * r + k], b[3 * k + c])
                    )
                    for f in range(channels):
                        to[f] += a_rk[f] * b_kc[f] + b_rk[f] * a_kc[f]
        _combine(out[i], product, to_components)


class _Anticommutator(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.transposed = transposed
        out = torch.empty_like(left, memory_format=torch.contiguous_format)
        arrays = [tensor.detach().contiguous().numpy() for tensor in (left, right)]
        terms = [np.array(each, dtype=arrays[0].dtype) for each in (_TO_MATRIX, _TO_COMPONENTS)]
        _anticommute(out.numpy(), *arrays, transposed, *terms)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        left, right = ctx.saved_tensors
        d_right = (left, gradient, True) if ctx.transposed else (gradient, left, True)
        return (
            (
                _Anticommutator.apply(gradient, right, not ctx.transposed)
                if ctx.needs_input_grad[0]
                else None
            ),
            _Anticommutator.apply(*d_right) if ctx.needs_input_grad[1] else None,
            None,
        )


def anticommutator(left: Tensor, right: Tensor) -> Tensor:
    """Components of AB + BA by bead and channel; all of shape (n_beads, 9, channels)."""
    return _Anticommutator.apply(left, right, False)
