#!/usr/bin/env python
"""Speed of coarse-grained dynamics in OpenMM's CPU platform, against torchmd-net's own script and against all-atom.

Every comparison alternates both sides in one process and takes medians. Core counts are those of child processes.
Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ETHALINE = ROOT / "systems" / "ethaline"
CUTOFF, BEADS, DENSITY = 1.0, 300, 6.0  # nm, number, 1/nm^3: 25 neighbours each


def lattice(n: int, density: float):
    """Positions (n, 3) on a shaken lattice and the cubic box, nm."""
    import numpy as np

    edge = (n / density) ** (1 / 3)
    per_side = int(np.ceil(n ** (1 / 3)))
    sites = np.stack(np.meshgrid(*3 * [np.arange(per_side)], indexing="ij"), axis=-1).reshape(-1, 3)[:n]
    rng = np.random.default_rng(0)
    return (sites + rng.uniform(-0.1, 0.1, sites.shape)) * edge / per_side, np.eye(3) * edge


def bead_context(system, positions, timestep: float):
    """Langevin dynamics of beads on the CPU platform; time step in ps."""
    import openmm
    from openmm import unit

    integrator = openmm.LangevinMiddleIntegrator(363.15 * unit.kelvin, 1 / unit.picosecond, timestep * unit.picosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("CPU"))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(363.15 * unit.kelvin, 1)
    return context


def torchmdnet_system(network, types, box):
    """System whose force is torchmd-net's scripted model itself."""
    import openmm
    import torch

    from openmm_cgkd.runtime.compatibility import import_torch_force

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network
            self.register_buffer("types", torch.from_numpy(types))

        def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor) -> torch.Tensor:
            energy, _ = self.model(self.types, positions.to(torch.float32), box=boxvectors.to(torch.float32))
            return energy.sum()

    force = import_torch_force()(torch.jit.script(Energy()))
    force.setUsesPeriodicBoundaryConditions(True)
    system = openmm.System()
    for _ in types:
        system.addParticle(60.0)
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
    system.addForce(force)
    return system


def network_sides(folder: Path) -> dict:
    """Contexts of 300 beads with the same 64-channel network: torchmd-net's script, and ours fused and portable."""
    import numpy as np
    import torch
    from torchmdnet.models.model import create_model

    from openmm_cgkd import CGPotential
    from openmm_cgkd.config import ModelConfig
    from openmm_cgkd.export import export_potential
    from openmm_cgkd.mapping import BeadTopology
    from openmm_cgkd.metadata import PotentialMetadata
    from openmm_cgkd.potential.prior import PriorParameters
    from openmm_cgkd.potential.tensornet import TensorNetEnergies, network_arguments

    names = ("A", "B", "C")
    config = ModelConfig(channels=64, layers=1, cutoff=f"{CUTOFF} nanometer")
    torch.manual_seed(0)
    network = create_model(network_arguments(config, 3) | {"static_shapes": False}, std=torch.tensor(3.0)).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    positions, box = lattice(BEADS, DENSITY)
    types = np.random.default_rng(1).integers(0, 3, BEADS)
    prior = PriorParameters(names, [[0.35] * 3] * 3, 300.0, 0.05, 0.015)
    metadata = PotentialMetadata(
        type_names=list(names), masses=[60.0] * 3, cutoff=CUTOFF, prior=vars(prior), network=config.model_dump(mode="json")
    )
    file = export_potential(folder / "benchmark.pt", TensorNetEnergies(network), prior, metadata, types, positions, box)
    beads = BeadTopology(names, types, np.full(BEADS, 60.0), np.arange(BEADS))
    systems = {"torchmd-net": torchmdnet_system(network, types, box)}
    for engine in ("fused", "portable"):
        systems[engine] = CGPotential(file, engine=engine).createSystem(beads, boxVectors=box)
    return {name: (bead_context(system, positions, 0.001), 0.001) for name, system in systems.items()}


def fluid_sides(student: Path) -> dict:
    """Contexts of the shipped ethaline box: all-atom at 4 fs, and the student at 5 fs from the last shipped frame."""
    import numpy as np
    import openmm
    from openmm import unit

    from openmm_cgkd import CGPotential
    from openmm_cgkd.config import load_system
    from openmm_cgkd.frames import read_frames
    from openmm_cgkd.reference.build import create_system, pack

    config = load_system(ETHALINE / "system.yaml")
    topology, positions = pack(config)
    system = create_system(config, topology)
    timestep = config.reference.timestep
    integrator = openmm.LangevinMiddleIntegrator(config.temperature * unit.kelvin, 1 / unit.picosecond, 0.0005 * unit.picosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("CPU"))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(config.temperature * unit.kelvin, 1)
    integrator.step(1000)  # packed boxes need small steps first
    frames = read_frames(ETHALINE / "frames.h5")
    # at the density of the liquid, where an atom has the neighbours it has in production
    packed = context.getState().getPeriodicBoxVectors(asNumpy=True)._value
    scale = (np.linalg.det(frames.box[-1]) / np.linalg.det(packed)) ** (1 / 3)
    for k in range(1, 11):
        _compress(context, topology, scale ** (1 / 10))
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
        context.setVelocitiesToTemperature(config.temperature * unit.kelvin, k)
        integrator.step(50)
    integrator.setStepSize(timestep * unit.picosecond)
    beads = CGPotential(student).createSystem(frames.beads, boxVectors=frames.box[-1])
    return {"all-atom": (context, timestep), "student": (bead_context(beads, frames.positions[-1], 0.005), 0.005)}


def _compress(context, topology, factor: float) -> None:
    """Scale box and molecule centres."""
    import numpy as np

    state = context.getState(positions=True)
    positions = state.getPositions(asNumpy=True)._value
    molecule = np.array([atom.residue.index for atom in topology.atoms()])
    centres = np.stack([np.bincount(molecule, weights=positions[:, k]) for k in range(3)], axis=1) / np.bincount(molecule)[:, None]
    context.setPeriodicBoxVectors(*(state.getPeriodicBoxVectors(asNumpy=True)._value * factor))
    context.setPositions(positions + (factor - 1) * centres[molecule])


def measure(sides: dict, rounds: int, seconds: float) -> dict[str, float]:
    """Median time of a step of each side, ms; sides alternate."""
    steps = {}
    for name, (context, _) in sides.items():
        integrator = context.getIntegrator()
        integrator.step(5)  # compile and warm up
        begin = time.perf_counter()
        integrator.step(5)
        steps[name] = max(3, int(seconds * 5 / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (context, _) in sides.items():
            begin = time.perf_counter()
            context.getIntegrator().step(steps[name])
            times[name].append((time.perf_counter() - begin) / steps[name] * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def child(arguments: argparse.Namespace) -> None:
    """Measure with the threads of this process and print the step times."""
    import tempfile

    rounds, seconds = (3, 0.7) if arguments.quick else (7, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        sides = network_sides(Path(folder)) if arguments.child == "network" else fluid_sides(arguments.student)
        result = {name: {"ms": ms, "timestep": sides[name][1]} for name, ms in measure(sides, rounds, seconds).items()}
    print(json.dumps(result))


def run_child(kind: str, cores: int, arguments: argparse.Namespace) -> dict:
    """Step times of one set of sides on so many cores."""
    threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", kind, *(["--quick"] if arguments.quick else []), "--student", str(arguments.student)]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: the {kind} benchmark failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within a minute, without the all-atom side")
    parser.add_argument("--student", type=Path, default=ROOT / "runs" / "quickstart" / "student.pt", help="potential of the ethaline box")
    parser.add_argument("--child", choices=["network", "fluid"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    cores = os.cpu_count() or 1
    one, all_cores = run_child("network", 1, arguments), run_child("network", cores, arguments)
    print(f"{BEADS} beads, 64 channels, 1 layer, cutoff {CUTOFF} nm, ms per step; load {os.getloadavg()[0]:.1f}")
    for name in one:
        print(f"  {name:<12} {one[name]['ms']:9.2f} on 1 core {all_cores[name]['ms']:9.2f} on {cores}")
    result = {
        "fast_vs_torchmdnet_1core": one["torchmd-net"]["ms"] / one["fused"]["ms"],
        "two_core_scaling": one["fused"]["ms"] / all_cores["fused"]["ms"],
        "fused_vs_portable": all_cores["portable"]["ms"] / all_cores["fused"]["ms"],
        "cores": cores,
    }
    if not arguments.quick:
        fluid = run_child("fluid", cores, arguments)
        speed = {name: side["timestep"] * 1e-3 / (side["ms"] * 1e-3) * 86400 for name, side in fluid.items()}
        print(f"ethaline, {cores} cores")
        for name, side in fluid.items():
            print(f"  {name:<12} {side['ms']:9.2f} ms per step of {side['timestep'] * 1e3:g} fs {speed[name]:9.1f} ns/day")
        result["cg_vs_aa_240"] = speed["student"] / speed["all-atom"]
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
