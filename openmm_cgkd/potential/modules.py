"""Modules that become potential files: energy of beads from positions alone, scriptable by
TorchScript.

`PortableModule` is plain PyTorch and runs anywhere; `FastModule` calls this package's
operators and is much faster on a CPU, as is `PotentialWithForces` on a GPU with Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bonded import BondedPrior
from .network import TensorNetEnergies
from .prior import PairRepulsion
from .torch_ops import PackedNetwork, raise_failure


def box_numbers(boxvectors: Tensor, cutoff: float) -> list[float]:
    """Non-zero numbers ax, bx, by, cx, cy, cz of a box in OpenMM's reduced form, checked
    against the cutoff.
    """
    rows: list[list[float]] = boxvectors.detach().to(torch.device("cpu"), torch.float64).tolist()
    a, b, c = rows[0], rows[1], rows[2]
    if a[1] != 0.0 or a[2] != 0.0 or b[2] != 0.0:
        raise RuntimeError(
            "Box vectors must be in OpenMM's reduced form: a along x, b in the xy plane."
        )
    volume = a[0] * b[1] * c[2]
    # area of the face spanned by two vectors; height = volume / area
    area_bc = ((b[1] * c[2]) ** 2 + (b[0] * c[2]) ** 2 + (b[0] * c[1] - b[1] * c[0]) ** 2) ** 0.5
    area_ca = ((a[0] * c[2]) ** 2 + (a[0] * c[1]) ** 2) ** 0.5
    height = min(volume / area_bc, min(volume / area_ca, c[2]))
    # OpenMM passes boxes in single precision on some platforms
    if height < 2.0 * cutoff * (1.0 - 1e-6):
        raise RuntimeError(
            f"The smallest box height of {height} nm is below twice the cutoff of {cutoff} nm; use"
            " a larger box."
        )
    return [a[0], b[0], b[1], c[0], c[1], c[2]]


def _image_shifts(
    x: Tensor, y: Tensor, z: Tensor, box: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest-image differences; in reduced form right for all distances up to half the
    smallest box height.
    """
    ax, bx, by, cx, cy, cz = box[0], box[1], box[2], box[3], box[4], box[5]
    images = torch.round(z / cz)
    z = z - images * cz
    if cy != 0.0:
        y = y - images * cy
    if cx != 0.0:
        x = x - images * cx
    images = torch.round(y / by)
    y = y - images * by
    if bx != 0.0:
        x = x - images * bx
    return x - torch.round(x / ax) * ax, y, z


def _near_pairs(positions: Tensor, box: list[float], cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs i < j closer than the cutoff; blocks of rows keep memory small for many beads."""
    n = positions.shape[0]
    columns = positions.t().contiguous()
    x, y, z = columns[0], columns[1], columns[2]
    rows = max(1, 32768 // max(n, 1))
    found: list[Tensor] = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        dx = x[start:].unsqueeze(0) - x[start:stop].unsqueeze(1)  # (rows, n - start)
        dy = y[start:].unsqueeze(0) - y[start:stop].unsqueeze(1)
        dz = z[start:].unsqueeze(0) - z[start:stop].unsqueeze(1)
        if len(box) > 0:
            dx, dy, dz = _image_shifts(dx, dy, dz, box)
        near = (dx * dx + dy * dy + dz * dz < cutoff * cutoff).triu(1)
        found.append(torch.nonzero(near) + start)
    pairs = (
        torch.cat(found)
        if len(found) > 0
        else torch.zeros(0, 2, dtype=torch.int64, device=positions.device)
    )
    return pairs[:, 0].contiguous(), pairs[:, 1].contiguous()


def _vectors(positions: Tensor, first: Tensor, second: Tensor, box: list[float]) -> Tensor:
    """Nearest images of the vectors from `first` to `second`, shape (n_pairs, 3); open
    boundaries if the box is empty.
    """
    vectors = positions.index_select(0, second) - positions.index_select(0, first)
    if len(box) == 0:
        return vectors
    x, y, z = _image_shifts(vectors[:, 0], vectors[:, 1], vectors[:, 2], box)
    return torch.stack([x, y, z], dim=1)


def check_positions(positions: Tensor, types: Tensor) -> None:
    """Refuse positions that are not finite or of another number of beads than the types."""
    if positions.shape[0] != types.shape[0]:
        raise RuntimeError(
            f"Got positions of {positions.shape[0]} beads, types of {types.shape[0]}; call"
            " set_types."
        )
    if not bool(torch.isfinite(positions).all()):
        raise RuntimeError("Bead positions are not finite; use a smaller time step.")


def checked_box(boxvectors: Tensor | None, cutoff: float) -> Tensor:
    """Box vectors in double precision, shape (3, 3), or (0, 3) without a box; refuses a box
    that is too small.
    """
    if boxvectors is None:
        return torch.empty(0, 3, dtype=torch.float64)
    box_numbers(boxvectors, cutoff)
    return boxvectors.to(torch.float64)


class PortableModule(nn.Module):
    """Energy of beads from positions alone: neighbour search, prior and network in one scriptable
    module.

    Parameters
    ----------
    prior : PairRepulsion
        Evaluated in the type of the positions: it is steep, single precision would cost it five
        digits.
    network : TensorNetEnergies
        Evaluated in the type of its weights.
    bonded : BondedPrior
        Evaluated in the type of the positions, too.
    """

    def __init__(
        self, prior: PairRepulsion, network: TensorNetEnergies, bonded: BondedPrior
    ) -> None:
        super().__init__()
        self.prior, self.network, self.bonded = prior, network, bonded
        self.n_types = prior.n_types
        self.cutoff = network.cutoff
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
        """Say which beads are bonded: int64, shape (n_bonds, 2); after `set_types`, for
        molecules of several beads.
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
        here = positions.to(self.network.scale.device)
        box: list[float] = []
        if boxvectors is not None:
            box = box_numbers(boxvectors, self.cutoff)
        first, second = _near_pairs(here.detach(), box, self.cutoff)
        vectors = _vectors(here, first, second, box)
        learned = self.network(self.types, first, second, vectors.to(self.network.scale.dtype))
        if not self.bonded.has_bonds:
            energies = self.prior(self.types, first, second, vectors) + learned.to(vectors.dtype)
            return energies.sum().to(positions.device)
        repels = self.bonded.repels(first, second)
        energies = self.prior(
            self.types, first[repels], second[repels], vectors[repels]
        ) + learned.to(vectors.dtype)
        start, end = self.bonded.ends()
        bonded = self.bonded(_vectors(here, start, end, box))
        return (energies.sum() + bonded).to(positions.device)


class FastModule(nn.Module):
    """The same energy from fused operators, equal to single precision; on a GPU it falls back on
    the portable module.

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
    """A fused potential as `TorchForce` calls it when the module is to return the forces itself.

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
        """Potential energy, scalar, kJ/mol, and forces, shape (n_beads, 3), kJ/mol/nm; arguments as
        `PortableModule.forward`.

        Both in the type and on the device of the positions; neither can be differentiated.
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
        """Potential energy and its gradient, double precision; ``box`` is empty for open
        boundaries.
        """
        fast = self.potential.fast
        members: Tensor | None = None
        terms: Tensor | None = None
        if hasattr(self.potential, "bonded"):  # files from before there were bonds lack it
            self.potential.bonded.check(self.potential.types)
            members, terms = self.potential.bonded.members, self.potential.bonded.terms
        energy, gradient = torch.ops.openmm_cgkd.evaluate(
            points,
            box,
            self.potential.types,
            fast.weights,
            fast.offsets,
            fast.contact,
            fast.sizes,
            fast.numbers,
            members,
            terms,
        )
        raise_failure(energy)
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
