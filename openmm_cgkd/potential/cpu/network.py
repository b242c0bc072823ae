"""TensorNet with analytic forces as loops over beads and edges, for simulation.

Features of a bead are 9 rows of `C` channels (components as in `tensornet`, C padded with zeros to
whole vectors), all arrays flat. Every kernel runs in parallel over beads and sums over the bead's
own neighbours: no two threads write to the same place, and results do not depend on the number of
threads. Nothing per edge and channel is stored. Radial filters are cubic polynomials on an even
grid in r, smooth to the first derivative; forces take the derivatives of these polynomials, so that
energy is conserved.

`w` holds all weights, `o` where in it each part begins, as the constants below number them; the
`L_` parts repeat for each layer.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .algebra import (
    activate,
    activate_gradient,
    affine,
    anticommutator,
    by_order,
    components,
    filter_slope,
    filter_value,
    layer_norm,
    layer_norm_gradient,
    linear9,
    load9,
    matrix,
    normalized,
    normalized_gradient,
    scaled,
    silu,
    silu_slope,
    squares,
    store9,
    sum9,
    transpose,
)
from .jit import compiled
from .simd import WIDTH, fill, load, spread, store, total

_parallel = compiled(parallel=True, fastmath=True)
_serial = compiled(fastmath=True)

ZERO, PAIR, OWN, TABLE, GAIN, BIAS, W1, B1, W1T, W2, B2, W2T, LINEAR, LINEAR_T = range(14)
OUT_GAIN, OUT_BIAS, V1, C1, V1T, V2, C2, V2T, V3, C3 = range(14, 24)
L_TABLE, L_SELF, L_BEFORE, L_BEFORE_T, L_AFTER, L_AFTER_T = range(6)  # from 24 + 6 * layer on

_SQRT2, _SQRT3, _SQRT6 = math.sqrt(2.0), math.sqrt(3.0), math.sqrt(6.0)
_R2, _R6 = 1 / _SQRT2, 1 / _SQRT6
_NOTHING = -50.0  # e^-50 is below the rounding error of one


@_serial
def _layer(layer, part):
    return 24 + 6 * layer + part


@_serial
def _shape(x, y, z, out, at):
    """Components of identity, skew matrix and traceless outer product of a unit vector, as
    `TensorNetEnergies._shape`.
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
    """Features of every bead from its neighbours, before the first layer; fills what is kept
    for the gradient.
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
                load(w, o[OWN] + types[i] * c + f),
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
                t, q, g = spread(place, e), o[TABLE] + 12 * c * knot[e] + f, 9 * (e - first)
                pair = load(w, o[PAIR] + (types[i] * n_types + types[column[e]]) * c + f)
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
        layer_norm(w, o[GAIN], o[BIAS], x, y, 1, channels, c)
        affine(w, o[W1], o[B1], y, c, h1, n1 * i, n1)
        activate(h1, n1 * i, x, n1)
        affine(w, o[W2], o[B2], x, n1, h2, 3 * c * i, 3 * c)
        linear9(w, o[LINEAR], summed, 9 * c * i, linear, 9 * c * i, c)
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
        affine(w, o[W2T], o[ZERO], a, 3 * c, b, 0, n1)
        activate_gradient(h1, n1 * i, b, n1)
        affine(w, o[W1T], o[ZERO], b, n1, a, 0, c)
        squares(summed, at, c, q)
        layer_norm_gradient(w, o[GAIN], q, a, 1, channels, c)
        linear9(w, o[LINEAR_T], d_linear, 0, d_summed, 0, c)
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
            t, at_pair = spread(place, e), o[PAIR] + (types[i] * n_types + types[column[e]]) * c
            zero = fill(w[0])
            radial, ux, uy, uz = zero, zero, zero, zero
            for f in range(0, c, WIDTH):
                q_at = o[TABLE] + 12 * c * knot[e] + f
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


@_parallel
def prepare(w, o, layer, c, features, ours):
    """What neighbours see of a bead's features in a layer."""
    before = o[_layer(layer, L_BEFORE)]
    for i in numba.prange(features.shape[0] // (9 * c)):
        normal = np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            store9(normal, f, c, normalized(load9(features, 9 * c * i + f, c)))
        linear9(w, before, normal, 0, ours, 9 * c * i, c)


@_parallel
def interact(
    start, count, column, knot, place, w, o, layer, c, features, ours, message, update, out
):
    """One layer: messages from neighbours, matrix product, update; `message` and `update` are
    kept for the gradient.
    """
    table, own, after = (
        o[_layer(layer, L_TABLE)],
        o[_layer(layer, L_SELF)],
        o[_layer(layer, L_AFTER)],
    )
    for i in numba.prange(count.shape[0]):
        product = np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            y = load9(ours, at, c)
            m0, m1, m2, m3, m4, m5, m6, m7, m8 = by_order(
                y, load(w, own + f), load(w, own + c + f), load(w, own + 2 * c + f)
            )
            for e in range(start[i], start[i] + count[i]):
                t, q, j = spread(place, e), table + 12 * c * knot[e] + f, 9 * c * column[e] + f
                r0, r1, r2 = (
                    filter_value(w, q, c, t),
                    filter_value(w, q + c, c, t),
                    filter_value(w, q + 2 * c, c, t),
                )
                m0 += r0 * load(ours, j)
                m1 += r1 * load(ours, j + c)
                m2 += r1 * load(ours, j + 2 * c)
                m3 += r1 * load(ours, j + 3 * c)
                m4 += r2 * load(ours, j + 4 * c)
                m5 += r2 * load(ours, j + 5 * c)
                m6 += r2 * load(ours, j + 6 * c)
                m7 += r2 * load(ours, j + 7 * c)
                m8 += r2 * load(ours, j + 8 * c)
            m = (m0, m1, m2, m3, m4, m5, m6, m7, m8)
            store9(message, at, c, m)
            store9(product, f, c, normalized(components(anticommutator(matrix(y), matrix(m)))))
        linear9(w, after, product, 0, update, 9 * c * i, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            u = load9(update, at, c)
            square = scaled(components(anticommutator(matrix(u), matrix(u))), 0.5)
            store9(out, at, c, sum9(normalized(load9(features, at, c)), sum9(u, square)))


@_parallel
def update_gradient(w, o, layer, c, ours, message, update, gradient, d_ours, d_message):
    """Gradients with respect to the messages and, through the product alone, `ours`; from that
    of the layer's result.
    """
    own, after_t = o[_layer(layer, L_SELF)], o[_layer(layer, L_AFTER_T)]
    for i in numba.prange(gradient.shape[0] // (9 * c)):
        d_update, d_product = np.empty(9 * c, w.dtype), np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            g = load9(gradient, 9 * c * i + f, c)
            square = components(
                anticommutator(matrix(g), transpose(matrix(load9(update, 9 * c * i + f, c))))
            )
            store9(d_update, f, c, sum9(g, square))
        linear9(w, after_t, d_update, 0, d_product, 0, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            a, b = matrix(load9(ours, at, c)), matrix(load9(message, at, c))
            inner = matrix(
                normalized_gradient(components(anticommutator(a, b)), load9(d_product, f, c))
            )
            da, db = (
                components(anticommutator(inner, transpose(b))),
                components(anticommutator(inner, transpose(a))),
            )
            through_self = by_order(
                db, load(w, own + f), load(w, own + c + f), load(w, own + 2 * c + f)
            )
            store9(d_message, at, c, db)
            store9(d_ours, at, c, sum9(da, through_self))


@_parallel
def interact_gradient(
    start,
    count,
    column,
    knot,
    place,
    unit,
    w,
    o,
    spacing,
    layer,
    c,
    features,
    ours,
    d_ours,
    d_message,
    gradient,
    edge_gradient,
):
    """Replace the gradient of the layer's result by that of its features, and add to that of
    the edge vectors.
    """
    table, before_t, per_length = (
        o[_layer(layer, L_TABLE)],
        o[_layer(layer, L_BEFORE_T)],
        1 / spacing,
    )
    for i in numba.prange(count.shape[0]):
        first, degree = start[i], count[i]
        slopes, d_normal = np.zeros(degree * WIDTH, w.dtype), np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            y = load9(ours, at, c)
            d0, d1, d2, d3, d4, d5, d6, d7, d8 = load9(d_ours, at, c)
            for e in range(first, first + degree):
                t, q, g = (
                    spread(place, e),
                    table + 12 * c * knot[e] + f,
                    load9(d_message, 9 * c * column[e] + f, c),
                )
                r0, r1, r2 = (
                    filter_value(w, q, c, t),
                    filter_value(w, q + c, c, t),
                    filter_value(w, q + 2 * c, c, t),
                )
                d0 += r0 * g[0]
                d1 += r1 * g[1]
                d2 += r1 * g[2]
                d3 += r1 * g[3]
                d4 += r2 * g[4]
                d5 += r2 * g[5]
                d6 += r2 * g[6]
                d7 += r2 * g[7]
                d8 += r2 * g[8]
                # the edge j <- i has the same length, so its share is booked here, where the
                # gradient of j is at hand
                even = y[4] * g[4] + y[5] * g[5] + y[6] * g[6] + y[7] * g[7] + y[8] * g[8]
                slope = (
                    filter_slope(w, q, c, t) * (y[0] * g[0])
                    + filter_slope(w, q + 2 * c, c, t) * even
                )
                slope += filter_slope(w, q + c, c, t) * (y[1] * g[1] + y[2] * g[2] + y[3] * g[3])
                store(slopes, (e - first) * WIDTH, load(slopes, (e - first) * WIDTH) + slope)
            store9(d_ours, at, c, (d0, d1, d2, d3, d4, d5, d6, d7, d8))
        for e in range(first, first + degree):
            slope = total(load(slopes, (e - first) * WIDTH)) * per_length
            for k in range(3):
                edge_gradient[e, k] += slope * unit[e, k]
        linear9(w, before_t, d_ours, 9 * c * i, d_normal, 0, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            g = sum9(load9(gradient, at, c), load9(d_normal, f, c))
            store9(gradient, at, c, normalized_gradient(load9(features, at, c), g))


@_parallel
def output(w, o, channels, c, hidden, features, energies, gradient):
    """Add the energy of every bead, and give the gradient of their sum with respect to the
    features.
    """
    for i in numba.prange(energies.shape[0]):
        x, y, h1, h2 = (
            np.empty(3 * c, w.dtype),
            np.empty(3 * c, w.dtype),
            np.empty(c, w.dtype),
            np.empty(hidden, w.dtype),
        )
        for f in range(0, c, WIDTH):
            v = load9(features, 9 * c * i + f, c)
            store(x, f, v[0] * v[0])
            store(x, f + c, v[1] * v[1] + v[2] * v[2] + v[3] * v[3])
            store(x, f + 2 * c, v[4] * v[4] + v[5] * v[5] + v[6] * v[6] + v[7] * v[7] + v[8] * v[8])
        layer_norm(w, o[OUT_GAIN], o[OUT_BIAS], x, y, 3, channels, c)
        affine(w, o[V1], o[C1], y, 3 * c, h1, 0, c)
        activate(h1, 0, y, c)
        affine(w, o[V2], o[C2], y, c, h2, 0, hidden)
        energy = fill(w[0])
        for f in range(0, hidden, WIDTH):
            energy += silu(load(h2, f)) * load(w, o[V3] + f)
            store(h2, f, silu_slope(load(h2, f)) * load(w, o[V3] + f))
        energies[i] += total(energy) + w[o[C3]]
        affine(w, o[V2T], o[ZERO], h2, hidden, y, 0, c)
        activate_gradient(h1, 0, y, c)
        d = np.zeros(3 * c, w.dtype)
        affine(w, o[V1T], o[ZERO], y, c, d, 0, 3 * c)
        layer_norm_gradient(w, o[OUT_GAIN], x, d, 3, channels, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            s0, s1, s2 = 2 * load(d, f), 2 * load(d, f + c), 2 * load(d, f + 2 * c)
            store9(gradient, at, c, by_order(load9(features, at, c), s0, s1, s2))


@_parallel
def repulsion(
    start, count, column, unit, distance, types, contact, height, steepness, energies, edge_gradient
):
    """Add half of U(r) = height exp(steepness (contact - r)) to either bead; set its gradient
    with respect to the edge vectors.
    """
    for i in numba.prange(count.shape[0]):
        for e in range(start[i], start[i] + count[i]):
            edge_gradient[e, 0], edge_gradient[e, 1], edge_gradient[e, 2] = 0.0, 0.0, 0.0
            exponent = steepness * (contact[types[i], types[column[e]]] - distance[e])
            if exponent < _NOTHING:  # most pairs
                continue
            half = 0.5 * height * math.exp(exponent)
            energies[i] += half
            for k in range(3):
                edge_gradient[e, k] -= steepness * half * unit[e, k]
