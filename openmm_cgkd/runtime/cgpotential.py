"""From a potential file to an `openmm.System`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mdtraj
import numpy as np
import openmm
from openmm import app, unit
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from ..exceptions import BoxError, ConfigError, ModelFileError
from ..mapping import BeadTopology
from ..metadata import PotentialMetadata, read_metadata
from .compatibility import check_stack, import_torch_force

if TYPE_CHECKING:
    import torch


class CGPotential:
    """A coarse-grained potential, ready to make systems for OpenMM.

    ``CGPotential("student.pt").createSystem(topology)`` returns an `openmm.System`; integrator, platform and reporters
    are the user's.

    Parameters
    ----------
    file : path
        Potential written by ``cgkd export``.
    engine : {"fused", "portable"}
        How a CPU evaluates the potential: by this package's fused loops, or by the plain PyTorch operations in the file,
        several times slower and equal to single precision. A GPU always runs the latter.

    Attributes
    ----------
    metadata : PotentialMetadata

    Raises
    ------
    CompatibilityError
        If the installed torch, OpenMM and openmmtorch do not fit each other.
    ModelFileError
        If the file is missing or not a potential of this package.
    """

    def __init__(self, file: Path | str, engine: Literal["fused", "portable"] = "fused") -> None:
        check_stack()
        if engine not in ("fused", "portable"):
            raise ConfigError(f"engine: got '{engine}'; choose 'fused' or 'portable'.")
        self.engine = engine
        self.file = Path(file)
        self.metadata: PotentialMetadata = read_metadata(self.file)

    def createSystem(
        self,
        topology: app.Topology | mdtraj.Topology | BeadTopology,
        removeCMMotion: bool = True,
        boxVectors: Any = None,
    ) -> openmm.System:
        """Make a system of beads.

        Parameters
        ----------
        topology : openmm.app.Topology, mdtraj.Topology or BeadTopology
            One atom per bead; the atom's name is the bead type. Masses come from the potential.
        removeCMMotion : bool
            Add a `CMMotionRemover`.
        boxVectors : Quantity or array of shape (3, 3) in nm, optional
            Periodic box; needed for topologies that carry none of their own. An `openmm.app.Topology` with box vectors
            makes a periodic system by itself.

        Raises
        ------
        ModelFileError
            If the topology holds a bead that the potential does not know.
        BoxError
            If a box height is below twice the cutoff, or the box is not in OpenMM's form.
        """
        from ..potential.neighbors import check_cutoff

        types = self._types(bead_names(topology))
        box = _box(boxVectors if boxVectors is not None else _own_box(topology))
        if box is not None:
            check_cutoff(box, self.metadata.cutoff)
        system = openmm.System()
        for kind in types:
            system.addParticle(self.metadata.masses[kind])
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
        system.addForce(self._force(types, periodic=box is not None))
        if removeCMMotion:
            system.addForce(openmm.CMMotionRemover())
        return system

    def load(self) -> torch.jit.ScriptModule:
        """The TorchScript module itself; ``set_types`` it, then call it with positions and, if periodic, box vectors."""
        import torch

        try:
            return torch.jit.load(str(self.file), map_location="cpu").eval()
        except RuntimeError as error:
            raise ModelFileError(f"{self.file}: torch cannot load it; the file is damaged, export it again with 'cgkd export'.") from error

    def _types(self, names: list[str]) -> np.ndarray:
        known = {name: k for k, name in enumerate(self.metadata.type_names)}
        for index, name in enumerate(names):
            if name not in known:
                raise ModelFileError(f"Bead {index} is named {name}, {self.file.name} knows {', '.join(known)}; name beads by their type.")
        if not names:
            raise ModelFileError("The topology has no beads; give one atom per bead, named by its type.")
        return np.array([known[name] for name in names], dtype=np.int64)

    def _force(self, types: np.ndarray, periodic: bool) -> openmm.Force:
        import torch

        from .fused import FusedPotential

        module = self.load()
        module.set_types(torch.from_numpy(types))
        if self.engine == "fused":
            module = torch.jit.script(FusedPotential(module, self.metadata))
        force = import_torch_force()(module)
        force.setUsesPeriodicBoundaryConditions(periodic)
        return force


def bead_names(topology: app.Topology | mdtraj.Topology | BeadTopology) -> list[str]:
    """Type name of every bead of a topology."""
    if isinstance(topology, BeadTopology):
        return topology.names
    if isinstance(topology, app.Topology):
        return [atom.name for atom in topology.atoms()]
    return [atom.name for atom in topology.atoms]


def bead_topology_to_openmm(beads: BeadTopology, box: np.ndarray | None = None) -> app.Topology:
    """OpenMM topology of beads: one residue per molecule, one element-less atom per bead, named by its type.

    Parameters
    ----------
    beads : BeadTopology
    box : ndarray, shape (3, 3), nm, optional
        Box vectors as rows; absent for open boundaries.
    """
    topology = app.Topology()
    chain = topology.addChain()
    residue, last = None, None
    for name, molecule in zip(beads.names, beads.molecules, strict=True):
        if residue is None or molecule != last:
            residue, last = topology.addResidue(name, chain), molecule
        topology.addAtom(name, None, residue)
    if box is not None:
        topology.setPeriodicBoxVectors(_box(box) * unit.nanometer)
    return topology


def _own_box(topology: app.Topology | mdtraj.Topology | BeadTopology) -> Any:
    return topology.getPeriodicBoxVectors() if isinstance(topology, app.Topology) else None


def _box(vectors: Any) -> np.ndarray | None:
    """Box vectors as an array (3, 3) in nm, off-diagonals reduced to the same lattice's smallest."""
    if vectors is None:
        return None
    if unit.is_quantity(vectors):
        vectors = vectors.value_in_unit(unit.nanometer)
    box = np.array([[float(x.value_in_unit(unit.nanometer)) if unit.is_quantity(x) else float(x) for x in row] for row in vectors])
    if box.shape != (3, 3) or np.triu(box, 1).any() or not (np.diag(box) > 0).all():
        raise BoxError(f"Box vectors {box.tolist()} nm are not in OpenMM's form; put a along x and b in the xy plane, as MDTraj does.")
    reduced = reducePeriodicBoxVectors([openmm.Vec3(*row) for row in box] * unit.nanometer)
    return np.array(reduced.value_in_unit(unit.nanometer))
