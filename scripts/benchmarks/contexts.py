"""The OpenMM contexts that `runtime` and `gpu` compare, each with its time step in ps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mdtraj
import numpy as np
import openmm
import torch
from openmm import unit

from openmm_cgkd import CGPotential
from openmm_cgkd.allatom.build import build_topology, create_system
from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.potential.export import type_masses, write_potential
from openmm_cgkd.potential.metadata import PotentialMetadata
from openmm_cgkd.potential.network import TensorNetEnergies, network_arguments
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.simulation.engines import import_torch_force
from openmm_cgkd.simulation.ensemble import EnsemblePotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm

if TYPE_CHECKING:
    from torchmdnet.models.model import TorchMD_Net

Contexts = dict[str, tuple[openmm.Context, float]]

ETHALINE = Path(__file__).resolve().parents[2] / "systems" / "ethaline"
CUTOFF, BEADS, DENSITY = 1.0, 300, 6.0  # nm, number, 1/nm^3: 25 neighbours each
TEACHERS = 8
_TEMPERATURE = 363.15  # kelvin


def langevin_context(
    system: openmm.System, positions: np.ndarray, timestep: float, platform: str = "CPU"
) -> openmm.Context:
    """Langevin dynamics."""
    integrator = openmm.LangevinMiddleIntegrator(
        _TEMPERATURE * unit.kelvin, 1 / unit.picosecond, timestep * unit.picosecond
    )
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform(platform))
    context.setPositions(positions)
    context.applyConstraints(1e-6)
    context.setVelocitiesToTemperature(_TEMPERATURE * unit.kelvin, 1)
    return context


def lattice(n: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) on a shaken lattice and the cubic box, nm."""
    edge = (n / density) ** (1 / 3)
    per_side = int(np.ceil(n ** (1 / 3)))
    sites = np.stack(np.meshgrid(*3 * [np.arange(per_side)], indexing="ij"), axis=-1).reshape(
        -1, 3
    )[:n]
    rng = np.random.default_rng(0)
    return (sites + rng.uniform(-0.1, 0.1, sites.shape)) * edge / per_side, np.eye(3) * edge


def replicated(
    positions: np.ndarray, box: np.ndarray, copies: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and box of so many copies along the box vectors, one whole copy after the other."""
    shifts = (
        np.stack(np.meshgrid(*map(np.arange, copies), indexing="ij"), axis=-1).reshape(-1, 3) @ box
    )
    return (positions[None] + shifts[:, None]).reshape(-1, 3), box * np.array(copies)[:, None]


# --- networks without training --------------------------------------------------------------------


def _torchmdnet_system(
    network: torch.nn.Module, types: np.ndarray, box: np.ndarray
) -> openmm.System:
    """System whose force is torchmd-net's scripted model itself."""

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network
            self.register_buffer("types", torch.from_numpy(types))

        def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor) -> torch.Tensor:
            energy, _ = self.model(
                self.types, positions.to(torch.float32), box=boxvectors.to(torch.float32)
            )
            return energy.sum()

    force = import_torch_force()(torch.jit.script(Energy()))
    force.setUsesPeriodicBoundaryConditions(True)
    system = openmm.System()
    for _ in types:
        system.addParticle(60.0)
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
    system.addForce(force)
    return system


def _write_untrained(
    path: Path, config: ModelConfig, beads: BeadTopology, positions: np.ndarray, box: np.ndarray
) -> TorchMD_Net:
    """Export a network with random weights, and return it as torchmd-net's own model."""
    from torchmdnet.models.model import create_model

    n_types = len(beads.type_names)
    torch.manual_seed(0)
    network = create_model(
        network_arguments(config, n_types) | {"static_shapes": False}, std=torch.tensor(3.0)
    ).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    contact = [[0.35] * n_types] * n_types
    prior = PriorParameters(beads.type_names, contact, 300.0, 0.05, 0.015, stiffness=3e4)
    metadata = PotentialMetadata(
        type_names=list(beads.type_names), masses=type_masses(beads), cutoff=config.cutoff,
        prior=vars(prior),
        network=config.model_dump(mode="json"),
    )  # fmt: skip
    write_potential(path, TensorNetEnergies(network), prior, metadata, beads.types, positions, box)
    return network


def _mixture(n: int) -> BeadTopology:
    types = np.random.default_rng(1).integers(0, 3, n)
    types[:3] = 0, 1, 2
    return BeadTopology(("A", "B", "C"), types, np.full(n, 60.0), np.arange(n))


def network_contexts(folder: Path) -> Contexts:
    """300 beads with one 64-channel network: torchmd-net's script and two engines.

    The engines of this package are "fast" and "portable".
    """
    beads, (positions, box) = _mixture(BEADS), lattice(BEADS, DENSITY)
    config, file = (
        ModelConfig(channels=64, layers=1, cutoff=f"{CUTOFF} nanometer"),
        folder / "benchmark.pt",
    )
    network = _write_untrained(file, config, beads, positions, box)
    systems = {"torchmd-net": _torchmdnet_system(network, beads.types, box)}
    for engine in ("fast", "portable"):
        systems[engine] = CGPotential(file, engine=engine).createSystem(beads, boxVectors=box)
    return {
        name: (langevin_context(system, positions, 0.001), 0.001)
        for name, system in systems.items()
    }


def size_contexts(folder: Path, numbers: list[int]) -> Contexts:
    """A network of 16 channels with so many beads, at the same density."""
    config, file = (
        ModelConfig(channels=16, layers=1, cutoff=f"{CUTOFF} nanometer"),
        folder / "small.pt",
    )
    _write_untrained(file, config, _mixture(BEADS), *lattice(BEADS, DENSITY))
    contexts = {}
    for n in numbers:
        positions, box = lattice(n, DENSITY)
        contexts[str(n)] = (
            langevin_context(
                CGPotential(file).createSystem(_mixture(n), boxVectors=box), positions, 0.001
            ),
            0.001,
        )
    return contexts


class Network(NamedTuple):
    """What the time of a network depends on; the cutoff in nm."""

    channels: int
    layers: int
    cutoff: float


UNTRAINED = Network(24, 1, 1.0)


def untrained_student(folder: Path, network: Network = UNTRAINED) -> Path:
    """A potential of the shipped fluid with random weights.

    It takes as much time as a trained one of the same size.
    """
    frames = read_frames(ETHALINE / "frames.h5")
    config = ModelConfig(
        channels=network.channels, layers=network.layers, cutoff=f"{network.cutoff} nanometer"
    )
    positions, box = frames.positions[-1].astype(np.float64), frames.box[-1].astype(np.float64)
    path = folder / "{}-{}-{}.pt".format(*network)
    _write_untrained(path, config, frames.beads, positions, box)
    return path


def channel_contexts(folder: Path, networks: list[Network]) -> Contexts:
    """The shipped box with networks of several sizes, by their numbers in words."""
    return {
        "{} {} {}".format(*network): student_context(
            CGPotential(untrained_student(folder, network)), 0.001, (1, 1, 1)
        )
        for network in networks
    }


# --- the shipped fluid ----------------------------------------------------------------------------


def _last_atoms(config: SystemConfig) -> tuple[np.ndarray, np.ndarray]:
    """Positions and box of the last shipped frame of all atoms, nm."""
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    frame = mdtraj.load(str(ETHALINE / "atoms.xtc"), top=topology)[-1]
    return frame.xyz[0].astype(np.float64), frame.unitcell_vectors[0].astype(np.float64)


def all_atom_context(
    copies: tuple[int, int, int], platform: str = "CPU"
) -> tuple[openmm.Context, float]:
    """The shipped box, copied, with all atoms and the settings of its all-atom stage."""
    config = load_system(ETHALINE / "system.yaml")
    positions, box = replicated(*_last_atoms(config), copies)
    names = [molecule.name for molecule in config.molecules for _ in range(molecule.count)]
    topology = build_topology(config, names * int(np.prod(copies)))
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    return (
        langevin_context(
            create_system(config, topology), positions, config.reference.timestep, platform
        ),
        config.reference.timestep,
    )


def _copied_beads(beads: BeadTopology, n: int) -> BeadTopology:
    molecules = np.concatenate(
        [beads.molecules + k * (beads.molecules.max() + 1) for k in range(n)]
    )
    return BeadTopology(
        beads.type_names, np.tile(beads.types, n), np.tile(beads.masses, n), molecules
    )


def student_context(
    potential: Any, timestep: float, copies: tuple[int, int, int], platform: str = "Reference"
) -> tuple[openmm.Context, float]:
    """The shipped box, copied, with a potential of its beads.

    On the platform of `cgkd simulate` without a GPU, see `choose_platform`.
    """
    frames: Frames = read_frames(ETHALINE / "frames.h5")
    positions, box = replicated(
        frames.positions[-1].astype(np.float64), frames.box[-1].astype(np.float64), copies
    )
    topology = bead_topology_to_openmm(_copied_beads(frames.beads, int(np.prod(copies))), box)
    return langevin_context(
        potential.createSystem(topology), positions, timestep, platform
    ), timestep


def fluid_contexts(student: Path, timestep: float, copies: tuple[int, int, int]) -> Contexts:
    """The same number of molecules with all atoms, and with the student."""
    return {
        "all-atom": all_atom_context(copies),
        "student": student_context(CGPotential(student), timestep, copies),
    }


def ensemble_contexts(student: Path, timestep: float) -> Contexts:
    """The student, and eight networks of its size as one potential.

    Weights do not matter for the time, so all eight have the student's.
    """
    ensemble = EnsemblePotential([student] * TEACHERS)
    return {
        "student": student_context(CGPotential(student), timestep, (1, 1, 1)),
        "ensemble": student_context(ensemble, timestep, (1, 1, 1)),
    }
