"""Neighbour search on a GPU, in Triton: linked cells, and lists with a skin.

All sizes are fixed, so that a CUDA graph can hold the kernels: every cell has room for CELL beads
and every bead for ROW neighbours. Nothing is decided on the host. `check_list` says in `counters`
whether the list still holds, and the kernels that would make it anew return at once if it does.
Beads without room are counted, never written; `edges.find_edges` then makes all results NaN.

`counters` holds: whether the list is made anew, beads in the fullest cell, neighbours of the
busiest bead, what is wrong (1: positions that are not finite, 2: a box that is too small or not in
OpenMM's reduced form), and from 4 on the beads in every cell. Geometry is in double precision,
whatever the positions come in.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LAST = tl.constexpr(2**31 - 1)  # sorted behind every bead


@triton.jit
def read_box(box, PERIODIC: tl.constexpr):
    """Numbers ax, bx, by, cx, cy, cz of a box.

    Ones for open boundaries, where nobody reads them.
    """
    if PERIODIC:
        ax, bx, by = (
            tl.load(box).to(tl.float64),
            tl.load(box + 3).to(tl.float64),
            tl.load(box + 4).to(tl.float64),
        )
        cx, cy, cz = (
            tl.load(box + 6).to(tl.float64),
            tl.load(box + 7).to(tl.float64),
            tl.load(box + 8).to(tl.float64),
        )
    else:
        one = tl.full((), 1.0, tl.float64)
        ax, bx, by, cx, cy, cz = one, one, one, one, one, one
    return ax, bx, by, cx, cy, cz


@triton.jit
def image(x, y, z, cell, PERIODIC: tl.constexpr):
    """Nearest image of a difference vector.

    Right for all distances up to half the smallest box height.
    """
    if PERIODIC:
        ax, bx, by, cx, cy, cz = cell
        n = tl.floor(z / cz + 0.5)
        x, y, z = x - n * cx, y - n * cy, z - n * cz
        n = tl.floor(y / by + 0.5)
        x, y = x - n * bx, y - n * by
        x -= tl.floor(x / ax + 0.5) * ax
    return x, y, z


@triton.jit
def point(positions, i, here):
    """Coordinates of beads, double precision."""
    x, y = (
        tl.load(positions + 3 * i, mask=here, other=0.0),
        tl.load(positions + 3 * i + 1, mask=here, other=0.0),
    )
    return (
        x.to(tl.float64),
        y.to(tl.float64),
        tl.load(positions + 3 * i + 2, mask=here, other=0.0).to(tl.float64),
    )


@triton.jit
def _heights(cell):
    ax, bx, by, cx, cy, cz = cell
    volume, tilt = ax * by * cz, bx * cy - by * cx
    height_a = volume / tl.sqrt(by * by * cz * cz + bx * bx * cz * cz + tilt * tilt)
    return height_a, volume / tl.sqrt(ax * ax * cz * cz + ax * ax * cy * cy), cz


@triton.jit
def _skin(cell, CUTOFF: tl.constexpr, SKIN: tl.constexpr, PERIODIC: tl.constexpr):
    """The skin, cut to what the box allows.

    Nearest images are unique only up to half its smallest height.
    """
    skin = tl.full((), SKIN, tl.float64)
    if PERIODIC:
        a, b, c = _heights(cell)
        skin = tl.maximum(tl.minimum(skin, 0.5 * tl.minimum(a, tl.minimum(b, c)) - CUTOFF), 0.0)
    return skin


@triton.jit
def _cells_along(
    cell, radius, GX: tl.constexpr, GY: tl.constexpr, GZ: tl.constexpr, PERIODIC: tl.constexpr
):
    """Numbers of cells along the axes.

    None is narrower than the radius, and there are no more than there is room for.
    """
    nx, ny, nz = tl.full((), GX, tl.int32), tl.full((), GY, tl.int32), tl.full((), GZ, tl.int32)
    if PERIODIC:
        a, b, c = _heights(cell)
        nx = tl.minimum(tl.maximum((a / radius).to(tl.int32), 1), nx)
        ny = tl.minimum(tl.maximum((b / radius).to(tl.int32), 1), ny)
        nz = tl.minimum(tl.maximum((c / radius).to(tl.int32), 1), nz)
    return nx, ny, nz


@triton.jit
def _along(s, n):
    """Cell of a coordinate that runs from 0 to 1, repeated beyond.

    A coordinate that is not a number gets some cell, too.
    """
    return tl.minimum(tl.maximum(((s - tl.floor(s)) * n).to(tl.int32), 0), n - 1)


@triton.jit(do_not_specialize=["always"])
def check_list(
    positions, box, n, listed_at, listed_box, counters, always,
    CUTOFF: tl.constexpr, SKIN: tl.constexpr, PERIODIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether a list must be made anew, and what is wrong with positions and box.

    Counters are zero before.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here, cell = i < n, read_box(box, PERIODIC)
    x, y, z = point(positions, i, here)
    # NaN is not below anything
    wrong = tl.max((~(tl.abs(x) + tl.abs(y) + tl.abs(z) < 1e15)).to(tl.int32), 0)
    skin = _skin(cell, CUTOFF, SKIN, PERIODIC)
    x0, y0, z0 = point(listed_at, i, here)
    dx, dy, dz = x - x0, y - y0, z - z0
    away = here & ~(dx * dx + dy * dy + dz * dz < 0.25 * skin * skin)
    anew = tl.maximum(tl.max(away.to(tl.int32), 0), always)
    if PERIODIC:
        k = tl.arange(0, 16)
        now = tl.load(box + k, mask=k < 9, other=0.0).to(tl.float64)
        changed = now != tl.load(listed_box + k, mask=k < 9, other=0.0)
        anew = tl.maximum(anew, tl.max(changed.to(tl.int32), 0))
        a, b, c = _heights(cell)
        tilted = tl.max(((now != 0.0) & ((k == 1) | (k == 2) | (k == 5))).to(tl.int32), 0)
        # OpenMM passes boxes in single precision on some platforms
        fits = tl.minimum(a, tl.minimum(b, c)) >= 2 * CUTOFF * (1 - 1e-6)
        wrong = tl.maximum(wrong, 2 * tl.maximum(tilted, (~fits).to(tl.int32)))
    tl.atomic_max(counters, anew)
    tl.atomic_max(counters + 3, wrong)


@triton.jit
def fill_cells(
    positions, box, n, listed_at, listed_box, counters, cells, cell_of,
    CUTOFF: tl.constexpr, SKIN: tl.constexpr, GX: tl.constexpr, GY: tl.constexpr, GZ: tl.constexpr,
    CELL: tl.constexpr,
    PERIODIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put every bead into its cell.

    Keeps the positions and the box that the list is made for.
    """
    if tl.load(counters) == 0:
        return
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here, cell = i < n, read_box(box, PERIODIC)
    x, y, z = point(positions, i, here)
    radius = CUTOFF + _skin(cell, CUTOFF, SKIN, PERIODIC)
    nx, ny, nz = _cells_along(cell, radius, GX, GY, GZ, PERIODIC)
    tl.store(listed_at + 3 * i, x, mask=here)
    tl.store(listed_at + 3 * i + 1, y, mask=here)
    tl.store(listed_at + 3 * i + 2, z, mask=here)
    if PERIODIC:
        k = tl.arange(0, 16)
        tl.store(listed_box + k, tl.load(box + k, mask=k < 9, other=0.0).to(tl.float64), mask=k < 9)
        ax, bx, by, cx, cy, cz = cell
        z = z / cz
        y = (y - z * cy) / by
        x = (x - y * bx - z * cx) / ax
    # the grid repeats itself: cells that coincide hold more candidates, all of which are looked at
    else:
        x, y, z = x / (radius * nx), y / (radius * ny), z / (radius * nz)
    at = (_along(x, nx) * ny + _along(y, ny)) * nz + _along(z, nz)
    slot = tl.atomic_add(counters + 4 + at, 1, mask=here)
    tl.atomic_max(counters + 1, tl.max(tl.where(here, slot + 1, 0), 0))
    tl.store(cell_of + i, at, mask=here)
    tl.store(cells + at.to(tl.int64) * CELL + slot, i.to(tl.int32), mask=here & (slot < CELL))


@triton.jit
def _near(k, c, n, N: tl.constexpr):
    """The k-th cell along one axis that may hold neighbours of the c-th of n.

    Returns the cell, and whether there is one.
    """
    if N == 3:
        return tl.where(n < 3, tl.minimum(k, n - 1), (c + k + n - 1) % n), k < n
    return tl.minimum(k, n - 1), k < n


@triton.jit
def search(
    positions, box, counters, cells, cell_of, found, n_found,
    CUTOFF: tl.constexpr, SKIN: tl.constexpr, GX: tl.constexpr, GY: tl.constexpr, GZ: tl.constexpr,
    NX: tl.constexpr, NY: tl.constexpr, NZ: tl.constexpr, CELL: tl.constexpr, ROW: tl.constexpr,
    LANES: tl.constexpr,
    PERIODIC: tl.constexpr,
):  # fmt: skip
    """Neighbours of one bead, unsorted, among all beads in NX NY NZ cells.

    A cell's worth of candidates stands beside the other.
    """
    if tl.load(counters) == 0:
        return
    i = tl.program_id(0).to(tl.int64)
    cell = read_box(box, PERIODIC)
    radius = CUTOFF + _skin(cell, CUTOFF, SKIN, PERIODIC)
    nx, ny, nz = _cells_along(cell, radius, GX, GY, GZ, PERIODIC)
    home, lane = tl.load(cell_of + i), tl.arange(0, LANES)
    k, slot = lane // CELL, lane % CELL
    a, in_x = _near(k // (NY * NZ), home // (ny * nz), nx, NX)
    b, in_y = _near(k // NZ % NY, home // nz % ny, ny, NY)
    c, in_z = _near(k % NZ, home % nz, nz, NZ)
    at = (a * ny + b) * nz + c
    candidate = in_x & in_y & in_z & (k < NX * NY * NZ)
    candidate &= slot < tl.load(counters + 4 + at, mask=candidate, other=0)
    j = tl.load(cells + at.to(tl.int64) * CELL + slot, mask=candidate, other=0)
    x0, y0, z0 = point(positions, i, True)
    x, y, z = point(positions, j.to(tl.int64), candidate)
    x, y, z = image(x - x0, y - y0, z - z0, cell, PERIODIC)
    near = candidate & (j != i) & (x * x + y * y + z * z < radius * radius)
    place = tl.cumsum(near.to(tl.int32), 0) - 1
    tl.store(found + i * ROW + place, j, mask=near & (place < ROW))
    n_near = tl.sum(near.to(tl.int32), 0)
    tl.store(n_found + i, tl.minimum(n_near, ROW))
    tl.atomic_max(counters + 2, n_near)


@triton.jit
def sort_rows(counters, found, n_found, rows, ROW: tl.constexpr):
    """Neighbours in ascending order.

    The order in which atomics fill the cells differs from run to run, and sums would with it.
    """
    if tl.load(counters) == 0:
        return
    i, k = tl.program_id(0).to(tl.int64), tl.arange(0, ROW)
    here = k < tl.load(n_found + i)
    tl.store(
        rows + i * ROW + k, tl.sort(tl.load(found + i * ROW + k, mask=here, other=_LAST)), mask=here
    )
