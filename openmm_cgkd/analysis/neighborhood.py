"""Old import path of `openmm_cgkd.analysis.observables.neighbors`."""

from openmm_cgkd.analysis.observables.neighbors import Frame

__all__ = ["Frame"]
