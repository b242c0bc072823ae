"""Edges shorter than the cutoff, in Triton: found at every step, with the repulsion, and read."""

from __future__ import annotations

import triton
import triton.language as tl

from .neighbors import image, point, read_box

_NOTHING = tl.constexpr(-50.0)  # e^-50 is below the rounding error of one


@triton.jit
def find_edges(
    positions, box, counters, rows, n_found, bonded, types, n_types, contact, count, column, knot,
    place, unit, per_length, n_slots,
    energies, gradient, CUTOFF: tl.constexpr, HEIGHT: tl.constexpr, STEEPNESS: tl.constexpr,
    BEND: tl.constexpr, INTERVALS: tl.constexpr,
    CELL: tl.constexpr, ROW: tl.constexpr, PERIODIC: tl.constexpr, BONDED: tl.constexpr,
):  # fmt: skip
    """Edges of one bead shorter than the cutoff; energy and gradient of its repulsion.

    Edges: neighbour (`column`), interval of the radial tables (`knot`) and place in it, unit vector
    (three planes of n_slots), inverse length. The energy is half of that of
    `PairRepulsion`, which does not act where `bonded` is set.
    """
    i, k = tl.program_id(0).to(tl.int64), tl.arange(0, ROW)
    cell, slot = read_box(box, PERIODIC), i * ROW + k
    listed = k < tl.load(n_found + i)
    j = tl.load(rows + slot, mask=listed, other=0)
    x0, y0, z0 = point(positions, i, True)
    x, y, z = point(positions, j.to(tl.int64), listed)
    x, y, z = image(x - x0, y - y0, z - z0, cell, PERIODIC)
    square = x * x + y * y + z * z
    near = listed & (square < CUTOFF * CUTOFF)
    r = tl.sqrt(tl.where(near, square, 1.0))
    per_r = 1 / r
    x, y, z = x * per_r, y * per_r, z * per_r

    near_before = tl.cumsum(near.to(tl.int32), 0) - 1
    to, scaled = i * ROW + near_before, r * (INTERVALS / CUTOFF)
    interval = tl.minimum(scaled.to(tl.int32), INTERVALS - 1)
    kind = place.dtype.element_ty
    tl.store(count + i, tl.sum(near.to(tl.int32), 0))
    tl.store(column + to, j, mask=near)
    tl.store(knot + to, interval, mask=near)
    tl.store(place + to, (scaled - interval).to(kind), mask=near)
    tl.store(unit + to, x.to(kind), mask=near)
    tl.store(unit + n_slots + to, y.to(kind), mask=near)
    tl.store(unit + 2 * n_slots + to, z.to(kind), mask=near)
    tl.store(per_length + to, per_r.to(kind), mask=near)

    at = tl.load(types + i) * n_types + tl.load(types + j, mask=near, other=0)
    exponent = (tl.load(contact + at, mask=near, other=0.0) - r) * STEEPNESS
    repels = near & (exponent > _NOTHING)
    if BONDED:
        repels &= tl.load(bonded + slot, mask=near, other=0) == 0
    exponent = tl.where(repels, exponent, 0.0)
    # not tl.maximum, which takes a number in single precision
    beyond = tl.where(exponent > BEND, exponent - BEND, 0.0)
    until = tl.where(repels, tl.exp(exponent - beyond) * HEIGHT, 0.0)
    u, push = until * (1.0 + beyond + 0.5 * beyond * beyond), until * (1.0 + beyond)
    failed = (
        (tl.load(counters + 1) > CELL)
        | (tl.load(counters + 2) > ROW)
        | (tl.load(counters + 3) != 0)
    )
    start = tl.where(failed, float("nan"), 0.0)  # later kernels add to it
    tl.store(energies + i, start + 0.5 * tl.sum(u, 0))
    tl.store(gradient + 3 * i, start + tl.sum(push * x, 0) * STEEPNESS)
    tl.store(gradient + 3 * i + 1, start + tl.sum(push * y, 0) * STEEPNESS)
    tl.store(gradient + 3 * i + 2, start + tl.sum(push * z, 0) * STEEPNESS)


@triton.jit
def next_edges(i, first, last, column, knot, place, ROW: tl.constexpr, E: tl.constexpr):
    """The next E edges of a bead.

    Returns whether they exist, where they stand, neighbours, intervals and places in them.
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
def unit_vectors(unit, at, here, n_slots):
    x = tl.load(unit + at, mask=here, other=0.0)
    return (
        x,
        tl.load(unit + n_slots + at, mask=here, other=0.0),
        tl.load(unit + 2 * n_slots + at, mask=here, other=0.0),
    )


@triton.jit
def add_gradient(gradient, i, x, y, z):
    """Add to the gradient of one bead.

    Atomic for its simplicity: only this program adds to this bead, so no order matters.
    """
    tl.atomic_add(gradient + 3 * i, x)
    tl.atomic_add(gradient + 3 * i + 1, y)
    tl.atomic_add(gradient + 3 * i + 2, z)
