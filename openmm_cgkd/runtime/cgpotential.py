"""Old import path of `CGPotential` and `bead_topology_to_openmm`."""

from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm

__all__ = ["CGPotential", "bead_topology_to_openmm"]
