"""Speed of coarse-grained dynamics on a CPU, against torchmd-net's script, all-atom, an ensemble.

Every comparison alternates its contexts in one process and takes medians. Threads are set for child
processes, so each number of cores is a process of its own. Waiting threads of libgomp spin for
about a millisecond (its own default), unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set: benchmarks
have the machine to themselves. Prints tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .measures import edge_bytes, exponent, measure, overhead, peak, rss_growth

ROOT = Path(__file__).resolve().parents[2]
STUDENTS = [
    ROOT / "systems" / "ethaline" / "student.pt",
    ROOT / "runs" / "quickstart" / "student.pt",
]
COPIES = {"240": (1, 1, 1), "1000": (2, 2, 1)}  # of the shipped box of 240 molecules
MODULE = "scripts.benchmarks.runtime"
Result = dict[str, Any]


_ENVIRONMENT = dict(os.environ)  # before the package is imported, which sets OMP_WAIT_POLICY
_SPINS = "300000"  # what libgomp takes where nothing is set; the package would set OMP_WAIT_POLICY


class Effort(NamedTuple):
    """How long to measure.

    Rounds of so many seconds per context, numbers of beads, steps for the growth of memory, layers
    and cutoffs (nm) of networks.
    """

    rounds: int
    seconds: float
    beads: list[int]
    memory_beads: list[int]
    steps: int
    layers: list[int]
    cutoffs: list[float]


CHANNELS = [8, 12, 16, 24, 32]
FULL = Effort(7, 1.5, [1000, 4000, 16000, 64000], [1000, 16000, 64000], 100_000, [0, 1], [0.8, 1.0])
QUICK = Effort(3, 0.2, [1000, 4000], [], 2000, [1], [1.0])


# --- in child processes ---------------------------------------------------------------------------


def _network(arguments: argparse.Namespace, effort: Effort, folder: Path) -> Result:
    from .contexts import network_contexts

    return measure(network_contexts(folder), effort.rounds, effort.seconds)


def _fluid(arguments: argparse.Namespace, effort: Effort, folder: Path) -> Result:
    """Everything about the student, and a small network by size.

    The student is compared with all-atom and with the ensemble; overhead and growth of memory.
    """
    from .contexts import (
        CGPotential,
        ensemble_contexts,
        fluid_contexts,
        size_contexts,
        student_context,
        untrained_student,
    )

    student = untrained_student(folder) if arguments.untrained else arguments.student
    timestep = arguments.timestep * 1e-3
    found: Result = {}
    for name, copies in COPIES.items():
        contexts = fluid_contexts(student, timestep, copies)
        ms = measure(contexts, effort.rounds, effort.seconds)
        beads = contexts["student"][0].getSystem().getNumParticles()
        atoms = contexts["all-atom"][0].getSystem().getNumParticles()
        found[name] = {
            "ms": ms,
            "fs": {kind: step * 1e3 for kind, (_, step) in contexts.items()},
            "beads": beads,
            "atoms": atoms,
        }
    found["ensemble"] = measure(ensemble_contexts(student, timestep), effort.rounds, effort.seconds)
    context, _ = student_context(CGPotential(student), timestep, COPIES["240"])
    found |= overhead(context, effort.rounds, effort.seconds) | rss_growth(context, effort.steps)
    return found | {
        "sizes": measure(size_contexts(folder, effort.beads), effort.rounds, effort.seconds)
    }


def _channels(arguments: argparse.Namespace, effort: Effort, folder: Path) -> Result:
    from .contexts import Network, channel_contexts

    networks = [
        Network(channels, layers, cutoff)
        for layers in effort.layers
        for cutoff in effort.cutoffs
        for channels in CHANNELS
    ]
    # many contexts: shorter rounds
    return measure(channel_contexts(folder, networks), effort.rounds, effort.seconds / 4)


def _memory(arguments: argparse.Namespace, effort: Effort, folder: Path) -> Result:
    from .contexts import size_contexts

    ((context, _),) = size_contexts(folder, [arguments.beads]).values()
    context.getIntegrator().step(5)
    return {"peak": peak()}


CHILDREN: dict[str, Callable[[argparse.Namespace, Effort, Path], Result]] = {
    "network": _network,
    "fluid": _fluid,
    "channels": _channels,
    "memory": _memory,
}


def run_child(kind: str, cores: int, options: list[str]) -> Result:
    """What one set of measurements found with so many threads."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS")
    environment = {**_ENVIRONMENT, **dict.fromkeys(names, str(cores))}
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
    command = [sys.executable, "-m", MODULE, "--child", kind, *options]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: the {kind} benchmark failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- tables ---------------------------------------------------------------------------------------


def network_table(one: Result, every: Result, cores: int) -> Result:
    """torchmd-net's script against the engines of this package."""
    print(
        "\n300 beads, 64 channels, 1 layer, cutoff 1 nm, ms per"
        f" step\n{'':<14}{'1 core':>10}{f'{cores} cores':>10}"
    )
    for name in one:
        print(f"{name:<14}{one[name]:10.2f}{every[name]:10.2f}")
    return {
        "fast_vs_torchmdnet_1core": one["torchmd-net"] / one["fast"],
        "two_core_scaling": one["fast"] / every["fast"],
        "fused_vs_portable": every["portable"] / every["fast"],
    }


def fluid_table(fluid: Result, cores: int) -> Result:
    """The student against all-atom and against the ensemble."""
    found: Result = {}
    print(
        f"\nethaline, {cores} cores{'':<10}{'particles':>10}{'ms/step':>10}{'fs':>6}{'ns/day':>10}"
    )
    for name in COPIES:
        part, speed = fluid[name], {}
        for kind, particles in (("all-atom", part["atoms"]), ("student", part["beads"])):
            ms, fs = part["ms"][kind], part["fs"][kind]
            speed[kind] = fs / ms * 86.4
            print(f"{kind:<28}{particles:10d}{ms:10.3f}{fs:6.1f}{speed[kind]:10.1f}")
        found[f"cg_vs_aa_{name}"] = speed["student"] / speed["all-atom"]
    pair = fluid["ensemble"]
    for kind in ("ensemble", "student"):
        print(f"{kind + ', alternating':<28}{fluid['240']['beads']:10d}{pair[kind]:10.3f}")
    rest = fluid["overhead_ms"] - fluid["openmm_ms"] - fluid["list_ms"]
    print(
        f"a step of {fluid['step_ms']:.3f} ms spends {fluid['overhead_ms']:.3f} ms outside the"
        f" evaluation of network and prior:\n  OpenMM without forces {fluid['openmm_ms']:.3f},"
        f" neighbour list {fluid['list_ms']:.3f}, TorchForce and Python {rest:.3f}"
    )
    return found | {
        "student_vs_ensemble": pair["ensemble"] / pair["student"],
        "overhead_ms": fluid["overhead_ms"],
        "rss_growth": fluid["rss_growth"],
    }


def sizes_table(times: Result, peaks: dict[int, int], cores: int) -> Result:
    """Time and memory against the number of beads."""
    print(
        f"\n16 channels, cutoff 1 nm, 6 beads per nm3, {cores}"
        f" cores\n{'beads':>8}{'ms/step':>10}{'us/bead':>10}{'peak MB':>10}"
    )
    for n in times:
        memory = f"{peaks[int(n)] / 1e6:10.0f}" if int(n) in peaks else ""
        print(f"{n:>8}{times[n]:10.2f}{times[n] / int(n) * 1e3:10.2f}{memory}")
    found = {"beads_exponent": exponent([int(n) for n in times], list(times.values()))}
    if len(peaks) > 1:
        (first, low), *_, (last, high) = sorted(peaks.items())
        found["bytes_per_bead"] = (high - low) / (last - first)
        print(f"{found['bytes_per_bead']:.0f} bytes per bead")
    return found


def channels_table(one: Result, every: Result, cores: int) -> Result:
    """Time of a step by the size of the network, and what moves per edge."""
    print(
        f"\nethaline, 240 beads, ms per step\n{'channels':>8}{'layers':>8}{'cutoff':>8}"
        f"{'B/edge':>8}{'1 core':>10}{f'{cores} cores':>10}"
    )
    for name in one:
        channels, layers, cutoff = name.split()
        moved = edge_bytes(int(channels), int(layers))
        print(f"{channels:>8}{layers:>8}{cutoff:>8}{moved:8d}{one[name]:10.3f}{every[name]:10.3f}")
    return {"small_vs_shipped": one["32 1 1.0"] / one["16 1 1.0"]}


# --- the command ----------------------------------------------------------------------------------


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks runtime", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="rough figures within a minute or so")
    parser.add_argument(
        "--student",
        type=Path,
        help="potential of the ethaline box; the shipped one, or the quickstart's, if absent",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="take a network of 24 channels with random weights instead",
    )
    parser.add_argument(
        "--timestep",
        type=float,
        help="of the student, fs; that of timestep.json beside it if absent",
    )
    parser.add_argument(
        "--only", choices=["channels"], help="measure nothing but networks of several sizes"
    )
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--beads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if not arguments.untrained and not arguments.child:
        arguments.student = arguments.student or next(
            (path for path in STUDENTS if path.exists()), STUDENTS[0]
        )
        if not arguments.student.exists():
            parser.error(
                f"--student: {arguments.student} is not there; train one with 'cgkd run', or say"
                " --untrained."
            )
        if arguments.timestep is None:
            from openmm_cgkd.simulation.timestep.recommendation import read_recommendation

            found = read_recommendation(arguments.student)
            if found is None:
                parser.error(
                    f"--timestep: none is recommended for {arguments.student}; run 'cgkd timestep'"
                    " on it, or name one in fs."
                )
            arguments.timestep = found.timestep * 1e3
    arguments.timestep = arguments.timestep or 5.0
    return arguments


def main(given: list[str] | None = None) -> None:
    arguments = parse(given)
    effort = QUICK if arguments.quick else FULL
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(CHILDREN[arguments.child](arguments, effort, Path(folder))))
        return
    cores, before = os.cpu_count() or 1, os.getloadavg()[0]
    options = ["--quick"] * arguments.quick + ["--timestep", str(arguments.timestep)]
    options += (
        ["--untrained"] if arguments.untrained else ["--student", str(arguments.student.resolve())]
    )
    student = "untrained" if arguments.untrained else str(arguments.student)
    waiting = (
        _ENVIRONMENT.get("OMP_WAIT_POLICY")
        or f"spinning for {_ENVIRONMENT.get('GOMP_SPINCOUNT', _SPINS)}"
    )
    print(
        f"student {student}, medians of {effort.rounds}, waiting threads {waiting}, load average"
        f" before {before:.1f}"
    )
    result = channels_table(
        run_child("channels", 1, options), run_child("channels", cores, options), cores
    )
    if arguments.only is None:
        result |= all_tables(effort, options, cores)
    result |= {"cores": cores, "load": round(before, 1)}
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def all_tables(effort: Effort, options: list[str], cores: int) -> Result:
    """Everything but networks of several sizes."""
    result = network_table(
        run_child("network", 1, options), run_child("network", cores, options), cores
    )
    fluid = run_child("fluid", cores, options)
    result |= fluid_table(fluid, cores)
    peaks = {
        n: run_child("memory", cores, [*options, "--beads", str(n)])["peak"]
        for n in effort.memory_beads
    }
    return result | sizes_table(fluid["sizes"], peaks, cores)


if __name__ == "__main__":
    main()
