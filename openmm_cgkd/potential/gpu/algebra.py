"""Algebra of one bead's features for the kernels of `network`: `cpu.algebra` on a GPU.

Nine blocks stand for the nine components of the channels' 3x3 tensors: l = 0, then three of l = 1,
then five of l = 2. Blocks are as wide as the next power of two, `real` says which of their channels
exist; the others hold zeros.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

_EPS = tl.constexpr(1e-5)  # of torch.nn.LayerNorm
_R2, _R3, _R6 = (
    tl.constexpr(1 / math.sqrt(2.0)),
    tl.constexpr(1 / math.sqrt(3.0)),
    tl.constexpr(1 / math.sqrt(6.0)),
)


@triton.jit
def load9(x, at, c, real):
    """Components of the beads at an offset, one or many."""
    return (
        tl.load(x + at, mask=real, other=0.0),
        tl.load(x + at + c, mask=real, other=0.0),
        tl.load(x + at + 2 * c, mask=real, other=0.0),
        tl.load(x + at + 3 * c, mask=real, other=0.0),
        tl.load(x + at + 4 * c, mask=real, other=0.0),
        tl.load(x + at + 5 * c, mask=real, other=0.0),
        tl.load(x + at + 6 * c, mask=real, other=0.0),
        tl.load(x + at + 7 * c, mask=real, other=0.0),
        tl.load(x + at + 8 * c, mask=real, other=0.0),
    )


@triton.jit
def store9(x, at, c, v, real):
    tl.store(x + at, v[0], mask=real)
    tl.store(x + at + c, v[1], mask=real)
    tl.store(x + at + 2 * c, v[2], mask=real)
    tl.store(x + at + 3 * c, v[3], mask=real)
    tl.store(x + at + 4 * c, v[4], mask=real)
    tl.store(x + at + 5 * c, v[5], mask=real)
    tl.store(x + at + 6 * c, v[6], mask=real)
    tl.store(x + at + 7 * c, v[7], mask=real)
    tl.store(x + at + 8 * c, v[8], mask=real)


@triton.jit
def dot(a, b):
    return (
        a[0] * b[0]
        + a[1] * b[1]
        + a[2] * b[2]
        + a[3] * b[3]
        + a[4] * b[4]
        + a[5] * b[5]
        + a[6] * b[6]
        + a[7] * b[7]
        + a[8] * b[8]
    )


@triton.jit
def scaled(a, s):
    return a[0] * s, a[1] * s, a[2] * s, a[3] * s, a[4] * s, a[5] * s, a[6] * s, a[7] * s, a[8] * s


@triton.jit
def sum9(a, b):
    return (
        a[0] + b[0],
        a[1] + b[1],
        a[2] + b[2],
        a[3] + b[3],
        a[4] + b[4],
        a[5] + b[5],
        a[6] + b[6],
        a[7] + b[7],
        a[8] + b[8],
    )


@triton.jit
def by_order(a, s0, s1, s2):
    return (
        a[0] * s0,
        a[1] * s1,
        a[2] * s1,
        a[3] * s1,
        a[4] * s2,
        a[5] * s2,
        a[6] * s2,
        a[7] * s2,
        a[8] * s2,
    )


@triton.jit
def over_edges(a):
    """Sums over the first axis of nine blocks (edges, channels)."""
    b0, b1, b2, b3, b4 = (
        tl.sum(a[0], 0),
        tl.sum(a[1], 0),
        tl.sum(a[2], 0),
        tl.sum(a[3], 0),
        tl.sum(a[4], 0),
    )
    return b0, b1, b2, b3, b4, tl.sum(a[5], 0), tl.sum(a[6], 0), tl.sum(a[7], 0), tl.sum(a[8], 0)


@triton.jit
def spread9(a):
    """Nine blocks (channels,) as blocks (1, channels)."""
    b0, b1, b2, b3, b4 = a[0][None, :], a[1][None, :], a[2][None, :], a[3][None, :], a[4][None, :]
    return b0, b1, b2, b3, b4, a[5][None, :], a[6][None, :], a[7][None, :], a[8][None, :]


@triton.jit
def cubic(table, knot, f, c, here):
    """Coefficients of a filter's polynomials, blocks (edges, channels); they stand 3 c apart."""
    at = table + 12 * c * knot[:, None] + f[None, :]
    a0, a1 = tl.load(at, mask=here, other=0.0), tl.load(at + 3 * c, mask=here, other=0.0)
    return (
        a0,
        a1,
        tl.load(at + 6 * c, mask=here, other=0.0),
        tl.load(at + 9 * c, mask=here, other=0.0),
    )


@triton.jit
def value(a, t):
    return a[0] + t * (a[1] + t * (a[2] + t * a[3]))


@triton.jit
def slope(a, t):
    """Slope per interval."""
    return a[1] + t * (2 * a[2] + (3 * t) * a[3])


@triton.jit
def matrix(x):
    """3x3 matrix, row by row, of nine components."""
    trace, diagonal, axial = x[0] * _R3, x[7] * _R2, x[8] * _R6
    first, last = trace - axial, trace + 2 * axial
    m01, m02, m12 = (x[4] - x[3]) * _R2, (x[5] + x[2]) * _R2, (x[6] - x[1]) * _R2
    m10, m20, m21 = (x[4] + x[3]) * _R2, (x[5] - x[2]) * _R2, (x[6] + x[1]) * _R2
    return first + diagonal, m01, m02, m10, first - diagonal, m12, m20, m21, last


@triton.jit
def components(m):
    """Nine components of a 3x3 matrix; inverse and transpose of `matrix`."""
    x1, x2, x3 = (m[7] - m[5]) * _R2, (m[2] - m[6]) * _R2, (m[3] - m[1]) * _R2
    x4, x5, x6 = (m[1] + m[3]) * _R2, (m[2] + m[6]) * _R2, (m[5] + m[7]) * _R2
    return (
        (m[0] + m[4] + m[8]) * _R3,
        x1,
        x2,
        x3,
        x4,
        x5,
        x6,
        (m[0] - m[4]) * _R2,
        (2 * m[8] - m[0] - m[4]) * _R6,
    )


@triton.jit
def anticommutator(a, b):
    """AB + BA."""
    off_1, off_2, off_3 = (
        a[1] * b[3] + b[1] * a[3],
        a[2] * b[6] + b[2] * a[6],
        a[5] * b[7] + b[5] * a[7],
    )
    return (
        2 * a[0] * b[0] + off_1 + off_2,
        a[0] * b[1] + a[1] * b[4] + a[2] * b[7] + b[0] * a[1] + b[1] * a[4] + b[2] * a[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8] + b[0] * a[2] + b[1] * a[5] + b[2] * a[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6] + b[3] * a[0] + b[4] * a[3] + b[5] * a[6],
        2 * a[4] * b[4] + off_1 + off_3,
        a[3] * b[2] + a[4] * b[5] + a[5] * b[8] + b[3] * a[2] + b[4] * a[5] + b[5] * a[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6] + b[6] * a[0] + b[7] * a[3] + b[8] * a[6],
        a[6] * b[1] + a[7] * b[4] + a[8] * b[7] + b[6] * a[1] + b[7] * a[4] + b[8] * a[7],
        2 * a[8] * b[8] + off_2 + off_3,
    )


@triton.jit
def transpose(m):
    return m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]


@triton.jit
def normalized(a):
    """a / (|a|^2 + 1)."""
    return scaled(a, 1.0 / (dot(a, a) + 1.0))


@triton.jit
def normalized_gradient(a, g):
    """Gradient with respect to a, from that of `normalized`."""
    scale = 1.0 / (dot(a, a) + 1.0)
    return sum9(scaled(g, scale), scaled(a, -2.0 * dot(a, g) * scale * scale))


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def silu_slope(x):
    s = 1.0 / (1.0 + tl.exp(-x))
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def block(matrix, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Matrix of rows x columns numbers, as a block with zeros around it."""
    k, f = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(matrix + k * stride + f, mask=(k < rows) & (f < columns), other=0.0)


@triton.jit
def times(x, m):
    """x M for one bead.

    Not tl.dot, which would want sixteen beads; the products are a small part of the work.
    """
    return tl.sum(x[:, None] * m, 0)


@triton.jit
def linear9(matrices, x, c, C: tl.constexpr):
    """One linear map per order l for one bead."""
    m = block(matrices, c, c, c, C, C)
    y0 = times(x[0], m)
    m = block(matrices + c * c, c, c, c, C, C)
    y1, y2, y3 = times(x[1], m), times(x[2], m), times(x[3], m)
    m = block(matrices + 2 * c * c, c, c, c, C, C)
    return (
        y0,
        y1,
        y2,
        y3,
        times(x[4], m),
        times(x[5], m),
        times(x[6], m),
        times(x[7], m),
        times(x[8], m),
    )


@triton.jit
def layer_norm(x, gain, bias, real, n):
    """Over the n numbers of x that are real; gain and bias are zero elsewhere."""
    mean = tl.sum(x, 0) / n
    away = tl.where(real, x - mean, 0.0)
    return away / tl.sqrt(tl.sum(away * away, 0) / n + _EPS) * gain + bias


@triton.jit
def layer_norm_gradient(x, gain, g, real, n):
    """Gradient with respect to x, from that of the result."""
    mean = tl.sum(x, 0) / n
    away = tl.where(real, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(away * away, 0) / n + _EPS)
    g = g * gain
    along = tl.sum(g * away, 0) / n * scale * scale
    return tl.where(real, (g - tl.sum(g, 0) / n - away * along) * scale, 0.0)
