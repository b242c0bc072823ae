"""Sets of beads for the checks of a potential, and their evaluation on a platform."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.exceptions import ConformanceError
from openmm_cgkd.utils.box import shifts_into_box

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
    """Return the figures of a check that is passed, raise `Failed` with them otherwise."""
    if not passed:
        raise Failed(figures)
    return figures


class Subject:
    """The potential with the sets of beads that the checks use.

    Each system is made once and shared by the platforms.
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
    def periodic_box(self) -> np.ndarray:
        """The box, shape (3, 3), nm, for what is only done if there is one."""
        assert self.box is not None
        return self.box

    @property
    def known_cutoff(self) -> float:
        """The cutoff, nm, for checks that are only made if there is one."""
        assert self.cutoff is not None
        return self.cutoff

    @property
    def wide_box(self) -> np.ndarray:
        """Cubic box in which no bead meets an image of another."""
        return 4 * np.abs(self.periodic_box).sum(0).max() * np.eye(3)

    def first(self, n: int, box: np.ndarray | None) -> app.Topology:
        """Topology of the first n residues; if periodic, in the given box."""
        part = app.Modeller(self.topology, self.positions * unit.nanometer)
        part.delete(list(self.topology.residues())[n:])
        if box is not None:
            part.topology.setPeriodicBoxVectors(box * unit.nanometer)
        return part.topology

    def system(self, name: str) -> openmm.System:
        """System of one of the sets of beads."""
        n, wide = len(self.residues), None if self.box is None else self.wide_box
        sizes = {
            "all": (n, self.box),
            "fewer": (n - 1, self.box),
            "two": (2, wide),
            "one": (1, wide),
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
        shifts = shifts_into_box(heads, self.box)
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
        """First two residues, `distance` (nm) apart along x between their nearest particles."""
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
        """Check that two results agree; returns the figures, or raises `Failed` with them."""
        forces = np.abs(expected[1]).max()
        energy_error = abs(found[0] - expected[0])
        force_error = np.abs(found[1] - expected[1]).max()
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
        """Check that forces are minus the slopes of the energy.

        From central differences with two steps, whose error is of fourth order.
        """
        _, forces = self(name, positions)
        errors = []
        for direction in directions:
            along = direction / np.linalg.norm(direction)
            steep = [
                (self(name, positions + step * along)[0] - self(name, positions - step * along)[0])
                / (2 * step)
                for step in (1e-3, 2e-3)
            ]
            errors.append(abs((4 * steep[0] - steep[1]) / 3 + np.sum(forces * along)))
        worst = float(np.max(errors))  # nan if one of them is, which is not within any bound
        allowed = 100 * self.tolerance * np.abs(forces).max()
        return require(worst <= allowed, f"slope off by {worst:.1e} of {allowed:.1e} kJ/mol/nm")
