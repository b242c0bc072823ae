"""Old import path of the plug-in of OpenMM-ML, `openmm_cgkd.simulation.openmmml`."""

from openmm_cgkd.simulation.openmmml import CGPotentialFactory

__all__ = ["CGPotentialFactory"]
