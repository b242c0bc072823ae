"""TensorNet of torchmd-net with per-bead energies, evaluated on pairs.

The network is made by torchmd-net's ``create_model`` and keeps its layers and weights (Simeon and
De Fabritiis, NeurIPS 2023); the forward pass is this package's. It takes each pair once and holds
tensors as nine irreducible components in an orthonormal basis instead of 3x3 matrices. On a CPU it
calls the compiled loops of `autograd`, with radial functions from splines; under
``torch.jit.script`` and on a GPU it is plain PyTorch, so that an exported file needs nothing but
torch. Plain PyTorch equals torchmd-net to rounding, splines to 1e-7.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from openmm_cgkd.config.run import ModelConfig

from .autograd import messages, splines
from .autograd.anticommutator import anticommutator


def _irreducible_basis() -> Tensor:
    """Nine orthonormal 3x3 matrices, shape (9, 9).

    Identity, three skew ones, five symmetric and traceless ones.

    Frobenius inner products become plain dot products of components.
    """
    basis = torch.zeros(9, 3, 3, dtype=torch.float64)
    basis[0] = torch.eye(3, dtype=torch.float64) / math.sqrt(3)
    # the skew matrix of a unit vector along axis k
    for k, (i, j) in enumerate(((2, 1), (0, 2), (1, 0))):
        basis[1 + k, i, j], basis[1 + k, j, i] = 1 / math.sqrt(2), -1 / math.sqrt(2)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        basis[4 + k, i, j] = basis[4 + k, j, i] = 1 / math.sqrt(2)
    basis[7] = torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)) / math.sqrt(2)
    basis[8] = torch.diag(torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64)) / math.sqrt(6)
    return basis.reshape(9, 9)


class Linears(nn.Module):
    """One bias-free linear map per order l = 0, 1, 2."""

    def __init__(self, scalar: nn.Linear, vector: nn.Linear, tensor: nn.Linear) -> None:
        super().__init__()
        self.scalar, self.vector, self.tensor = scalar, vector, tensor

    def forward(self, features: Tensor) -> Tensor:  # (n_beads, 9, channels)
        scalar, vector, tensor = torch.split(features, [1, 3, 5], dim=1)
        return torch.cat([self.scalar(scalar), self.vector(vector), self.tensor(tensor)], dim=1)


class Embedding(nn.Module):
    """torchmd-net's TensorEmbedding."""

    def __init__(self, torchmd: Any, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.types, self.pair = torchmd.emb, torchmd.emb2
        self.n_types = int(torchmd.emb.num_embeddings)
        self.radial = nn.ModuleList(
            [torchmd.distance_proj1, torchmd.distance_proj2, torchmd.distance_proj3]
        )
        self.norm, self.act = torchmd.init_norm, torchmd.act
        self.hidden, self.out = torchmd.linears_scalar[0], torchmd.linears_scalar[1]
        self.linears = Linears(
            torchmd.linears_tensor[0], torchmd.linears_tensor[1], torchmd.linears_tensor[2]
        )

    def radial_filters(self, radial: Tensor) -> Tensor:  # (n, n_radial) -> (n, 3, channels)
        return torch.stack([layer(radial) for layer in self.radial], dim=1)

    def pair_table(self) -> Tensor:  # (n_types * n_types, channels)
        types = self.types.weight
        return self.pair(
            torch.cat(
                [types.repeat_interleave(self.n_types, dim=0), types.repeat(self.n_types, 1)], dim=1
            )
        )

    # (n,), (n,) -> (n, channels)
    def pair_embedding(self, types_i: Tensor, types_j: Tensor) -> Tensor:
        return self.pair_table().index_select(0, types_i * self.n_types + types_j)

    def forward(self, summed: Tensor) -> Tensor:  # (n_beads, 9, channels) both
        norm = self.norm((summed * summed).sum(1))
        gate = self.act(self.out(self.act(self.hidden(norm)))).reshape(-1, 3, self.channels)
        return self.linears(summed) * _per_component(gate)


class Interaction(nn.Module):
    """torchmd-net's Interaction, group O(3), neutral."""

    def __init__(self, torchmd: Any, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.radial, self.act = torchmd.linears_scalar, torchmd.act
        self.before = Linears(
            torchmd.linears_tensor[0], torchmd.linears_tensor[1], torchmd.linears_tensor[2]
        )
        self.after = Linears(
            torchmd.linears_tensor[3], torchmd.linears_tensor[4], torchmd.linears_tensor[5]
        )
        self.basis: Tensor
        self.register_buffer("basis", _irreducible_basis())

    def radial_filters(self, radial: Tensor) -> Tensor:  # (n, n_radial) -> (n, 3, channels)
        for layer in self.radial:
            radial = self.act(layer(radial))
        return radial.reshape(-1, 3, self.channels)

    def prepare(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, and what neighbours see of them."""
        features = _normalized(features)
        return features, self.before(features)

    def update(self, features: Tensor, prepared: Tensor, message: Tensor) -> Tensor:
        """New features from the messages."""
        product = self._anticommutator(prepared, message)
        update = self.after(_normalized(product))
        return features + update + 0.5 * self._anticommutator(update, update)

    def _anticommutator(self, left: Tensor, right: Tensor) -> Tensor:
        """AB + BA of the matrices that the features stand for."""
        if not torch.jit.is_scripting() and not left.is_cuda:
            return _compiled_anticommutator(left, right)
        a, b = self._matrices(left), self._matrices(right)  # (n_beads, channels, 3, 3)
        product = torch.matmul(a, b) + torch.matmul(b, a)
        return torch.matmul(product.reshape(-1, self.channels, 9), self.basis.t()).transpose(1, 2)

    def _matrices(self, features: Tensor) -> Tensor:
        return torch.matmul(features.transpose(1, 2), self.basis).reshape(-1, self.channels, 3, 3)


def _per_component(per_order: Tensor) -> Tensor:
    """Repeat values of l = 0, 1, 2 over their 1, 3, 5 components.

    (n, 3, channels) -> (n, 9, channels).
    """
    scalar, vector, tensor = torch.split(per_order, [1, 1, 1], dim=1)
    return torch.cat([scalar, vector.expand(-1, 3, -1), tensor.expand(-1, 5, -1)], dim=1)


def _normalized(features: Tensor) -> Tensor:
    """x / (|x|^2 + 1), channel by channel."""
    return features * torch.reciprocal((features * features).sum(1, keepdim=True) + 1)


@torch.jit.unused
def _compiled_anticommutator(left: Tensor, right: Tensor) -> Tensor:
    return anticommutator(left, right)


@torch.jit.unused
def _compiled_mix(
    filters: Tensor,
    distances: Tensor,
    features: Tensor,
    first: Tensor,
    second: Tensor,
    spacing: float,
) -> Tensor:
    return messages.mix(splines.table(filters), distances, features, first, second, spacing)


@torch.jit.unused
def _compiled_gather(
    filters: Tensor,
    factors: Tensor,
    distances: Tensor,
    shape: Tensor,
    beads: Tensor,
    kinds: Tensor,
    n_beads: int,
    spacing: float,
) -> Tensor:
    # (n_kinds, n_rows, 3, channels)
    tables = splines.table(filters) * factors.reshape(-1, 1, 1, factors.shape[1])
    return messages.gather(tables, distances, shape, beads, kinds, n_beads, spacing)


def _mix(
    filters: Tensor,
    distances: Tensor,
    features: Tensor,
    first: Tensor,
    second: Tensor,
    spacing: float,
) -> Tensor:
    """Sum of neighbours' features times filters.

    The filters are on the grid for the kernels and at every pair for plain PyTorch.
    """
    if not torch.jit.is_scripting() and not features.is_cuda:
        return _compiled_mix(filters, distances, features, first, second, spacing)
    expanded = _per_component(filters)
    out = torch.zeros_like(features).index_add(
        0, first, expanded * features.index_select(0, second)
    )
    return out.index_add(0, second, expanded * features.index_select(0, first))


def _gather(
    filters: Tensor,
    factors: Tensor,
    distances: Tensor,
    shape: Tensor,
    beads: Tensor,
    kinds: Tensor,
    n_beads: int,
    spacing: float,
) -> Tensor:
    """Sum of shapes of directed edges, times filters as in `_mix` and factors of each kind.

    The edges are the pairs one way and then the other.
    """
    if not torch.jit.is_scripting() and not shape.is_cuda:
        return _compiled_gather(filters, factors, distances, shape, beads, kinds, n_beads, spacing)
    # (n_edges, 3, channels)
    weights = torch.cat([filters, filters]) * factors.index_select(0, kinds).unsqueeze(1)
    out = torch.zeros(n_beads, 9, weights.shape[2], dtype=weights.dtype, device=weights.device)
    return out.index_add(0, beads, shape.unsqueeze(2) * _per_component(weights))


class TensorNetEnergies(nn.Module):
    """Per-bead energies from a TensorNet.

    Parameters
    ----------
    network : torchmdnet.models.model.TorchMD_Net
        From ``create_model`` with ``model="tensornet"``; its layers are shared, not copied.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        torchmd = network.representation_model
        self.channels = int(torchmd.hidden_channels)
        self.cutoff = float(torchmd.cutoff_upper)
        self.spacing = splines.grid_spacing(self.cutoff, int(torchmd.num_rbf))
        self.expansion = torchmd.distance_expansion
        self.embedding = Embedding(torchmd.tensor_embedding, self.channels)
        self.layers: Any  # of `Interaction`; the type of a ModuleList does not say so
        self.layers = nn.ModuleList([Interaction(layer, self.channels) for layer in torchmd.layers])
        self.norm, self.linear, self.act = torchmd.out_norm, torchmd.linear, torchmd.act
        self.output = network.output_model.output_network
        self.scale: Tensor
        self.register_buffer("scale", network.std.clone())
        self.basis: Tensor
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
        distances = torch.linalg.vector_norm(vectors, dim=1)
        points = self._points(distances)
        radial = self.expansion(points).to(vectors.dtype)  # (n_points, n_radial)
        switch = self._switch(points).to(vectors.dtype).reshape(-1, 1, 1)
        at_zero = self.expansion(torch.zeros(1, dtype=vectors.dtype, device=vectors.device))

        # directed edges; torchmd-net's vectors point from neighbour to centre
        beads, others, lengths = (
            torch.cat([first, second]),
            torch.cat([second, first]),
            torch.cat([distances, distances]),
        )
        shape = self._shape(torch.cat([-vectors, vectors]) / lengths.unsqueeze(1))  # (n_edges, 9)
        kinds = types.index_select(0, beads) * self.embedding.n_types + types.index_select(
            0, others
        )
        filters, factors = (
            self.embedding.radial_filters(radial) * switch,
            self.embedding.pair_table(),
        )
        summed = _gather(
            filters, factors, lengths, shape, beads, kinds, types.shape[0], self.spacing
        )
        own = (
            math.sqrt(3.0)
            * self.embedding.pair_embedding(types, types)
            * self.embedding.radial_filters(at_zero)[:, 0]
        )
        features = self.embedding(summed + nn.functional.pad(own.unsqueeze(1), (0, 0, 0, 8)))

        for layer in self.layers:
            features, prepared = layer.prepare(features)
            message = _mix(
                layer.radial_filters(radial) * switch,
                distances,
                prepared,
                first,
                second,
                self.spacing,
            )
            # a bead is its own neighbour
            message = message + _per_component(layer.radial_filters(at_zero)) * prepared
            features = layer.update(features, prepared, message)

        scalar, vector, tensor = torch.split(features * features, [1, 3, 5], dim=1)
        invariants = torch.cat([scalar.sum(1), vector.sum(1), tensor.sum(1)], dim=1)
        out = self.output(self.act(self.linear(self.norm(invariants))))
        return out.squeeze(1) * self.scale

    def _points(self, distances: Tensor) -> Tensor:
        """Where radial functions are evaluated.

        On a grid for the kernels, at every pair for plain PyTorch.
        """
        if not torch.jit.is_scripting() and not distances.is_cuda:
            return splines.grid(self.cutoff, self.spacing)
        return distances

    def _switch(self, distances: Tensor) -> Tensor:
        """Smooth cutoff.

        Splines end by themselves; the points that they need beyond their end continue the function.
        """
        switch = 0.5 * (torch.cos(distances * (math.pi / self.cutoff)) + 1.0)
        if not torch.jit.is_scripting() and not distances.is_cuda:
            return switch
        return switch * (distances < self.cutoff).to(distances.dtype)

    def _shape(self, unit: Tensor) -> Tensor:
        """Components of the shapes of unit vectors, (n, 3) -> (n, 9).

        They are those of identity, skew matrix and traceless outer product.
        """
        outer = (unit.unsqueeze(2) * unit.unsqueeze(1)).reshape(-1, 9)
        scalar = torch.full_like(unit[:, :1], math.sqrt(3.0))
        return torch.cat(
            [scalar, math.sqrt(2.0) * unit, torch.matmul(outer, self.basis[4:].t())], dim=1
        )


def network_arguments(config: ModelConfig, n_types: int) -> dict:
    """Arguments of torchmd-net's ``create_model`` for a configuration.

    The radial basis is Gaussian with even spacing: torchmd-net's default ``expnorm`` places its
    functions for distances in angstrom and resolves nothing beyond 0.2 when fed with nanometres.
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
