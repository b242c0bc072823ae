"""The checks of `validate_potential`: sets of beads, and what a potential must do with each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import numpy as np
import openmm
from scipy.spatial.transform import Rotation

from .bench import Bench, Result, Subject, evaluate, require


def _shapes(bench: Bench) -> str:
    energy, forces = bench("all", bench.subject.positions)
    n = len(bench.subject.positions)
    figures = f"energy {energy:.6g} kJ/mol, forces {forces.dtype} {forces.shape}"
    return require(
        forces.shape == (n, 3)
        and forces.dtype == np.float64
        and bool(np.isfinite([energy, *forces.flat]).all()),
        figures,
    )


def _platforms(bench: Bench) -> str:
    found = bench("all", bench.subject.positions)
    if bench.subject.first_result is None:
        bench.subject.first_result = found
        return "the first platform, others are compared with it"
    return bench.compare(found, bench.subject.first_result)


def _slopes(bench: Bench) -> str:
    x = bench.subject.positions
    _, forces = bench("all", x)
    strongest, any_one = np.zeros_like(x), np.zeros_like(x)
    bead = np.argmax(np.linalg.norm(forces, axis=1))
    strongest[bead] = forces[bead]
    any_one[bench.rng.integers(len(x))] = bench.rng.normal(size=3)
    return bench.slopes("all", x, [bench.rng.normal(size=x.shape), strongest, any_one])


def _translation(bench: Bench) -> str:
    x = bench.subject.positions
    expected = bench("all", x)
    figures = bench.compare(bench("all", x + np.array([0.3, 4.0, -7.1])), expected)
    net = np.abs(expected[1].sum(0)).max()
    allowed = 100 * bench.tolerance * np.abs(expected[1]).max()
    return require(net <= allowed, f"{figures}, net force {net:.1e} of {allowed:.1e} kJ/mol/nm")


def _rotation(bench: Bench) -> str:
    x = bench.subject.whole - bench.subject.whole.mean(0)
    turn = Rotation.random(rng=bench.rng).as_matrix()
    context = bench.new_context(bench.subject.system("all"))
    if bench.subject.box is not None:
        context.setPeriodicBoxVectors(*bench.subject.wide_box)
    energy, forces = evaluate(context, x)
    return bench.compare(evaluate(context, x @ turn.T), (energy, forces @ turn.T))


def _exchange(bench: Bench) -> str:
    x, order = bench.subject.positions, bench.subject.exchanged
    energy, forces = bench("all", x)
    return bench.compare(bench("all", x[order]), (energy, forces[order]))


def _lattice_shifts(bench: Bench) -> str:
    x, shifts = bench.subject.positions, np.zeros_like(bench.subject.positions)
    for residue in bench.subject.residues:
        shifts[residue] = bench.rng.integers(-2, 3, 3) @ bench.subject.periodic_box
    return bench.compare(bench("all", x + shifts), bench("all", x))


def _box_changes(bench: Bench) -> str:
    subject, scale = bench.subject, 1.06
    box = scale * subject.periodic_box
    topology = subject.first(len(subject.residues), box)
    expected = evaluate(
        bench.new_context(subject.potential.createSystem(topology)), scale * subject.positions
    )
    context = bench.new_context(subject.system("all"))
    evaluate(context, subject.positions)
    context.setPeriodicBoxVectors(*box)
    return bench.compare(evaluate(context, scale * subject.positions), expected)


def _beyond_cutoff(bench: Bench) -> str:
    subject = bench.subject
    far, further, near = (
        bench("two", subject.pair(ratio * subject.known_cutoff)) for ratio in (1.001, 1.5, 0.6)
    )
    force = np.abs(far[1] - further[1]).max()
    energy = abs(far[0] - further[0])
    allowed = (
        bench.tolerance * np.abs(near[1]).max(),
        bench.tolerance * (abs(far[0]) + 0.1 * np.abs(near[1]).max()),
    )
    figures = (
        f"at 1.001 cutoffs against 1.5: energy {energy:.1e} of {allowed[1]:.1e} kJ/mol, forces"
        f" {force:.1e} of {allowed[0]:.1e} kJ/mol/nm"
    )
    return require(force <= allowed[0] and energy <= allowed[1], figures)


def _smooth_cutoff(bench: Bench) -> str:
    subject, step = bench.subject, 1e-4
    inside, outside = (
        bench("two", subject.pair(subject.known_cutoff + shift)) for shift in (-step, step)
    )
    typical = max(
        np.abs(bench("two", subject.pair(ratio * subject.known_cutoff))[1]).max()
        for ratio in (0.6, 0.8)
    )
    slope = max(np.abs(result[1]).max() for result in (inside, outside))
    energy, force = abs(inside[0] - outside[0]), np.abs(inside[1] - outside[1]).max()
    allowed = 4 * step * slope + bench.tolerance * (abs(inside[0]) + 0.1 * typical), 0.01 * typical
    figures = (
        f"jump of energy {energy:.1e} of {allowed[0]:.1e} kJ/mol, of forces {force:.1e} of"
        f" {allowed[1]:.1e} kJ/mol/nm"
    )
    return require(energy <= allowed[0] and force <= allowed[1], figures)


def _contexts(bench: Bench) -> str:
    subject, system = bench.subject, bench.subject.system("all")
    x = subject.positions
    y = x[subject.exchanged] + 0.01 * bench.rng.normal(size=x.shape)
    expected = {
        "x": bench("all", x),
        # a system that has seen nothing else
        "y": evaluate(bench.new_context(subject.potential.createSystem(subject.topology)), y),
    }
    first, second = bench.new_context(system), bench.new_context(system)
    evaluate(first, x)
    bench("fewer", subject.fewer)
    results = [
        (evaluate(second, y), "y"),
        (evaluate(first, y), "y"),
        (evaluate(second, x), "x"),
        (evaluate(first, x), "x"),
    ]
    return [bench.compare(found, expected[name], 0.1) for found, name in results][-1]


def _threads(bench: Bench) -> str:
    x, system = bench.subject.positions, bench.subject.system("all")
    places = [x + 0.01 * bench.rng.normal(size=x.shape) for _ in range(2)]
    contexts = [bench.new_context(system) for _ in places]
    alone = [evaluate(context, at) for context, at in zip(contexts, places, strict=True)]
    together = Barrier(len(places))  # a thread that starts late would have the potential to itself

    def repeated(context: openmm.Context, at: np.ndarray) -> list[Result]:
        results = []
        with suppress(BrokenBarrierError):  # the error of the other thread is the one to report
            for _ in range(5):
                together.wait()
                try:
                    results.append(evaluate(context, at))
                except Exception:
                    together.abort()
                    raise
        return results

    with ThreadPoolExecutor(len(places)) as pool:
        repeats = list(pool.map(repeated, contexts, places))
    return [
        bench.compare(found, expected, 0.1)
        for many, expected in zip(repeats, alone, strict=True)
        for found in many
    ][-1]


def _hundred_calls(bench: Bench) -> str:
    x, context = bench.subject.positions, bench.new_context(bench.subject.system("all"))
    first = evaluate(context, x)
    for _ in range(98):
        evaluate(context, x + 0.01 * bench.rng.normal(size=x.shape))
    return bench.compare(evaluate(context, x), first, 0.1)


def _serialization(bench: Bench) -> str:
    x = bench.subject.positions
    copy = openmm.XmlSerializer.deserialize(
        openmm.XmlSerializer.serialize(bench.subject.system("all"))
    )
    return bench.compare(evaluate(bench.new_context(copy), x), bench("all", x), 0.1)


def _odd_and_even(bench: Bench) -> str:
    x = bench.subject.positions
    places = {"all": x, "fewer": bench.subject.fewer}
    return [
        bench.slopes(name, at, [bench.rng.normal(size=at.shape)]) for name, at in places.items()
    ][-1]


def _two(bench: Bench) -> str:
    x = bench.subject.pair(0.6 * (bench.subject.cutoff or 0.8))
    return bench.slopes("two", x, [bench.rng.normal(size=x.shape)])


def _one(bench: Bench) -> str:
    x = bench.subject.whole[bench.subject.residues[0]]
    energy, forces = bench("one", x)
    net, allowed = np.abs(forces.sum(0)).max(), 100 * bench.tolerance * np.abs(forces).max()
    return require(
        bool(np.isfinite(energy)) and net <= allowed,
        f"energy {energy:.6g} kJ/mol, net force {net:.1e} of {allowed:.1e} kJ/mol/nm",
    )


_EVERY = {
    "shapes and types": _shapes,
    "same on every platform": _platforms,
    "forces are energy slopes": _slopes,
    "translation": _translation,
    "rotation": _rotation,
    "exchange of like residues": _exchange,
    "one residue": _one,
    "two residues": _two,
    "odd and even numbers": _odd_and_even,
    "other contexts": _contexts,
    "threads": _threads,
    "hundredth call as the first": _hundred_calls,
    "XML round trip": _serialization,
}
_PERIODIC = {"lattice shifts": _lattice_shifts, "box changes": _box_changes}
_CUTOFF = {"no force beyond the cutoff": _beyond_cutoff, "smooth at the cutoff": _smooth_cutoff}


def checks_of(subject: Subject, platform: str) -> list[tuple[str, Callable[[Bench], str]]]:
    """Names and functions of the checks that a subject allows.

    A function returns its figures, or raises `Failed` with them.
    """
    checks = {
        **_EVERY,
        **(_PERIODIC if subject.box is not None else {}),
        **(_CUTOFF if subject.cutoff is not None else {}),
    }
    if platform == "OpenCL" and len(subject.residues[0]) == 1:
        # with PoCL OpenMM 8.4 crashes on a single particle, whatever the force
        del checks["one residue"]
    return list(checks.items())
