"""Neighbour lists on a GPU: their sizes, and how they are kept, made anew and grown.

Outside of a capture of a CUDA graph lists are kept and remade as beads move, and lists that are too
short grow. Inside a capture nothing can be looked at or kept: every graph has a list of its own,
with the sizes of the calls before.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from openmm_cgkd.potential.cpu.lists import SKIN
from openmm_cgkd.potential.script_geometry import script_box
from openmm_cgkd.potential.signature import Numbers
from openmm_cgkd.utils.box import box_heights, box_volume

from . import neighbors
from .launch import launch

LARGEST = 1024  # beads in a cell and neighbours of a bead, beyond which lists do not grow
BLOCK = 128  # beads or bonds of one program, where programs have more than one
_KEPT = 8  # lists, for as many contexts in one process

lock = threading.Lock()  # held by whoever evaluates
capacities: dict[tuple, ListCapacity] = {}
lists: dict[tuple, NeighborList] = {}


class ListCapacity(NamedTuple):
    """Sizes of a list.

    Neighbours of a bead and beads in a cell, both powers of two, and cells along the axes.
    """

    row: int
    cell: int
    grid: tuple[int, int, int]


class NeighborList:
    """Neighbours of all beads, and what is needed to make them anew.

    Arbitrary at first, and of no positions.
    """

    def __init__(self, capacity: ListCapacity, n: int, device: torch.device) -> None:
        def integers(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, device=device)

        n_cells = math.prod(capacity.grid)
        self.capacity = capacity
        self.counters, self.cells, self.cell_of = (
            integers(4 + n_cells),
            integers(n_cells, capacity.cell),
            integers(n),
        )
        self.found, self.rows, self.n_found = (
            integers(n, capacity.row),
            integers(n, capacity.row),
            integers(n),
        )
        self.listed_at = torch.full((n, 3), torch.nan, dtype=torch.float64, device=device)
        self.listed_box = torch.full((9,), torch.nan, dtype=torch.float64, device=device)


class Beads(NamedTuple):
    """Where the beads are, and what they are."""

    positions: Tensor
    box: Tensor | None
    types: Tensor
    contact: Tensor
    numbers: Numbers

    @property
    def cutoff(self) -> float:
        """Distance beyond which beads do not act on each other, nm."""
        return self.numbers.cutoff

    @property
    def key(self) -> tuple:
        """Beads with the same key get lists of the same sizes."""
        return self.positions.device, len(self.positions), self.cutoff, self.box is not None


def in_capture(positions: Tensor) -> bool:
    """Whether a CUDA graph is being captured."""
    return positions.is_cuda and torch.cuda.is_current_stream_capturing()


def find_list(beads: Beads, captured: bool) -> NeighborList:
    """A list to go on with: the one kept for so many beads on this stream, or a fresh one."""
    if beads.key not in capacities:
        forbid_in_capture(captured)
        capacities[beads.key] = first_capacity(beads)
    n, device = len(beads.positions), beads.positions.device
    if captured:  # graphs run later, in any order, so each has a list to itself
        return NeighborList(capacities[beads.key], n, device)
    key = (
        *beads.key,
        torch.cuda.current_stream(device).cuda_stream if beads.positions.is_cuda else 0,
    )
    if key not in lists or lists[key].capacity != capacities[beads.key]:
        lists.pop(key, None)
        keep_latest(lists, key, NeighborList(capacities[beads.key], n, device))
    return lists[key]


def keep_latest(known: dict, key: tuple, item: object) -> None:
    """Add to what is kept, and forget the oldest beyond eight."""
    while len(known) >= _KEPT:
        known.pop(next(iter(known)))
    known[key] = item


def forbid_in_capture(captured: bool) -> None:
    """Refuse to go on inside a capture, where nothing can be looked at."""
    if captured:
        raise RuntimeError(
            "The sizes of a potential are not known yet; evaluate it before the capture of a CUDA"
            " graph."
        )


def first_capacity(beads: Beads) -> ListCapacity:
    """Room for half as much again as the mean density gives.

    With open boundaries the density is that of a liquid.
    """
    n, radius = len(beads.positions), beads.cutoff + SKIN
    along, n_near = 3 * [math.ceil(n ** (1 / 3))], 40.0
    if beads.box is not None:
        script_box(beads.box, beads.cutoff)  # refuses a bad one
        box = beads.box.cpu().double().numpy()
        along = [max(1, int(height / radius)) for height in box_heights(box)]
        n_near = n / float(box_volume(box)) * 4 / 3 * math.pi * radius**3
    # memory is linear in the number of beads, however large the box
    shrink = min(1.0, (n / math.prod(along)) ** (1 / 3))
    a, b, c = (max(1, int(k * shrink)) for k in along)
    row, cell = (
        min(LARGEST, triton.next_power_of_2(int(1.5 * k) + 8)) for k in (n_near, n / (a * b * c))
    )
    return ListCapacity(row, cell, (a, b, c))


def has_room(beads: Beads, listed: NeighborList) -> bool:
    """Whether the list held all neighbours; if not there is more room the next time.

    Waits for the kernels.
    """
    _, in_cell, in_row, wrong = listed.counters[:4].tolist()
    capacity = listed.capacity
    if wrong == 0 and in_cell <= capacity.cell and in_row <= capacity.row:
        return True
    lists.clear()  # that of these positions is wrong, and must not be found again
    if wrong & 1:
        raise RuntimeError("Bead positions are not finite; use a smaller time step.")
    if wrong & 2 and beads.box is not None:
        script_box(beads.box, beads.cutoff)
        raise RuntimeError(
            f"The box {beads.box.tolist()} nm is too small or not in OpenMM's reduced form."
        )
    if max(in_cell, in_row) > LARGEST:
        raise RuntimeError(
            f"Too many beads in one place: {in_row} within {beads.cutoff + SKIN:g} nm of one bead"
            f" and {in_cell} in one cell of the neighbour search, whose capacity is {LARGEST};"
            " beads have collapsed onto each other."
        )
    row, cell = (
        size if found <= size else min(LARGEST, triton.next_power_of_2(found + found // 4))
        for size, found in ((capacity.row, in_row), (capacity.cell, in_cell))
    )
    capacities[beads.key] = ListCapacity(row, cell, capacity.grid)
    return False


def make_list(beads: Beads, listed: NeighborList, always: bool, space: dict[str, Any]) -> None:
    """Queue what makes a list anew, if it does not hold or `always`."""
    n, capacity, at = len(beads.positions), listed.capacity, beads.positions
    box = at if beads.box is None else beads.box
    blocks, space = triton.cdiv(n, BLOCK), {**space, "SKIN": SKIN}
    grid = dict(zip(("GX", "GY", "GZ"), capacity.grid, strict=True))
    near = dict(zip(("NX", "NY", "NZ"), (min(3, k) for k in capacity.grid), strict=True))
    lanes = triton.next_power_of_2(math.prod(near.values()) * capacity.cell)
    kept = listed.listed_at, listed.listed_box, listed.counters
    listed.counters.zero_()
    launch(neighbors.check_list, blocks, at, box, n, *kept, int(always), BLOCK=BLOCK, **space)
    launch(
        neighbors.fill_cells,
        blocks,
        at,
        box,
        n,
        *kept,
        listed.cells,
        listed.cell_of,
        CELL=capacity.cell,
        BLOCK=BLOCK,
        **grid,
        **space,
    )
    launch(
        neighbors.search, n, at, box, listed.counters, listed.cells, listed.cell_of, listed.found,
        listed.n_found,
        CELL=capacity.cell, ROW=capacity.row, LANES=lanes, **grid, **near, **space,
    )  # fmt: skip
    launch(
        neighbors.sort_rows,
        n,
        listed.counters,
        listed.found,
        listed.n_found,
        listed.rows,
        ROW=capacity.row,
    )
