"""The weights of a potential file as the kernels of this processor take them.

Files hold channels padded to the widest vector of any processor. The kernels want them padded to
their own vectors, which are narrower in small networks, so that these move fewer bytes and leave no
place of a vector empty. Radial tables come in blocks of one vector of channels, each with all that
a pass over edges reads at a distance. Nothing is computed: the numbers are those of the file.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from openmm_cgkd.potential.signature import Sizes
from openmm_cgkd.potential.weights import (
    N_INTERVALS,
    NETWORK_PARTS,
    LayerParts,
    NetworkParts,
    padded,
)

from .simd import WIDEST

_LINE = 64  # bytes of a cache line
_KEPT = 64  # networks; more than there are in a committee


class Lanes(NamedTuple):
    """Channels with padding, and how many of them a vector holds."""

    channels: int
    width: int


def lanes(channels: int) -> Lanes:
    """The vectors for so many channels: narrower ones for small networks.

    Parameters
    ----------
    channels : int

    Returns
    -------
    Lanes
    """
    width = 8 if channels <= 8 else WIDEST
    return Lanes(-(-channels // width) * width, width)


@dataclass(frozen=True)
class KernelNetwork:
    """A network as the kernels take it.

    Attributes
    ----------
    weights, offsets : ndarray
        In the order of `potential.weights`.
    lanes : Lanes
    channels, n_layers, hidden : int
        Channels without padding; width of the last hidden layer with it.
    made_from : tuple of Tensor
        What the file holds.
    """

    weights: np.ndarray
    offsets: np.ndarray
    lanes: Lanes
    channels: int
    n_layers: int
    hidden: int
    made_from: tuple[Tensor, Tensor]


_known: dict[tuple[int, ...], KernelNetwork] = {}
_lock = threading.Lock()


def kernel_network(weights: Tensor, offsets: Tensor, sizes: Sizes, n_types: int) -> KernelNetwork:
    """The network of a file, laid out once and kept.

    Parameters
    ----------
    weights, offsets : Tensor
        As `pack_weights`. Laid out anew after PyTorch has changed them in place, but not after
        NumPy has, nor tensors of inference mode, whose changes PyTorch does not count.
    sizes : Sizes
    n_types : int

    Raises
    ------
    RuntimeError
        If the weights are not laid out as `potential.weights` says.
    """
    # both are kept alive, so that no other tensor gets the same address
    tensors = weights, offsets
    versions = (0 if tensor.is_inference() else tensor._version for tensor in tensors)
    key = (*(tensor.data_ptr() for tensor in tensors), *versions)
    if (found := _known.get(key)) is not None:
        return found
    made = _laid_out(weights, offsets, sizes, n_types)
    with _lock:
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = made
    return made


def aligned(size: int) -> np.ndarray:
    """So many bytes that begin with a cache line, so that no vector takes two."""
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size]


# axes of the parts in a file: a number means so many groups of channels, a name a pair in `ranges`,
# a negative number itself
_TABLE = (-N_INTERVALS, -4, 3)
_IN_NETWORK = NetworkParts(
    zeros=("zeros",), pair=("pairs", 1), own=("types", 1), table=_TABLE,
    norm_gain=(1,), norm_bias=(1,),
    hidden=(1, "double"), hidden_bias=("double",), hidden_t=("double", 1),
    gates=("double", 3), gates_bias=(3,), gates_t=(3, "double"),
    linears=(-3, 1, 1), linears_t=(-3, 1, 1),
    output_norm_gain=(3,), output_norm_bias=(3,),
    output_first=(3, 1), output_first_bias=(1,), output_first_t=(1, 3),
    output_second=(1, "hidden"), output_second_bias=("hidden",), output_second_t=("hidden", 1),
    output_last=("hidden",), output_last_bias=(-1,),
)  # fmt: skip
_IN_LAYER = LayerParts(
    table=_TABLE, own=(3, 1), before=(-3, 1, 1), before_t=(-3, 1, 1), after=(-3, 1, 1),
    after_t=(-3, 1, 1),
)  # fmt: skip


def _laid_out(weights: Tensor, offsets: Tensor, sizes: Sizes, n_types: int) -> KernelNetwork:
    w, o = weights.numpy(), offsets.numpy()
    old, new = padded(sizes.channels), lanes(sizes.channels)
    if o[NETWORK_PARTS.own] - o[NETWORK_PARTS.pair] != n_types**2 * old or sizes.hidden != padded(
        sizes.hidden
    ):
        raise RuntimeError(
            "The weights are laid out as by an earlier version on some processors; export the"
            " potential again."
        )
    # units of the last hidden layer without a weight give no energy
    last = o[NETWORK_PARTS.output_last]
    real = np.flatnonzero(w[last : last + sizes.hidden])
    hidden = -(-(1 + int(real.max(initial=0))) // new.width) * new.width
    ranges = {
        "zeros": (0, 0),
        "pairs": (n_types**2, n_types**2),
        "types": (n_types, n_types),
        "double": (2 * old, 2 * new.channels),
        "hidden": (sizes.hidden, hidden),
    }
    parts = [
        _part(w[at:], axes, ranges, old, new)
        for at, axes in zip(o, [*_IN_NETWORK, *sizes.layers * _IN_LAYER], strict=True)
    ]
    parts[NETWORK_PARTS.zeros] = np.zeros(max(3 * new.channels, hidden), w.dtype)
    line = _LINE // w.dtype.itemsize  # each part begins with one
    ends = np.cumsum([-(-len(part) // line) * line for part in parts])
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    out = aligned(int(ends[-1]) * w.dtype.itemsize).view(w.dtype)
    out[:] = 0.0
    for start, part in zip(starts, parts, strict=True):
        out[start : start + len(part)] = part
    return KernelNetwork(out, starts, new, sizes.channels, sizes.layers, hidden, (weights, offsets))


def _part(
    weights: np.ndarray,
    axes: tuple,
    ranges: dict[str, tuple[int, int]],
    old: int,
    new: Lanes,
) -> np.ndarray:
    """A part with all channels' padding cut, flat."""
    shape: list[int] = []
    kept: list[slice] = []
    for axis in axes:
        if isinstance(axis, str):
            shape.append(ranges[axis][0])
            kept.append(slice(ranges[axis][1]))
        elif axis < 0:
            shape.append(-axis)
            kept.append(slice(None))
        else:
            shape += [axis, old]
            kept += [slice(None), slice(new.channels)]
    part = weights[: int(np.prod(shape))].reshape(shape)[tuple(kept)]
    if axes is _TABLE:
        part = part.reshape(N_INTERVALS, 4, 3, -1, new.width).transpose(0, 3, 1, 2, 4)
    return part.reshape(-1)
