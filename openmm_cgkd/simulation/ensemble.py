"""The mean of several potentials as one potential for OpenMM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mdtraj
import openmm
from openmm import app

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.mapping.beads import BeadTopology

from .cgpotential import CGPotential
from .engines import EngineName

_MOST = 32  # OpenMM's number of force groups, of which `CustomCVForce` gives one to each member


class EnsemblePotential:
    """The mean of several potentials, such as the teachers, as one potential for OpenMM.

    Parameters
    ----------
    files : sequence of path
        Potential files of the members, at most 32.
    engine : {"fast", "portable", "python"}, optional
    run_script : bool
        Both as in `CGPotential`.

    Attributes
    ----------
    members : list of CGPotential

    Raises
    ------
    ModelFileError
        If there are no files, too many, or members of different beads.
    """

    def __init__(
        self,
        files: Sequence[Path | str],
        engine: EngineName | None = None,
        *,
        run_script: bool = False,
    ) -> None:
        if not 1 <= len(files) <= _MOST:
            raise ModelFileError(
                f"An ensemble has 1 to {_MOST} members, got {len(files)} files; name the teachers'"
                " potentials."
            )
        self.members = [CGPotential(file, engine, run_script=run_script) for file in files]
        first = self.members[0]
        for member in self.members[1:]:
            if (
                member.metadata.type_names != first.metadata.type_names
                or member.metadata.masses != first.metadata.masses
            ):
                raise ModelFileError(
                    f"{member.file}: has other bead types or masses than {first.file}; name members"
                    " of one ensemble."
                )

    def createSystem(
        self,
        topology: app.Topology | mdtraj.Topology | BeadTopology,
        removeCMMotion: bool = True,
        boxVectors: Any = None,
    ) -> openmm.System:
        """Make a system of beads; arguments and errors as `CGPotential.createSystem`."""
        system = self.members[0].createSystem(topology, removeCMMotion, boxVectors)
        box = (
            system.getDefaultPeriodicBoxVectors()
            if system.usesPeriodicBoundaryConditions()
            else None
        )
        system.removeForce(0)  # the force of the first member alone
        names = [f"member{k}" for k in range(len(self.members))]
        mean = openmm.CustomCVForce(f"({' + '.join(names)}) / {len(names)}")
        for name, member in zip(names, self.members, strict=True):
            mean.addCollectiveVariable(name, member.createForce(topology, box))
        system.addForce(mean)
        return system
