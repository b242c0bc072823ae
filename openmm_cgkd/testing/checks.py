"""The checks behind `openmm_cgkd.testing.validate`: configurations of beads, and what a potential must
do with each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from threading import Barrier, BrokenBarrierError
from typing import Any, Protocol

import numpy as np
import openmm
from openmm import app, unit
from scipy.spatial.transform import Rotation

from openmm_cgkd.exceptions import ConformanceError

Result = tuple[float, np.ndarray]  # energy in kJ/mol and forces (n, 3) in kJ/mol/nm


class Failed(Exception):  # noqa: N818  not an error of the package: the outcome of a check
    """A potential does not do what a check asks for."""


class MakesSystems(Protocol):
    """What `validate_potential` asks of a potential."""

    def createSystem(self, topology: app.Topology) -> openmm.System:
        """Make a system, periodic if the topology has box vectors."""


def evaluate(context: openmm.Context, positions: np.ndarray) -> Result:
    """Energy and forces that a context reports."""
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def require(passed: bool, figures: str) -> str:
    """Return the figures of a check that is passed, raise them otherwise."""
    if not passed:
        raise Failed(figures)
    return figures


class Subject:
    """The potential with the sets of beads that the checks use; each system is made once and
    shared by the platforms.
    """

    def __init__(
        self, potential: MakesSystems, topology: app.Topology, positions: Any, cutoff: float | None
    ) -> None:
        if unit.is_quantity(positions):
            positions = positions.value_in_unit(unit.nanometer)
        self.potential, self.topology, self.cutoff = potential, topology, cutoff
        self.positions = np.array(positions, dtype=np.float64)
        box = topology.getPeriodicBoxVectors()
        self.box = None if box is None else np.array(box.value_in_unit(unit.nanometer))
        self.residues = [
            [atom.index for atom in residue.atoms()] for residue in topology.residues()
        ]
        if len(self.residues) < 3 or len(self.positions) != topology.getNumAtoms():
            raise ConformanceError(
                f"Got {len(self.residues)} residues and {len(self.positions)} positions of"
                f" {topology.getNumAtoms()} particles; give a position to each particle and at"
                " least three residues."
            )
        self.first_result: Result | None = None
        self._systems: dict[str, openmm.System] = {}

    @property
    def room(self) -> np.ndarray:
        """Cubic box in which no bead meets an image of another."""
        return 4 * np.abs(self.box).sum(0).max() * np.eye(3)

    def first(self, n: int, box: np.ndarray | None) -> app.Topology:
        """Topology of the first n residues; if periodic, in the given box."""
        part = app.Modeller(self.topology, self.positions * unit.nanometer)
        part.delete(list(self.topology.residues())[n:])
        if box is not None:
            part.topology.setPeriodicBoxVectors(box * unit.nanometer)
        return part.topology

    def system(self, name: str) -> openmm.System:
        """System of one of the sets of beads."""
        n, room = len(self.residues), None if self.box is None else self.room
        sizes = {
            "all": (n, self.box),
            "fewer": (n - 1, self.box),
            "two": (2, room),
            "one": (1, room),
        }
        if name not in self._systems:
            self._systems[name] = self.potential.createSystem(self.first(*sizes[name]))
        return self._systems[name]

    @cached_property
    def whole(self) -> np.ndarray:
        """Positions with every residue inside the box, shape (n, 3), nm."""
        if self.box is None:
            return self.positions
        heads = np.array([self.positions[residue[0]] for residue in self.residues])
        shifts = -np.floor(heads @ np.linalg.inv(self.box)) @ self.box
        moved = self.positions.copy()
        for residue, shift in zip(self.residues, shifts, strict=True):
            moved[residue] += shift
        return moved

    @cached_property
    def exchanged(self) -> np.ndarray:
        """Order of particles after like residues have changed places in a ring."""
        groups: dict[tuple, list[list[int]]] = {}
        for residue, particles in zip(self.topology.residues(), self.residues, strict=True):
            groups.setdefault((residue.name, *(atom.name for atom in residue.atoms())), []).append(
                particles
            )
        order = np.arange(len(self.positions))
        for alike in groups.values():
            for here, there in zip(alike, alike[1:] + alike[:1], strict=True):
                order[here] = there
        return order

    @property
    def fewer(self) -> np.ndarray:
        """Positions without the last residue."""
        return self.positions[: sum(map(len, self.residues[:-1]))]

    def pair(self, distance: float) -> np.ndarray:
        """First two residues with `distance` between their nearest particles, which lie along
        x, nm.
        """
        first, second = (self.whole[residue] for residue in self.residues[:2])
        gap = np.array([distance, 0.0, 0.0])
        return np.concatenate(
            [first - first[np.argmax(first[:, 0])], second - second[np.argmin(second[:, 0])] + gap]
        )


class Bench:
    """Evaluates configurations on one platform."""

    def __init__(
        self, subject: Subject, platform: str, properties: dict[str, str], tolerance: float
    ) -> None:
        self.subject, self.platform, self.properties = subject, platform, properties
        double = platform in ("Reference", "CPU") or properties.get("Precision") == "double"
        self.tolerance = tolerance if double else 10 * tolerance
        self.rng = np.random.default_rng(7)
        self._contexts: dict[str, openmm.Context] = {}

    def new_context(self, system: openmm.System) -> openmm.Context:
        return openmm.Context(
            system,
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatform(self.platform),
            self.properties,
        )

    def context(self, name: str) -> openmm.Context:
        """The context of one of the sets of beads of `Subject.system`."""
        if name not in self._contexts:
            self._contexts[name] = self.new_context(self.subject.system(name))
        return self._contexts[name]

    def __call__(self, name: str, positions: np.ndarray) -> Result:
        return evaluate(self.context(name), positions)

    def compare(self, found: Result, expected: Result, factor: float = 1.0) -> str:
        """Both results agree; returns or raises the figures."""
        forces = np.abs(expected[1]).max()
        energy_error, force_error = (
            abs(found[0] - expected[0]),
            np.abs(found[1] - expected[1]).max(),
        )
        allowed = (
            factor * self.tolerance * (abs(expected[0]) + 0.1 * forces),
            factor * 10 * self.tolerance * forces,
        )
        text = (
            f"energy off by {energy_error:.1e} of {allowed[0]:.1e} kJ/mol, forces by"
            f" {force_error:.1e} of {allowed[1]:.1e} kJ/mol/nm"
        )
        return require(energy_error <= allowed[0] and force_error <= allowed[1], text)

    def slopes(self, name: str, positions: np.ndarray, directions: list[np.ndarray]) -> str:
        """Forces are minus the slopes of the energy, from central differences with two steps
        (error of fourth order).
        """
        _, forces = self(name, positions)
        worst = 0.0
        for direction in directions:
            along = direction / np.linalg.norm(direction)
            steep = [
                (self(name, positions + step * along)[0] - self(name, positions - step * along)[0])
                / (2 * step)
                for step in (1e-3, 2e-3)
            ]
            worst = max(worst, abs((4 * steep[0] - steep[1]) / 3 + np.sum(forces * along)))
        allowed = 100 * self.tolerance * np.abs(forces).max()
        return require(worst <= allowed, f"slope off by {worst:.1e} of {allowed:.1e} kJ/mol/nm")


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
    net, allowed = (
        np.abs(expected[1].sum(0)).max(),
        100 * bench.tolerance * np.abs(expected[1]).max(),
    )
    return require(net <= allowed, f"{figures}, net force {net:.1e} of {allowed:.1e} kJ/mol/nm")


def _rotation(bench: Bench) -> str:
    x = bench.subject.whole - bench.subject.whole.mean(0)
    turn = Rotation.random(rng=bench.rng).as_matrix()
    context = bench.new_context(bench.subject.system("all"))
    if bench.subject.box is not None:
        context.setPeriodicBoxVectors(*bench.subject.room)
    energy, forces = evaluate(context, x)
    return bench.compare(evaluate(context, x @ turn.T), (energy, forces @ turn.T))


def _exchange(bench: Bench) -> str:
    x, order = bench.subject.positions, bench.subject.exchanged
    energy, forces = bench("all", x)
    return bench.compare(bench("all", x[order]), (energy, forces[order]))


def _lattice_shifts(bench: Bench) -> str:
    x, shifts = bench.subject.positions, np.zeros_like(bench.subject.positions)
    for residue in bench.subject.residues:
        shifts[residue] = bench.rng.integers(-2, 3, 3) @ bench.subject.box
    return bench.compare(bench("all", x + shifts), bench("all", x))


def _box_changes(bench: Bench) -> str:
    subject, scale = bench.subject, 1.06
    topology = subject.first(len(subject.residues), scale * subject.box)
    expected = evaluate(
        bench.new_context(subject.potential.createSystem(topology)), scale * subject.positions
    )
    context = bench.new_context(subject.system("all"))
    evaluate(context, subject.positions)
    context.setPeriodicBoxVectors(*(scale * subject.box))
    return bench.compare(evaluate(context, scale * subject.positions), expected)


def _beyond_cutoff(bench: Bench) -> str:
    subject = bench.subject
    far, further, near = (
        bench("two", subject.pair(ratio * subject.cutoff)) for ratio in (1.001, 1.5, 0.6)
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
        bench("two", subject.pair(subject.cutoff + shift)) for shift in (-step, step)
    )
    typical = max(
        np.abs(bench("two", subject.pair(ratio * subject.cutoff))[1]).max() for ratio in (0.6, 0.8)
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
    """Names and functions of the checks that a subject allows; each returns its figures or
    raises.
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
