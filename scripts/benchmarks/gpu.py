"""Speed of the shipped student on an NVIDIA GPU: evaluation, and dynamics against all-atom.

Contexts of the dynamics alternate; medians. Prints tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch

from openmm_cgkd import CGPotential
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.simulation.timestep.recommendation import read_recommendation

from .contexts import ETHALINE, all_atom_context, replicated, student_context
from .measures import measure

# of the shipped box
COPIES = {
    "240": (1, 1, 1),
    "960": (2, 2, 1),
    "3840": (4, 2, 2),
    "15360": (4, 4, 4),
    "61440": (8, 8, 4),
}
PLAIN = 1000  # beads up to which plain PyTorch is timed: it looks at all pairs
DYNAMICS = 4000  # beads up to which dynamics are timed


class Waiting:
    """A context on a GPU whose steps are over when `step` returns, as `measure` wants them."""

    def __init__(self, context: openmm.Context) -> None:
        self.context = context

    def getIntegrator(self) -> Waiting:
        return self

    def step(self, steps: int) -> None:
        self.context.getIntegrator().step(steps)
        self.context.getState(positions=True)


def timed(evaluate: Callable[[], object], rounds: int, seconds: float) -> float:
    """Median time of a call, ms, with the GPU waited for at the end of each round."""

    def calls(n: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(n):
            evaluate()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / n

    calls(3)
    n = max(3, int(seconds / calls(3)))
    return statistics.median(calls(n) for _ in range(rounds)) * 1e3


def evaluations(
    student: Path, copies: tuple[int, int, int], rounds: int, seconds: float
) -> dict[str, float]:
    """Time of energy and forces, ms, in four ways.

    As a CUDA graph with positions and forces on the processor, the graph alone, kernels one by
    one, plain PyTorch operations.
    """
    from openmm_cgkd.potential.gpu.cuda_graph import GraphedPotential

    frames = read_frames(ETHALINE / "frames.h5")
    points, box = replicated(
        frames.positions[-1].astype(np.float64), frames.box[-1].astype(np.float64), copies
    )
    module = CGPotential(student).load()
    module.set_types(torch.from_numpy(np.tile(frames.beads.types, int(np.prod(copies)))))
    graphed = GraphedPotential(module, periodic=True)
    graphed(points, box)
    at, cell = torch.from_numpy(points).cuda(), torch.from_numpy(box).cuda()
    found = {
        "with copies": timed(lambda: graphed(points, box), rounds, seconds),
        "graph": timed(graphed.launch, rounds, seconds),
        "kernels": timed(lambda: graphed.module(at, cell), rounds, seconds),
    }
    if len(points) <= PLAIN:
        found["plain"] = timed(lambda: graphed.module.by_autograd(at, cell), rounds, seconds)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="rough figures within a minute")
    parser.add_argument(
        "--student",
        type=Path,
        default=ETHALINE / "student.pt",
        help="potential of the ethaline box (the shipped one)",
    )
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error(
            "there is no NVIDIA GPU; 'python -m scripts.benchmarks runtime' measures on a CPU."
        )
    rounds, seconds = (3, 0.1) if given.quick else (7, 1.0)
    found = read_recommendation(given.student) or read_recommendation(ETHALINE / "student.pt")
    timestep = None if found is None else found.timestep
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {rounds}, ms for"
        " energy and forces of the student"
    )
    print(
        f"{'beads':>8}{'graph, positions from the processor':>37}{'graph':>8}"
        f"{'kernels one by one':>20}{'plain PyTorch':>15}"
    )
    result: dict[str, float] = {}
    for n, copies in COPIES.items():
        ms = evaluations(given.student, copies, rounds, seconds)
        plain = f"{ms['plain']:.3f}" if "plain" in ms else ""
        print(
            f"{n:>8}{ms['with copies']:37.3f}{ms['graph']:8.3f}{ms['kernels']:20.3f}{plain:>15}",
            flush=True,
        )
        result[f"graph_ms_{n}"] = ms["graph"]
        if plain:
            result[f"graph_vs_plain_{n}"] = ms["plain"] / ms["with copies"]
    potential = CGPotential(given.student)
    print(
        "\ndynamics, engine"
        f" {potential.engine}{'':<10}{'particles':>10}{'ms/step':>10}{'fs':>6}{'ns/day':>10}"
    )
    for n, copies in COPIES.items():
        if int(n) > DYNAMICS:
            continue
        contexts = {"all-atom, CUDA": all_atom_context(copies, "CUDA")}
        contexts |= {
            f"student, {name}": student_context(potential, timestep, copies, name)
            for name in ("CUDA", "Reference")
        }
        ms, speed = (
            measure(
                {name: (Waiting(context), step) for name, (context, step) in contexts.items()},
                rounds,
                seconds,
            ),
            {},
        )
        for name, (context, step) in contexts.items():
            speed[name] = step / ms[name] * 86400
            particles = context.getSystem().getNumParticles()
            print(
                f"{name:<28}{particles:10d}{ms[name]:10.3f}{step * 1e3:6.1f}{speed[name]:10.0f}",
                flush=True,
            )
        best = max(speed["student, CUDA"], speed["student, Reference"])
        result[f"cg_vs_aa_{n}"] = best / speed["all-atom, CUDA"]
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
