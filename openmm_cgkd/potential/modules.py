"""Modules that become potential files: energy of beads from positions alone, for TorchScript.

`PortableModule` is plain PyTorch and runs anywhere; `FastModule` calls this package's
operators and is much faster on a CPU, as is `PotentialWithForces` on a GPU with Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bonded import BondedPrior
from .forces import cutoff_of
from .network import TensorNetEnergies
from .prior import PairRepulsion, PriorParameters
from .script_geometry import check_positions, checked_box, near_pairs, pair_vectors, script_box
from .torch_ops import PackedNetwork, raise_last_error


class PortableModule(nn.Module):
    """Energy of beads from positions alone: neighbour search, prior and network in one module.

    Parameters
    ----------
    prior : PairRepulsion
        Evaluated in the type of the positions: it is steep, single precision would cost it five
        digits.
    network : nn.Module
        `TensorNetEnergies`, or any module that TorchScript compiles, that has a ``cutoff`` (nm) and
        maps ``(types, first, second, vectors)`` to per-bead energies (n_beads,), kJ/mol. Evaluated
        in the type of its weights.
    bonded : BondedPrior
        Evaluated in the type of the positions, too.
    """

    def __init__(self, prior: PairRepulsion, network: nn.Module, bonded: BondedPrior) -> None:
        super().__init__()
        self.prior, self.network, self.bonded = prior, network, bonded
        self.n_types = prior.n_types
        self.cutoff: float = network.cutoff  # type: ignore[assignment]  # an attribute, no submodule
        self.types: Tensor
        # empty, of the network's floating type and on its device
        self.like_network: Tensor
        self.register_buffer("like_network", _empty_like_weights(network))
        self.register_buffer("types", torch.zeros(0, dtype=torch.int64))

    @torch.jit.export
    def set_types(self, types: Tensor) -> None:
        """Say which bead is of which type: int64, shape (n_beads,)."""
        if types.dim() != 1 or bool(((types < 0) | (types >= self.n_types)).any()):
            raise RuntimeError(
                f"Bead types must be one row of integers from 0 to {self.n_types - 1}."
            )
        self.types = types.to(self.types.device, torch.int64)
        self.bonded.forget()

    @torch.jit.export
    def set_bonds(self, bonds: Tensor) -> None:
        """Say which beads are bonded: int64, shape (n_bonds, 2).

        After `set_types`, for molecules of several beads.
        """
        self.bonded.set_bonds(self.types, bonds)

    def forward(self, positions: Tensor, boxvectors: Tensor | None = None) -> Tensor:
        """Potential energy.

        Parameters
        ----------
        positions : Tensor, shape (n_beads, 3), nm
            Any floating type and device; differences between beads are taken in that type before
            the network's.
        boxvectors : Tensor, shape (3, 3), nm, optional
            Rows are the box vectors in OpenMM's reduced form; absent for open boundaries.

        Returns
        -------
        Tensor, scalar, kJ/mol
            In the type and on the device of the positions.
        """
        check_positions(positions, self.types)
        self.bonded.check(self.types)
        here = positions.to(self.like_network.device)
        box: list[float] = []
        if boxvectors is not None:
            box = script_box(boxvectors, self.cutoff)
        first, second = near_pairs(here.detach(), box, self.cutoff)
        vectors = pair_vectors(here, first, second, box)
        learned = self.network(self.types, first, second, vectors.to(self.like_network.dtype))
        if not self.bonded.has_bonds:
            energies = self.prior(self.types, first, second, vectors) + learned.to(vectors.dtype)
            return energies.sum().to(positions.device)
        repels = self.bonded.repels(first, second)
        energies = self.prior(
            self.types, first[repels], second[repels], vectors[repels]
        ) + learned.to(vectors.dtype)
        start, end = self.bonded.ends()
        bonded = self.bonded(pair_vectors(here, start, end, box))
        return (energies.sum() + bonded).to(positions.device)


def _empty_like_weights(network: nn.Module) -> Tensor:
    """An empty tensor of the type and on the device of a network's first floating-point weights."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return torch.empty(0)


class FastModule(nn.Module):
    """The same energy from compiled operators, equal to single precision.

    On a GPU it calls the portable module; `PotentialWithForces` calls the Triton kernels.

    Parameters
    ----------
    prior : PairRepulsion
    network : TensorNetEnergies
        Both copied.
    bonded : BondedPrior
    portable : torch.jit.ScriptModule
        `PortableModule` of the same prior and network, scripted; its bead types are taken over.
    """

    def __init__(
        self,
        prior: PairRepulsion,
        network: TensorNetEnergies,
        bonded: BondedPrior,
        portable: torch.jit.ScriptModule,
    ) -> None:
        super().__init__()
        self.portable, self.bonded = portable, bonded
        self.n_types = prior.n_types
        self.cutoff = network.cutoff
        self.fast = PackedNetwork(network, prior)
        self.types: Tensor
        self.register_buffer("types", portable.types.clone())

    @torch.jit.export
    def set_types(self, types: Tensor) -> None:
        """Say which bead is of which type: int64, shape (n_beads,)."""
        self.portable.set_types(types)
        self.types = self.portable.types
        self.bonded.forget()

    @torch.jit.export
    def set_bonds(self, bonds: Tensor) -> None:
        """Say which beads are bonded, as `PortableModule.set_bonds`."""
        if hasattr(self.portable, "set_bonds"):  # files from before there were bonds lack it
            self.portable.set_bonds(bonds)
        self.bonded.set_bonds(self.types, bonds)

    def forward(self, positions: Tensor, boxvectors: Tensor | None = None) -> Tensor:
        """Potential energy, scalar, kJ/mol; arguments as `PortableModule.forward`."""
        if self.types.is_cuda:
            return self.portable(positions, boxvectors)
        check_positions(positions, self.types)
        self.bonded.check(self.types)
        box = checked_box(boxvectors, self.cutoff)
        return self.fast(
            self.types, positions.to(torch.float64), box, self.bonded.members, self.bonded.terms
        ).to(positions.dtype)


class PotentialWithForces(nn.Module):
    """A fast potential as `TorchForce` calls it when the module is to return the forces itself.

    The operator gives them with the energy; autograd around it would only cost time.

    Parameters
    ----------
    potential : torch.jit.ScriptModule
        `FastModule`, scripted, of this or an earlier version of the package, with its bead
        types set.
    """

    def __init__(self, potential: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, positions: Tensor, boxvectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Potential energy, scalar, kJ/mol, and forces, shape (n_beads, 3), kJ/mol/nm.

        Arguments as `PortableModule.forward`. Both results are in the type and on the device of the
        positions; neither can be differentiated.
        """
        types = self.potential.types
        if types.is_cuda:
            if not torch.ops.openmm_cgkd.has_gpu_kernels(types):
                return self.by_autograd(positions, boxvectors)
            # the operator checks positions and box on the GPU: to look at them from here would make
            # the processor wait
            box = (
                torch.empty(0, 3, device=types.device)
                if boxvectors is None
                else boxvectors.to(types.device)
            )
            energy, gradient = self.by_operator(positions.detach().to(types.device), box)
            return energy.to(positions), gradient.neg().to(positions)
        check_positions(positions, types)
        box = checked_box(boxvectors, self.potential.cutoff)
        energy, gradient = self.by_operator(positions.detach().to(torch.float64), box)
        return energy.to(positions.dtype), gradient.neg().to(positions.dtype)

    def by_operator(self, points: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Potential energy and its gradient, double precision; ``box`` may be empty: open."""
        fast = self.potential.fast
        bonded_beads: Tensor | None = None
        bonded_parameters: Tensor | None = None
        if hasattr(self.potential, "bonded"):  # files from before there were bonds lack it
            self.potential.bonded.check(self.potential.types)
            bonded_beads = self.potential.bonded.members
            bonded_parameters = self.potential.bonded.terms
        energy, gradient = torch.ops.openmm_cgkd.evaluate(
            points,
            box,
            self.potential.types,
            fast.weights,
            fast.offsets,
            fast.contact,
            fast.sizes,
            fast.numbers,
            bonded_beads,
            bonded_parameters,
        )
        raise_last_error(energy)
        return energy, gradient

    @torch.jit.export
    def by_autograd(
        self, positions: Tensor, boxvectors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same from the portable module."""
        at = positions.detach().requires_grad_(True)
        energy = self.potential.portable(at, boxvectors)
        gradient = torch.autograd.grad([energy], [at])[0]
        assert gradient is not None  # TorchScript does not know
        return energy.detach(), gradient.neg()


def script_portable(prior: PriorParameters, network: nn.Module) -> torch.jit.ScriptModule:
    """Scripted `PortableModule` of a network, on the CPU and not to be trained.

    Parameters
    ----------
    prior : PriorParameters
    network : nn.Module
        See `PortableModule`; its tensors become those of the result.
    """
    module = PortableModule(prior.build(cutoff_of(network)), network, prior.build_bonded())
    return torch.jit.script(module.cpu().eval().requires_grad_(False))


def script_fast(
    prior: PriorParameters, network: TensorNetEnergies, portable: torch.jit.ScriptModule
) -> torch.jit.ScriptModule:
    """Scripted `FastModule` of the same prior and network as a scripted `PortableModule`."""
    return torch.jit.script(
        FastModule(prior.build(network.cutoff), network, prior.build_bonded(), portable).eval()
    )
