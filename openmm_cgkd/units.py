"""Old import path of `openmm_cgkd.utils.units`."""

from openmm_cgkd.utils.units import to_float

__all__ = ["to_float"]
