"""Algebra of one bead's features, a vector of channels at a time, compiled into the kernels.

Nine vectors stand for the nine components of as many channels' 3x3 tensors: l = 0, then three of l
= 1, then five of l = 2.
"""

from __future__ import annotations

import math

from .jit import compiled
from .simd import exp, fill, first, load, spread, store, total

_serial = compiled(fastmath=True)

_EPS = 1e-5  # of torch.nn.LayerNorm
_R2, _R3, _R6 = 1 / math.sqrt(2.0), 1 / math.sqrt(3.0), 1 / math.sqrt(6.0)


@_serial
def load9(x, at, width):
    """Nine components of a bead's channels; they stand next to each other, block by block."""
    a, b, d = (
        load(x, at, width),
        load(x, at + width, width),
        load(x, at + 2 * width, width),
    )
    e, f, g = (
        load(x, at + 3 * width, width),
        load(x, at + 4 * width, width),
        load(x, at + 5 * width, width),
    )
    h, i, j = (
        load(x, at + 6 * width, width),
        load(x, at + 7 * width, width),
        load(x, at + 8 * width, width),
    )
    return a, b, d, e, f, g, h, i, j


@_serial
def store9(x, at, width, v):
    v0, v1, v2, v3, v4, v5, v6, v7, v8 = v
    store(x, at, v0)
    store(x, at + width, v1)
    store(x, at + 2 * width, v2)
    store(x, at + 3 * width, v3)
    store(x, at + 4 * width, v4)
    store(x, at + 5 * width, v5)
    store(x, at + 6 * width, v6)
    store(x, at + 7 * width, v7)
    store(x, at + 8 * width, v8)


@_serial
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


@_serial
def scaled(a, s):
    return (
        a[0] * s,
        a[1] * s,
        a[2] * s,
        a[3] * s,
        a[4] * s,
        a[5] * s,
        a[6] * s,
        a[7] * s,
        a[8] * s,
    )


@_serial
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


@_serial
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


@_serial
def filter_value(table, at, width, t):
    """Value of a filter; its coefficients stand three vectors apart, one for each order."""
    return load(table, at, width) + t * (
        load(table, at + 3 * width, width)
        + t * (load(table, at + 6 * width, width) + t * load(table, at + 9 * width, width))
    )


@_serial
def filter_slope(table, at, width, t):
    """Slope of a filter per interval."""
    return load(table, at + 3 * width, width) + t * (
        2 * load(table, at + 6 * width, width) + (3 * t) * load(table, at + 9 * width, width)
    )


@_serial
def matrix(x):
    """3x3 matrix, row by row, of nine components."""
    trace, diagonal, axial = x[0] * _R3, x[7] * _R2, x[8] * _R6
    first, last = trace - axial, trace + 2 * axial
    m01, m02, m12 = (x[4] - x[3]) * _R2, (x[5] + x[2]) * _R2, (x[6] - x[1]) * _R2
    m10, m20, m21 = (x[4] + x[3]) * _R2, (x[5] - x[2]) * _R2, (x[6] + x[1]) * _R2
    return first + diagonal, m01, m02, m10, first - diagonal, m12, m20, m21, last


@_serial
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


@_serial
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


@_serial
def transpose(m):
    return m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]


@_serial
def normalized(a):
    """a / (|a|^2 + 1)."""
    return scaled(a, 1.0 / (dot(a, a) + 1.0))


@_serial
def normalized_gradient(a, g):
    """Gradient with respect to a, from that of `normalized`."""
    scale = 1.0 / (dot(a, a) + 1.0)
    return sum9(scaled(g, scale), scaled(a, -2.0 * dot(a, g) * scale * scale))


@_serial
def silu(x):
    return x / (1.0 + exp(0.0 - x))


@_serial
def silu_slope(x):
    s = 1.0 / (1.0 + exp(0.0 - x))
    return s * (1.0 + x * (1.0 - s))


@_serial
def activate(x, x_at, y, n, width):
    for f in range(0, n, width):
        store(y, f, silu(load(x, x_at + f, width)))


@_serial
def activate_gradient(x, x_at, gradient, n, width):
    for f in range(0, n, width):
        slope = silu_slope(load(x, x_at + f, width))
        store(gradient, f, load(gradient, f, width) * slope)


@_serial
def affine(w, matrix, bias, x, n_in, y, y_at, n_out, width):
    """y = x W + b for one bead; n_in is a multiple of 8."""
    for f in range(0, n_out, width):
        zero, m = fill(w[0], width), matrix + f
        # eight sums, because one would wait for itself
        a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
        for k in range(0, n_in, 8):
            a0 += spread(x, k, width) * load(w, m, width)
            a1 += spread(x, k + 1, width) * load(w, m + n_out, width)
            a2 += spread(x, k + 2, width) * load(w, m + 2 * n_out, width)
            a3 += spread(x, k + 3, width) * load(w, m + 3 * n_out, width)
            a4 += spread(x, k + 4, width) * load(w, m + 4 * n_out, width)
            a5 += spread(x, k + 5, width) * load(w, m + 5 * n_out, width)
            a6 += spread(x, k + 6, width) * load(w, m + 6 * n_out, width)
            a7 += spread(x, k + 7, width) * load(w, m + 7 * n_out, width)
            m += 8 * n_out
        sums = load(w, bias + f, width) + ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7))
        store(y, y_at + f, sums)


@_serial
def linear9(w, matrices, x, x_at, y, y_at, c, width):
    """One linear map per order l for one bead; y must not be x."""
    for f in range(0, c, width):
        zero = fill(w[0], width)
        y0, y1, y2, y3, y4, y5, y6, y7, y8 = (
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
        )
        for block in range(0, c, width):
            for k in range(width):
                at, m = x_at + 9 * block + k, matrices + (block + k) * c + f
                y0 += spread(x, at, width) * load(w, m, width)
                m1, m2 = load(w, m + c * c, width), load(w, m + 2 * c * c, width)
                y1 += spread(x, at + width, width) * m1
                y2 += spread(x, at + 2 * width, width) * m1
                y3 += spread(x, at + 3 * width, width) * m1
                y4 += spread(x, at + 4 * width, width) * m2
                y5 += spread(x, at + 5 * width, width) * m2
                y6 += spread(x, at + 6 * width, width) * m2
                y7 += spread(x, at + 7 * width, width) * m2
                y8 += spread(x, at + 8 * width, width) * m2
        store9(y, y_at + 9 * f, width, (y0, y1, y2, y3, y4, y5, y6, y7, y8))


@_serial
def moments(x, segments, channels, c, width):
    """Mean and inverse standard deviation over the real channels; padding holds zeros."""
    per_number = x.dtype.type(1 / (segments * channels))
    zero = fill(x.dtype.type(0.0), width)
    mean, square = zero, zero
    for k in range(0, segments * c, width):
        mean += load(x, k, width)
    average = total(mean) * per_number
    for k in range(0, segments * c, width):
        away = first(load(x, k, width) - average, channels - k % c)
        square += away * away
    return average, x.dtype.type(1 / math.sqrt(total(square) * per_number + _EPS))


@_serial
def layer_norm(w, gain, bias, x, y, segments, channels, c, width):
    mean, scale = moments(x, segments, channels, c, width)
    for k in range(0, segments * c, width):  # gain and bias are zero where channels are padding
        centered = (load(x, k, width) - mean) * scale
        store(y, k, centered * load(w, gain + k, width) + load(w, bias + k, width))


@_serial
def layer_norm_gradient(w, gain, x, gradient, segments, channels, c, width):
    """Replace the gradient of the result by that of x."""
    mean, scale = moments(x, segments, channels, c, width)
    per_number = x.dtype.type(1 / (segments * channels))
    zero = fill(x.dtype.type(0.0), width)
    sums, products = zero, zero
    for k in range(0, segments * c, width):
        g = load(gradient, k, width) * load(w, gain + k, width)
        sums += g
        products += g * (load(x, k, width) - mean)
    average, along = (
        total(sums) * per_number,
        total(products) * per_number * scale * scale,
    )
    for k in range(0, segments * c, width):
        g = load(gradient, k, width) * load(w, gain + k, width)
        away = (g - average - (load(x, k, width) - mean) * along) * scale
        store(gradient, k, first(away, channels - k % c))


@_serial
def squares(x, at, c, out, width):
    for f in range(0, c, width):
        v = load9(x, at + 9 * f, width)
        store(out, f, dot(v, v))
