"""Weights of a network on disk: from plain tensors into layers that this package makes."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .archive import MEGABYTE, ArchiveError
from .layers import bare_tensornet
from .metadata import WEIGHTS, PotentialMetadata
from .network import TensorNetEnergies
from .plain_pickle import read_plain, tensors_of

_LARGEST_HEADER = MEGABYTE


def packed(network: nn.Module) -> bytes:
    """Weights and buffers of a network in the format safetensors."""
    return safetensors.torch.save(
        {
            name: tensor.detach().clone().contiguous()
            for name, tensor in network.state_dict().items()
        }
    )


def read_network(metadata: PotentialMetadata, members: Mapping[str, bytes]) -> TensorNetEnergies:
    """The network of a potential file, from its tensors alone.

    Parameters
    ----------
    metadata : PotentialMetadata
    members : mapping of bytes
        Of the archive, see `read_members`.

    Raises
    ------
    ArchiveError
        If tensors are missing, of another shape than the metadata say, or not finite.
    """
    network = bare_tensornet(metadata.settings(), len(metadata.type_names))
    if metadata.version >= 3:
        weights = _unpacked(members)
    else:  # before, the script's own record of its weights was the only one
        prefix = "portable.network." if metadata.kind == "fast" else "network."
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors_of(read_plain(members)).items()
            if name.startswith(prefix)
        }
    fill(network, weights)
    return network.eval().requires_grad_(False)


def fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give tensors from a file to a network of `bare_tensornet`; they are moved out of `weights`.

    Raises
    ------
    ArchiveError
        As `check_weights`.
    """
    check_weights(network, weights)
    # into memory that torch aligns: sums of matrix products depend on it, in their last bit
    aligned = {name: weights.pop(name).clone() for name in list(weights)}
    network.load_state_dict(aligned, assign=True)


def check_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Make sure that tensors are those of a network.

    Raises
    ------
    ArchiveError
        Naming a tensor that is missing, unknown, of another shape or type, or not finite.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        state = "lacks" if name in expected else "has also"
        raise ArchiveError(f"{state} the weights {name[:80]!r}")
    kinds = set()
    for name, tensor in weights.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise ArchiveError(
                f"has weights {name!r} of shape {tuple(tensor.shape)}, where its network has"
                f" {tuple(wanted.shape)}"
            )
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise ArchiveError(f"has weights {name!r} of type {tensor.dtype}")
        if tensor.is_floating_point():
            kinds.add(tensor.dtype)
            # a user's own network may have constants that are not, such as a mask
            if not _finite(tensor) and (wanted.is_meta or _finite(wanted)):
                raise ArchiveError(f"has weights {name!r} that are not finite")
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise ArchiveError(f"has weights of types {', '.join(sorted(map(str, kinds)))}")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _unpacked(members: Mapping[str, bytes]) -> dict[str, Tensor]:
    data = members.get(WEIGHTS, b"")
    if len(data) < 8 or struct.unpack("<Q", data[:8])[0] > _LARGEST_HEADER:
        raise ArchiveError(f"has no {WEIGHTS}, or a damaged one")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # of the library: errors of many types
        raise ArchiveError(f"has a damaged {WEIGHTS}") from error
