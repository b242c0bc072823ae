"""TensorNet with analytic forces as Triton kernels: `fused` for a GPU, one program per bead.

A program sums over its bead's own neighbours, a few edges at a time, and nothing per edge and
channel is stored. The gradient differs from that of `fused` in one thing: a program adds up what
both directions of its edges do to its own bead, by reading the neighbours' features once more, so
that edges need not find the edge back, and no two programs write to the same place.

Arguments: edges are those of `neighbors.find_edges`, in rows of ROW; features (n_beads, 9, c);
`channels` of the `c` are real. C is the power of two not below c, E the number of edges at a time,
PER_SPACING the number of intervals per nm. Network arithmetic is in the type of the weights.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .algebra import (
    anticommutator,
    block,
    by_order,
    components,
    cubic,
    dot,
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

_SQRT2, _SQRT3 = tl.constexpr(math.sqrt(2.0)), tl.constexpr(math.sqrt(3.0))
_R2, _R6 = tl.constexpr(1 / math.sqrt(2.0)), tl.constexpr(1 / math.sqrt(6.0))


@triton.jit
def _edges(i, first, last, column, knot, place, ROW: tl.constexpr, E: tl.constexpr):
    """The next E edges of a bead: whether they exist, where they stand, neighbours, intervals
    and places in them.
    """
    e = first + tl.arange(0, E)
    here, at = e < last, i * ROW + e
    j = tl.load(column + at, mask=here, other=0).to(tl.int64)
    return (
        here,
        at,
        j,
        tl.load(knot + at, mask=here, other=0),
        tl.load(place + at, mask=here, other=0.0)[:, None],
    )


@triton.jit
def _unit(unit, at, here, n_slots):
    x = tl.load(unit + at, mask=here, other=0.0)
    return (
        x,
        tl.load(unit + n_slots + at, mask=here, other=0.0),
        tl.load(unit + 2 * n_slots + at, mask=here, other=0.0),
    )


@triton.jit
def _add_gradient(gradient, i, x, y, z):
    """Atomic for its simplicity: only this program adds to this bead, so the result does not
    depend on any order.
    """
    tl.atomic_add(gradient + 3 * i, x)
    tl.atomic_add(gradient + 3 * i + 1, y)
    tl.atomic_add(gradient + 3 * i + 2, z)


@triton.jit
def embed(
    count, column, knot, place, unit, n_slots, types, n_types, table, pair, own, gain, bias, w1, b1,
    w2, b2, linears,
    features, summed, linear, h1, h2, channels, c, C: tl.constexpr, E: tl.constexpr, ROW:
    tl.constexpr,
):  # fmt: skip
    """Features of a bead from its neighbours, before the first layer; fills what is kept for
    the gradient.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, kind = f < c, tl.load(count + i), tl.load(types + i)
    zero = tl.zeros((E, C), table.dtype.element_ty)
    s = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for first in range(0, last, E):
        here, at, j, k, t = _edges(i, first, last, column, knot, place, ROW, E)
        ux, uy, uz = _unit(unit, at, here, n_slots)
        x, y, z = -ux[:, None], -uy[:, None], -uz[:, None]
        both = here[:, None] & real[None, :]
        kinds = kind * n_types + tl.load(types + j, mask=here, other=0)
        weight = tl.load(pair + kinds[:, None] * c + f[None, :], mask=both, other=0.0)
        r0 = value(cubic(table, k, f, c, both), t) * weight
        r1 = value(cubic(table + c, k, f, c, both), t) * weight
        r2 = value(cubic(table + 2 * c, k, f, c, both), t) * weight
        a, b = r1 * _SQRT2, r2 * _SQRT2
        diagonal, axial = (x * x - y * y) * _R2 * r2, (2 * z * z - x * x - y * y) * _R6 * r2
        s = sum9(
            s, (r0 * _SQRT3, a * x, a * y, a * z, b * x * y, b * x * z, b * y * z, diagonal, axial)
        )
    x0, x1, x2, x3, x4, x5, x6, x7, x8 = over_edges(s)
    x = (x0 + tl.load(own + kind * c + f, mask=real, other=0.0), x1, x2, x3, x4, x5, x6, x7, x8)
    at = 9 * c * i + f
    store9(summed, at, c, x, real)
    gain_f, bias_f = (
        tl.load(gain + f, mask=real, other=0.0),
        tl.load(bias + f, mask=real, other=0.0),
    )
    q = layer_norm(dot(x, x), gain_f, bias_f, f < channels, channels)
    wide = tl.arange(0, 2 * C)
    q = times(q, block(w1, c, 2 * c, 2 * c, C, 2 * C)) + tl.load(
        b1 + wide, mask=wide < 2 * c, other=0.0
    )
    tl.store(h1 + 2 * c * i + wide, q, mask=wide < 2 * c)
    q, to = silu(q), h2 + 3 * c * i + f
    z0 = times(q, block(w2, 2 * c, c, 3 * c, 2 * C, C)) + tl.load(b2 + f, mask=real, other=0.0)
    z1 = times(q, block(w2 + c, 2 * c, c, 3 * c, 2 * C, C)) + tl.load(
        b2 + c + f, mask=real, other=0.0
    )
    z2 = times(q, block(w2 + 2 * c, 2 * c, c, 3 * c, 2 * C, C)) + tl.load(
        b2 + 2 * c + f, mask=real, other=0.0
    )
    tl.store(to, z0, mask=real)
    tl.store(to + c, z1, mask=real)
    tl.store(to + 2 * c, z2, mask=real)
    x = linear9(linears, x, c, C)
    store9(linear, at, c, x, real)
    store9(features, at, c, by_order(x, silu(z0), silu(z1), silu(z2)), real)


@triton.jit
def embed_gradient(
    gain, w1t, w2t, linears_t, gradient, summed, linear, h1, h2, d_summed, channels, c, C:
    tl.constexpr
):  # fmt: skip
    """Gradient with respect to the sums over neighbours, from that with respect to the features."""
    i = tl.program_id(0).to(tl.int64)
    f, wide = tl.arange(0, C), tl.arange(0, 2 * C)
    real, at, gate = f < c, 9 * c * i + f, h2 + 3 * c * i + f
    g, x = load9(gradient, at, c, real), load9(linear, at, c, real)
    z0, z1, z2 = (
        tl.load(gate, mask=real, other=0.0),
        tl.load(gate + c, mask=real, other=0.0),
        tl.load(gate + 2 * c, mask=real, other=0.0),
    )
    a0 = g[0] * x[0] * silu_slope(z0)
    a1 = (g[1] * x[1] + g[2] * x[2] + g[3] * x[3]) * silu_slope(z1)
    a2 = (g[4] * x[4] + g[5] * x[5] + g[6] * x[6] + g[7] * x[7] + g[8] * x[8]) * silu_slope(z2)
    b = times(a0, block(w2t, c, 2 * c, 2 * c, C, 2 * C))
    b += times(a1, block(w2t + 2 * c * c, c, 2 * c, 2 * c, C, 2 * C))
    b += times(a2, block(w2t + 4 * c * c, c, 2 * c, 2 * c, C, 2 * C))
    b *= silu_slope(tl.load(h1 + 2 * c * i + wide, mask=wide < 2 * c, other=0.0))
    a = times(b, block(w1t, 2 * c, c, c, 2 * C, C))
    s = load9(summed, at, c, real)
    a = layer_norm_gradient(
        dot(s, s), tl.load(gain + f, mask=real, other=0.0), a, f < channels, channels
    )
    d = linear9(linears_t, by_order(g, silu(z0), silu(z1), silu(z2)), c, C)
    store9(d_summed, at, c, sum9(d, scaled(s, 2.0 * a)), real)


@triton.jit
def sum_gradient(
    count, column, knot, place, unit, per_length, n_slots, types, n_types, table, pair, d_summed,
    gradient, c,
    C: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr, PER_SPACING: tl.constexpr,
):  # fmt: skip
    """Add to the gradient with respect to a bead's position what the sums over neighbours of
    `embed` do, its own and theirs.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, kind = f < c, tl.load(count + i), tl.load(types + i)
    own = spread9(load9(d_summed, 9 * c * i + f, c, real))
    zero = tl.zeros((E,), tl.float64)
    gx, gy, gz = zero, zero, zero
    for first in range(0, last, E):
        here, at, j, k, t = _edges(i, first, last, column, knot, place, ROW, E)
        ux, uy, uz = _unit(unit, at, here, n_slots)
        x, y, z = ux[:, None], uy[:, None], uz[:, None]
        both, other = here[:, None] & real[None, :], tl.load(types + j, mask=here, other=0)
        there = tl.load(
            pair + (kind * n_types + other)[:, None] * c + f[None, :], mask=both, other=0.0
        )
        back = tl.load(
            pair + (other * n_types + kind)[:, None] * c + f[None, :], mask=both, other=0.0
        )
        # the vector of the edge back is the reverse, so the odd components change sign
        d = sum9(
            by_order(own, there, -there, there),
            scaled(load9(d_summed, 9 * c * j[:, None] + f[None, :], c, both), back),
        )
        p0, p1, p2 = (
            cubic(table, k, f, c, both),
            cubic(table + c, k, f, c, both),
            cubic(table + 2 * c, k, f, c, both),
        )
        r1, r2 = value(p1, t) * _SQRT2, value(p2, t) * _SQRT2
        axial = d[8] * _R6
        even = (
            (x * y * d[4] + x * z * d[5] + y * z * d[6]) * _SQRT2
            + (x * x - y * y) * _R2 * d[7]
            + (2 * z * z - x * x - y * y) * axial
        )
        radial = (
            slope(p0, t) * _SQRT3 * d[0]
            + slope(p1, t) * _SQRT2 * (x * d[1] + y * d[2] + z * d[3])
            + slope(p2, t) * even
        )
        along = tl.sum(radial, 1) * PER_SPACING
        tx = tl.sum(r1 * d[1] + r2 * (y * d[4] + z * d[5] + x * d[7] - x * axial * _SQRT2), 1)
        ty = tl.sum(r1 * d[2] + r2 * (x * d[4] + z * d[6] - y * d[7] - y * axial * _SQRT2), 1)
        tz = tl.sum(r1 * d[3] + r2 * (x * d[5] + y * d[6] + z * axial * (2 * _SQRT2)), 1)
        scale = tl.load(per_length + at, mask=here, other=0.0)
        along -= (ux * tx + uy * ty + uz * tz) * scale
        gx -= along * ux + tx * scale
        gy -= along * uy + ty * scale
        gz -= along * uz + tz * scale
    _add_gradient(gradient, i, tl.sum(gx, 0), tl.sum(gy, 0), tl.sum(gz, 0))


@triton.jit
def prepare(before, features, ours, c, C: tl.constexpr):
    """What neighbours see of a bead's features in a layer."""
    f = tl.arange(0, C)
    real, at = f < c, 9 * c * tl.program_id(0).to(tl.int64) + f
    store9(ours, at, c, linear9(before, normalized(load9(features, at, c, real)), c, C), real)


@triton.jit
def interact(
    count, column, knot, place, table, own, after, features, ours, message, update, out, c,
    C: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """One layer: messages from neighbours, matrix product, update; `message` and `update` are
    kept for the gradient.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, at = f < c, tl.load(count + i), 9 * c * i + f
    zero = tl.zeros((E, C), table.dtype.element_ty)
    m = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for first in range(0, last, E):
        here, _, j, k, t = _edges(i, first, last, column, knot, place, ROW, E)
        both = here[:, None] & real[None, :]
        r0, r1 = value(cubic(table, k, f, c, both), t), value(cubic(table + c, k, f, c, both), t)
        r2 = value(cubic(table + 2 * c, k, f, c, both), t)
        m = sum9(m, by_order(load9(ours, 9 * c * j[:, None] + f[None, :], c, both), r0, r1, r2))
    y = load9(ours, at, c, real)
    o0, o1 = tl.load(own + f, mask=real, other=0.0), tl.load(own + c + f, mask=real, other=0.0)
    m = sum9(by_order(y, o0, o1, tl.load(own + 2 * c + f, mask=real, other=0.0)), over_edges(m))
    store9(message, at, c, m, real)
    u = linear9(after, normalized(components(anticommutator(matrix(y), matrix(m)))), c, C)
    store9(update, at, c, u, real)
    square = scaled(components(anticommutator(matrix(u), matrix(u))), 0.5)
    store9(out, at, c, sum9(normalized(load9(features, at, c, real)), sum9(u, square)), real)


@triton.jit
def update_gradient(
    own, after_t, ours, message, update, gradient, d_ours, d_message, c, C: tl.constexpr
):
    """Gradients with respect to the messages and, through the product alone, `ours`; from that
    of the layer's result.
    """
    f = tl.arange(0, C)
    real, at = f < c, 9 * c * tl.program_id(0).to(tl.int64) + f
    g = load9(gradient, at, c, real)
    square = components(anticommutator(matrix(g), transpose(matrix(load9(update, at, c, real)))))
    d_product = linear9(after_t, sum9(g, square), c, C)
    a, b = matrix(load9(ours, at, c, real)), matrix(load9(message, at, c, real))
    inner = matrix(normalized_gradient(components(anticommutator(a, b)), d_product))
    da, db = (
        components(anticommutator(inner, transpose(b))),
        components(anticommutator(inner, transpose(a))),
    )
    o0, o1 = tl.load(own + f, mask=real, other=0.0), tl.load(own + c + f, mask=real, other=0.0)
    store9(d_message, at, c, db, real)
    store9(
        d_ours,
        at,
        c,
        sum9(da, by_order(db, o0, o1, tl.load(own + 2 * c + f, mask=real, other=0.0))),
        real,
    )


@triton.jit
def interact_gradient(
    count, column, knot, place, unit, n_slots, table, before_t, features, ours, d_ours, d_message,
    d_out, d_features, gradient, c,
    C: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr, PER_SPACING: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to a layer's features, from that of its result; adds to that of the
    bead's position.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, at = f < c, tl.load(count + i), 9 * c * i + f
    y, h = spread9(load9(ours, at, c, real)), spread9(load9(d_message, at, c, real))
    zero, none = tl.zeros((E, C), table.dtype.element_ty), tl.zeros((E,), tl.float64)
    d = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    gx, gy, gz = none, none, none
    for first in range(0, last, E):
        here, slot, j, k, t = _edges(i, first, last, column, knot, place, ROW, E)
        both, there = here[:, None] & real[None, :], 9 * c * j[:, None] + f[None, :]
        p0, p1, p2 = (
            cubic(table, k, f, c, both),
            cubic(table + c, k, f, c, both),
            cubic(table + 2 * c, k, f, c, both),
        )
        g, v = load9(d_message, there, c, both), load9(ours, there, c, both)
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
        ux, uy, uz = _unit(unit, slot, here, n_slots)
        gx -= along * ux
        gy -= along * uy
        gz -= along * uz
    _add_gradient(gradient, i, tl.sum(gx, 0), tl.sum(gy, 0), tl.sum(gz, 0))
    d_normal = linear9(before_t, sum9(load9(d_ours, at, c, real), over_edges(d)), c, C)
    g = sum9(load9(d_out, at, c, real), d_normal)
    store9(d_features, at, c, normalized_gradient(load9(features, at, c, real), g), real)


@triton.jit
def output(
    gain, bias, v1, c1, v1t, v2, c2, v2t, v3, c3, features, energies, gradient, channels, c, hidden,
    C: tl.constexpr, H: tl.constexpr
):  # fmt: skip
    """Add the energy of a bead, and give the gradient of the sum of energies with respect to
    its features.
    """
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
