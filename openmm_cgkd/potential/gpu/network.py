"""TensorNet with analytic forces as Triton kernels, one program per bead: `cpu.network` on a GPU.

A program sums over its bead's own neighbours, a few edges at a time, and nothing per edge and
channel is stored. The gradient differs from that on the CPU in one thing: a program adds up what
both directions of its edges do to its own bead, by reading the neighbours' features once more, so
that edges need not find the edge back, and no two programs write to the same place.

Arguments: edges are those of `edges.find_edges`, in rows of ROW; features (n_beads, 9, c);
`channels` of the `c` are real. C is the power of two not below c, E the number of edges at a time,
PER_SPACING the number of intervals per nm. Network arithmetic is in the type of the weights.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .algebra import (
    anticommutator,
    block,
    by_order,
    components,
    cubic,
    layer_norm,
    layer_norm_gradient,
    linear9,
    load9,
    matrix,
    normalized,
    normalized_gradient,
    over_edges,
    scaled,
    silu,
    silu_slope,
    slope,
    spread9,
    store9,
    sum9,
    times,
    transpose,
    value,
)
from .edges import add_gradient, next_edges, unit_vectors


@triton.jit
def prepare(before, features, prepared, c, C: tl.constexpr):
    """What neighbours see of a bead's features in a layer."""
    f = tl.arange(0, C)
    real, at = f < c, 9 * c * tl.program_id(0).to(tl.int64) + f
    store9(prepared, at, c, linear9(before, normalized(load9(features, at, c, real)), c, C), real)


@triton.jit
def interact(
    count, column, knot, place, table, own, after, features, prepared, message, update, out, c,
    C: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """One layer: messages from neighbours, matrix product, update.

    `message` and `update` are kept for the gradient.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, at = f < c, tl.load(count + i), 9 * c * i + f
    zero = tl.zeros((E, C), table.dtype.element_ty)
    m = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for first in range(0, last, E):
        here, _, j, k, t = next_edges(i, first, last, column, knot, place, ROW, E)
        both = here[:, None] & real[None, :]
        r0, r1 = value(cubic(table, k, f, c, both), t), value(cubic(table + c, k, f, c, both), t)
        r2 = value(cubic(table + 2 * c, k, f, c, both), t)
        m = sum9(m, by_order(load9(prepared, 9 * c * j[:, None] + f[None, :], c, both), r0, r1, r2))
    y = load9(prepared, at, c, real)
    o0, o1 = tl.load(own + f, mask=real, other=0.0), tl.load(own + c + f, mask=real, other=0.0)
    m = sum9(by_order(y, o0, o1, tl.load(own + 2 * c + f, mask=real, other=0.0)), over_edges(m))
    store9(message, at, c, m, real)
    u = linear9(after, normalized(components(anticommutator(matrix(y), matrix(m)))), c, C)
    store9(update, at, c, u, real)
    square = scaled(components(anticommutator(matrix(u), matrix(u))), 0.5)
    store9(out, at, c, sum9(normalized(load9(features, at, c, real)), sum9(u, square)), real)


@triton.jit
def update_gradient(
    own, after_t, prepared, message, update, gradient, d_prepared, d_message, c, C: tl.constexpr
):
    """Gradients by the messages and, through the product alone, by `prepared`.

    They come from the gradient by the layer's result.
    """
    f = tl.arange(0, C)
    real, at = f < c, 9 * c * tl.program_id(0).to(tl.int64) + f
    g = load9(gradient, at, c, real)
    square = components(anticommutator(matrix(g), transpose(matrix(load9(update, at, c, real)))))
    d_product = linear9(after_t, sum9(g, square), c, C)
    a, b = matrix(load9(prepared, at, c, real)), matrix(load9(message, at, c, real))
    inner = matrix(normalized_gradient(components(anticommutator(a, b)), d_product))
    da, db = (
        components(anticommutator(inner, transpose(b))),
        components(anticommutator(inner, transpose(a))),
    )
    o0, o1 = tl.load(own + f, mask=real, other=0.0), tl.load(own + c + f, mask=real, other=0.0)
    store9(d_message, at, c, db, real)
    store9(
        d_prepared,
        at,
        c,
        sum9(da, by_order(db, o0, o1, tl.load(own + 2 * c + f, mask=real, other=0.0))),
        real,
    )


@triton.jit
def interact_gradient(
    count, column, knot, place, unit, n_slots, table, before_t, features, prepared, d_prepared,
    d_message, d_out, d_features, gradient, c,
    C: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr, PER_SPACING: tl.constexpr,
):  # fmt: skip
    """Gradient by a layer's features, from that by its result.

    Adds to the gradient by the bead's position.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, at = f < c, tl.load(count + i), 9 * c * i + f
    y, h = spread9(load9(prepared, at, c, real)), spread9(load9(d_message, at, c, real))
    zero, none = tl.zeros((E, C), table.dtype.element_ty), tl.zeros((E,), tl.float64)
    d = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    gx, gy, gz = none, none, none
    for first in range(0, last, E):
        here, slot, j, k, t = next_edges(i, first, last, column, knot, place, ROW, E)
        both, there = here[:, None] & real[None, :], 9 * c * j[:, None] + f[None, :]
        p0, p1, p2 = (
            cubic(table, k, f, c, both),
            cubic(table + c, k, f, c, both),
            cubic(table + 2 * c, k, f, c, both),
        )
        g, v = load9(d_message, there, c, both), load9(prepared, there, c, both)
        d = sum9(d, by_order(g, value(p0, t), value(p1, t), value(p2, t)))
        # the message to this bead, and this bead's to its neighbour, depend on the same length
        radial = slope(p0, t) * (y[0] * g[0] + v[0] * h[0])
        radial += slope(p1, t) * (
            (y[1] * g[1] + v[1] * h[1]) + (y[2] * g[2] + v[2] * h[2]) + (y[3] * g[3] + v[3] * h[3])
        )
        even = (
            (y[4] * g[4] + v[4] * h[4]) + (y[5] * g[5] + v[5] * h[5]) + (y[6] * g[6] + v[6] * h[6])
        )
        radial += slope(p2, t) * (even + (y[7] * g[7] + v[7] * h[7]) + (y[8] * g[8] + v[8] * h[8]))
        along = tl.sum(radial, 1) * PER_SPACING
        ux, uy, uz = unit_vectors(unit, slot, here, n_slots)
        gx -= along * ux
        gy -= along * uy
        gz -= along * uz
    add_gradient(gradient, i, tl.sum(gx, 0), tl.sum(gy, 0), tl.sum(gz, 0))
    d_normal = linear9(before_t, sum9(load9(d_prepared, at, c, real), over_edges(d)), c, C)
    g = sum9(load9(d_out, at, c, real), d_normal)
    store9(d_features, at, c, normalized_gradient(load9(features, at, c, real), g), real)


@triton.jit
def output(
    gain, bias, v1, c1, v1t, v2, c2, v2t, v3, c3, features, energies, gradient, channels, c, hidden,
    C: tl.constexpr, H: tl.constexpr
):  # fmt: skip
    """Add the energy of a bead, and give the gradient of the summed energies by its features."""
    i = tl.program_id(0).to(tl.int64)
    wide, f, h = tl.arange(0, 4 * C), tl.arange(0, C), tl.arange(0, H)
    order, channel = wide // C, wide % C  # components of order l begin at l^2
    real = (order < 3) & (channel < c)
    norm, at = order * c + channel, 9 * c * i + order * order * c + channel
    x = tl.zeros((4 * C,), features.dtype.element_ty)
    for m in tl.static_range(5):
        v = tl.load(features + at + m * c, mask=real & (m <= 2 * order), other=0.0)
        x += v * v
    counted, n = real & (channel < channels), 3 * channels
    gain_x, bias_x = (
        tl.load(gain + norm, mask=real, other=0.0),
        tl.load(bias + norm, mask=real, other=0.0),
    )
    y = layer_norm(x, gain_x, bias_x, counted, n)
    into = tl.load(
        v1 + norm[:, None] * c + f[None, :], mask=real[:, None] & (f < c)[None, :], other=0.0
    )
    h1 = times(y, into) + tl.load(c1 + f, mask=f < c, other=0.0)
    h2 = times(silu(h1), block(v2, c, hidden, hidden, C, H)) + tl.load(
        c2 + h, mask=h < hidden, other=0.0
    )
    weight = tl.load(v3 + h, mask=h < hidden, other=0.0)
    tl.atomic_add(energies + i, (tl.sum(silu(h2) * weight, 0) + tl.load(c3)).to(tl.float64))
    d = times(silu_slope(h2) * weight, block(v2t, hidden, c, c, H, C)) * silu_slope(h1)
    back = tl.load(
        v1t + f[:, None] * (3 * c) + norm[None, :], mask=(f < c)[:, None] & real[None, :], other=0.0
    )
    d = 2 * layer_norm_gradient(x, gain_x, times(d, back), counted, n)
    for m in tl.static_range(5):
        v = tl.load(features + at + m * c, mask=real & (m <= 2 * order), other=0.0)
        tl.store(gradient + at + m * c, v * d, mask=real & (m <= 2 * order))
