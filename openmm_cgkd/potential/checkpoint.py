"""Checkpoint of a trained network: what is needed to build it again, as plain data and tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.utils.files import replacing

from .custom_network import (
    CustomNetwork,
    NetworkSettings,
    build_network,
    describe_network,
)
from .metadata import is_custom

_KEYS = {"model", "n_types", "scale", "state", "type_names", "frames", "training"}


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
    with replacing(Path(path)) as fresh:
        torch.save(content, fresh)


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
        If the file is missing, is not a checkpoint of this package, or is of a user's own network
        and `custom` is not that network.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(
            f"{path}: no such file; train the model first with 'cgkd teach' or 'cgkd distill'."
        )
    foreign = f"{path}: is not a checkpoint of openmm_cgkd, or is damaged; train the model again."
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelFileError(foreign) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise ModelFileError(foreign)
    unfit = f"{path}: its weights do not fit the model it describes; train the model again."
    try:
        settings = _settings(path, content["model"], custom)
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn only to be replaced
            network = build_network(settings, content["n_types"], content["scale"])
        network.load_state_dict(content["state"])
    except (ValidationError, RuntimeError) as error:
        raise ModelFileError(unfit) from error
    return network.eval(), content


def _settings(
    path: Path, description: dict[str, Any], custom: CustomNetwork | None
) -> NetworkSettings:
    if not is_custom(description):
        return ModelConfig.model_validate(description)
    if custom is None or describe_network(custom) != description:
        given = "none was given" if custom is None else f"{describe_network(custom)} was given"
        raise ModelFileError(
            f"{path}: holds weights of the custom network {description}, and {given}; give the same"
            " CustomNetwork as for training."
        )
    return custom
