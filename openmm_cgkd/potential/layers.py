"""The layers of a TensorNet without weights, for weights that are read from a file.

torchmd-net makes networks that are to be trained (`build_tensornet`). What is read from a file is
put into layers of the same names and shapes that this module makes: they cost no memory, so that
what a file says about itself can be compared with its weights, and torchmd-net need not be there.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from openmm_cgkd.config.run import ModelConfig

from .network import TensorNetEnergies

_NOWHERE = torch.device("meta")


class Linear(nn.Linear):
    """Without weights, and without initial ones: to draw these takes torch a second."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__(n_in, n_out, bias, _NOWHERE)

    def reset_parameters(self) -> None:
        pass


class TypeEmbedding(nn.Embedding):
    """Without weights, as `Linear`."""

    def __init__(self, n_types: int, channels: int) -> None:
        super().__init__(n_types, channels, device=_NOWHERE)

    def reset_parameters(self) -> None:
        pass


class GaussianBasis(nn.Module):
    """torchmd-net's GaussianSmearing: Gaussians with even spacing from 0 to the cutoff."""

    def __init__(self, n_functions: int) -> None:
        super().__init__()
        self.coeff: Tensor
        self.offset: Tensor
        self.register_buffer("coeff", torch.empty((), device=_NOWHERE))
        self.register_buffer("offset", torch.empty(n_functions, device=_NOWHERE))

    def forward(self, dist: Tensor) -> Tensor:  # (n,) -> (n, n_functions)
        dist = dist.unsqueeze(-1) - self.offset
        return torch.exp(self.coeff * torch.pow(dist, 2))


class EnergyLayers(nn.Module):
    """torchmd-net's MLP: from the features of a bead to its energy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Linear(channels, channels // 2), nn.SiLU(), Linear(channels // 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def bare_tensornet(config: ModelConfig, n_types: int) -> TensorNetEnergies:
    """A network without weights; only constants have memory.

    ``load_state_dict(weights, assign=True)`` gives it some.
    """
    return TensorNetEnergies(
        SimpleNamespace(
            representation_model=_tensornet(config, n_types),
            output_model=SimpleNamespace(output_network=EnergyLayers(config.channels)),
            std=torch.empty((), device=_NOWHERE),
        )
    )


def _tensornet(config: ModelConfig, n_types: int) -> SimpleNamespace:
    """The parts of torchmd-net's TensorNet that `TensorNetEnergies` takes, by its names."""
    n, radial = config.channels, config.radial_functions
    return SimpleNamespace(
        hidden_channels=n,
        cutoff_upper=config.cutoff,
        num_rbf=radial,
        distance_expansion=GaussianBasis(radial),
        tensor_embedding=SimpleNamespace(
            emb=TypeEmbedding(n_types, n),
            emb2=Linear(2 * n, n),
            distance_proj1=Linear(radial, n),
            distance_proj2=Linear(radial, n),
            distance_proj3=Linear(radial, n),
            init_norm=nn.LayerNorm(n, device=_NOWHERE),
            act=nn.SiLU(),
            linears_scalar=[Linear(n, 2 * n), Linear(2 * n, 3 * n)],
            linears_tensor=[Linear(n, n, bias=False) for _ in range(3)],
        ),
        layers=[
            SimpleNamespace(
                linears_scalar=nn.ModuleList(
                    [Linear(radial, n), Linear(n, 2 * n), Linear(2 * n, 3 * n)]
                ),
                act=nn.SiLU(),
                linears_tensor=[Linear(n, n, bias=False) for _ in range(6)],
            )
            for _ in range(config.layers)
        ],
        out_norm=nn.LayerNorm(3 * n, device=_NOWHERE),
        linear=Linear(3 * n, n),
        act=nn.SiLU(),
    )
