"""A potential on a GPU as one CUDA graph, for callers whose positions are on the processor."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from openmm_cgkd.potential.modules import PotentialWithForces


class GraphedPotential:
    """Energy and forces with a single launch for all kernels, and one transfer each way.

    The graph is captured at the first call. What a captured kernel finds wrong makes its results
    NaN; the same kernels are then run outside of the graph, which either raises what is wrong or
    finds the room that the graph's neighbour list lacked.

    Parameters
    ----------
    module : torch.jit.ScriptModule
        `FastModule`, scripted, with its bead types set; it moves to the GPU.
    periodic : bool
    device : torch.device or str
    """

    def __init__(
        self, module: torch.jit.ScriptModule, periodic: bool, device: torch.device | str = "cuda"
    ) -> None:
        self.module = torch.jit.script(PotentialWithForces(module).eval()).to(device)
        n = len(module.types)
        self._at = torch.empty(n, 3, dtype=torch.float64, device=device)
        self._box = torch.empty(3, 3, dtype=torch.float64, device=device) if periodic else None
        self.graph: torch.cuda.CUDAGraph | None = None  # None: captured at the next call
        self._out: Tensor
        self._lock = threading.Lock()  # contexts of one system share the buffers

    def __call__(self, positions: np.ndarray, box: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Potential energy, kJ/mol, and forces (n_beads, 3), kJ/mol/nm.

        Parameters
        ----------
        positions : ndarray, shape (n_beads, 3), float64, nm
        box : ndarray, shape (3, 3), float64, nm, or None

        Raises
        ------
        RuntimeError
            If positions are not finite, beads have collapsed, or the box is too small.
        """
        with self._lock:
            self._at.copy_(torch.from_numpy(positions))
            if self._box is not None:
                self._box.copy_(torch.from_numpy(box))
            if self.graph is None:
                self._capture()
            found = self._found()
            if not np.isfinite(found[0]):
                self._capture()
                found = self._found()
        return float(found[0]), found[1:].reshape(-1, 3)

    def launch(self) -> None:
        """Queue the kernels once more, for the positions of the last call, and wait for nothing.

        To see how long they take.
        """
        assert self.graph is not None  # after a call
        self.graph.replay()

    def _found(self) -> np.ndarray:
        self.launch()
        return self._out.cpu().numpy()

    def _capture(self) -> None:
        """Capture the graph after a run outside of it.

        That run compiles the kernels, finds the sizes of the list and raises what is wrong.
        """
        self.graph = None
        try:
            self.module(self._at, self._box)
        except torch.jit.Error as error:
            raise RuntimeError(
                str(error).strip().splitlines()[-1].removeprefix("builtins.RuntimeError: ")
            ) from error
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            energy, forces = self.module(self._at, self._box)
            self._out = torch.cat([energy.reshape(1), forces.reshape(-1)])
        self.graph = graph
