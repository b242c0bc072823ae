"""First step of TensorNet as loops: features of beads from their neighbours, and the gradient.

Arrays and weights as in `network`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

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
from .parts import most, n_parts, part
from .simd import (
    DOUBLES,
    double,
    fill,
    load,
    number,
    spread,
    store,
    store_first,
    totals,
)

_parallel = compiled(parallel=True, fastmath=True)
_serial = compiled(fastmath=True)

_SQRT2, _SQRT3, _SQRT6 = math.sqrt(2.0), math.sqrt(3.0), math.sqrt(6.0)
_R2, _R6 = 1 / _SQRT2, 1 / _SQRT6


class EmbeddingKernels(NamedTuple):
    """Compiled loops over beads, for vectors of one width."""

    embed: Callable
    embed_gradient: Callable


_EDGES = 2 * DOUBLES  # side by side in arrays of shapes
_ROOM = 15 * _EDGES


@_serial
def _shapes(unit, first, degree, out):
    """Components of the shapes of unit vectors, as `TensorNetEnergies._shape`, and the vectors.

    They are those of identity, skew matrix and traceless outer product. Block by block of edges,
    15 rows; the vectors are those from the neighbours, the last rows 2x, 2y and 4z.
    """
    for k in range(0, degree, DOUBLES):
        at = _shape_place(k)
        x = 0.0 - load(unit[0], first + k, DOUBLES)
        y = 0.0 - load(unit[1], first + k, DOUBLES)
        z = 0.0 - load(unit[2], first + k, DOUBLES)
        store(out, at, fill(_SQRT3, DOUBLES))
        store(out, at + _EDGES, _SQRT2 * x)
        store(out, at + 2 * _EDGES, _SQRT2 * y)
        store(out, at + 3 * _EDGES, _SQRT2 * z)
        store(out, at + 4 * _EDGES, _SQRT2 * x * y)
        store(out, at + 5 * _EDGES, _SQRT2 * x * z)
        store(out, at + 6 * _EDGES, _SQRT2 * y * z)
        store(out, at + 7 * _EDGES, (x * x - y * y) * _R2)
        store(out, at + 8 * _EDGES, (2 * z * z - x * x - y * y) * _R6)
        store(out, at + 9 * _EDGES, x)
        store(out, at + 10 * _EDGES, y)
        store(out, at + 11 * _EDGES, z)
        store(out, at + 12 * _EDGES, 2 * x)
        store(out, at + 13 * _EDGES, 2 * y)
        store(out, at + 14 * _EDGES, 4 * z)


@_serial
def _shape_place(k):
    """Where the shape of a bead's edge begins."""
    return _ROOM * (k // _EDGES) + k % _EDGES


@functools.cache
def embedding_kernels(width: int) -> EmbeddingKernels:
    """Loops for vectors of so many channels."""

    @_parallel
    def embed(
        start,
        count,
        column,
        knot,
        place,
        unit,
        types,
        n_types,
        w,
        o,
        channels,
        c,
        features,
        kept,
    ):
        """Features of every bead from its neighbours, before the first layer.

        Fills what is kept for the gradient.
        """
        summed, linear, h1, h2 = kept
        n1, n_beads = 2 * c, count.shape[0]
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            longest = most(count, begin, end)
            shape = np.empty(_ROOM * (longest // _EDGES + 1), w.dtype)
            x, y = np.empty(n1, w.dtype), np.empty(n1, w.dtype)
            for i in range(begin, end):
                first, last = start[i], start[i] + count[i]
                _shapes(unit, first, count[i], shape)
                pairs = o[PARTS.pair] + types[i] * n_types * c
                for f in range(0, c, width):
                    table = o[PARTS.table] + 12 * f
                    zero = fill(w[0], width)
                    s0, s1, s2, s3, s4, s5, s6, s7, s8 = (
                        load(w, o[PARTS.own] + types[i] * c + f, width),
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
                        t, g = spread(place, e, width), _shape_place(e - first)
                        q = table + 12 * c * number(knot, e)
                        pair = load(w, pairs + types[number(column, e)] * c + f, width)
                        r0, r1, r2 = (
                            filter_value(w, q, width, t) * pair,
                            filter_value(w, q + width, width, t) * pair,
                            filter_value(w, q + 2 * width, width, t) * pair,
                        )
                        s0 += spread(shape, g, width) * r0
                        s1 += spread(shape, g + _EDGES, width) * r1
                        s2 += spread(shape, g + 2 * _EDGES, width) * r1
                        s3 += spread(shape, g + 3 * _EDGES, width) * r1
                        s4 += spread(shape, g + 4 * _EDGES, width) * r2
                        s5 += spread(shape, g + 5 * _EDGES, width) * r2
                        s6 += spread(shape, g + 6 * _EDGES, width) * r2
                        s7 += spread(shape, g + 7 * _EDGES, width) * r2
                        s8 += spread(shape, g + 8 * _EDGES, width) * r2
                    s = (s0, s1, s2, s3, s4, s5, s6, s7, s8)
                    store9(summed, 9 * (c * i + f), width, s)
                squares(summed, 9 * c * i, c, x, width)
                gain, bias = o[PARTS.norm_gain], o[PARTS.norm_bias]
                layer_norm(w, gain, bias, x, y, 1, channels, c, width)
                affine(
                    w,
                    o[PARTS.hidden],
                    o[PARTS.hidden_bias],
                    y,
                    c,
                    h1,
                    n1 * i,
                    n1,
                    width,
                )
                activate(h1, n1 * i, x, n1, width)
                affine(
                    w,
                    o[PARTS.gates],
                    o[PARTS.gates_bias],
                    x,
                    n1,
                    h2,
                    3 * c * i,
                    3 * c,
                    width,
                )
                linear9(w, o[PARTS.linears], summed, 9 * c * i, linear, 9 * c * i, c, width)
                for f in range(0, c, width):
                    at, gate = 9 * (c * i + f), 3 * c * i + f
                    s0, s1, s2 = (
                        silu(load(h2, gate, width)),
                        silu(load(h2, gate + c, width)),
                        silu(load(h2, gate + 2 * c, width)),
                    )
                    store9(
                        features,
                        at,
                        width,
                        by_order(load9(linear, at, width), s0, s1, s2),
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
        """Add to the gradient by edge vectors, from that by the features."""
        summed, linear, h1, h2 = kept
        n1, per_length, n_beads = 2 * c, 1 / spacing, count.shape[0]
        x_of, y_of, z_of = unit[0], unit[1], unit[2]
        x_to, y_to, z_to = edge_gradient[0], edge_gradient[1], edge_gradient[2]
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            longest = most(count, begin, end) + _EDGES
            sums, shape = (
                np.empty(4 * longest, w.dtype),
                np.empty(_ROOM * (longest // _EDGES + 1), w.dtype),
            )
            parts = np.empty(16 * width, w.dtype)
            a, b, q = (
                np.empty(3 * c, w.dtype),
                np.empty(n1, w.dtype),
                np.empty(c, w.dtype),
            )
            d_linear, d_summed = np.empty(9 * c, w.dtype), np.empty(9 * c, w.dtype)
            for i in range(begin, end):
                first, degree, base = start[i], count[i], 9 * c * i
                for f in range(0, c, width):
                    d, x = (
                        load9(gradient, base + 9 * f, width),
                        load9(linear, base + 9 * f, width),
                    )
                    gate = 3 * c * i + f
                    z0, z1, z2 = (
                        load(h2, gate, width),
                        load(h2, gate + c, width),
                        load(h2, gate + 2 * c, width),
                    )
                    store(a, f, d[0] * x[0] * silu_slope(z0))
                    odd = d[1] * x[1] + d[2] * x[2] + d[3] * x[3]
                    store(a, f + c, odd * silu_slope(z1))
                    even = d[4] * x[4] + d[5] * x[5] + d[6] * x[6] + d[7] * x[7] + d[8] * x[8]
                    store(a, f + 2 * c, even * silu_slope(z2))
                    store9(
                        d_linear,
                        9 * f,
                        width,
                        by_order(d, silu(z0), silu(z1), silu(z2)),
                    )
                affine(w, o[PARTS.gates_t], o[PARTS.zeros], a, 3 * c, b, 0, n1, width)
                activate_gradient(h1, n1 * i, b, n1, width)
                affine(w, o[PARTS.hidden_t], o[PARTS.zeros], b, n1, a, 0, c, width)
                squares(summed, base, c, q, width)
                layer_norm_gradient(w, o[PARTS.norm_gain], q, a, 1, channels, c, width)
                linear9(w, o[PARTS.linears_t], d_linear, 0, d_summed, 0, c, width)
                for f in range(0, c, width):
                    through_norm = scaled(
                        load9(summed, base + 9 * f, width), 2.0 * load(a, f, width)
                    )
                    total = sum9(load9(d_summed, 9 * f, width), through_norm)
                    store9(d_summed, 9 * f, width, total)
                pairs = o[PARTS.pair] + types[i] * n_types * c
                _shapes(unit, first, degree, shape)
                for group in range(0, degree, 4):
                    for k in range(group, min(group + 4, degree)):
                        e, at = first + k, _shape_place(k)
                        g1, g2, g3, g4, g5, g6, g7, g8 = (
                            spread(shape, at + _EDGES, width),
                            spread(shape, at + 2 * _EDGES, width),
                            spread(shape, at + 3 * _EDGES, width),
                            spread(shape, at + 4 * _EDGES, width),
                            spread(shape, at + 5 * _EDGES, width),
                            spread(shape, at + 6 * _EDGES, width),
                            spread(shape, at + 7 * _EDGES, width),
                            spread(shape, at + 8 * _EDGES, width),
                        )
                        x, y, z = (
                            spread(shape, at + 9 * _EDGES, width),
                            spread(shape, at + 10 * _EDGES, width),
                            spread(shape, at + 11 * _EDGES, width),
                        )
                        x2, y2, z4 = (
                            spread(shape, at + 12 * _EDGES, width),
                            spread(shape, at + 13 * _EDGES, width),
                            spread(shape, at + 14 * _EDGES, width),
                        )
                        t, at_pair = (
                            spread(place, e, width),
                            pairs + types[number(column, e)] * c,
                        )
                        at_knot = o[PARTS.table] + 12 * c * number(knot, e)
                        zero = fill(w[0], width)
                        radial, ux, uy, uz = zero, zero, zero, zero
                        for f in range(0, c, width):
                            at = at_knot + 12 * f
                            pair, d = (
                                load(w, at_pair + f, width),
                                load9(d_summed, 9 * f, width),
                            )
                            r1, r2 = (
                                filter_value(w, at + width, width, t) * pair,
                                filter_value(w, at + 2 * width, width, t) * pair,
                            )
                            even = g4 * d[4] + g5 * d[5] + g6 * d[6] + g7 * d[7] + g8 * d[8]
                            radial += pair * (
                                filter_slope(w, at, width, t) * (_SQRT3 * d[0])
                                + filter_slope(w, at + width, width, t)
                                * (g1 * d[1] + g2 * d[2] + g3 * d[3])
                                + filter_slope(w, at + 2 * width, width, t) * even
                            )
                            axial = d[8] * _R6
                            ux += _SQRT2 * r1 * d[1] + r2 * (
                                _SQRT2 * (y * d[4] + z * d[5] + x * d[7]) - x2 * axial
                            )
                            uy += _SQRT2 * r1 * d[2] + r2 * (
                                _SQRT2 * (x * d[4] + z * d[6] - y * d[7]) - y2 * axial
                            )
                            uz += _SQRT2 * r1 * d[3] + r2 * (
                                _SQRT2 * (x * d[5] + y * d[6]) + z4 * axial
                            )
                        lane = (k - group) * width
                        store(parts, lane, radial)
                        store(parts, lane + 4 * width, ux)
                        store(parts, lane + 8 * width, uy)
                        store(parts, lane + 12 * width, uz)
                    for quantity in range(4):
                        at = 4 * quantity * width
                        four = totals(
                            load(parts, at, width),
                            load(parts, at + width, width),
                            load(parts, at + 2 * width, width),
                            load(parts, at + 3 * width, width),
                        )
                        store(sums, quantity * longest + group, four)
                for k in range(0, degree, DOUBLES):
                    e, n = first + k, degree - k
                    x = 0.0 - load(x_of, e, DOUBLES)
                    y = 0.0 - load(y_of, e, DOUBLES)
                    z = 0.0 - load(z_of, e, DOUBLES)
                    slope = double(load(sums, k, DOUBLES)) * per_length
                    tx = double(load(sums, longest + k, DOUBLES))
                    ty = double(load(sums, 2 * longest + k, DOUBLES))
                    tz = double(load(sums, 3 * longest + k, DOUBLES))
                    along, scale = (
                        x * tx + y * ty + z * tz,
                        1 / load(distance, e, DOUBLES),
                    )
                    # the shape is that of the reversed vector, hence the signs
                    gx = load(x_to, e, DOUBLES) - (slope * x + (tx - along * x) * scale)
                    gy = load(y_to, e, DOUBLES) - (slope * y + (ty - along * y) * scale)
                    gz = load(z_to, e, DOUBLES) - (slope * z + (tz - along * z) * scale)
                    store_first(x_to, e, gx, n)
                    store_first(y_to, e, gy, n)
                    store_first(z_to, e, gz, n)

    return EmbeddingKernels(embed, embed_gradient)
