"""How benchmarks measure: step times of contexts that alternate, memory, overhead of a step."""

from __future__ import annotations

import copy
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm

_WARM_UP = 5  # steps: compile, fill caches


def measure(
    contexts: dict[str, tuple[Any, float]], rounds: int, seconds: float
) -> dict[str, float]:
    """Median time of a step of each context, ms; the contexts alternate.

    Parameters
    ----------
    contexts : dict
        Context and time step by name.
    rounds : int
    seconds : float
        Of one round of one context.
    """
    steps = {}
    for name, (context, _) in contexts.items():
        integrator = context.getIntegrator()
        integrator.step(_WARM_UP)
        begin = time.perf_counter()
        integrator.step(_WARM_UP)
        steps[name] = max(3, int(seconds * _WARM_UP / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in contexts}
    for _ in range(rounds):
        for name, (context, _) in contexts.items():
            begin = time.perf_counter()
            context.getIntegrator().step(steps[name])
            times[name].append((time.perf_counter() - begin) / steps[name] * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def overhead(context: Any, rounds: int, seconds: float) -> dict[str, float]:
    """Median time of a step, and of its parts outside the evaluation of network and prior, ms.

    The evaluation is the one compiled function; its calls are timed within the steps, and so are
    those for the neighbour list, reused and at times remade. A system of as many beads without
    forces tells what OpenMM takes. The rest is TorchForce, TorchScript and the Python around the
    compiled function.
    """
    from openmm_cgkd.potential import torch_ops as fast

    inside = listed = 0.0
    evaluate, recent_list, integrator = fast.evaluate, fast.recent_list, context.getIntegrator()

    def timed(*arguments: Any) -> Any:
        nonlocal inside
        begin = time.perf_counter()
        result = evaluate(*arguments)
        inside += time.perf_counter() - begin
        return result

    def timed_list(*arguments: Any) -> Any:
        nonlocal listed
        begin = time.perf_counter()
        result = recent_list(*arguments)
        listed += time.perf_counter() - begin
        return result

    fast.evaluate, fast.recent_list = timed, timed_list
    try:
        integrator.step(_WARM_UP)
        rows = []
        for _ in range(rounds):
            inside, listed, steps, begin = 0.0, 0.0, 0, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                integrator.step(50)
                steps += 50
            whole = time.perf_counter() - begin
            rows.append((whole / steps * 1e3, (whole - inside) / steps * 1e3, listed / steps * 1e3))
    finally:
        fast.evaluate, fast.recent_list = evaluate, recent_list
    step, outside, of_list = (statistics.median(column) for column in zip(*rows, strict=True))
    empty = _empty(context)
    return {
        "step_ms": step,
        "overhead_ms": outside,
        "list_ms": of_list,
        "openmm_ms": measure({"": (empty, 0.0)}, rounds, seconds)[""],
    }


def _empty(context: Any) -> Any:
    """The same particles, integrator and platform without any force."""
    system, state = openmm.System(), context.getState(positions=True)
    for k in range(context.getSystem().getNumParticles()):
        system.addParticle(context.getSystem().getParticleMass(k))
    fresh = openmm.Context(system, copy.deepcopy(context.getIntegrator()), context.getPlatform())
    fresh.setPositions(state.getPositions())
    return fresh


def resident() -> int:
    """Memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rss_growth(context: Any, steps: int) -> dict[str, float]:
    """Relative growth of the memory of this process over so many steps.

    A tenth of the steps warm up before; states are read now and then.
    """
    integrator, found = context.getIntegrator(), []
    integrator.step(max(1, steps // 10))
    for _ in range(21):
        found.append(resident())
        integrator.step(steps // 20)
        context.getState(positions=True, energy=True, forces=True)
    return {"rss_growth": max(found[-1], found[-2]) / found[0] - 1, "rss_bytes": found[0]}


def edge_bytes(channels: int, layers: int) -> int:
    """Bytes of radial tables and of features that one evaluation reads per edge.

    Forward and back, embedding: four coefficients for each order, and the weight of the types; a
    layer: the coefficients, and nine components of the neighbour.
    """
    from openmm_cgkd.potential.cpu.layout import lanes

    return 4 * lanes(channels).channels * 2 * (12 + 1 + layers * (12 + 9))


def exponent(numbers: list[int], times: list[float]) -> float:
    """Slope of the logarithm of times against that of numbers."""
    return float(np.polyfit(np.log(numbers), np.log(times), 1)[0])
