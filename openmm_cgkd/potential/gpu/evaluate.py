"""The operators on a GPU: Triton kernels, in an order and with sizes that a CUDA graph can capture.

Outside of a capture neighbour lists are kept and remade as beads move, every evaluation ends with
one look at what went wrong, and lists that are too short grow. Inside a capture nothing can be
looked at or kept: the list is made at every call with the sizes of the calls before, and whatever
is wrong makes energy and forces NaN.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from openmm_cgkd.potential.signature import Numbers, OperatorArguments, Sizes
from openmm_cgkd.potential.weights import (
    LAYER_PARTS,
    N_INTERVALS,
    NETWORK_PARTS,
    LayerParts,
    NetworkParts,
    layer_place,
)

from . import bonded, embedding
from . import network as kernels
from .edges import find_edges
from .launch import launch
from .lists import (
    BLOCK,
    Beads,
    NeighborList,
    find_list,
    forbid_in_capture,
    has_room,
    in_capture,
    keep_latest,
    lock,
    make_list,
)

EDGES = 4  # of a bead at a time; with 32 channels a thread has one number of each component


class NetworkViews:
    """Weights on their device: views of the flat array, from the begin of each part on."""

    def __init__(self, weights: Tensor, offsets: Tensor, n_types: int) -> None:
        at = offsets.tolist()
        # kept alive, because their addresses are the key by which this is found again
        self.made_from = weights, offsets
        self.dtype, self.n_types = weights.dtype, n_types
        # channels padded by the processor that packed the weights
        self.width = (at[NETWORK_PARTS.own] - at[NETWORK_PARTS.pair]) // n_types**2
        views = [weights[start:] for start in at]
        self.parts = NetworkParts(*views[: len(NETWORK_PARTS)])
        self.layers = [
            LayerParts(*views[first : first + len(LAYER_PARTS)])
            for first in range(layer_place(0, 0), len(at), len(LAYER_PARTS))
        ]


networks: dict[tuple, NetworkViews] = {}


def evaluate(given: OperatorArguments) -> tuple[Tensor, Tensor]:
    """Potential energy and its gradient, as the operators give them on a CPU.

    Parameters
    ----------
    given : OperatorArguments
        All on one device, a GPU, or anywhere in Triton's interpreter.

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
    n_beads, n_types = len(given.positions), len(given.types)
    if n_beads != n_types:
        raise RuntimeError(f"Got positions of {n_beads} beads, types of {n_types}; call set_types.")
    positions, box = given.positions.detach().contiguous(), given.box.detach().contiguous()
    beads = Beads(
        positions,
        box if len(box) > 0 else None,
        given.types,
        given.contact.contiguous(),
        Numbers(*given.numbers),
    )
    bonds = None
    if given.bonded_beads is not None and given.bonded_parameters is not None:
        bonds = given.bonded_beads.contiguous(), given.bonded_parameters.contiguous()
    if bonds is not None and len(bonds[0]) == 0:
        bonds = None
    captured = in_capture(positions)
    with lock, torch.cuda.device(positions.device) if positions.is_cuda else nullcontext():
        network = _network(given.weights, given.offsets, len(given.contact), captured)
        while True:
            listed = find_list(beads, captured)
            energies, gradient = _run(beads, network, Sizes(*given.sizes), bonds, listed, captured)
            if captured or has_room(beads, listed):
                return energies.sum(), gradient


def _network(weights: Tensor, offsets: Tensor, n_types: int, captured: bool) -> NetworkViews:
    key = weights.data_ptr(), offsets.data_ptr(), weights.device
    if key not in networks:
        forbid_in_capture(captured)
        keep_latest(networks, key, NetworkViews(weights, offsets, n_types))
    return networks[key]


def _run(
    beads: Beads,
    network: NetworkViews,
    sizes: Sizes,
    bonds: tuple | None,
    listed: NeighborList,
    always: bool,
) -> tuple[Tensor, Tensor]:
    """Queue all kernels.

    Per-bead energies (n_beads,) and gradient (n_beads, 3), NaN if something is wrong.
    """
    n, n_slots, device = len(beads.positions), listed.rows.numel(), beads.positions.device
    periodic = beads.box is not None
    space: dict[str, Any] = {"PERIODIC": periodic, "CUTOFF": beads.cutoff}
    make_list(beads, listed, always, space)
    hidden = listed.rows  # not read
    if bonds is not None:
        hidden = torch.zeros(n, listed.capacity.row, dtype=torch.int8, device=device)
        launch(
            bonded.mark_bonded,
            len(bonds[0]),
            bonds[0],
            listed.rows,
            listed.n_found,
            hidden,
            ROW=listed.capacity.row,
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
    launch(
        find_edges, n, beads.positions, box, listed.counters, listed.rows, listed.n_found,
        hidden, beads.types,
        len(beads.contact), beads.contact, count, column, knot, place, unit, per_length, n_slots,
        energies, gradient,
        HEIGHT=beads.numbers.height, STEEPNESS=beads.numbers.steepness, BEND=beads.numbers.bend,
        INTERVALS=N_INTERVALS, CELL=listed.capacity.cell, ROW=listed.capacity.row,
        BONDED=bonds is not None,
        **space,
    )  # fmt: skip
    if bonds is not None:
        blocks = triton.cdiv(len(bonds[0]), BLOCK)
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
            BLOCK=BLOCK,
        )
    edges = count, column, knot, place, unit, per_length
    run_network(
        network, sizes, beads.types, edges, beads.cutoff, listed.capacity.row, energies, gradient
    )
    return energies, gradient


def run_network(
    network: NetworkViews,
    sizes: Sizes,
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

    features, (prepared, message, update) = empty(n_layers + 1, 9), empty(3, n_layers, 9)
    summed, linear, d_summed, d_prepared, d_message, d, d_next = empty(7, 9)
    h1, h2 = empty(2), empty(3)
    launch(
        embedding.embed, n, *near, unit, n_slots, types, network.n_types, w.table, w.pair, w.own,
        w.norm_gain, w.norm_bias, w.hidden, w.hidden_bias, w.gates, w.gates_bias,
        w.linears, features[0], summed, linear, h1, h2, channels, c, **edge,
    )  # fmt: skip
    for k, part in enumerate(network.layers):
        launch(kernels.prepare, n, part.before, features[k], prepared[k], c, **bead)
        kept = prepared[k], message[k], update[k]
        launch(
            kernels.interact,
            n,
            *near,
            part.table,
            part.own,
            part.after,
            features[k],
            *kept,
            features[k + 1],
            c,
            **edge,
        )
    launch(
        kernels.output, n, w.output_norm_gain, w.output_norm_bias,
        w.output_first, w.output_first_bias, w.output_first_t,
        w.output_second, w.output_second_bias, w.output_second_t,
        w.output_last, w.output_last_bias,
        features[n_layers], energies, d,
        channels, c, hidden, H=triton.next_power_of_2(hidden), **bead,
    )  # fmt: skip
    for k in range(n_layers - 1, -1, -1):
        part = network.layers[k]
        launch(
            kernels.update_gradient,
            n,
            part.own,
            part.after_t,
            prepared[k],
            message[k],
            update[k],
            d,
            d_prepared,
            d_message,
            c,
            **bead,
        )
        launch(
            kernels.interact_gradient, n, *near, unit, n_slots, part.table, part.before_t,
            features[k], prepared[k], d_prepared, d_message,
            d, d_next, gradient, c, **graded,
        )  # fmt: skip
        d, d_next = d_next, d
    launch(
        embedding.embed_gradient,
        n,
        w.norm_gain,
        w.hidden_t,
        w.gates_t,
        w.linears_t,
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
        embedding.sum_gradient,
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
