"""Message passing as compiled loops, differentiable to any order.

Two sums do all the work between beads: `gather` of pair vectors onto beads and `mix` of the
features of neighbours, both weighted by functions of the distance, per order and channel, which
stand in a table of splines. Written as tensor expressions they would store up to nine numbers per
pair and channel; here nothing of that size exists. Derivatives are sums of the same kind with the
derivatives of the splines, so each `autograd.Function` differentiates into the others and force
matching (second derivatives) needs no further code.

Features are irreducible components: index 0 is the scalar (l=0), 1-3 the vector (l=1), 4-8 the
rank-two part (l=2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import loops, splines

_left_out: ContextVar[str | None] = ContextVar("derivatives left out", default=None)


@contextmanager
def skip_derivatives(derivatives: Literal["tables", "distances"]) -> Iterator[None]:
    """Leave out derivatives that nobody asks for in a backward pass.

    Autograd does not tell a `Function` which those are.

    Parameters
    ----------
    derivatives : str
        "tables", in a pass that wants nothing but derivatives with respect to positions, or
        "distances" (and shapes), in one that wants nothing but those with respect to weights.
    """
    token = _left_out.set(derivatives)
    try:
        yield
    finally:
        _left_out.reset(token)


def _needed(ctx: Any, *kinds: str) -> list[bool]:
    """Which of the first inputs need a derivative.

    `kinds` are the kinds of these inputs, as for `skip_derivatives`, or empty.
    """
    return [
        need and kind != _left_out.get()
        for need, kind in zip(ctx.needs_input_grad, kinds, strict=False)
    ]


@dataclass(frozen=True)
class _Edges:
    """What the kernels need besides tensors that have derivatives.

    For `mix` beads and others are the two ends of each pair; for `gather` they are beads and kinds
    of directed edges.
    """

    beads: np.ndarray
    others: np.ndarray
    spacing: float

    def arguments(self, order: int, *tensors: Tensor) -> list[Any]:
        """Arguments of a kernel from the basis on; with a table first it comes before the basis."""
        arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
        dtype = arrays[0].dtype
        return [
            splines.basis(order, self.spacing, dtype.name),
            dtype.type(1 / self.spacing),
            *arrays,
            self.beads,
            self.others,
        ]


def _flat(table: Tensor) -> np.ndarray:
    """The last two axes, order and channel, as one."""
    return table.detach().flatten(-2).contiguous().numpy()


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        table: Tensor,
        distances: Tensor,
        scales: Tensor,
        features: Tensor,
        edges: _Edges,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(table, distances, scales, features)
        ctx.edges, ctx.order = edges, order
        out = torch.zeros_like(features, memory_format=torch.contiguous_format)
        loops.mix(out.numpy(), _flat(table), *edges.arguments(order, distances, scales, features))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, distances, scales, features = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "tables", "distances", "", "")
        return (
            (
                _MixTable.apply(distances, scales, gradient, features, table.shape[0], edges, order)
                if needs[0]
                else None
            ),
            (
                scales * _Correlate.apply(table, distances, gradient, features, edges, order + 1)
                if needs[1]
                else None
            ),
            (
                _Correlate.apply(table, distances, gradient, features, edges, order)
                if needs[2]
                else None
            ),
            _Mix.apply(table, distances, scales, gradient, edges, order) if needs[3] else None,
            None,
            None,
        )


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        table: Tensor,
        distances: Tensor,
        left: Tensor,
        right: Tensor,
        edges: _Edges,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(table, distances, left, right)
        ctx.edges, ctx.order = edges, order
        out = torch.empty_like(distances)
        loops.correlate(out.numpy(), _flat(table), *edges.arguments(order, distances, left, right))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, distances, left, right = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "tables", "distances", "", "")
        return (
            (
                _MixTable.apply(distances, gradient, left, right, table.shape[0], edges, order)
                if needs[0]
                else None
            ),
            (
                gradient * _Correlate.apply(table, distances, left, right, edges, order + 1)
                if needs[1]
                else None
            ),
            _Mix.apply(table, distances, gradient, right, edges, order) if needs[2] else None,
            _Mix.apply(table, distances, gradient, left, edges, order) if needs[3] else None,
            None,
            None,
        )


class _MixTable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        distances: Tensor,
        scales: Tensor,
        left: Tensor,
        right: Tensor,
        rows: int,
        edges: _Edges,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(distances, scales, left, right)
        ctx.edges, ctx.order = edges, order
        out = left.new_zeros(rows, 3, left.shape[2])
        loops.mix_table(
            out.flatten(1).numpy(), *edges.arguments(order, distances, scales, left, right)
        )
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        distances, scales, left, right = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "distances", "", "", "")
        return (
            (
                scales * _Correlate.apply(gradient, distances, left, right, edges, order + 1)
                if needs[0]
                else None
            ),
            _Correlate.apply(gradient, distances, left, right, edges, order) if needs[1] else None,
            _Mix.apply(gradient, distances, scales, right, edges, order) if needs[2] else None,
            _Mix.apply(gradient, distances, scales, left, edges, order) if needs[3] else None,
            None,
            None,
            None,
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        table: Tensor,
        distances: Tensor,
        shape: Tensor,
        n_beads: int,
        edges: _Edges,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(table, distances, shape)
        ctx.edges, ctx.order = edges, order
        out = table.new_zeros(n_beads, 9, table.shape[3])
        loops.gather(out.numpy(), _flat(table), *edges.arguments(order, distances, shape))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, distances, shape = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "tables", "distances", "distances")
        return (
            (
                _GatherTable.apply(distances, shape, gradient, table.shape[:2], edges, order)
                if needs[0]
                else None
            ),
            (
                (shape * _GatherShape.apply(table, distances, gradient, edges, order + 1)).sum(1)
                if needs[1]
                else None
            ),
            _GatherShape.apply(table, distances, gradient, edges, order) if needs[2] else None,
            None,
            None,
            None,
        )


class _GatherShape(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, table: Tensor, distances: Tensor, features: Tensor, edges: _Edges, order: int
    ) -> Tensor:
        ctx.save_for_backward(table, distances, features)
        ctx.edges, ctx.order = edges, order
        out = distances.new_empty(distances.shape[0], 9)
        loops.gather_shape(out.numpy(), _flat(table), *edges.arguments(order, distances, features))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, distances, features = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "tables", "distances", "")
        return (
            (
                _GatherTable.apply(distances, gradient, features, table.shape[:2], edges, order)
                if needs[0]
                else None
            ),
            (
                (gradient * _GatherShape.apply(table, distances, features, edges, order + 1)).sum(1)
                if needs[1]
                else None
            ),
            (
                _Gather.apply(table, distances, gradient, features.shape[0], edges, order)
                if needs[2]
                else None
            ),
            None,
            None,
        )


class _GatherTable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        distances: Tensor,
        shape: Tensor,
        features: Tensor,
        size: tuple[int, int],
        edges: _Edges,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(distances, shape, features)
        ctx.edges, ctx.order = edges, order
        out = features.new_zeros(*size, 3, features.shape[2])
        loops.gather_table(
            out.flatten(2).numpy(), *edges.arguments(order, distances, shape, features)
        )
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        distances, shape, features = ctx.saved_tensors
        edges, order, needs = ctx.edges, ctx.order, _needed(ctx, "distances", "distances", "")
        return (
            (
                (shape * _GatherShape.apply(gradient, distances, features, edges, order + 1)).sum(1)
                if needs[0]
                else None
            ),
            _GatherShape.apply(gradient, distances, features, edges, order) if needs[1] else None,
            (
                _Gather.apply(gradient, distances, shape, features.shape[0], edges, order)
                if needs[2]
                else None
            ),
            None,
            None,
            None,
        )


def mix(
    table: Tensor,
    distances: Tensor,
    features: Tensor,
    first: Tensor,
    second: Tensor,
    spacing: float,
) -> Tensor:
    """Sum of neighbours' features, weighted by functions of the distance.

    Parameters
    ----------
    table : Tensor, shape (n_rows, 3, channels)
        Of `splines.table`; last axis but one: l = 0, 1, 2. Beyond the table functions are zero.
    distances : Tensor, shape (n_pairs,), nm
    features : Tensor, shape (n_beads, 9, channels)
    first, second : Tensor, shape (n_pairs,)
        Each pair once; it contributes to both beads.
    spacing : float, nm
        Of the table's grid.

    Returns
    -------
    Tensor, shape (n_beads, 9, channels)
    """
    edges = _Edges(first.numpy(), second.numpy(), spacing)
    return _Mix.apply(table, distances, torch.ones_like(distances), features, edges, 0)


def gather(
    table: Tensor,
    distances: Tensor,
    shape: Tensor,
    beads: Tensor,
    kinds: Tensor,
    n_beads: int,
    spacing: float,
) -> Tensor:
    """Sum of ``shape`` (n_edges, 9) times functions of the distance, from edges onto beads.

    Parameters
    ----------
    table : Tensor, shape (n_kinds, n_rows, 3, channels)
        As for `mix`, one for each kind of edge.
    distances : Tensor, shape (n_edges,), nm
    beads : Tensor, shape (n_edges,)
        On which each edge is summed.
    kinds : Tensor, shape (n_edges,)

    Returns
    -------
    Tensor, shape (n_beads, 9, channels)
    """
    return _Gather.apply(
        table, distances, shape, n_beads, _Edges(beads.numpy(), kinds.numpy(), spacing), 0
    )
