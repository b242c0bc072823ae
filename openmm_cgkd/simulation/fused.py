"""The fused potential made from a portable file when a system is created."""

from __future__ import annotations

import torch

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.potential.metadata import PotentialMetadata
from openmm_cgkd.potential.modules import FastModule
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import PriorParameters


def fuse(portable: torch.jit.ScriptModule, metadata: PotentialMetadata) -> torch.jit.ScriptModule:
    """Scripted `FastModule` of a loaded portable potential file.

    Parameters
    ----------
    portable : torch.jit.ScriptModule
        Becomes part of the result, which takes over its bead types.
    metadata : PotentialMetadata
        Of the same file.
    """
    # the scale is among the weights
    settings = {name: value for name, value in metadata.network.items() if name != "scale"}
    network = build_tensornet(ModelConfig(**settings), len(metadata.type_names), 1.0)
    weights = {
        name.removeprefix("network."): value
        for name, value in portable.state_dict().items()
        if name.startswith("network.")
    }
    network.load_state_dict(weights)
    prior = PriorParameters(**metadata.prior)
    return torch.jit.script(
        FastModule(prior.build(metadata.cutoff), network, prior.build_bonded(), portable).eval()
    )
