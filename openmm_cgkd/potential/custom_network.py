"""A user's own network in place of TensorNet.

The protocol is that of the terms of `SumModel`. A network is any `torch.nn.Module` with

``forward(types, first, second, vectors) -> energies``

- ``types``: int64, shape (n_beads,), the type of every bead, from 0;
- ``first``, ``second``: int64, shape (n_pairs,), the beads of every pair within the cutoff, each
  pair once;
- ``vectors``: shape (n_pairs, 3), nm, from the first bead of a pair to the second, nearest images;
- ``energies``: shape (n_beads,), kJ/mol, in the floating type of the vectors.

Positions enter through the vectors alone, so that energies do not depend on the origin. Forces are
the negative gradient of the summed energy, taken by this package. The energy must go to zero
smoothly at the cutoff, or energy is not conserved. TorchScript must compile the module, because a
potential file holds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.exceptions import ConfigError

from .network import build_tensornet


@dataclass(frozen=True)
class CustomNetwork:
    """Settings of a user's own network; takes the place of a `ModelConfig`.

    Parameters
    ----------
    build : callable
        Class or function that makes a fresh network, called as
        ``build(n_types=..., cutoff=..., scale=..., **options)``: number of bead types, cutoff in
        nm, and kB T in kJ/mol, a good factor of the network's output. Where several teachers train
        side by side it must be in a module that can be imported, not in a notebook.
    cutoff : float, nm
        Pairs of beads farther apart than this are not given to the network.
    options : mapping, optional
        Further keyword arguments, as plain data for JSON.

    Raises
    ------
    ConfigError
        If the cutoff is not a positive number, or the options are not plain data.
    """

    build: Callable[..., nn.Module]
    cutoff: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cutoff) and self.cutoff > 0):
            raise ConfigError(
                f"CustomNetwork.cutoff: got {self.cutoff!r}; give a positive distance in nm."
            )
        try:
            json.dumps(dict(self.options), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"CustomNetwork.options: {error}; give numbers, strings, lists and mappings alone."
            ) from error

    @property
    def name(self) -> str:
        """Module and name of the class or function that builds the network."""
        return f"{self.build.__module__}:{self.build.__qualname__}"


NetworkSettings = ModelConfig | CustomNetwork


def describe_network(settings: NetworkSettings) -> dict[str, Any]:
    """Settings as plain data for checkpoints and potential files; no code."""
    if isinstance(settings, CustomNetwork):
        return {
            "kind": "custom",
            "build": settings.name,
            "cutoff": settings.cutoff,
            "options": dict(settings.options),
        }
    return settings.model_dump(mode="json")


def build_network(settings: NetworkSettings, n_types: int, scale: float) -> nn.Module:
    """Fresh network with the attribute ``cutoff``, nm.

    Parameters
    ----------
    settings : ModelConfig or CustomNetwork
    n_types : int
    scale : float
        Factor of the network's output, kJ/mol.

    Raises
    ------
    ConfigError
        If a user's network does not follow the protocol of this module.
    """
    if isinstance(settings, ModelConfig):
        return build_tensornet(settings, n_types, scale)
    network = settings.build(
        n_types=n_types, cutoff=settings.cutoff, scale=scale, **settings.options
    )
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"{settings.name}: made a {type(network).__name__}; it must make a torch.nn.Module."
        )
    network.cutoff = settings.cutoff  # type: ignore[assignment]  # an attribute, no submodule
    _check_protocol(network, settings)
    return network


def _check_protocol(network: nn.Module, settings: CustomNetwork) -> None:
    """Refuse, before any training, what fails only when the potential is exported or run."""
    weights = next(network.parameters(), None)
    if weights is None:
        raise ConfigError(f"{settings.name}: has no parameters; there is nothing to train.")
    try:
        scripted = torch.jit.script(network)
    except Exception as error:  # TorchScript's errors have no common class
        raise ConfigError(
            f"{settings.name}: TorchScript cannot compile it"
            f" ({str(error).strip().splitlines()[0]}); rewrite what it names."
        ) from error
    for n_pairs in (1, 0):
        types = torch.zeros(2, dtype=torch.int64)
        first, second = torch.zeros(n_pairs, dtype=torch.int64), torch.ones(n_pairs).long()
        vectors = torch.full((n_pairs, 3), settings.cutoff / 3, dtype=weights.dtype)
        vectors.requires_grad_()
        energies = scripted(types, first, second, vectors)
        if not isinstance(energies, torch.Tensor) or energies.shape != (2,):
            shape = tuple(energies.shape) if isinstance(energies, torch.Tensor) else None
            raise ConfigError(
                f"{settings.name}: gave energies of shape {shape} for 2 beads and {n_pairs} pairs;"
                " return one energy per bead, shape (n_beads,)."
            )
        if n_pairs and not energies.requires_grad:
            raise ConfigError(
                f"{settings.name}: its energies cannot be differentiated; do not detach them."
            )
