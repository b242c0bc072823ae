"""From a potential file to an `openmm.System`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm
from openmm import app

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.potential.archive import ArchiveError
from openmm_cgkd.potential.metadata import PotentialMetadata, read_members, read_metadata
from openmm_cgkd.potential.pairs import check_cutoff

from .engines import (
    EngineName,
    check_python_force,
    check_stack,
    choose_engine,
    engine_named,
    import_torch_force,
)
from .topology import bead_molecules, bead_names, box_in_nm, own_box

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)


class CGPotential:
    """A coarse-grained potential, ready to make systems for OpenMM.

    ``CGPotential("student.pt").createSystem(topology)`` returns an `openmm.System`; integrator,
    platform and reporters are the user's.

    Parameters
    ----------
    file : path
        Potential written by ``cgkd export``, portable or fast.
    engine : {"fast", "portable", "python"}, optional
        "fast": `TorchForce`; a CPU evaluates the potential by this package's compiled loops, an
        NVIDIA GPU by its Triton kernels. "portable": `TorchForce` with plain PyTorch operations
        everywhere, on a CPU several times slower and equal to single precision. "python": OpenMM's
        `PythonForce`, with the compiled loops on a CPU and the Triton kernels, as a CUDA graph, on
        an NVIDIA GPU; needs no openmmtorch and runs with newer torch. Absent: "fast" where
        `TorchForce` can run, otherwise "python"; "portable" for a user's own network.
    run_script : bool
        Run the script in the file if its network is a user's own one. A script can do whatever you
        can do on this machine, so trust the one who made the file. The script of any other
        potential is never run: its module is made from the weights and the metadata.

    Attributes
    ----------
    metadata : PotentialMetadata
    cutoff : float, nm
        Distance beyond which beads do not act on each other.

    Raises
    ------
    CompatibilityError
        If the installed torch, OpenMM and openmmtorch cannot run the engine.
    ModelFileError
        If the file is missing, not a potential of this package, was changed after the export, or
        holds a user's own network and `run_script` is not set.
    """

    def __init__(
        self, file: Path | str, engine: EngineName | None = None, *, run_script: bool = False
    ) -> None:
        # the libraries first: a wrong pair of them must not load a file
        if engine is None:
            self.engine = choose_engine()
        else:
            self.engine = engine_named(engine)
            if self.engine == "python":
                check_python_force()
            else:
                check_stack()
        self.file = Path(file)
        self.metadata: PotentialMetadata = read_metadata(self.file)
        self.cutoff, self.run_script = self.metadata.cutoff, run_script
        if self.metadata.custom_network:
            if not run_script:
                raise ModelFileError(
                    f"{self.file}: holds a network of its maker's own as a script, which can do"
                    " whatever you can do on this machine; if you trust the one who made it, set"
                    " run_script=True (in run.yaml run_script: true, with cgkd timestep"
                    " --run-script)."
                )
            logger.warning(
                "%s: runs a script of its maker with your rights, because run_script is set; use it"
                " only if you trust who made it",
                self.file,
            )
            if engine is None:
                check_stack()
                self.engine = "portable"
            elif self.engine != "portable":
                raise ModelFileError(
                    f"{self.file}: holds a user's own network, which the engine {self.engine} does"
                    " not know; use the engine portable."
                )

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
            One atom per bead; the atom's name is the bead type. Masses come from the potential, and
            so do bonds and angles of molecules with several beads: each is one residue, or joined
            by bonds, with its beads in the order of the mapping.
        removeCMMotion : bool
            Add a `CMMotionRemover`.
        boxVectors : Quantity or array of shape (3, 3) in nm, optional
            Periodic box; needed for topologies that carry none of their own. An
            `openmm.app.Topology` with box vectors makes a periodic system by itself.

        Raises
        ------
        ModelFileError
            If the topology holds a bead or a molecule that the potential does not know, or beads of
            other masses than the potential's.
        BoxError
            If a box height is below twice the cutoff, or the box is not in OpenMM's form.
        """
        box = box_in_nm(boxVectors if boxVectors is not None else own_box(topology))
        system = openmm.System()
        for mass in self.bead_masses(topology):
            system.addParticle(mass)
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
        system.addForce(self.createForce(topology, box))
        if removeCMMotion:
            system.addForce(openmm.CMMotionRemover())
        return system

    def bead_masses(self, topology: app.Topology | mdtraj.Topology | BeadTopology) -> np.ndarray:
        """Masses of the beads of a topology, shape (n_beads,), dalton.

        Arguments and errors as `createSystem`.
        """
        masses = np.array(self.metadata.masses)[self._types(bead_names(topology))]
        if isinstance(topology, BeadTopology) and not np.allclose(
            topology.masses, masses, rtol=0, atol=1e-2
        ):
            k = int(np.argmax(np.abs(topology.masses - masses)))
            raise ModelFileError(
                f"Bead {k} ({topology.names[k]}) weighs {topology.masses[k]:g} dalton, in"
                f" {self.file.name} {masses[k]:g} dalton; use a potential of this fluid and this"
                " mapping."
            )
        return masses

    def createForce(
        self, topology: app.Topology | mdtraj.Topology | BeadTopology, boxVectors: Any = None
    ) -> openmm.Force:
        """The potential as one `openmm.Force`, for a system with the same beads.

        Arguments and errors as `createSystem`.

        Parameters
        ----------
        topology : openmm.app.Topology, mdtraj.Topology or BeadTopology
        boxVectors : Quantity or array of shape (3, 3) in nm, optional
            The force is periodic if they are given; a box of the topology itself is not looked at.

        Raises
        ------
        CompatibilityError
            If there is a GPU on which the kernels of the engine "fast" fail or give other forces
            than on the processor.
        """
        import torch

        from openmm_cgkd.potential.prior import PriorParameters

        box = box_in_nm(boxVectors)
        if box is not None:
            check_cutoff(box, self.cutoff)
        module = self.load()
        names = bead_names(topology)
        module.set_types(torch.from_numpy(self._types(names)))
        bonded = PriorParameters(**self.metadata.prior).bonded
        if bonded is not None:
            module.set_bonds(torch.from_numpy(bonded.bonds_of(names, bead_molecules(topology))))
        if self.engine == "python":
            from .python_force import make_python_force

            return make_python_force(module, periodic=box is not None)
        if self.engine == "fast":
            from openmm_cgkd.potential.modules import PotentialWithForces

            if torch.cuda.is_available() and torch.ops.openmm_cgkd.has_gpu_kernels(
                torch.empty(0, device="cuda")
            ):
                from openmm_cgkd.potential.gpu.self_test import check_kernels

                check_kernels(module.fast)
            module = torch.jit.script(PotentialWithForces(module).eval())
        force = import_torch_force()(module)
        force.setOutputsForces(self.engine == "fast")
        # nothing can raise in a CUDA graph: an error would show as NaN, and in the energy alone
        force.setProperty("useCUDAGraphs", "false")
        force.setUsesPeriodicBoundaryConditions(box is not None)
        return force

    def load(self) -> torch.jit.ScriptModule:
        """The TorchScript module of the engine.

        Call its method ``set_types`` first, then itself with positions and, if periodic, box
        vectors.

        It is made from the weights in the file. Only the script of a user's own network is read
        and run.

        Raises
        ------
        ModelFileError
            If weights are missing, do not fit the metadata or are not finite, or torch cannot load
            the script of a user's own network.
        """
        import torch

        from openmm_cgkd.potential.modules import script_fast, script_portable
        from openmm_cgkd.potential.prior import PriorParameters
        from openmm_cgkd.potential.stored_weights import read_network

        metadata, members = read_members(self.file)
        if metadata != self.metadata:
            raise ModelFileError(f"{self.file}: was changed while it was in use; read it again.")
        if metadata.custom_network:
            try:
                return torch.jit.load(str(self.file), map_location="cpu").eval()
            except RuntimeError as error:
                raise ModelFileError(
                    f"{self.file}: torch cannot load it; the file is damaged, export it again."
                ) from error
        try:
            network = read_network(metadata, members)
        except ArchiveError as error:
            raise ModelFileError(
                f"{self.file}: {error}; export it again with 'cgkd export', or get the file again"
                " from where it came."
            ) from error
        prior = PriorParameters(**metadata.prior)
        portable = script_portable(prior, network)
        return portable if self.engine == "portable" else script_fast(prior, network, portable)

    def _types(self, names: list[str]) -> np.ndarray:
        known = {name: k for k, name in enumerate(self.metadata.type_names)}
        for index, name in enumerate(names):
            if name not in known:
                raise ModelFileError(
                    f"Bead {index} is named {name}, {self.file.name} knows {', '.join(known)}; name"
                    " beads by their type."
                )
        if not names:
            raise ModelFileError(
                "The topology has no beads; give one atom per bead, named by its type."
            )
        return np.array([known[name] for name in names], dtype=np.int64)
