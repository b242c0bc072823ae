"""Plug-in of OpenMM-ML: ``MLPotential("cgkd", modelPath="student.pt").createSystem(topology)``.

OpenMM-ML finds it by the entry point group ``openmmml.potentials`` and imports it with every use of
its own, so this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from openmm_cgkd.exceptions import ConfigError

if TYPE_CHECKING:
    from .engines import EngineName


class CGPotentialFactory(MLPotentialImplFactory):
    """Factory that the entry point names."""

    def createImpl(
        self,
        name: str,
        modelPath: Path | str | None = None,
        engine: EngineName | None = None,
        run_script: bool = False,
    ) -> CGPotentialImpl:
        """Make the implementation of ``MLPotential("cgkd", modelPath=..., engine=...)``.

        File, engine and `run_script` as for `CGPotential`.
        """
        from .cgpotential import CGPotential

        if modelPath is None:
            raise ConfigError(
                f"modelPath: MLPotential('{name}') needs the file of a potential; write one with"
                " 'cgkd export'."
            )
        return CGPotentialImpl(CGPotential(modelPath, engine, run_script=run_script))


class CGPotentialImpl(MLPotentialImpl):
    """Adds a `CGPotential` to the system that OpenMM-ML has begun."""

    def __init__(self, potential: Any) -> None:
        self.potential = potential

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the force and set the masses of the beads.

        OpenMM-ML takes masses from chemical elements, which beads do not have.

        Raises
        ------
        ConfigError
            If the potential is to act on a part of the system, or an argument is not known.
        """
        if atoms is not None:
            raise ConfigError(
                "atoms: a coarse-grained potential acts on all beads of a system; use createSystem,"
                " not createMixedSystem."
            )
        if args:
            raise ConfigError(
                f"{', '.join(args)}: not an argument of a coarse-grained potential; leave it out."
            )
        for bead, mass in enumerate(self.potential.bead_masses(topology)):
            system.setParticleMass(bead, mass)
        force = self.potential.createForce(topology, topology.getPeriodicBoxVectors())
        force.setForceGroup(forceGroup)
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Beads beyond the cutoff do not act on each other."""
        return False
