"""A look at the kernels' results on the GPU at hand, when a potential is made ready for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.potential.signature import Numbers, OperatorArguments

from . import evaluate as evaluation

if TYPE_CHECKING:
    from openmm_cgkd.potential.torch_ops import PackedNetwork

_BEADS = 24
_TOLERANCE = 1e-3  # of the largest force; single precision has 1e-4 of it
_TENSORS = "positions", "box", "types", "weights", "offsets", "contact"
_CURE = "take engine='portable' and report it"


def check_kernels(fast: PackedNetwork, device: torch.device | str = "cuda") -> None:
    """Compare forces of a few scattered beads with those of the processor.

    Parameters
    ----------
    fast : PackedNetwork
        With the weights to run; also as the part of a scripted potential.
    device : torch.device or str

    Raises
    ------
    CompatibilityError
        If the kernels cannot be compiled or run there, or their forces are others.
    """
    edge, n_types = 2.2 * Numbers(*fast.numbers).cutoff, len(fast.contact)
    sites = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).to(
        torch.float64
    )
    shaken = sites + 0.3 * torch.rand(
        sites.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    positions, box = (
        shaken * edge / torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64),
        edge * torch.eye(3, dtype=torch.float64),
    )
    given = OperatorArguments(
        positions,
        box,
        torch.arange(_BEADS) % n_types,
        fast.weights,
        fast.offsets,
        fast.contact,
        [*fast.sizes],
        [*fast.numbers],
    )
    _, expected = torch.ops.openmm_cgkd.evaluate(*given)
    try:
        there = given._replace(**{name: getattr(given, name).to(device) for name in _TENSORS})
        _, found = evaluation.evaluate(there)
        difference = float((found.cpu() - expected).abs().max() / expected.abs().max())
    except Exception as error:  # compilers and drivers raise all kinds
        raise CompatibilityError(
            f"The GPU kernels do not run on {device} ({error}); {_CURE}."
        ) from error
    if not difference < _TOLERANCE:
        raise CompatibilityError(
            f"The GPU kernels give other forces on {device} than the processor does, by"
            f" {difference:.1g} of the largest; {_CURE}."
        )
