"""How all kernels are launched."""

from __future__ import annotations

import triton
from torch import Tensor


def launch(
    kernel: triton.JITFunction,
    programs: int,
    *arguments: Tensor | int,
    warps: int = 4,
    **constants: float,
) -> None:
    """Queue a kernel."""
    kernel[(programs,)](*arguments, num_warps=warps, **constants)
