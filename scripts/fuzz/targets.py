"""What is fuzzed: each kind of file, how it is damaged, and the reader of the package for it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import openmm

from openmm_cgkd.allatom.import_trajectory import map_trajectory
from openmm_cgkd.allatom.lammps import LammpsDump
from openmm_cgkd.allatom.match_topology import match_topology
from openmm_cgkd.allatom.mdanalysis import open_topology, open_trajectory
from openmm_cgkd.allatom.molecule_file import load_molecule
from openmm_cgkd.config.run import SimulationConfig, load_run
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.frames.bead_trajectory import read_bead_trajectory
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.seal import CONTENT
from openmm_cgkd.mapping.openmscg import mapping_from_cgmap
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.utils.records import CHECKSUM, read_record

from . import mutations
from .mutations import Mutation


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    name : str
    file : str
        Name of the original.
    mutate : callable
    read : callable
        Reads a damaged file, given the folder of the originals, and returns what the package then
        works with: nested dictionaries and lists of arrays, numbers and text.
    sealed : callable, optional
        Whether a damaged file still has its checksum, so that no change may pass; one that has
        lost it is a file of a version without. Absent: such files have none.
    learned : bool
        Whether the original comes of a network, which takes some seconds to make.
    """

    name: str
    file: str
    mutate: Mutation
    read: Callable[[Path, Path], Any]
    sealed: Callable[[bytes], bool] | None = None
    learned: bool = False


def _always(data: bytes) -> bool:
    return True


def _json_sealed(data: bytes) -> bool:
    return f'"{CHECKSUM}"'.encode() in data


def _hdf5_sealed(data: bytes) -> bool:
    with h5py.File(io.BytesIO(data)) as file:
        return CONTENT in file.attrs


@cache
def _system(originals: Path) -> SystemConfig:
    return load_system(originals / "system.yaml")


@cache
def _frames(originals: Path) -> Frames:
    return read_frames(originals / "frames.h5")


@cache
def _universe(originals: Path) -> Any:
    return open_topology(originals / "topology.pdb")


def _config(load: Callable[[Path], Any]) -> Callable[[Path, Path], Any]:
    return lambda path, originals: load(path).model_dump(mode="python")


def _literature(path: Path, originals: Path) -> Any:
    from scripts.fluids.results import load_literature  # of a program beside the package

    return load_literature(path).model_dump(mode="python")


def _mapping(path: Path, originals: Path) -> Any:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(3):
        residue = topology.add_residue("MET", chain)
        for symbol in "CHHHOH":
            topology.add_atom(symbol, mdtraj.element.Element.getBySymbol(symbol), residue)
    mapping = mapping_from_cgmap(path, topology)
    return {"beads": asdict(mapping.topology), "bead of atom": mapping.bead_of_atom}


def _molecule(path: Path, originals: Path) -> Any:
    config = _system(originals)
    molecules = [
        each.model_copy(update={"structure": path}) if each.name == "EGL" else each
        for each in config.molecules
    ]
    pdb = load_molecule(config.model_copy(update={"molecules": molecules}), "EGL")
    return {
        "atoms": [
            (atom.name, atom.element and atom.element.symbol) for atom in pdb.topology.atoms()
        ],
        "bonds": [(a.index, b.index) for a, b in pdb.topology.bonds()],
        "positions": pdb.getPositions(asNumpy=True)._value,
    }


def _topology(path: Path, originals: Path) -> Any:
    universe = open_topology(path)
    atoms = match_topology(_system(originals), universe, path)
    return {
        "atoms": [(atom.name, atom.element.symbol, atom.residue.name) for atom in atoms.atoms],
        "bonds": [(a.index, b.index) for a, b in atoms.bonds],
    }


def _trajectory(path: Path, originals: Path) -> Any:
    topology = originals / "topology.pdb"
    return [
        asdict(frame) for frame in open_trajectory(path, _universe(originals), topology, None, None)
    ]


def _dump(path: Path, originals: Path) -> Any:
    n_atoms = len(_universe(originals).atoms)
    return [asdict(frame) for frame in LammpsDump(path, n_atoms, "real", 0.001)]


def _mapped(path: Path, originals: Path) -> Any:
    """The whole way of a dump to mapped frames."""
    output = path.with_name("mapped.h5")
    map_trajectory(
        _system(originals), path, originals / "topology.pdb", output, units="real", timestep=0.001
    )
    frames = asdict(read_frames(output))
    frames["attributes"] = {"temperature": frames["attributes"]["temperature"]}
    return frames


def _bead_trajectory(path: Path, originals: Path) -> Any:
    return read_bead_trajectory(path, _frames(originals).beads.to_mdtraj())._asdict()


def _checkpoint(path: Path, originals: Path) -> Any:
    from openmm_cgkd.potential.checkpoint import load_checkpoint

    network, content = load_checkpoint(path)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {**content, "state": state}


def _potential(path: Path, originals: Path) -> Any:
    """Metadata, and the energy and forces of a configuration."""
    from openmm_cgkd.potential.metadata import read_metadata
    from openmm_cgkd.simulation.cgpotential import CGPotential

    metadata, frames = read_metadata(path), _frames(originals)
    system = CGPotential(path, "portable").createSystem(frames.beads, boxVectors=frames.box[0])
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(frames.positions[0].astype(float))
    state = context.getState(energy=True, forces=True)
    return {
        "metadata": metadata.model_dump(mode="json"),
        "energy": state.getPotentialEnergy()._value,
        "forces": state.getForces(asNumpy=True)._value,
    }


def _recommendation(path: Path, originals: Path) -> Any:
    from openmm_cgkd.simulation.timestep.recommendation import read_recommendation

    shutil.copy(originals / "prior.json", path.with_name("model"))  # any file has a checksum
    found = read_recommendation(path.with_name("model"))
    if found is None:
        raise ModelFileError(f"{path}: is damaged, so the search starts again.")
    return found


def _labels(path: Path, originals: Path) -> Any:
    from openmm_cgkd.training.labels import load_labels

    return asdict(load_labels(path, _frames(originals)))


def _prior(path: Path, originals: Path) -> Any:
    from openmm_cgkd.potential.prior import read_prior

    return asdict(read_prior(path))


def _record(path: Path, originals: Path) -> Any:
    """Any record, as text: what its numbers may be is for its users to say."""
    return json.dumps(read_record(path), sort_keys=True)


def _simulation(path: Path) -> SimulationConfig:
    return load_run(path).simulation


_TEXT, _BYTES, _HDF5, _ZIP = (
    mutations.of_text,
    mutations.of_bytes,
    mutations.of_hdf5,
    mutations.of_zip,
)
TARGETS = [
    Target("run.yaml", "run.yaml", _TEXT, _config(load_run)),
    Target("system.yaml", "system.yaml", _TEXT, _config(load_system)),
    Target("simulate.yaml", "simulate.yaml", _TEXT, _config(_simulation)),
    Target("literature.yaml", "literature.yaml", _TEXT, _literature),
    Target("cgmap", "map.yaml", _TEXT, _mapping),
    Target("lammps", "a.dump", _TEXT, _dump),
    Target("lammps.gz", "b.dump.gz", mutations.of_gzip, _dump),
    Target("lammps-mapped", "a.dump", _TEXT, _mapped),
    Target("molecule.pdb", "EGL.pdb", _TEXT, _molecule),
    Target("topology.pdb", "topology.pdb", _TEXT, _topology),
    Target("topology.gro", "topology.gro", _TEXT, _topology),
    Target("trr", "a.trr", _BYTES, _trajectory),
    Target("netcdf", "a.nc", _BYTES, _trajectory),
    Target("h5md", "a.h5md", _HDF5, _trajectory),
    Target("beads.dcd", "beads.dcd", _BYTES, _bead_trajectory),
    Target("beads.xtc", "beads.xtc", _BYTES, _bead_trajectory),
    Target("beads.trr", "beads.trr", _BYTES, _bead_trajectory),
    Target("beads.nc", "beads.nc", _BYTES, _bead_trajectory),
    Target(
        "frames.h5", "frames.h5", _HDF5, lambda p, o: asdict(read_frames(p)), sealed=_hdf5_sealed,
    ),
    Target(
        "mean_forces.h5", "mean_forces.h5", _HDF5, lambda p, o: asdict(read_mean_forces(p)),
        sealed=_hdf5_sealed,
    ),
    Target("labels.h5", "labels.h5", _HDF5, _labels, sealed=_hdf5_sealed, learned=True),
    Target("prior.json", "prior.json", _TEXT, _prior, sealed=_json_sealed, learned=True),
    Target(
        "timestep.json", "timestep.json", _TEXT, _recommendation, sealed=_json_sealed, learned=True,
    ),
    Target("record.json", "record.json", _TEXT, _record, sealed=_json_sealed),
    Target("best.pt", "best.pt", _ZIP, _checkpoint, sealed=_always, learned=True),
    Target("student.pt", "student.pt", _ZIP, _potential, sealed=_always, learned=True),
    Target("student-fast.pt", "student-fast.pt", _ZIP, _potential, sealed=_always, learned=True),
]  # fmt: skip
