"""TensorNet of torchmd-net with per-bead energies, evaluated on pairs.

The network is made by torchmd-net's ``create_model`` and keeps its layers and weights (Simeon and De Fabritiis,
NeurIPS 2023); the forward pass is ours, equal to torchmd-net's to rounding. It takes each pair once, holds tensors
as nine irreducible components in an orthonormal basis instead of 3x3 matrices, and lets training call the fused
kernels. Under ``torch.jit.script`` it uses plain PyTorch, so that an exported file needs nothing but torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from . import kernels


def _irreducible_basis() -> Tensor:
    """Nine orthonormal 3x3 matrices, shape (9, 9): identity, three skew, five symmetric and traceless.

    Frobenius inner products become plain dot products of components.
    """
    basis = torch.zeros(9, 3, 3, dtype=torch.float64)
    basis[0] = torch.eye(3, dtype=torch.float64) / math.sqrt(3)
    for k, (i, j) in enumerate(((2, 1), (0, 2), (1, 0))):  # the skew matrix of a unit vector along axis k
        basis[1 + k, i, j], basis[1 + k, j, i] = 1 / math.sqrt(2), -1 / math.sqrt(2)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        basis[4 + k, i, j] = basis[4 + k, j, i] = 1 / math.sqrt(2)
    basis[7] = torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)) / math.sqrt(2)
    basis[8] = torch.diag(torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64)) / math.sqrt(6)
    return basis.reshape(9, 9)


class _Linears(nn.Module):
    """One bias-free linear map per order l = 0, 1, 2."""

    def __init__(self, scalar: nn.Module, vector: nn.Module, tensor: nn.Module) -> None:
        super().__init__()
        self.scalar, self.vector, self.tensor = scalar, vector, tensor

    def forward(self, features: Tensor) -> Tensor:  # (n_beads, 9, channels)
        parts = [self.scalar(features[:, :1]), self.vector(features[:, 1:4]), self.tensor(features[:, 4:])]
        return torch.cat(parts, dim=1)


class _Embedding(nn.Module):
    """torchmd-net's TensorEmbedding."""

    def __init__(self, theirs: nn.Module, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.types, self.pair = theirs.emb, theirs.emb2
        self.radial = nn.ModuleList([theirs.distance_proj1, theirs.distance_proj2, theirs.distance_proj3])
        self.norm, self.act = theirs.init_norm, theirs.act
        self.hidden, self.out = theirs.linears_scalar[0], theirs.linears_scalar[1]
        self.linears = _Linears(theirs.linears_tensor[0], theirs.linears_tensor[1], theirs.linears_tensor[2])

    def radial_filters(self, radial: Tensor) -> Tensor:  # (n, n_radial) -> (n, 3, channels)
        return torch.stack([layer(radial) for layer in self.radial], dim=1)

    def pair_embedding(self, types_i: Tensor, types_j: Tensor) -> Tensor:  # (n,), (n,) -> (n, channels)
        n_types = self.types.num_embeddings
        table = self.types.weight
        both = torch.cat([table.repeat_interleave(n_types, dim=0), table.repeat(n_types, 1)], dim=1)
        return self.pair(both).index_select(0, types_i * n_types + types_j)

    def forward(self, summed: Tensor) -> Tensor:  # (n_beads, 9, channels) both
        norm = self.norm((summed**2).sum(1))
        gate = self.act(self.out(self.act(self.hidden(norm)))).reshape(-1, 3, self.channels)
        return self.linears(summed) * _per_component(gate)


class _Interaction(nn.Module):
    """torchmd-net's Interaction, group O(3), neutral."""

    def __init__(self, theirs: nn.Module, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.radial, self.act = theirs.linears_scalar, theirs.act
        self.before = _Linears(theirs.linears_tensor[0], theirs.linears_tensor[1], theirs.linears_tensor[2])
        self.after = _Linears(theirs.linears_tensor[3], theirs.linears_tensor[4], theirs.linears_tensor[5])
        self.register_buffer("basis", _irreducible_basis())

    def radial_filters(self, radial: Tensor) -> Tensor:  # (n, n_radial) -> (n, 3, channels)
        for layer in self.radial:
            radial = self.act(layer(radial))
        return radial.reshape(-1, 3, self.channels)

    def forward(self, features: Tensor, filters: Tensor, self_filter: Tensor, first: Tensor, second: Tensor) -> Tensor:
        features, ours = self.prepare(features)
        message = _mix(filters, ours, first, second) + _per_component(self_filter) * ours  # a bead is its own neighbour
        return self.update(features, ours, message)

    def prepare(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, and what neighbours see of them."""
        features = features / ((features**2).sum(1, keepdim=True) + 1)
        return features, self.before(features)

    def update(self, features: Tensor, ours: Tensor, message: Tensor) -> Tensor:
        """New features from the messages."""
        left, right = self._matrices(ours), self._matrices(message)  # (n_beads, channels, 3, 3)
        product = self._components(torch.matmul(right, left) + torch.matmul(left, right))
        update = self.after(product / ((product**2).sum(1, keepdim=True) + 1))
        matrices = self._matrices(update)
        return features + update + self._components(torch.matmul(matrices, matrices))

    def _matrices(self, features: Tensor) -> Tensor:
        return torch.matmul(features.transpose(1, 2), self.basis).reshape(-1, self.channels, 3, 3)

    def _components(self, matrices: Tensor) -> Tensor:
        return torch.matmul(matrices.reshape(-1, self.channels, 9), self.basis.t()).transpose(1, 2)


def _per_component(per_order: Tensor) -> Tensor:
    """Repeat values of l = 0, 1, 2 over their 1, 3, 5 components: (n, 3, channels) -> (n, 9, channels)."""
    return torch.cat([per_order[:, :1], per_order[:, 1:2].expand(-1, 3, -1), per_order[:, 2:].expand(-1, 5, -1)], dim=1)


@torch.jit.unused
def _fused_mix(weights: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return kernels.mix(weights, features, first, second)


@torch.jit.unused
def _fused_gather(shape: Tensor, weights: Tensor, beads: Tensor, n_beads: int) -> Tensor:
    return kernels.gather(shape, weights, beads, n_beads)


def _mix(weights: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    if not torch.jit.is_scripting() and not features.is_cuda:
        return _fused_mix(weights, features, first, second)
    expanded = _per_component(weights)
    out = torch.zeros_like(features).index_add(0, first, expanded * features.index_select(0, second))
    return out.index_add(0, second, expanded * features.index_select(0, first))


def _gather(shape: Tensor, weights: Tensor, beads: Tensor, n_beads: int) -> Tensor:
    if not torch.jit.is_scripting() and not weights.is_cuda:
        return _fused_gather(shape, weights, beads, n_beads)
    out = torch.zeros(n_beads, 9, weights.shape[2], dtype=weights.dtype, device=weights.device)
    return out.index_add(0, beads, shape.unsqueeze(2) * _per_component(weights))


class TensorNetEnergies(nn.Module):
    """Per-bead energies from a TensorNet.

    Parameters
    ----------
    network : torchmdnet.models.model.TorchMD_Net
        From ``create_model`` with ``model="tensornet"``; its layers are shared, not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        theirs = network.representation_model
        self.channels = int(theirs.hidden_channels)
        self.cutoff = float(theirs.cutoff_upper)
        self.expansion = theirs.distance_expansion
        self.embedding = _Embedding(theirs.tensor_embedding, self.channels)
        self.layers = nn.ModuleList([_Interaction(layer, self.channels) for layer in theirs.layers])
        self.norm, self.linear, self.act = theirs.out_norm, theirs.linear, theirs.act
        self.output = network.output_model.output_network
        self.register_buffer("scale", network.std.clone())
        self.register_buffer("basis", _irreducible_basis())
        self.to(network.std.dtype)

    def forward(self, types: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
        """Energies of all beads.

        Parameters
        ----------
        types : Tensor, shape (n_beads,), int64
        first, second : Tensor, shape (n_pairs,), int64
            Each pair once. Pairs beyond the cutoff are allowed and contribute nothing.
        vectors : Tensor, shape (n_pairs, 3), nm
            From the first bead to the second, nearest image.

        Returns
        -------
        Tensor, shape (n_beads,), kJ/mol
        """
        n_beads = types.shape[0]
        distances = torch.linalg.vector_norm(vectors, dim=1)
        radial = self.expansion(distances)
        switch = self._switch(distances).reshape(-1, 1, 1)
        at_zero = self.expansion(torch.zeros(1, dtype=vectors.dtype, device=vectors.device))

        # torchmd-net's edge vector points from neighbour to centre; (v, -v) below is that for both directions
        shape = self._shape(-vectors / distances.unsqueeze(1))  # (n_pairs, 9)
        parity = torch.ones(9, dtype=shape.dtype, device=shape.device)
        parity[1:4] = -1.0
        filters = self.embedding.radial_filters(radial) * switch  # (n_pairs, 3, channels)
        types_i, types_j = types.index_select(0, first), types.index_select(0, second)
        forth = filters * self.embedding.pair_embedding(types_i, types_j).unsqueeze(1)
        back = filters * self.embedding.pair_embedding(types_j, types_i).unsqueeze(1)
        summed = _gather(torch.cat([shape, shape * parity]), torch.cat([forth, back]), torch.cat([first, second]), n_beads)
        own = math.sqrt(3.0) * self.embedding.pair_embedding(types, types) * self.embedding.radial_filters(at_zero)[:, 0]
        summed = torch.cat([summed[:, :1] + own.unsqueeze(1), summed[:, 1:]], dim=1)

        features = self.embedding(summed)
        for layer in self.layers:
            features = layer(features, layer.radial_filters(radial) * switch, layer.radial_filters(at_zero), first, second)

        squares = features**2
        invariants = torch.cat([squares[:, 0], squares[:, 1:4].sum(1), squares[:, 4:].sum(1)], dim=1)
        out = self.output(self.act(self.linear(self.norm(invariants))))
        return out.squeeze(1) * self.scale

    def _switch(self, distances: Tensor) -> Tensor:
        inside = (distances < self.cutoff).to(distances.dtype)
        return 0.5 * (torch.cos(distances * (math.pi / self.cutoff)) + 1.0) * inside

    def _shape(self, unit: Tensor) -> Tensor:
        """Components of identity, skew matrix and traceless outer product of unit vectors, (n, 3) -> (n, 9)."""
        outer = (unit.unsqueeze(2) * unit.unsqueeze(1)).reshape(-1, 9)
        scalar = torch.full_like(unit[:, :1], math.sqrt(3.0))
        return torch.cat([scalar, math.sqrt(2.0) * unit, torch.matmul(outer, self.basis[4:].t())], dim=1)


def network_arguments(config: ModelConfig, n_types: int) -> dict:
    """Arguments of torchmd-net's ``create_model`` for a configuration.

    The radial basis is Gaussian with even spacing: torchmd-net's default ``expnorm`` places its functions for
    distances in angstrom and resolves nothing beyond 0.2 when fed with nanometres.
    """
    return {
        "model": "tensornet",
        "embedding_dimension": config.channels,
        "num_layers": config.layers,
        "num_rbf": config.radial_functions,
        "rbf_type": "gauss",
        "trainable_rbf": False,
        "activation": "silu",
        "cutoff_lower": 0.0,
        "cutoff_upper": config.cutoff,
        "max_z": n_types,
        "max_num_neighbors": 64,
        "equivariance_invariance_group": "O(3)",
        "output_model": "Scalar",
        "reduce_op": "sum",
        "derivative": False,
        "atom_filter": -1,
        "prior_model": None,
        "precision": 32,
    }


def build_tensornet(config: ModelConfig, n_types: int, scale: float) -> TensorNetEnergies:
    """Fresh network; `scale` (kJ/mol) multiplies its dimensionless output."""
    import warp

    warp.config.log_level = warp.LOG_WARNING  # no banner of a library that torchmd-net loads
    from torchmdnet.models.model import create_model

    network = create_model(network_arguments(config, n_types), std=torch.tensor(scale))
    return TensorNetEnergies(network)
