"""Run a potential through OpenMM's `PythonForce`, where `TorchForce` cannot.

Needs torch and OpenMM 8.5 or newer, no plug-in.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import torch
from openmm import unit

from openmm_cgkd.exceptions import CompatibilityError

# registers the operators, also when a force is read from XML
from openmm_cgkd.potential import torch_ops  # noqa: F401
from openmm_cgkd.potential.gpu.cuda_graph import GraphedPotential

logger = logging.getLogger(__name__)


class PotentialFunction:
    """Energy and forces of beads as `PythonForce` asks for them: from a state.

    It can be pickled, so systems can be saved as XML. On an NVIDIA GPU with Triton the kernels run
    there, as a CUDA graph; otherwise the compiled loops run on the processor.

    Parameters
    ----------
    module : torch.jit.ScriptModule
        Loaded potential with its bead types set, on the CPU.
    periodic : bool
        Whether the box of the state counts.

    Attributes
    ----------
    cuda_graph : bool
        Whether it runs on a GPU.
    """

    def __init__(self, module: torch.jit.ScriptModule, periodic: bool) -> None:
        self._set(module, periodic)

    def _set(self, module: torch.jit.ScriptModule, periodic: bool) -> None:
        self.module, self.periodic = module, periodic
        self._graphed = _on_gpu(module, periodic)
        self.cuda_graph = self._graphed is not None

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Potential energy (kJ/mol) and forces, shape (n_beads, 3), kJ/mol/nm, of a state."""
        points = np.asarray(
            state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64
        )
        cell = None
        if self.periodic:
            cell = np.asarray(
                state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer),
                dtype=np.float64,
            )
        if self._graphed is not None:
            return self._graphed(points, cell)
        positions = torch.tensor(points, requires_grad=True)
        with torch.enable_grad():
            energy = self.module(positions, None if cell is None else torch.from_numpy(cell))
            (gradient,) = torch.autograd.grad(energy, positions)
        return energy.item(), -gradient.numpy()

    def __getstate__(self) -> dict[str, Any]:
        content = io.BytesIO()
        torch.jit.save(self.module, content)
        return {"module": content.getvalue(), "periodic": self.periodic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(
            torch.jit.load(io.BytesIO(state["module"]), map_location="cpu").eval(),
            state["periodic"],
        )


def _on_gpu(
    module: torch.jit.ScriptModule, periodic: bool
) -> Callable[[np.ndarray, np.ndarray | None], tuple[float, np.ndarray]] | None:
    """The potential on a GPU, if there is one whose results are right."""
    if not (
        hasattr(module, "fast")
        and torch.cuda.is_available()
        and torch.ops.openmm_cgkd.has_gpu_kernels(torch.empty(0, device="cuda"))
    ):
        return None
    from openmm_cgkd.potential.gpu.self_test import check_kernels  # here, because it imports Triton

    try:
        check_kernels(module.fast)
    except CompatibilityError as error:
        logger.warning("the potential runs on the processor: %s", error)
        return None
    logger.info("the potential runs on %s as a CUDA graph", torch.cuda.get_device_name())
    return GraphedPotential(copy.deepcopy(module), periodic)


def make_python_force(module: torch.jit.ScriptModule, periodic: bool) -> openmm.Force:
    """`openmm.PythonForce` of a loaded potential; arguments as `PotentialFunction`."""
    force = openmm.PythonForce(PotentialFunction(module, periodic))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
