"""Checkpoint of a trained network: what is needed to build it again, as plain data and tensors."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from openmm_cgkd.config.system import MOST_TYPES
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.text_file import shown

from .archive import ArchiveError, read_archive
from .custom_network import (
    CustomNetwork,
    NetworkSettings,
    build_network,
    describe_network,
)
from .layers import bare_tensornet
from .metadata import is_custom, tensornet_settings
from .plain_pickle import read_plain
from .stored_weights import check_weights, fill

_CURE = "train the model again with 'cgkd teach' or 'cgkd distill'"
_KINDS = {
    "model": dict,
    "n_types": int,
    "scale": float,
    "state": dict,
    "type_names": list,
    "frames": str,
    "training": dict,
}


def save_checkpoint(
    path: Path,
    network: nn.Module,
    settings: NetworkSettings,
    scale: float,
    frames_identity: str,
    type_names: tuple[str, ...],
    metadata: dict[str, Any],
) -> None:
    """Write a checkpoint, complete or not at all.

    Parameters
    ----------
    path : path
    network : module
    settings : ModelConfig or CustomNetwork
        What the network was built from.
    scale : float
        Factor of the network's output, kJ/mol.
    frames_identity : str
        `Frames.identity` of the training data.
    type_names : tuple of str
        Bead type names in the order of the network's type indices.
    metadata : dict
        JSON-ready facts about the training: loss weights, targets, seed, epochs, losses.
    """
    content = {
        "model": describe_network(settings),
        "n_types": len(type_names),
        "scale": float(scale),
        "state": {
            name: _single(tensor.detach().cpu()) for name, tensor in network.state_dict().items()
        },
        "type_names": list(type_names),
        "frames": frames_identity,
        "training": metadata,
    }
    content["checksum"] = _checksum(content)
    whole = io.BytesIO()  # torch does not say why it cannot write a file
    torch.save(content, whole)
    with replacing(Path(path)) as fresh:
        fresh.write_bytes(whole.getbuffer())


def _single(values: torch.Tensor) -> torch.Tensor:
    """Single precision, in which potentials run, whatever the training used."""
    return values.float() if values.is_floating_point() else values


def load_checkpoint(
    path: Path, custom: CustomNetwork | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint.

    Parameters
    ----------
    path : path
    custom : CustomNetwork, optional
        What a user's own network was built from; a checkpoint holds no code and names none to run.

    Returns
    -------
    network : module
        On the CPU, in evaluation mode.
    content : dict
        What `save_checkpoint` wrote.

    Raises
    ------
    ModelFileError
        If the file is missing, is not a checkpoint of this package, is damaged, holds weights that
        are not finite, or is of a user's own network and `custom` is not that network.
    """
    path = Path(path)
    content = read_checkpoint(path)
    state = content["state"]
    try:
        if is_custom(content["model"]):
            network = _custom_network(path, content, custom)
            check_weights(network, state)
            network.load_state_dict(state)
        else:
            network = bare_tensornet(tensornet_settings(content["model"]), content["n_types"])
            fill(network, dict(state))
    except (ValidationError, ArchiveError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelFileError):
            raise
        reason = f"it {error}" if isinstance(error, ArchiveError) else "they are damaged"
        raise ModelFileError(
            f"{path}: its weights do not fit the model it describes: {reason}; train the model"
            " again."
        ) from error
    return network.eval(), content


def read_checkpoint(path: Path, cure: str = _CURE) -> dict[str, Any]:
    """What `save_checkpoint` wrote, without making the network.

    Parameters
    ----------
    path : path
    cure : str
        For messages.

    Raises
    ------
    ModelFileError
        If the file is missing, is not a checkpoint of this package, or is damaged.
    """
    try:
        content = read_plain(read_archive(path, "a checkpoint that a training has written"))
        _check_content(content)
    except ArchiveError as error:
        raise ModelFileError(
            f"{path}: is not a checkpoint of openmm_cgkd that can be read: it {error}; {cure}."
        ) from error
    # files of earlier versions have none
    if content.get("checksum", expected := _checksum(content)) != expected:
        raise ModelFileError(
            f"{path}: its content does not fit its checksum, so it is damaged; {cure}."
        )
    return content


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of all fields but itself."""
    state = content["state"]
    plain = {name: value for name, value in content.items() if name not in ("state", "checksum")}
    digest = hashlib.sha256(json.dumps(plain).encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_content(content: Any) -> None:
    """Refuse what `save_checkpoint` does not write, field by field."""
    if not isinstance(content, dict) or not content.keys() >= _KINDS.keys():
        raise ArchiveError("lacks fields that checkpoints have")
    for name, kind in _KINDS.items():
        if not isinstance(content[name], kind):
            raise ArchiveError(f"has a {type(content[name]).__name__} as {name}")
    names, scale = content["type_names"], content["scale"]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ArchiveError(f"has the bead types {shown(names)}")
    if content["n_types"] != len(names) or not 1 <= len(names) <= MOST_TYPES:
        raise ArchiveError(f"has {shown(content['n_types'])} as n_types")
    if not 0 < scale < math.inf:
        raise ArchiveError(f"has {scale:g} as scale")
    for name, tensor in content["state"].items():
        if not isinstance(tensor, torch.Tensor):
            raise ArchiveError(f"has a {type(tensor).__name__} as weights {shown(name)}")
    for name in ("model", "training"):
        try:
            json.dumps(content[name])
        except (TypeError, ValueError) as error:
            raise ArchiveError(f"has a {name} that is no plain data") from error


def _custom_network(path: Path, content: dict[str, Any], custom: CustomNetwork | None) -> nn.Module:
    description = content["model"]
    if custom is None or describe_network(custom) != description:
        given = "none was given" if custom is None else f"{describe_network(custom)} was given"
        raise ModelFileError(
            f"{path}: holds weights of the custom network {description}, and {given}; give the same"
            " CustomNetwork as for training."
        )
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn only to be replaced
        return build_network(custom, content["n_types"], content["scale"])
