"""First step of TensorNet as Triton kernels: features of beads from neighbours, and the gradient.

Arguments as in `network`.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .algebra import (
    block,
    by_order,
    cubic,
    dot,
    layer_norm,
    layer_norm_gradient,
    linear9,
    load9,
    over_edges,
    scaled,
    silu,
    silu_slope,
    slope,
    spread9,
    store9,
    sum9,
    times,
    value,
)
from .edges import add_gradient, next_edges, unit_vectors

_SQRT2, _SQRT3 = tl.constexpr(math.sqrt(2.0)), tl.constexpr(math.sqrt(3.0))
_R2, _R6 = tl.constexpr(1 / math.sqrt(2.0)), tl.constexpr(1 / math.sqrt(6.0))


@triton.jit
def embed(
    count, column, knot, place, unit, n_slots, types, n_types, table, pair, own, gain, bias, w1, b1,
    w2, b2, linears,
    features, summed, linear, h1, h2, channels, c, C: tl.constexpr, E: tl.constexpr, ROW:
    tl.constexpr,
):  # fmt: skip
    """Features of a bead from its neighbours, before the first layer.

    Fills what is kept for the gradient.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, kind = f < c, tl.load(count + i), tl.load(types + i)
    zero = tl.zeros((E, C), table.dtype.element_ty)
    s = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for first in range(0, last, E):
        here, at, j, k, t = next_edges(i, first, last, column, knot, place, ROW, E)
        ux, uy, uz = unit_vectors(unit, at, here, n_slots)
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
    """Add to the gradient by a bead's position what the sums over neighbours in `embed` give.

    Counts the bead's own sum and those of its neighbours.
    """
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, C)
    real, last, kind = f < c, tl.load(count + i), tl.load(types + i)
    own = spread9(load9(d_summed, 9 * c * i + f, c, real))
    zero = tl.zeros((E,), tl.float64)
    gx, gy, gz = zero, zero, zero
    for first in range(0, last, E):
        here, at, j, k, t = next_edges(i, first, last, column, knot, place, ROW, E)
        ux, uy, uz = unit_vectors(unit, at, here, n_slots)
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
    add_gradient(gradient, i, tl.sum(gx, 0), tl.sum(gy, 0), tl.sum(gz, 0))
