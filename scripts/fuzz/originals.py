"""Whole files of every kind that the package reads, small, made by the package and by libraries."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path

import h5py
import MDAnalysis
import mdtraj
import numpy as np
import yaml
from openmm import app, unit

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.molecule_file import load_molecule
from openmm_cgkd.config.run import ModelConfig, SplitConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.frames.frames import Frames, read_frames, write_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mean_forces.file import Estimates, MeanForces, write_mean_forces
from openmm_cgkd.utils.records import write_record

SYSTEMS = Path(__file__).resolve().parents[2] / "systems" / "ethaline"
COUNTS = {"CHO": 2, "CL": 2, "EGL": 2}
EDGE = 2.0  # nm
NAMES = ("CHO", "CL", "EGL")


def system_data(folder: Path) -> dict:
    """system.yaml of a few molecules, whose files are in a folder."""
    data = yaml.safe_load((SYSTEMS / "system.yaml").read_text())
    for molecule in data["molecules"]:
        molecule["count"] = COUNTS[molecule["name"]]
        shutil.copy(SYSTEMS / molecule["structure"], folder)
        molecule["structure"] = Path(molecule["structure"]).name
    data["force_field"] = str(SYSTEMS / data["force_field"])
    return data


def bead_frames(n_frames: int = 12) -> Frames:
    """Beads on a shaken lattice, with random forces."""
    random, types = np.random.default_rng(0), np.arange(12) % 3
    sites = np.stack(np.meshgrid(*3 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 3)[:12]
    positions = (sites + random.uniform(0.3, 0.7, (n_frames, 12, 3))) * EDGE / 3
    masses = np.array([104.17, 35.45, 62.07])[types]
    beads = BeadTopology(NAMES, types, masses, np.arange(12), np.array([1.0, -1.0, 0.0])[types])
    return Frames(
        positions.astype("f4"),
        random.normal(0, 300, positions.shape).astype("f4"),
        np.repeat(EDGE * np.eye(3)[None], n_frames, 0),
        np.arange(n_frames, dtype=float),
        10 * np.arange(n_frames),
        beads,
        {"temperature": 363.15, "system": "ethaline", "options": "{}"},
    )


def make_originals(folder: Path, learned: bool = True) -> None:
    """Write all files into a folder; without `learned`, which takes seconds, none of networks."""
    folder.mkdir(parents=True, exist_ok=True)
    data = system_data(folder)
    (folder / "system.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    for name in ("run.yaml", "simulate.yaml", "literature.yaml"):
        shutil.copy(SYSTEMS / name, folder)
    _mapping_file(folder / "map.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _all_atoms(folder, parse(SystemConfig, data, "system.yaml", folder))
        frames = _beads(folder)
        if learned:
            _learned(folder, frames)


def _mapping_file(path: Path) -> None:
    """Two-site methanol, three molecules."""
    types = {
        "CH3": {"index": [0, 1, 2, 3], "x-weight": [12.011, 1.008, 1.008, 1.008]},
        "OH": {"index": [0, 1], "x-weight": [15.999, 1.008]},
    }
    for kind in types.values():
        kind["f-weight"] = [1.0] * len(kind["index"])
    pattern = {"anchor": 0, "repeat": 3, "offset": 6, "sites": [["CH3", 0], ["OH", 4]]}
    path.write_text(yaml.safe_dump({"site-types": types, "system": [pattern]}))


def _all_atoms(folder: Path, config: SystemConfig) -> None:
    """A topology, and three frames of it in every format that is read."""
    topology, random = build_topology(config), np.random.default_rng(1)
    centers = np.stack(np.meshgrid([0.5, 1.5], [0.5, 1.5], [0.5, 1.5]), -1).reshape(-1, 3)
    x = []
    for residue, center in zip(
        topology.residues(), centers[: topology.getNumResidues()], strict=True
    ):
        single = load_molecule(config, residue.name).getPositions(asNumpy=True)
        alone = single.value_in_unit(unit.nanometer)
        x.append(alone - alone.mean(axis=0) + center)
    positions = np.concatenate(x)
    topology.setPeriodicBoxVectors(EDGE * np.eye(3) * unit.nanometer)
    with open(folder / "topology.pdb", "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file)
    frames = [positions + random.normal(0, 0.002, positions.shape) for _ in range(3)]
    forces = random.normal(0, 500, (3, *positions.shape))
    mdtraj.Trajectory(frames[0], mdtraj.Topology.from_openmm(topology)).save_gro(
        str(folder / "topology.gro")
    )
    _write_trajectories(folder, frames, forces)
    _write_h5md(folder / "a.h5md", frames, forces)
    text = _dump(topology, frames, forces)
    (folder / "a.dump").write_text(text)
    (folder / "b.dump.gz").write_bytes(gzip.compress(text.encode(), 1))


def _write_trajectories(folder: Path, frames: list[np.ndarray], forces: np.ndarray) -> None:
    n_atoms = len(frames[0])
    universe = MDAnalysis.Universe.empty(n_atoms, trajectory=True, forces=True)
    for name, options in (("a.trr", {}), ("a.nc", {"velocities": False, "forces": True})):
        with MDAnalysis.Writer(str(folder / name), n_atoms=n_atoms, **options) as writer:
            for k, positions in enumerate(frames):
                step = universe.trajectory.ts
                step.positions, step.forces = 10 * positions, forces[k] / 10
                step.triclinic_dimensions = 10 * EDGE * np.eye(3)
                step.time, step.data["step"] = float(k), k
                writer.write(universe.atoms)


def _write_h5md(path: Path, frames: list[np.ndarray], forces: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        group, n = file.create_group("particles/all"), len(frames)
        box = group.create_group("box")
        box.attrs.update({"dimension": 3, "boundary": ["periodic"] * 3})
        for place, values, measure in (
            (group.create_group("position"), frames, "nm"),
            (group.create_group("force"), forces, "kJ mol-1 nm-1"),
            (box.create_group("edges"), [EDGE * np.eye(3)] * n, "nm"),
        ):
            place["value"] = np.array(values, "f4")
            place["step"], place["time"] = np.arange(n), np.arange(n, dtype=float)
            place["value"].attrs["unit"], place["time"].attrs["unit"] = measure, "ps"


def _dump(topology: app.Topology, frames: list[np.ndarray], forces: np.ndarray) -> str:
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    lines = []
    for k, positions in enumerate(frames):
        lines += ["ITEM: TIMESTEP", str(10 * k), "ITEM: NUMBER OF ATOMS", str(len(positions))]
        lines += ["ITEM: BOX BOUNDS pp pp pp", *3 * [f"0.0 {10 * EDGE}"]]
        lines += ["ITEM: ATOMS id type x y z fx fy fz"]
        for i, row in enumerate(np.hstack([10 * positions, forces[k] / 41.84])):
            lines.append(f"{i + 1} {numbers[i]} " + " ".join(f"{value:.6g}" for value in row))
    return "\n".join(lines) + "\n"


def _beads(folder: Path) -> Frames:
    """Frames of beads, and what needs no network."""
    frames = bead_frames()
    write_frames(frames, folder / "frames.h5")
    frames = read_frames(folder / "frames.h5")
    error = np.full(frames.forces.shape, 30.0, "f4")
    write_mean_forces(
        folder / "mean_forces.h5",
        MeanForces(
            frames.positions, frames.forces, error, frames.box, frames.time, frames.beads,
            {"temperature": 363.15, "restraint_constant": 1e6},
        ),
        {"constant": Estimates(frames.forces, 1.01 * frames.forces, error, error)},
    )  # fmt: skip
    write_record(folder / "record.json", {"steps": 100, "time": 0.5, "inputs": {"a": [1, 2.5]}})
    trajectory = mdtraj.Trajectory(frames.positions, frames.beads.to_mdtraj(), frames.time)
    trajectory.unitcell_vectors = frames.box.astype("f4")
    for suffix in ("dcd", "xtc", "trr", "nc"):
        trajectory.save(str(folder / f"beads.{suffix}"))
    return frames


def _learned(folder: Path, frames: Frames) -> None:
    """Prior, network, labels and potential files."""
    from openmm_cgkd.potential.checkpoint import save_checkpoint
    from openmm_cgkd.potential.custom_network import build_network
    from openmm_cgkd.potential.export import export_potential
    from openmm_cgkd.potential.prior import PriorParameters, write_prior
    from openmm_cgkd.simulation.timestep.recommendation import FORMAT, VERSION
    from openmm_cgkd.training.ensemble import load_ensemble
    from openmm_cgkd.training.labeling import label_frames
    from openmm_cgkd.utils.files import file_hash

    contact = [[0.43, 0.39, 0.42], [0.39, 0.41, 0.40], [0.42, 0.40, 0.44]]
    prior = PriorParameters(NAMES, contact, 300.0, 0.05, 0.015, stiffness=3e4)
    write_prior(prior, folder / "prior.json")
    settings = ModelConfig(channels=8, layers=1, cutoff="0.8 nm", radial_functions=8)
    save_checkpoint(
        folder / "best.pt", build_network(settings, 3, 30.0), settings, 30.0, frames.identity,
        NAMES, {"seed": 1, "loss": 0.5},
    )  # fmt: skip
    ensemble = load_ensemble([folder / "best.pt"] * 2, prior, frames)
    split = SplitConfig(gap="0 ps", validation=0.2, test=0.2)
    recommendation = {
        "format": FORMAT,
        "version": VERSION,
        "timestep_ps": 0.02,
        "temperature_error": 0.004,
        "temperature_error_se": 0.001,
        "model_sha256": file_hash(folder / "prior.json"),
    }
    write_record(folder / "timestep.json", recommendation)
    label_frames(frames, ensemble, folder / "labels.h5", split)
    export_potential(folder / "best.pt", folder / "student.pt", frames, prior)
