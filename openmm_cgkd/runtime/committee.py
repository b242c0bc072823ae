"""Old import path of `EnsemblePotential`."""

from openmm_cgkd.simulation.ensemble import EnsemblePotential

__all__ = ["EnsemblePotential"]
