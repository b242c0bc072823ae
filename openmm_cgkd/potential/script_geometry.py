"""Pairs of beads, nearest images and checks in pure TorchScript.

For files that run without this package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_cgkd.utils.box import checked_box_numbers


def image_shifts(
    x: Tensor, y: Tensor, z: Tensor, box: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest images of differences.

    In reduced form right for all distances up to half the smallest box height.
    """
    ax, bx, by, cx, cy, cz = box[0], box[1], box[2], box[3], box[4], box[5]
    images = torch.round(z / cz)
    z = z - images * cz
    if cy != 0.0:
        y = y - images * cy
    if cx != 0.0:
        x = x - images * cx
    images = torch.round(y / by)
    y = y - images * by
    if bx != 0.0:
        x = x - images * bx
    return x - torch.round(x / ax) * ax, y, z


def near_pairs(positions: Tensor, box: list[float], cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs i < j closer than the cutoff; blocks of rows keep memory small for many beads."""
    n = positions.shape[0]
    columns = positions.t().contiguous()
    x, y, z = columns[0], columns[1], columns[2]
    rows = max(1, 32768 // max(n, 1))
    found: list[Tensor] = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        dx = x[start:].unsqueeze(0) - x[start:stop].unsqueeze(1)  # (rows, n - start)
        dy = y[start:].unsqueeze(0) - y[start:stop].unsqueeze(1)
        dz = z[start:].unsqueeze(0) - z[start:stop].unsqueeze(1)
        if len(box) > 0:
            dx, dy, dz = image_shifts(dx, dy, dz, box)
        near = (dx * dx + dy * dy + dz * dz < cutoff * cutoff).triu(1)
        found.append(torch.nonzero(near) + start)
    pairs = (
        torch.cat(found)
        if len(found) > 0
        else torch.zeros(0, 2, dtype=torch.int64, device=positions.device)
    )
    return pairs[:, 0].contiguous(), pairs[:, 1].contiguous()


def pair_vectors(positions: Tensor, first: Tensor, second: Tensor, box: list[float]) -> Tensor:
    """Nearest images of the vectors from `first` to `second`, shape (n_pairs, 3).

    Open boundaries if the box is empty.
    """
    vectors = positions.index_select(0, second) - positions.index_select(0, first)
    if len(box) == 0:
        return vectors
    x, y, z = image_shifts(vectors[:, 0], vectors[:, 1], vectors[:, 2], box)
    return torch.stack([x, y, z], dim=1)


def check_positions(positions: Tensor, types: Tensor) -> None:
    """Refuse positions that are not finite or of another number of beads than the types."""
    if positions.shape[0] != types.shape[0]:
        raise RuntimeError(
            f"Got positions of {positions.shape[0]} beads, types of {types.shape[0]}; call"
            " set_types."
        )
    if not bool(torch.isfinite(positions).all()):
        raise RuntimeError("Bead positions are not finite; use a smaller time step.")


def script_box(boxvectors: Tensor, cutoff: float) -> list[float]:
    """Numbers ax, bx, by, cx, cy, cz of box vectors (3, 3), nm, checked against the cutoff, nm."""
    rows: list[list[float]] = boxvectors.detach().to(torch.device("cpu"), torch.float64).tolist()
    return checked_box_numbers(rows, cutoff)


def checked_box(boxvectors: Tensor | None, cutoff: float) -> Tensor:
    """Box vectors in double precision, shape (3, 3), or (0, 3) without a box.

    Refuses a box that is too small.
    """
    if boxvectors is None:
        return torch.empty(0, 3, dtype=torch.float64)
    script_box(boxvectors, cutoff)
    return boxvectors.to(torch.float64)
