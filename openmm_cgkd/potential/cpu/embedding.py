"""First step of TensorNet as loops: features of beads from their neighbours, and the gradient.

Arrays and weights as in `network`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from openmm_cgkd.potential.weights import NETWORK_PARTS as PARTS

from .algebra import (
    activate,
    activate_gradient,
    affine,
    by_order,
    filter_slope,
    filter_value,
    layer_norm,
    layer_norm_gradient,
    linear9,
    load9,
    scaled,
    silu,
    silu_slope,
    squares,
    store9,
    sum9,
)
from .jit import compiled
from .simd import WIDTH, fill, load, spread, store, total

_parallel = compiled(parallel=True, fastmath=True)
_serial = compiled(fastmath=True)

_SQRT2, _SQRT3, _SQRT6 = math.sqrt(2.0), math.sqrt(3.0), math.sqrt(6.0)
_R2, _R6 = 1 / _SQRT2, 1 / _SQRT6


@_serial
def _shape(x, y, z, out, at):
    """Components of the shape of a unit vector, as `TensorNetEnergies._shape`.

    They are those of identity, skew matrix and traceless outer product.
    """
    out[at] = _SQRT3
    out[at + 1], out[at + 2], out[at + 3] = _SQRT2 * x, _SQRT2 * y, _SQRT2 * z
    out[at + 4], out[at + 5], out[at + 6] = _SQRT2 * x * y, _SQRT2 * x * z, _SQRT2 * y * z
    out[at + 7] = (x * x - y * y) * _R2
    out[at + 8] = (2 * z * z - x * x - y * y) * _R6


@_parallel
def embed(
    start, count, column, knot, place, unit, types, n_types, w, o, channels, c, features, kept
):
    """Features of every bead from its neighbours, before the first layer.

    Fills what is kept for the gradient.
    """
    summed, linear, h1, h2 = kept
    n1 = 2 * c
    for i in numba.prange(count.shape[0]):
        first, last = start[i], start[i] + count[i]
        shape = np.empty(9 * (last - first), w.dtype)
        for e in range(first, last):
            _shape(-unit[e, 0], -unit[e, 1], -unit[e, 2], shape, 9 * (e - first))
        for f in range(0, c, WIDTH):
            zero = fill(w[0])
            s0, s1, s2, s3, s4, s5, s6, s7, s8 = (
                load(w, o[PARTS.own] + types[i] * c + f),
                zero,
                zero,
                zero,
                zero,
                zero,
                zero,
                zero,
                zero,
            )
            for e in range(first, last):
                t, q, g = spread(place, e), o[PARTS.table] + 12 * c * knot[e] + f, 9 * (e - first)
                pair = load(w, o[PARTS.pair] + (types[i] * n_types + types[column[e]]) * c + f)
                r0, r1, r2 = (
                    filter_value(w, q, c, t) * pair,
                    filter_value(w, q + c, c, t) * pair,
                    filter_value(w, q + 2 * c, c, t) * pair,
                )
                s0 += spread(shape, g) * r0
                s1 += spread(shape, g + 1) * r1
                s2 += spread(shape, g + 2) * r1
                s3 += spread(shape, g + 3) * r1
                s4 += spread(shape, g + 4) * r2
                s5 += spread(shape, g + 5) * r2
                s6 += spread(shape, g + 6) * r2
                s7 += spread(shape, g + 7) * r2
                s8 += spread(shape, g + 8) * r2
            store9(summed, 9 * c * i + f, c, (s0, s1, s2, s3, s4, s5, s6, s7, s8))
        x, y = np.empty(n1, w.dtype), np.empty(n1, w.dtype)
        squares(summed, 9 * c * i, c, x)
        layer_norm(w, o[PARTS.norm_gain], o[PARTS.norm_bias], x, y, 1, channels, c)
        affine(w, o[PARTS.hidden], o[PARTS.hidden_bias], y, c, h1, n1 * i, n1)
        activate(h1, n1 * i, x, n1)
        affine(w, o[PARTS.gates], o[PARTS.gates_bias], x, n1, h2, 3 * c * i, 3 * c)
        linear9(w, o[PARTS.linears], summed, 9 * c * i, linear, 9 * c * i, c)
        for f in range(0, c, WIDTH):
            gate = 3 * c * i + f
            s0, s1, s2 = (
                silu(load(h2, gate)),
                silu(load(h2, gate + c)),
                silu(load(h2, gate + 2 * c)),
            )
            store9(
                features, 9 * c * i + f, c, by_order(load9(linear, 9 * c * i + f, c), s0, s1, s2)
            )


@_parallel
def embed_gradient(
    start,
    count,
    column,
    knot,
    place,
    unit,
    distance,
    types,
    n_types,
    w,
    o,
    spacing,
    channels,
    c,
    kept,
    gradient,
    edge_gradient,
):
    """Add to the gradient with respect to edge vectors, from that with respect to the features."""
    summed, linear, h1, h2 = kept
    n1, per_length = 2 * c, 1 / spacing
    for i in numba.prange(count.shape[0]):
        at = 9 * c * i
        a, b, q = np.zeros(3 * c, w.dtype), np.zeros(3 * c, w.dtype), np.empty(c, w.dtype)
        d_linear, d_summed = np.empty(9 * c, w.dtype), np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            g, x = load9(gradient, at + f, c), load9(linear, at + f, c)
            gate = 3 * c * i + f
            z0, z1, z2 = load(h2, gate), load(h2, gate + c), load(h2, gate + 2 * c)
            store(a, f, g[0] * x[0] * silu_slope(z0))
            store(a, f + c, (g[1] * x[1] + g[2] * x[2] + g[3] * x[3]) * silu_slope(z1))
            store(
                a,
                f + 2 * c,
                (g[4] * x[4] + g[5] * x[5] + g[6] * x[6] + g[7] * x[7] + g[8] * x[8])
                * silu_slope(z2),
            )
            store9(d_linear, f, c, by_order(g, silu(z0), silu(z1), silu(z2)))
        affine(w, o[PARTS.gates_t], o[PARTS.zeros], a, 3 * c, b, 0, n1)
        activate_gradient(h1, n1 * i, b, n1)
        affine(w, o[PARTS.hidden_t], o[PARTS.zeros], b, n1, a, 0, c)
        squares(summed, at, c, q)
        layer_norm_gradient(w, o[PARTS.norm_gain], q, a, 1, channels, c)
        linear9(w, o[PARTS.linears_t], d_linear, 0, d_summed, 0, c)
        for f in range(0, c, WIDTH):
            store9(
                d_summed,
                f,
                c,
                sum9(load9(d_summed, f, c), scaled(load9(summed, at + f, c), 2.0 * load(a, f))),
            )
        g = np.empty(9, w.dtype)
        for e in range(start[i], start[i] + count[i]):
            x, y, z = -unit[e, 0], -unit[e, 1], -unit[e, 2]
            _shape(x, y, z, g, 0)
            t, at_pair = (
                spread(place, e),
                o[PARTS.pair] + (types[i] * n_types + types[column[e]]) * c,
            )
            zero = fill(w[0])
            radial, ux, uy, uz = zero, zero, zero, zero
            for f in range(0, c, WIDTH):
                q_at = o[PARTS.table] + 12 * c * knot[e] + f
                pair, d = load(w, at_pair + f), load9(d_summed, f, c)
                r1, r2 = (
                    filter_value(w, q_at + c, c, t) * pair,
                    filter_value(w, q_at + 2 * c, c, t) * pair,
                )
                even = g[4] * d[4] + g[5] * d[5] + g[6] * d[6] + g[7] * d[7] + g[8] * d[8]
                radial += pair * (
                    filter_slope(w, q_at, c, t) * (g[0] * d[0])
                    + filter_slope(w, q_at + c, c, t) * (g[1] * d[1] + g[2] * d[2] + g[3] * d[3])
                    + filter_slope(w, q_at + 2 * c, c, t) * even
                )
                axial = d[8] * _R6
                ux += _SQRT2 * r1 * d[1] + r2 * (
                    _SQRT2 * (y * d[4] + z * d[5] + x * d[7]) - 2 * x * axial
                )
                uy += _SQRT2 * r1 * d[2] + r2 * (
                    _SQRT2 * (x * d[4] + z * d[6] - y * d[7]) - 2 * y * axial
                )
                uz += _SQRT2 * r1 * d[3] + r2 * (_SQRT2 * (x * d[5] + y * d[6]) + 4 * z * axial)
            slope, tx, ty, tz = total(radial) * per_length, total(ux), total(uy), total(uz)
            along, scale = x * tx + y * ty + z * tz, 1 / distance[e]
            # the shape is that of the reversed vector, hence the signs
            edge_gradient[e, 0] -= slope * x + (tx - along * x) * scale
            edge_gradient[e, 1] -= slope * y + (ty - along * y) * scale
            edge_gradient[e, 2] -= slope * z + (tz - along * z) * scale
