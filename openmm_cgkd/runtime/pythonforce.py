"""Run a potential through OpenMM's `PythonForce`, where `TorchForce` cannot: needs torch and OpenMM 8.5 or newer, no plug-in."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import openmm
import torch
from openmm import unit

from ..potential import fast  # noqa: F401  registers the operators, also when a force is read from XML


class PotentialFunction:
    """Energy and forces of beads as `PythonForce` asks for them: from a state. It can be pickled, so systems can be saved as XML.

    Parameters
    ----------
    module : torch.jit.ScriptModule
        Loaded potential with its bead types set.
    periodic : bool
        Whether the box of the state counts.
    """

    def __init__(self, module: torch.jit.ScriptModule, periodic: bool) -> None:
        self.module, self.periodic = module, periodic

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Potential energy in kJ/mol and forces of shape (n_beads, 3) in kJ/mol/nm, of a state with positions in nm."""
        positions = torch.tensor(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=torch.float64, requires_grad=True)
        box = None
        if self.periodic:
            box = torch.tensor(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer), dtype=torch.float64)
        with torch.enable_grad():
            energy = self.module(positions, box)
            (gradient,) = torch.autograd.grad(energy, positions)
        return energy.item(), -gradient.numpy()

    def __getstate__(self) -> dict[str, Any]:
        content = io.BytesIO()
        torch.jit.save(self.module, content)
        return {"module": content.getvalue(), "periodic": self.periodic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module = torch.jit.load(io.BytesIO(state["module"]), map_location="cpu").eval()
        self.periodic = state["periodic"]


def make_python_force(module: torch.jit.ScriptModule, periodic: bool) -> openmm.Force:
    """`openmm.PythonForce` of a loaded potential; arguments as `PotentialFunction`."""
    force = openmm.PythonForce(PotentialFunction(module, periodic))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
