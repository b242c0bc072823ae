"""Bonds and angles for a GPU, in Triton: the terms and the arrays of `cpu.bonded`."""

from __future__ import annotations

import triton
import triton.language as tl

from .neighbors import image, point, read_box


@triton.jit
def mark_bonded(bonded_beads, rows, n_found, bonded, ROW: tl.constexpr):
    """Set `bonded` where a neighbour list joins the ends of one bond or angle.

    It is zero before.
    """
    m, k = tl.program_id(0).to(tl.int64), tl.arange(0, ROW)
    third = tl.load(bonded_beads + 3 * m + 2)
    i, j = (
        tl.load(bonded_beads + 3 * m),
        tl.where(third < 0, tl.load(bonded_beads + 3 * m + 1), third),
    )
    one = tl.full((ROW,), 1, tl.int8)
    there = tl.load(rows + i * ROW + k, mask=k < tl.load(n_found + i), other=-1)
    tl.store(bonded + i * ROW + k, one, mask=there == j)
    back = tl.load(rows + j * ROW + k, mask=k < tl.load(n_found + j), other=-1)
    tl.store(bonded + j * ROW + k, one, mask=back == i)


@triton.jit
def _arm(positions, first, second, here, cell, PERIODIC: tl.constexpr):
    x0, y0, z0 = point(positions, first, here)
    x, y, z = point(positions, second, here)
    return image(x - x0, y - y0, z - z0, cell, PERIODIC)


@triton.jit
def _pull(gradient, i, here, x, y, z):
    tl.atomic_add(gradient + 3 * i, x, mask=here)
    tl.atomic_add(gradient + 3 * i + 1, y, mask=here)
    tl.atomic_add(gradient + 3 * i + 2, z, mask=here)


@triton.jit
def add_bonded(
    positions,
    box,
    bonded_beads,
    bonded_parameters,
    n_terms,
    energies,
    gradient,
    PERIODIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the energy of every term to that of one of its beads, and its gradient; double precision.

    Several terms add to a bead, in any order: their sum may differ from run to run in the last of
    sixteen digits.
    """
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here, cell = m < n_terms, read_box(box, PERIODIC)
    i, j = (
        tl.load(bonded_beads + 3 * m, mask=here, other=0),
        tl.load(bonded_beads + 3 * m + 1, mask=here, other=0),
    )
    k = tl.load(bonded_beads + 3 * m + 2, mask=here, other=-1)
    angle = k >= 0
    k = tl.where(angle, k, i)  # a bond is its own second arm
    constant, center = (
        tl.load(bonded_parameters + 2 * m, mask=here, other=0.0),
        tl.load(bonded_parameters + 2 * m + 1, mask=here, other=0.0),
    )
    ux, uy, uz = _arm(positions, j, i, here, cell, PERIODIC)
    vx, vy, vz = _arm(positions, j, k, here, cell, PERIODIC)
    uu = tl.where(here, ux * ux + uy * uy + uz * uz, 1.0)
    vv = tl.where(here, vx * vx + vy * vy + vz * vz, 1.0)
    product = tl.sqrt(uu * vv)
    cosine = (ux * vx + uy * vy + uz * vz) / product
    away = tl.where(angle, cosine, tl.sqrt(uu)) - center
    tl.atomic_add(energies + j, 0.5 * constant * away * away, mask=here)
    slope = constant * away
    # to the first bead: v / |u||v| - cos u / |u|^2 for an angle, u / |u| for a bond; to the third
    # likewise
    own, other = (
        tl.where(angle, -cosine / uu, 1 / tl.sqrt(uu)) * slope,
        tl.where(angle, slope / product, 0.0),
    )
    third = tl.where(angle, -cosine / vv * slope, 0.0)
    ix, iy, iz = own * ux + other * vx, own * uy + other * vy, own * uz + other * vz
    kx, ky, kz = third * vx + other * ux, third * vy + other * uy, third * vz + other * uz
    _pull(gradient, i, here, ix, iy, iz)
    _pull(gradient, k, here & angle, kx, ky, kz)
    _pull(gradient, j, here, -ix - kx, -iy - ky, -iz - kz)
