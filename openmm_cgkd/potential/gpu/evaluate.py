"""The operators of `fast` on a GPU: Triton kernels, launched in an order and with sizes that a CUDA
graph can capture.

Outside of a capture neighbour lists are kept and remade as beads move, every evaluation ends with
one look at what went wrong, and lists that are too short grow. Inside a capture nothing can be
looked at or kept: the list is made at every call with the sizes of the calls before, and whatever
is wrong makes energy and forces NaN.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from openmm_cgkd.potential.cpu import network as fused
from openmm_cgkd.potential.cpu.evaluate import N_INTERVALS
from openmm_cgkd.potential.cpu.neighbors import SKIN

from . import bonded, neighbors
from . import network as kernels

EDGES = 4  # of a bead at a time; with 32 channels a thread has one number of each component
LARGEST = 1024  # beads in a cell and neighbours of a bead, beyond which lists do not grow
_BLOCK = 128  # beads or bonds of one program, where programs have more than one
_KEPT = 8  # networks and lists, for as many contexts in one process

# parts of the weights, as `fused` numbers them
_PARTS = (
    "PAIR",
    "OWN",
    "TABLE",
    "GAIN",
    "BIAS",
    "W1",
    "B1",
    "W1T",
    "W2",
    "B2",
    "W2T",
    "LINEAR",
    "LINEAR_T",
)
_PARTS += ("OUT_GAIN", "OUT_BIAS", "V1", "C1", "V1T", "V2", "C2", "V2T", "V3", "C3")
_LAYER_PARTS = ("L_TABLE", "L_SELF", "L_BEFORE", "L_BEFORE_T", "L_AFTER", "L_AFTER_T")


class ListCapacity(NamedTuple):
    """Sizes of a list: neighbours of a bead, beads in a cell, both powers of two, and cells
    along the axes.
    """

    row: int
    cell: int
    grid: tuple[int, int, int]


class _Network:
    """Weights on their device: views of the flat array from each part on; layers, sizes, and
    what they were made from.
    """

    def __init__(self, weights: Tensor, offsets: Tensor, n_types: int) -> None:
        at = offsets.tolist()
        self.own = weights, offsets  # so that their addresses, by which they are known, stay theirs
        self.dtype, self.n_types = weights.dtype, n_types
        # channels padded by the processor that packed the weights
        self.width = (at[fused.OWN] - at[fused.PAIR]) // n_types**2
        self.parts = SimpleNamespace(
            **{name.lower(): weights[at[getattr(fused, name)] :] for name in _PARTS}
        )
        self.layers = [
            SimpleNamespace(
                **{
                    name[2:].lower(): weights[at[first + getattr(fused, name)] :]
                    for name in _LAYER_PARTS
                }
            )
            for first in range(fused.C3 + 1, len(at), len(_LAYER_PARTS))
        ]


class NeighborList:
    """Neighbours of all beads and what is needed to make them anew; arbitrary at first, and of
    no positions.
    """

    def __init__(self, room: ListCapacity, n: int, device: torch.device) -> None:
        def integers(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, device=device)

        n_cells = math.prod(room.grid)
        self.room = room
        self.counters, self.cells, self.cell_of = (
            integers(4 + n_cells),
            integers(n_cells, room.cell),
            integers(n),
        )
        self.found, self.rows, self.n_found = (
            integers(n, room.row),
            integers(n, room.row),
            integers(n),
        )
        self.listed_at = torch.full((n, 3), torch.nan, dtype=torch.float64, device=device)
        self.listed_box = torch.full((9,), torch.nan, dtype=torch.float64, device=device)


_lock = threading.Lock()
_networks: dict[tuple, _Network] = {}
_rooms: dict[tuple, ListCapacity] = {}
_lists: dict[tuple, NeighborList] = {}


def launch(
    kernel: triton.JITFunction,
    programs: int,
    *arguments: Tensor | int,
    warps: int = 4,
    **constants: float | bool,
) -> None:
    """Queue a kernel."""
    kernel[(programs,)](*arguments, num_warps=warps, **constants)


def evaluate(
    positions: Tensor,
    box: Tensor,
    types: Tensor,
    weights: Tensor,
    offsets: Tensor,
    contact: Tensor,
    sizes: list[int],
    numbers: list[float],
    members: Tensor | None = None,
    terms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Potential energy and its gradient, as the operators of `fast` give them on a CPU.

    Parameters
    ----------
    positions : Tensor, shape (n_beads, 3), nm
        Any floating type. This and all others on one device, a GPU, or anywhere in Triton's
        interpreter.
    box : Tensor, shape (3, 3) or (0, 3), nm
    types : Tensor, shape (n_beads,), int64
    weights, offsets, contact : Tensor
        Of `PackedNetwork`.
    sizes : list of int
        Channels, layers, width of the last hidden layer.
    numbers : list of float
        Cutoff (nm), height (kJ/mol) and steepness (1/nm) of the repulsion.
    members, terms : Tensor, optional
        Bonds and angles, as in `BondedPrior`.

    Returns
    -------
    energy : Tensor, scalar, float64, kJ/mol
    gradient : Tensor, shape (n_beads, 3), float64, kJ/mol/nm
        Inside the capture of a CUDA graph both are NaN, when the graph runs, if a list overflows, a
        position is not finite or the box is too small.

    Raises
    ------
    RuntimeError
        Outside of a capture, in these cases.
    """
    if len(positions) != len(types):
        raise RuntimeError(
            f"Got positions of {len(positions)} beads, types of {len(types)}; call set_types."
        )
    positions, box = positions.detach().contiguous(), box.detach().contiguous()
    beads = _Beads(positions, box if len(box) > 0 else None, types, contact.contiguous(), numbers)
    bonds = (
        None
        if members is None or terms is None or len(members) == 0
        else (members.contiguous(), terms.contiguous())
    )
    captured = _capturing(positions)
    with _lock, torch.cuda.device(positions.device) if positions.is_cuda else nullcontext():
        network = _network(weights, offsets, len(contact), captured)
        while True:
            listed = _list(beads, captured)
            energies, gradient = _run(beads, network, sizes, bonds, listed, captured)
            if captured or has_room(beads, listed):
                return energies.sum(), gradient


def _capturing(positions: Tensor) -> bool:
    return positions.is_cuda and torch.cuda.is_current_stream_capturing()


class _Beads(NamedTuple):
    positions: Tensor
    box: Tensor | None
    types: Tensor
    contact: Tensor
    numbers: list[float]

    @property
    def cutoff(self) -> float:
        return self.numbers[0]

    @property
    def key(self) -> tuple:
        return self.positions.device, len(self.positions), self.cutoff, self.box is not None


def _network(weights: Tensor, offsets: Tensor, n_types: int, captured: bool) -> _Network:
    key = weights.data_ptr(), offsets.data_ptr(), weights.device
    if key not in _networks:
        forbid_in_capture(captured)
        _keep(_networks, key, _Network(weights, offsets, n_types))
    return _networks[key]


def _list(beads: _Beads, captured: bool) -> NeighborList:
    """A list to go on with: the one kept for so many beads on this stream, or a fresh one."""
    if beads.key not in _rooms:
        forbid_in_capture(captured)
        _rooms[beads.key] = _first_room(beads)
    n, device = len(beads.positions), beads.positions.device
    if captured:  # graphs run later, in any order, so each has a list to itself
        return NeighborList(_rooms[beads.key], n, device)
    key = (
        *beads.key,
        torch.cuda.current_stream(device).cuda_stream if beads.positions.is_cuda else 0,
    )
    if key not in _lists or _lists[key].room != _rooms[beads.key]:
        _lists.pop(key, None)
        _keep(_lists, key, NeighborList(_rooms[beads.key], n, device))
    return _lists[key]


def _keep(known: dict, key: tuple, item: object) -> None:
    while len(known) >= _KEPT:
        known.pop(next(iter(known)))
    known[key] = item


def forbid_in_capture(captured: bool) -> None:
    if captured:
        raise RuntimeError(
            "The sizes of a potential are not known yet; evaluate it before the capture of a CUDA"
            " graph."
        )


def _first_room(beads: _Beads) -> ListCapacity:
    """Room for half as much again as the mean density gives, or for a liquid with open
    boundaries.
    """
    n, radius = len(beads.positions), beads.cutoff + SKIN
    along, neighbors = 3 * [math.ceil(n ** (1 / 3))], 40.0
    if beads.box is not None:
        from openmm_cgkd.potential.modules import box_numbers

        box_numbers(beads.box, beads.cutoff)  # refuses a bad one
        inverse = torch.linalg.inv(beads.box.cpu().double())
        along = [
            max(1, int(height / radius))
            for height in (1 / torch.linalg.vector_norm(inverse, dim=0)).tolist()
        ]
        neighbors = n * abs(float(torch.linalg.det(inverse))) * 4 / 3 * math.pi * radius**3
    # memory is linear in the number of beads, however large the box
    shrink = min(1.0, (n / math.prod(along)) ** (1 / 3))
    grid = tuple(max(1, int(k * shrink)) for k in along)
    row, cell = (
        min(LARGEST, triton.next_power_of_2(int(1.5 * k) + 8))
        for k in (neighbors, n / math.prod(grid))
    )
    return ListCapacity(row, cell, grid)


def has_room(beads: _Beads, listed: NeighborList) -> bool:
    """Whether the list held all neighbours; if not there is more room the next time. Waits for
    the kernels.
    """
    _, in_cell, in_row, wrong = listed.counters[:4].tolist()
    room = listed.room
    if wrong == 0 and in_cell <= room.cell and in_row <= room.row:
        return True
    _lists.clear()  # that of these positions is wrong, and must not be found again
    if wrong & 1:
        raise RuntimeError("Bead positions are not finite; use a smaller time step.")
    if wrong & 2:
        from openmm_cgkd.potential.modules import box_numbers

        box_numbers(beads.box, beads.cutoff)
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
        for size, found in ((room.row, in_row), (room.cell, in_cell))
    )
    _rooms[beads.key] = ListCapacity(row, cell, room.grid)
    return False


def _run(
    beads: _Beads,
    network: _Network,
    sizes: list[int],
    bonds: tuple | None,
    listed: NeighborList,
    always: bool,
) -> tuple[Tensor, Tensor]:
    """Queue all kernels; per-bead energies (n_beads,) and gradient (n_beads, 3), NaN if
    something is wrong.
    """
    n, n_slots, device = len(beads.positions), listed.rows.numel(), beads.positions.device
    periodic = beads.box is not None
    space = {"PERIODIC": periodic, "CUTOFF": beads.cutoff}
    _make_list(beads, listed, always, space)
    hidden = listed.rows  # not read
    if bonds is not None:
        hidden = torch.zeros(n, listed.room.row, dtype=torch.int8, device=device)
        launch(
            bonded.mark_bonded,
            len(bonds[0]),
            bonds[0],
            listed.rows,
            listed.n_found,
            hidden,
            ROW=listed.room.row,
        )
    count = torch.empty(n, dtype=torch.int32, device=device)
    column, knot = torch.empty(2, n_slots, dtype=torch.int32, device=device)
    reals = torch.empty(5, n_slots, dtype=network.dtype, device=device)
    place, per_length, unit = reals[0], reals[1], reals[2:]
    energies, gradient = (
        torch.empty(n, dtype=torch.float64, device=device),
        torch.empty(n, 3, dtype=torch.float64, device=device),
    )
    box = beads.positions if beads.box is None else beads.box
    _, height, steepness = beads.numbers
    launch(
        neighbors.find_edges, n, beads.positions, box, listed.counters, listed.rows, listed.n_found,
        hidden, beads.types,
        len(beads.contact), beads.contact, count, column, knot, place, unit, per_length, n_slots,
        energies, gradient,
        HEIGHT=height, STEEPNESS=steepness, INTERVALS=N_INTERVALS, CELL=listed.room.cell,
        ROW=listed.room.row, BONDED=bonds is not None,
        **space,
    )  # fmt: skip
    if bonds is not None:
        blocks = triton.cdiv(len(bonds[0]), _BLOCK)
        launch(
            bonded.add_bonded,
            blocks,
            beads.positions,
            box,
            *bonds,
            len(bonds[0]),
            energies,
            gradient,
            PERIODIC=periodic,
            BLOCK=_BLOCK,
        )
    edges = count, column, knot, place, unit, per_length
    _run_network(
        network, sizes, beads.types, edges, beads.cutoff, listed.room.row, energies, gradient
    )
    return energies, gradient


def _make_list(beads: _Beads, listed: NeighborList, always: bool, space: dict) -> None:
    """Queue what makes a list anew, if it does not hold or `always`."""
    n, room, at = len(beads.positions), listed.room, beads.positions
    box = at if beads.box is None else beads.box
    blocks, space = triton.cdiv(n, _BLOCK), {**space, "SKIN": SKIN}
    grid = dict(zip(("GX", "GY", "GZ"), room.grid, strict=True))
    near = dict(zip(("NX", "NY", "NZ"), (min(3, k) for k in room.grid), strict=True))
    lanes = triton.next_power_of_2(math.prod(near.values()) * room.cell)
    kept = listed.listed_at, listed.listed_box, listed.counters
    listed.counters.zero_()
    launch(neighbors.check_list, blocks, at, box, n, *kept, int(always), BLOCK=_BLOCK, **space)
    launch(
        neighbors.fill_cells,
        blocks,
        at,
        box,
        n,
        *kept,
        listed.cells,
        listed.cell_of,
        CELL=room.cell,
        BLOCK=_BLOCK,
        **grid,
        **space,
    )
    launch(
        neighbors.search, n, at, box, listed.counters, listed.cells, listed.cell_of, listed.found,
        listed.n_found,
        CELL=room.cell, ROW=room.row, LANES=lanes, **grid, **near, **space,
    )  # fmt: skip
    launch(
        neighbors.sort_rows,
        n,
        listed.counters,
        listed.found,
        listed.n_found,
        listed.rows,
        ROW=room.row,
    )


def _run_network(
    network: _Network,
    sizes: list[int],
    types: Tensor,
    edges: tuple,
    cutoff: float,
    row: int,
    energies: Tensor,
    gradient: Tensor,
) -> None:
    """Queue the kernels of the network, forward and back; they add to energies and gradient."""
    (channels, n_layers, hidden), c, w, n = sizes, network.width, network.parts, len(types)
    count, column, knot, place, unit, per_length = edges
    near, n_slots = (count, column, knot, place), len(column)
    block = triton.next_power_of_2(c)
    bead = {"C": block, "warps": min(16, max(1, EDGES * block // 32))}
    edge = {**bead, "E": EDGES, "ROW": row}
    graded = {**edge, "PER_SPACING": N_INTERVALS / cutoff}

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, n, c, dtype=network.dtype, device=types.device)

    features, (ours, message, update) = empty(n_layers + 1, 9), empty(3, n_layers, 9)
    summed, linear, d_summed, d_ours, d_message, d, d_next = empty(7, 9)
    h1, h2 = empty(2), empty(3)
    launch(
        kernels.embed, n, *near, unit, n_slots, types, network.n_types, w.table, w.pair, w.own,
        w.gain, w.bias, w.w1, w.b1, w.w2, w.b2,
        w.linear, features[0], summed, linear, h1, h2, channels, c, **edge,
    )  # fmt: skip
    for k, part in enumerate(network.layers):
        launch(kernels.prepare, n, part.before, features[k], ours[k], c, **bead)
        kept = ours[k], message[k], update[k]
        launch(
            kernels.interact,
            n,
            *near,
            part.table,
            part.self,
            part.after,
            features[k],
            *kept,
            features[k + 1],
            c,
            **edge,
        )
    launch(
        kernels.output, n, w.out_gain, w.out_bias, w.v1, w.c1, w.v1t, w.v2, w.c2, w.v2t, w.v3, w.c3,
        features[n_layers], energies, d,
        channels, c, hidden, H=triton.next_power_of_2(hidden), **bead,
    )  # fmt: skip
    for k in range(n_layers - 1, -1, -1):
        part = network.layers[k]
        launch(
            kernels.update_gradient,
            n,
            part.self,
            part.after_t,
            ours[k],
            message[k],
            update[k],
            d,
            d_ours,
            d_message,
            c,
            **bead,
        )
        launch(
            kernels.interact_gradient, n, *near, unit, n_slots, part.table, part.before_t,
            features[k], ours[k], d_ours, d_message,
            d, d_next, gradient, c, **graded,
        )  # fmt: skip
        d, d_next = d_next, d
    launch(
        kernels.embed_gradient,
        n,
        w.gain,
        w.w1t,
        w.w2t,
        w.linear_t,
        d,
        summed,
        linear,
        h1,
        h2,
        d_summed,
        channels,
        c,
        **bead,
    )
    launch(
        kernels.sum_gradient,
        n,
        *near,
        unit,
        per_length,
        n_slots,
        types,
        network.n_types,
        w.table,
        w.pair,
        d_summed,
        gradient,
        c,
        **graded,
    )
