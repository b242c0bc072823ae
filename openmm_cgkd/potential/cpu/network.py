"""TensorNet with analytic forces as loops over beads and edges, for simulation.

Features of a bead stand in blocks of as many channels as a vector has numbers, each of 9 rows
(components as in `tensornet`); the last block is padded with zeros. All arrays are flat. Every
kernel runs in parallel over beads and sums over the bead's own neighbours: no two threads write to
the same place, and results do not depend on the number of threads. Nothing per edge and channel is
stored. Radial filters are cubic polynomials on an even grid in r, smooth to the first derivative;
forces take the derivatives of these polynomials, so that energy is conserved.

`w` holds all weights, `o` where in it each part begins, in the order of `potential.weights` and as
`layout` has put them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

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
    total,
    totals,
)

_parallel = compiled(parallel=True, fastmath=True)
_serial = compiled(fastmath=True)
_place = _serial(layer_place)


class LayerKernels(NamedTuple):
    """Compiled loops over beads, for vectors of one width."""

    prepare: Callable
    interact: Callable
    output: Callable
    update_gradient: Callable
    interact_gradient: Callable


@functools.cache
def layer_kernels(width: int) -> LayerKernels:
    """Loops for vectors of so many channels."""

    @_parallel
    def prepare(w, o, layer, c, features, prepared):
        """What neighbours see of a bead's features in a layer."""
        before, n_beads = o[_place(layer, IN_LAYER.before)], features.shape[0] // (9 * c)
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            normal = np.empty(9 * c, w.dtype)
            for i in range(begin, end):
                for f in range(0, c, width):
                    x = load9(features, 9 * (c * i + f), width)
                    store9(normal, 9 * f, width, normalized(x))
                linear9(w, before, normal, 0, prepared, 9 * c * i, c, width)

    @_parallel
    def interact(
        start,
        count,
        column,
        knot,
        place,
        w,
        o,
        layer,
        c,
        features,
        prepared,
        message,
        update,
        out,
    ):
        """One layer: messages from neighbours, matrix product, update.

        `message` and `update` are kept for the gradient.
        """
        own, after = o[_place(layer, IN_LAYER.own)], o[_place(layer, IN_LAYER.after)]
        n_beads = count.shape[0]
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            product = np.empty(9 * c, w.dtype)
            for i in range(begin, end):
                first, last = start[i], start[i] + count[i]
                for f in range(0, c, width):
                    table, at = (
                        o[_place(layer, IN_LAYER.table)] + 12 * f,
                        9 * (c * i + f),
                    )
                    y = load9(prepared, at, width)
                    m0, m1, m2, m3, m4, m5, m6, m7, m8 = by_order(
                        y,
                        load(w, own + f, width),
                        load(w, own + c + f, width),
                        load(w, own + 2 * c + f, width),
                    )
                    for e in range(first, last):
                        t, q = spread(place, e, width), table + 12 * c * number(knot, e)
                        j = 9 * (c * number(column, e) + f)
                        r0, r1, r2 = (
                            filter_value(w, q, width, t),
                            filter_value(w, q + width, width, t),
                            filter_value(w, q + 2 * width, width, t),
                        )
                        m0 += r0 * load(prepared, j, width)
                        m1 += r1 * load(prepared, j + width, width)
                        m2 += r1 * load(prepared, j + 2 * width, width)
                        m3 += r1 * load(prepared, j + 3 * width, width)
                        m4 += r2 * load(prepared, j + 4 * width, width)
                        m5 += r2 * load(prepared, j + 5 * width, width)
                        m6 += r2 * load(prepared, j + 6 * width, width)
                        m7 += r2 * load(prepared, j + 7 * width, width)
                        m8 += r2 * load(prepared, j + 8 * width, width)
                    m = (m0, m1, m2, m3, m4, m5, m6, m7, m8)
                    store9(message, at, width, m)
                    both = components(anticommutator(matrix(y), matrix(m)))
                    store9(product, 9 * f, width, normalized(both))
                linear9(w, after, product, 0, update, 9 * c * i, c, width)
                for f in range(0, c, width):
                    at = 9 * (c * i + f)
                    u = load9(update, at, width)
                    square = scaled(components(anticommutator(matrix(u), matrix(u))), 0.5)
                    x = normalized(load9(features, at, width))
                    store9(out, at, width, sum9(x, sum9(u, square)))

    @_parallel
    def update_gradient(w, o, layer, c, prepared, message, update, gradient, d_prepared, d_message):
        """Gradients by the messages and, through the product alone, by `prepared`.

        They come from the gradient by the layer's result.
        """
        own, after_t = (
            o[_place(layer, IN_LAYER.own)],
            o[_place(layer, IN_LAYER.after_t)],
        )
        n_beads = gradient.shape[0] // (9 * c)
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            d_update, d_product = np.empty(9 * c, w.dtype), np.empty(9 * c, w.dtype)
            for i in range(begin, end):
                for f in range(0, c, width):
                    at = 9 * (c * i + f)
                    g, u = load9(gradient, at, width), load9(update, at, width)
                    square = components(anticommutator(matrix(g), transpose(matrix(u))))
                    store9(d_update, 9 * f, width, sum9(g, square))
                linear9(w, after_t, d_update, 0, d_product, 0, c, width)
                for f in range(0, c, width):
                    at = 9 * (c * i + f)
                    a, b = (
                        matrix(load9(prepared, at, width)),
                        matrix(load9(message, at, width)),
                    )
                    product, d = (
                        components(anticommutator(a, b)),
                        load9(d_product, 9 * f, width),
                    )
                    inner = matrix(normalized_gradient(product, d))
                    da, db = (
                        components(anticommutator(inner, transpose(b))),
                        components(anticommutator(inner, transpose(a))),
                    )
                    through_self = by_order(
                        db,
                        load(w, own + f, width),
                        load(w, own + c + f, width),
                        load(w, own + 2 * c + f, width),
                    )
                    store9(d_message, at, width, db)
                    store9(d_prepared, at, width, sum9(da, through_self))

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
        before_t, per_length = o[_place(layer, IN_LAYER.before_t)], 1 / spacing
        x_of, y_of, z_of = unit[0], unit[1], unit[2]
        x_to, y_to, z_to = edge_gradient[0], edge_gradient[1], edge_gradient[2]
        n_beads = count.shape[0]
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            longest = most(count, begin, end) + 2 * DOUBLES  # sums are taken in vectors
            slopes, sums = (
                np.zeros(longest * width, w.dtype),
                np.empty(longest, w.dtype),
            )
            d_normal = np.empty(9 * c, w.dtype)
            for i in range(begin, end):
                first, degree = start[i], count[i]
                slopes[: degree * width] = 0.0
                for f in range(0, c, width):
                    table, at = (
                        o[_place(layer, IN_LAYER.table)] + 12 * f,
                        9 * (c * i + f),
                    )
                    y = load9(prepared, at, width)
                    d0, d1, d2, d3, d4, d5, d6, d7, d8 = load9(d_prepared, at, width)
                    for k in range(degree):
                        e = first + k
                        t, q = spread(place, e, width), table + 12 * c * number(knot, e)
                        g = load9(d_message, 9 * (c * number(column, e) + f), width)
                        r0, r1, r2 = (
                            filter_value(w, q, width, t),
                            filter_value(w, q + width, width, t),
                            filter_value(w, q + 2 * width, width, t),
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
                        # the edge j <- i has the same length, so its share is booked here, where
                        # the gradient of j is at hand
                        even = y[4] * g[4] + y[5] * g[5] + y[6] * g[6] + y[7] * g[7] + y[8] * g[8]
                        slope = (
                            filter_slope(w, q, width, t) * (y[0] * g[0])
                            + filter_slope(w, q + 2 * width, width, t) * even
                        )
                        slope += filter_slope(w, q + width, width, t) * (
                            y[1] * g[1] + y[2] * g[2] + y[3] * g[3]
                        )
                        store(slopes, k * width, load(slopes, k * width, width) + slope)
                    store9(d_prepared, at, width, (d0, d1, d2, d3, d4, d5, d6, d7, d8))
                for k in range(0, degree, 4):
                    a, b = (
                        load(slopes, k * width, width),
                        load(slopes, (k + 1) * width, width),
                    )
                    x, z = (
                        load(slopes, (k + 2) * width, width),
                        load(slopes, (k + 3) * width, width),
                    )
                    store(sums, k, totals(a, b, x, z))
                for k in range(0, degree, DOUBLES):
                    e, n = first + k, degree - k
                    slope = double(load(sums, k, DOUBLES)) * per_length
                    gx = load(x_to, e, DOUBLES) + slope * load(x_of, e, DOUBLES)
                    gy = load(y_to, e, DOUBLES) + slope * load(y_of, e, DOUBLES)
                    gz = load(z_to, e, DOUBLES) + slope * load(z_of, e, DOUBLES)
                    store_first(x_to, e, gx, n)
                    store_first(y_to, e, gy, n)
                    store_first(z_to, e, gz, n)
                linear9(w, before_t, d_prepared, 9 * c * i, d_normal, 0, c, width)
                for f in range(0, c, width):
                    at = 9 * (c * i + f)
                    g = sum9(load9(gradient, at, width), load9(d_normal, 9 * f, width))
                    x = load9(features, at, width)
                    store9(gradient, at, width, normalized_gradient(x, g))

    @_parallel
    def output(w, o, channels, c, hidden, features, energies, gradient):
        """Add the energy of every bead, and give the gradient of their sum by the features."""
        n_beads = energies.shape[0]
        for p in numba.prange(n_parts(n_beads)):
            begin, end = part(p, n_beads)
            x, y, d = (
                np.empty(3 * c, w.dtype),
                np.empty(3 * c, w.dtype),
                np.empty(3 * c, w.dtype),
            )
            h1, h2 = np.empty(c, w.dtype), np.empty(hidden, w.dtype)
            for i in range(begin, end):
                for f in range(0, c, width):
                    v = load9(features, 9 * (c * i + f), width)
                    store(x, f, v[0] * v[0])
                    store(x, f + c, v[1] * v[1] + v[2] * v[2] + v[3] * v[3])
                    even = v[4] * v[4] + v[5] * v[5] + v[6] * v[6] + v[7] * v[7] + v[8] * v[8]
                    store(x, f + 2 * c, even)
                gain, bias = o[PARTS.output_norm_gain], o[PARTS.output_norm_bias]
                layer_norm(w, gain, bias, x, y, 3, channels, c, width)
                first, second = o[PARTS.output_first], o[PARTS.output_second]
                affine(w, first, o[PARTS.output_first_bias], y, 3 * c, h1, 0, c, width)
                activate(h1, 0, y, c, width)
                affine(w, second, o[PARTS.output_second_bias], y, c, h2, 0, hidden, width)
                energy = fill(w[0], width)
                for f in range(0, hidden, width):
                    last = load(w, o[PARTS.output_last] + f, width)
                    energy += silu(load(h2, f, width)) * last
                    store(h2, f, silu_slope(load(h2, f, width)) * last)
                energies[i] += total(energy) + w[o[PARTS.output_last_bias]]
                affine(
                    w,
                    o[PARTS.output_second_t],
                    o[PARTS.zeros],
                    h2,
                    hidden,
                    y,
                    0,
                    c,
                    width,
                )
                activate_gradient(h1, 0, y, c, width)
                affine(w, o[PARTS.output_first_t], o[PARTS.zeros], y, c, d, 0, 3 * c, width)
                layer_norm_gradient(w, gain, x, d, 3, channels, c, width)
                for f in range(0, c, width):
                    at = 9 * (c * i + f)
                    s0, s1, s2 = (
                        2 * load(d, f, width),
                        2 * load(d, f + c, width),
                        2 * load(d, f + 2 * c, width),
                    )
                    store9(
                        gradient,
                        at,
                        width,
                        by_order(load9(features, at, width), s0, s1, s2),
                    )

    return LayerKernels(prepare, interact, output, update_gradient, interact_gradient)
