"""Coarse-grained force fields by knowledge distillation, run inside OpenMM."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("openmm_cgkd")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+unknown"
