"""Algebra of one bead's features, eight or sixteen channels at a time, compiled into the kernels.

Nine vectors stand for the nine components of as many channels' 3x3 tensors: l = 0, then three of l
= 1, then five of l = 2.
"""

from __future__ import annotations

import math

from .jit import compiled
from .simd import WIDTH, exp, fill, first, load, spread, store, total

_serial = compiled(fastmath=True)

_EPS = 1e-5  # of torch.nn.LayerNorm
_R2, _R3, _R6 = 1 / math.sqrt(2.0), 1 / math.sqrt(3.0), 1 / math.sqrt(6.0)


@_serial
def load9(x, at, c):
    a, b, d = load(x, at), load(x, at + c), load(x, at + 2 * c)
    e, f, g = load(x, at + 3 * c), load(x, at + 4 * c), load(x, at + 5 * c)
    return a, b, d, e, f, g, load(x, at + 6 * c), load(x, at + 7 * c), load(x, at + 8 * c)


@_serial
def store9(x, at, c, v):
    v0, v1, v2, v3, v4, v5, v6, v7, v8 = v
    store(x, at, v0)
    store(x, at + c, v1)
    store(x, at + 2 * c, v2)
    store(x, at + 3 * c, v3)
    store(x, at + 4 * c, v4)
    store(x, at + 5 * c, v5)
    store(x, at + 6 * c, v6)
    store(x, at + 7 * c, v7)
    store(x, at + 8 * c, v8)


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
    return a[0] * s, a[1] * s, a[2] * s, a[3] * s, a[4] * s, a[5] * s, a[6] * s, a[7] * s, a[8] * s


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
def filter_value(table, at, c, t):
    """Value of a filter; its coefficients stand 3 c apart."""
    return load(table, at) + t * (
        load(table, at + 3 * c) + t * (load(table, at + 6 * c) + t * load(table, at + 9 * c))
    )


@_serial
def filter_slope(table, at, c, t):
    """Slope of a filter per interval."""
    return load(table, at + 3 * c) + t * (
        2 * load(table, at + 6 * c) + (3 * t) * load(table, at + 9 * c)
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
def activate(x, x_at, y, n):
    for f in range(0, n, WIDTH):
        store(y, f, silu(load(x, x_at + f)))


@_serial
def activate_gradient(x, x_at, gradient, n):
    for f in range(0, n, WIDTH):
        store(gradient, f, load(gradient, f) * silu_slope(load(x, x_at + f)))


@_serial
def affine(w, matrix, bias, x, n_in, y, y_at, n_out):
    """y = x W + b for one bead; n_in is a multiple of 8."""
    for f in range(0, n_out, WIDTH):
        zero, m = fill(w[0]), matrix + f
        # eight sums, because one would wait for itself
        a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
        for k in range(0, n_in, 8):
            a0 += spread(x, k) * load(w, m)
            a1 += spread(x, k + 1) * load(w, m + n_out)
            a2 += spread(x, k + 2) * load(w, m + 2 * n_out)
            a3 += spread(x, k + 3) * load(w, m + 3 * n_out)
            a4 += spread(x, k + 4) * load(w, m + 4 * n_out)
            a5 += spread(x, k + 5) * load(w, m + 5 * n_out)
            a6 += spread(x, k + 6) * load(w, m + 6 * n_out)
            a7 += spread(x, k + 7) * load(w, m + 7 * n_out)
            m += 8 * n_out
        store(y, y_at + f, load(w, bias + f) + ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)))


@_serial
def linear9(w, matrices, x, x_at, y, y_at, c):
    """One linear map per order l for one bead; y must not be x."""
    for f in range(0, c, WIDTH):
        zero = fill(w[0])
        y0, y1, y2, y3, y4, y5, y6, y7, y8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for k in range(c):
            at, m = x_at + k, matrices + k * c + f
            y0 += spread(x, at) * load(w, m)
            m1, m2 = load(w, m + c * c), load(w, m + 2 * c * c)
            y1 += spread(x, at + c) * m1
            y2 += spread(x, at + 2 * c) * m1
            y3 += spread(x, at + 3 * c) * m1
            y4 += spread(x, at + 4 * c) * m2
            y5 += spread(x, at + 5 * c) * m2
            y6 += spread(x, at + 6 * c) * m2
            y7 += spread(x, at + 7 * c) * m2
            y8 += spread(x, at + 8 * c) * m2
        store9(y, y_at + f, c, (y0, y1, y2, y3, y4, y5, y6, y7, y8))


@_serial
def moments(x, segments, channels, c):
    """Mean and inverse standard deviation over the real channels; padding holds zeros."""
    per_number = x.dtype.type(1 / (segments * channels))
    mean, square = fill(x.dtype.type(0.0)), fill(x.dtype.type(0.0))
    for k in range(0, segments * c, WIDTH):
        mean += load(x, k)
    average = total(mean) * per_number
    for k in range(0, segments * c, WIDTH):
        away = first(load(x, k) - average, channels - k % c)
        square += away * away
    return average, x.dtype.type(1 / math.sqrt(total(square) * per_number + _EPS))


@_serial
def layer_norm(w, gain, bias, x, y, segments, channels, c):
    mean, scale = moments(x, segments, channels, c)
    for k in range(0, segments * c, WIDTH):  # gain and bias are zero where channels are padding
        store(y, k, (load(x, k) - mean) * scale * load(w, gain + k) + load(w, bias + k))


@_serial
def layer_norm_gradient(w, gain, x, gradient, segments, channels, c):
    """Replace the gradient of the result by that of x."""
    mean, scale = moments(x, segments, channels, c)
    per_number = x.dtype.type(1 / (segments * channels))
    sums, products = fill(x.dtype.type(0.0)), fill(x.dtype.type(0.0))
    for k in range(0, segments * c, WIDTH):
        g = load(gradient, k) * load(w, gain + k)
        sums += g
        products += g * (load(x, k) - mean)
    average, along = total(sums) * per_number, total(products) * per_number * scale * scale
    for k in range(0, segments * c, WIDTH):
        g = load(gradient, k) * load(w, gain + k)
        store(
            gradient,
            k,
            first((g - average - (load(x, k) - mean) * along) * scale, channels - k % c),
        )


@_serial
def squares(x, at, c, out):
    for f in range(0, c, WIDTH):
        v = load9(x, at + f, c)
        store(out, f, dot(v, v))
