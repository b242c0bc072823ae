"""A fluid whose coarse-grained potential is known, sampled in OpenMM.

Two bead types have a pair potential and a local density:

    U = sum_(i<j) e [2 (s/r)^9 - 3 (s/r)^6] + sum_i k/2 (n_i - n_0)^2
    n_i = sum_j (1 - r_ij/r_c)^2

with s the mean of the beads' sizes. The square of the local density n_i (a form of Pagonabarraga
and Frenkel, J. Chem. Phys. 2001, 115, 5015) is a sum over triples of beads: no pair potential has
these forces.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from openmm_cgkd.frames.frames import Frames, read_frames, write_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.progress import Report

PARAMETERS = {
    "beads": 64,
    "density": 6.0,  # beads per nm^3
    "masses": 50.0,  # dalton
    "temperature": 300.0,  # kelvin
    "sizes": (0.45, 0.55),  # nm, of types A and B
    "depth": 1.5,  # e, kJ/mol
    # nm, of pairs and of the density r_c; the pair potential is switched off from 0.6
    "cutoff": 0.75,
    "stiffness": 300.0,  # k, kJ/mol
    "preferred_density": 0.8,  # n_0
    "timestep": 0.005,  # ps
    "frame_interval": 1.0,  # ps, several times the correlation time of the forces
    "equilibration": 10.0,  # ps
}
_SWITCH = 0.6


def known_beads() -> BeadTopology:
    """As many A as B."""
    n = PARAMETERS["beads"]
    return BeadTopology(
        ("A", "B"), np.arange(n) % 2, np.full(n, PARAMETERS["masses"]), np.arange(n)
    )


def box_length() -> float:
    """Edge of the cubic box, nm."""
    return (PARAMETERS["beads"] / PARAMETERS["density"]) ** (1 / 3)


def known_system() -> openmm.System:
    """The fluid as an OpenMM system."""
    beads, cutoff, depth = known_beads(), PARAMETERS["cutoff"], PARAMETERS["depth"]
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(box_length() * np.eye(3)))
    pairs = openmm.CustomNonbondedForce(f"{depth} * (2 * (s/r)^9 - 3 * (s/r)^6); s = (s1 + s2) / 2")
    pairs.addPerParticleParameter("s")
    pairs.setUseSwitchingFunction(True)
    pairs.setSwitchingDistance(_SWITCH)
    density = openmm.CustomGBForce()
    density.addComputedValue(
        "n", f"(1 - r/{cutoff})^2", openmm.CustomGBForce.ParticlePairNoExclusions
    )
    density.addEnergyTerm(
        f"{PARAMETERS['stiffness'] / 2} * (n - {PARAMETERS['preferred_density']})^2",
        openmm.CustomGBForce.SingleParticle,
    )
    for mass, kind in zip(beads.masses, beads.types, strict=True):
        system.addParticle(mass)
        pairs.addParticle([PARAMETERS["sizes"][kind]])
        density.addParticle([])
    for force in (pairs, density):
        force.setNonbondedMethod(force.CutoffPeriodic)
        force.setCutoffDistance(cutoff)
        system.addForce(force)
    return system


def sample(path: Path, seed: int, n_frames: int, report: Report) -> None:
    """Write frames of one Langevin trajectory with their true forces.

    Parameters
    ----------
    path : Path
        File of mapped frames; kept if it exists.
    seed : int
        Of initial positions, velocities and thermostat.
    n_frames : int
    report : callable
        Gets the share of the frames that is done.
    """
    if path.exists():
        return
    beads, length, temperature = known_beads(), box_length(), PARAMETERS["temperature"]
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, 2 / unit.picosecond, PARAMETERS["timestep"] * unit.picosecond
    )
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(known_system(), integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(_lattice(beads.n_beads, length, seed))
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
    integrator.step(round(PARAMETERS["equilibration"] / PARAMETERS["timestep"]))
    interval = round(PARAMETERS["frame_interval"] / PARAMETERS["timestep"])
    positions, forces = np.empty((2, n_frames, beads.n_beads, 3), dtype=np.float32)
    for k in range(n_frames):
        integrator.step(interval)
        state = context.getState(positions=True, forces=True)
        positions[k] = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        forces[k] = state.getForces(asNumpy=True).value_in_unit(
            unit.kilojoule_per_mole / unit.nanometer
        )
        report((k + 1) / n_frames, f"seed {seed}")
    write_frames(as_frames(positions, forces), path)


def _lattice(n: int, length: float, seed: int) -> np.ndarray:
    """Beads on a shaken cubic lattice, types at random places."""
    random, edge = np.random.default_rng(seed), int(np.ceil(n ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return random.permutation(sites)[:n] * length / edge + random.normal(scale=0.02, size=(n, 3))


def as_frames(positions: np.ndarray, forces: np.ndarray, noise: float = 0.0) -> Frames:
    """Frames of the fluid, one `frame_interval` after the other.

    `noise` is the RMS error of their forces, kJ/mol/nm.
    """
    index = np.arange(len(positions))
    box = np.repeat(box_length() * np.eye(3)[None], len(positions), axis=0)
    attributes = {
        "system": "known truth",
        "temperature": PARAMETERS["temperature"],
        "noise_rms": noise,
    }
    return Frames(
        positions,
        forces,
        box,
        index * PARAMETERS["frame_interval"],
        index,
        known_beads(),
        attributes,
    )


def join_trajectories(paths: list[Path]) -> Frames:
    """The frames of all trajectories, one after the other."""
    parts = [read_frames(path) for path in paths]
    return as_frames(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.forces for part in parts]),
    )


def add_noise(frames: Frames, level: float, seed: int) -> Frames:
    """The frames with Gaussian noise of `level` times the RMS component of their forces."""
    size = level * float(np.sqrt(np.mean(frames.forces.astype(float) ** 2)))
    noise = size * np.random.default_rng(seed).normal(size=frames.forces.shape)
    return as_frames(frames.positions, (frames.forces + noise).astype(np.float32), size)
