"""Cost of mapping: reporter on a running simulation, import of a trajectory, memory of a long file.

The simulation runs alternately with the reporter at one frame per ps and without any code of this
package, 1 ps at a time: medians of many short pieces, in the order without, with, with, without,
are little disturbed by what else the machine does. Prints a table and, as its last line, one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ROOT / "systems" / "ethaline" / "system.yaml"
LONG_FRAMES, LONG_BEADS = 100_000, 100


def all_atom_simulation():
    """The ethaline box of the all-atom stage, relaxed a little."""
    import mdtraj
    from openmm import unit

    from openmm_cgkd.allatom import phases
    from openmm_cgkd.allatom.build import create_system, pack
    from openmm_cgkd.config.system import load_system
    from openmm_cgkd.mapping.mapping import mapping_from_config

    config = load_system(SYSTEM)
    topology, positions = pack(config)
    simulation = phases.all_atom_simulation(
        config, create_system(config, topology), topology, seed=1
    )
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=100)
    simulation.context.setVelocitiesToTemperature(config.temperature * unit.kelvin, 1)
    simulation.integrator.setStepSize(0.0005 * unit.picosecond)
    simulation.step(500)  # packed boxes need small steps first
    simulation.integrator.setStepSize(config.reference.timestep * unit.picosecond)
    simulation.currentStep = 0
    return config, simulation, mapping_from_config(config, mdtraj.Topology.from_openmm(topology))


def reporter_speeds(folder: Path, rounds: int) -> tuple[float, float, list]:
    """All-atom ns/day without and with the reporter, and the last atomic frame for the import."""
    from openmm_cgkd import MappedReporter

    config, simulation, mapping = all_atom_simulation()
    steps = round(1 / config.reference.timestep)  # 1 ps
    reporter = MappedReporter(
        folder / "frames.h5", steps, mapping, {"temperature": config.temperature}
    )
    times: dict[bool, list[float]] = {False: [], True: []}
    simulation.step(50)  # the first steps allocate
    simulation.currentStep = 0
    for with_reporter in [False, True, True, False] * rounds:
        simulation.reporters = [reporter] if with_reporter else []
        begin = time.perf_counter()
        simulation.step(steps)
        times[with_reporter].append(time.perf_counter() - begin)
    reporter.close()
    plain, mapped = (1e-3 / statistics.median(times[kind]) * 86400 for kind in (False, True))
    state = simulation.context.getState(positions=True, forces=True)
    atoms = [
        state.getPositions(asNumpy=True)._value,
        state.getForces(asNumpy=True)._value,
        state.getPeriodicBoxVectors(asNumpy=True)._value,
    ]
    return plain, mapped, [simulation.topology, *atoms]


def import_speed(folder: Path, atoms: list, rounds: int, frames: int) -> float:
    """Frames per second of mapping a GROMACS trajectory."""
    import MDAnalysis
    from openmm import app, unit

    from openmm_cgkd.allatom.import_trajectory import map_trajectory
    from openmm_cgkd.config.system import load_system

    topology, positions, forces, box = atoms
    with open(folder / "topology.pdb", "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file)
    trajectory = folder / "trajectory.trr"
    universe = MDAnalysis.Universe.empty(len(positions), trajectory=True, forces=True)
    with MDAnalysis.Writer(str(trajectory), n_atoms=len(positions)) as writer:
        for k in range(frames):
            frame = universe.trajectory.ts
            frame.positions, frame.forces, frame.triclinic_dimensions = (
                10 * positions,
                forces / 10,
                10 * box,
            )
            frame.time, frame.data["step"] = float(k), k
            writer.write(universe.atoms)
    times = []
    for k in range(rounds + 1):
        begin = time.perf_counter()
        map_trajectory(
            load_system(SYSTEM), trajectory, folder / "topology.pdb", folder / f"mapped{k}.h5"
        )
        times.append(time.perf_counter() - begin)
    return frames / statistics.median(times[1:])


def long_file(path: Path) -> None:
    """Synthetic frames of independent numbers."""
    from openmm_cgkd.frames.frames import Frames, write_stream
    from openmm_cgkd.mapping.beads import BeadTopology

    size = 1000
    beads = BeadTopology(
        ("A",), np.zeros(LONG_BEADS, dtype=int), np.full(LONG_BEADS, 60.0), np.arange(LONG_BEADS)
    )
    values = np.random.default_rng(0).normal(size=(size, LONG_BEADS, 3)).astype("f4")
    box = np.tile(3 * np.eye(3), (size, 1, 1))
    steps = (np.arange(first, first + size) for first in range(0, LONG_FRAMES, size))
    write_stream(
        path,
        beads,
        {"temperature": 300.0},
        (Frames(values, values, box, 1.0 * step, step, beads, {}) for step in steps),
    )


def stream_peak(path: Path) -> float:
    """Peak resident memory of a process that verifies a file, MB."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.reporter", "--child", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: verifying the long file failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def child(path: Path) -> None:
    """Verify a file and print the peak memory of this process."""
    from openmm_cgkd.frames.verify import verify_frames

    if verify_frames(path).frames != LONG_FRAMES:
        sys.exit("error: frames are missing")
    # the high-water mark of this program alone; getrusage would count the process that started it
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks reporter", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.child:
        child(arguments.child)
        return
    rounds, imported = (2, 100) if arguments.quick else (15, 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, mapped, atoms = reporter_speeds(folder, rounds)
        speed = import_speed(folder, atoms, 3, imported)
        long_file(folder / "long.h5")
        size, peak = (folder / "long.h5").stat().st_size / 2**20, stream_peak(folder / "long.h5")
    print(f"ethaline, {len(atoms[1])} atoms, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    print(f"  all-atom, plain OpenMM        {plain:9.2f} ns/day")
    print(f"  all-atom, one frame per ps    {mapped:9.2f} ns/day")
    print(f"  import of a GROMACS .trr      {speed:9.0f} frames/s")
    print(f"  verify {LONG_FRAMES} frames ({size:.0f} MB) {peak:9.0f} MB peak")
    result = {
        "reporter_overhead": plain / mapped - 1,
        "import_frames_per_s": speed,
        "stream_peak_mb": peak,
        "cores": os.cpu_count(),
    }
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
