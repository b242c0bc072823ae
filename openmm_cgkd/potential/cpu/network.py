"""TensorNet with analytic forces as loops over beads and edges, for simulation.

Features of a bead are 9 rows of `C` channels (components as in `tensornet`, C padded with zeros to
whole vectors), all arrays flat. Every kernel runs in parallel over beads and sums over the bead's
own neighbours: no two threads write to the same place, and results do not depend on the number of
threads. Nothing per edge and channel is stored. Radial filters are cubic polynomials on an even
grid in r, smooth to the first derivative; forces take the derivatives of these polynomials, so that
energy is conserved.

`w` holds all weights, `o` where in it each part begins, in the order of `potential.weights`.
"""

from __future__ import annotations

import numba
import numpy as np

from openmm_cgkd.potential.weights import LAYER_PARTS as IN_LAYER
from openmm_cgkd.potential.weights import NETWORK_PARTS as PARTS
from openmm_cgkd.potential.weights import layer_place

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
    store9,
    sum9,
    transpose,
)
from .jit import compiled
from .simd import WIDTH, fill, load, spread, store, total

_parallel = compiled(parallel=True, fastmath=True)
_serial = compiled(fastmath=True)
_place = _serial(layer_place)


@_parallel
def prepare(w, o, layer, c, features, prepared):
    """What neighbours see of a bead's features in a layer."""
    before = o[_place(layer, IN_LAYER.before)]
    for i in numba.prange(features.shape[0] // (9 * c)):
        normal = np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            store9(normal, f, c, normalized(load9(features, 9 * c * i + f, c)))
        linear9(w, before, normal, 0, prepared, 9 * c * i, c)


@_parallel
def interact(
    start, count, column, knot, place, w, o, layer, c, features, prepared, message, update, out
):
    """One layer: messages from neighbours, matrix product, update.

    `message` and `update` are kept for the gradient.
    """
    table, own, after = (
        o[_place(layer, IN_LAYER.table)],
        o[_place(layer, IN_LAYER.own)],
        o[_place(layer, IN_LAYER.after)],
    )
    for i in numba.prange(count.shape[0]):
        product = np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            y = load9(prepared, at, c)
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
                m0 += r0 * load(prepared, j)
                m1 += r1 * load(prepared, j + c)
                m2 += r1 * load(prepared, j + 2 * c)
                m3 += r1 * load(prepared, j + 3 * c)
                m4 += r2 * load(prepared, j + 4 * c)
                m5 += r2 * load(prepared, j + 5 * c)
                m6 += r2 * load(prepared, j + 6 * c)
                m7 += r2 * load(prepared, j + 7 * c)
                m8 += r2 * load(prepared, j + 8 * c)
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
def update_gradient(w, o, layer, c, prepared, message, update, gradient, d_prepared, d_message):
    """Gradients by the messages and, through the product alone, by `prepared`.

    They come from the gradient by the layer's result.
    """
    own, after_t = o[_place(layer, IN_LAYER.own)], o[_place(layer, IN_LAYER.after_t)]
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
            a, b = matrix(load9(prepared, at, c)), matrix(load9(message, at, c))
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
            store9(d_prepared, at, c, sum9(da, through_self))


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
    prepared,
    d_prepared,
    d_message,
    gradient,
    edge_gradient,
):
    """Replace the gradient by the layer's result with that by its features.

    Adds to the gradient by the edge vectors.
    """
    table, before_t, per_length = (
        o[_place(layer, IN_LAYER.table)],
        o[_place(layer, IN_LAYER.before_t)],
        1 / spacing,
    )
    for i in numba.prange(count.shape[0]):
        first, degree = start[i], count[i]
        slopes, d_normal = np.zeros(degree * WIDTH, w.dtype), np.empty(9 * c, w.dtype)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            y = load9(prepared, at, c)
            d0, d1, d2, d3, d4, d5, d6, d7, d8 = load9(d_prepared, at, c)
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
            store9(d_prepared, at, c, (d0, d1, d2, d3, d4, d5, d6, d7, d8))
        for e in range(first, first + degree):
            slope = total(load(slopes, (e - first) * WIDTH)) * per_length
            for k in range(3):
                edge_gradient[e, k] += slope * unit[e, k]
        linear9(w, before_t, d_prepared, 9 * c * i, d_normal, 0, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            g = sum9(load9(gradient, at, c), load9(d_normal, f, c))
            store9(gradient, at, c, normalized_gradient(load9(features, at, c), g))


@_parallel
def output(w, o, channels, c, hidden, features, energies, gradient):
    """Add the energy of every bead, and give the gradient of their sum by the features."""
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
        layer_norm(w, o[PARTS.output_norm_gain], o[PARTS.output_norm_bias], x, y, 3, channels, c)
        affine(w, o[PARTS.output_first], o[PARTS.output_first_bias], y, 3 * c, h1, 0, c)
        activate(h1, 0, y, c)
        affine(w, o[PARTS.output_second], o[PARTS.output_second_bias], y, c, h2, 0, hidden)
        energy = fill(w[0])
        for f in range(0, hidden, WIDTH):
            energy += silu(load(h2, f)) * load(w, o[PARTS.output_last] + f)
            store(h2, f, silu_slope(load(h2, f)) * load(w, o[PARTS.output_last] + f))
        energies[i] += total(energy) + w[o[PARTS.output_last_bias]]
        affine(w, o[PARTS.output_second_t], o[PARTS.zeros], h2, hidden, y, 0, c)
        activate_gradient(h1, 0, y, c)
        d = np.zeros(3 * c, w.dtype)
        affine(w, o[PARTS.output_first_t], o[PARTS.zeros], y, c, d, 0, 3 * c)
        layer_norm_gradient(w, o[PARTS.output_norm_gain], x, d, 3, channels, c)
        for f in range(0, c, WIDTH):
            at = 9 * c * i + f
            s0, s1, s2 = 2 * load(d, f), 2 * load(d, f + c), 2 * load(d, f + 2 * c)
            store9(gradient, at, c, by_order(load9(features, at, c), s0, s1, s2))
