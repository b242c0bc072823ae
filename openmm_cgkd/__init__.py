"""Coarse-grained force fields by knowledge distillation, run inside OpenMM."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Read by libgomp, which torch and numba load later. Its threads spin while they wait, unless told
# not to: half as fast again for a small fluid on an idle machine, but a hundred times slower, not
# five, where other programs want the same cores
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("openmm_cgkd")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["CGPotential", "MappedReporter", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "CGPotential":  # on first use, so that importing the package stays light
        from .simulation.cgpotential import CGPotential

        return CGPotential
    if name == "MappedReporter":
        from .allatom.reporter import MappedReporter

        return MappedReporter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
