"""Old import path of `openmm_cgkd.potential.metadata`."""

from openmm_cgkd.potential.metadata import read_metadata

__all__ = ["read_metadata"]
