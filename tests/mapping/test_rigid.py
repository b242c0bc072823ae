"""Rigid distances, found in frames: of constraints, of rigid bodies, and not of stiff bonds."""

from itertools import pairwise

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.mapping import Mapping
from openmm_cgkd.mapping.rigid import DistanceSpread, RigidDistancesBetweenBeads

CHAIN = [[0.0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.14, 0]]


def chains(n: int, element: str = "carbon") -> tuple[Mapping, mdtraj.Topology]:
    """Chains of four atoms, two beads each."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(n):
        residue = topology.add_residue("MOL", chain)
        atoms = [
            topology.add_atom(f"X{k}", getattr(mdtraj.element, element), residue) for k in range(4)
        ]
        for first, second in pairwise(atoms):
            topology.add_bond(first, second)
    beads = BeadTopology(
        ("A", "B"), np.tile([0, 1], n), np.zeros(2 * n), np.repeat(np.arange(n), 2)
    )
    atoms = [np.array([0, 1]) + 2 * k for k in range(2 * n)]
    return Mapping(atoms, np.full(4 * n, 12.0), beads), topology


def frames(n: int, n_frames: int, vibration: float, seed: int = 0) -> np.ndarray:
    """Chains that turn and move as a whole; atoms 1 and 2 vibrate along their bond."""
    random = np.random.default_rng(seed)
    found = np.empty((n_frames, n, 4, 3))
    for frame in found:
        for molecule in frame:
            x = np.array(CHAIN)
            bond = x[2] - x[1]
            stretch = random.normal() * vibration * bond / np.linalg.norm(bond)
            x[2:] += stretch
            turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
            molecule[:] = x @ turn + random.random(3)
    return found.reshape(n_frames, -1, 3)


def found(n: int, positions: np.ndarray, element: str = "carbon") -> str:
    check = RigidDistancesBetweenBeads(*chains(n, element))
    for frame in positions:
        check.add(frame)
    try:
        check.check(complete=True)
    except MappingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("element", ["carbon", "hydrogen", "deuterium"])
@pytest.mark.parametrize(("n", "n_frames"), [(3, 8), (1, 30), (40, 1)])
def test_constrained_bond_between_beads_is_refused(n, n_frames, element):
    """Of any element: also of those that nobody constrains by habit."""
    message = found(n, frames(n, n_frames, 0.0), element)
    assert "distance between atoms 0 and 2 of MOL never varies" in message
    assert "crosses beads 0 and 1" in message


@pytest.mark.parametrize(("n", "n_frames"), [(3, 8), (1, 30)])
def test_stiffest_bond_may_cross_beads(n, n_frames):
    """Of 900 kJ/mol per square angstrom at 300 K: 1.7 pm.

    Its neighbours' distances across the beads vary with it.
    """
    assert not found(n, frames(n, n_frames, 0.0017))


def test_rigid_bodies_of_different_shape():
    """Each molecule keeps the bond it was given, as in LAMMPS' fix rigid."""
    given = np.random.default_rng(1).normal(0, 0.02, 12)
    body = []
    for k in range(5):
        one = frames(12, 1, 0.0, seed=100 + k).reshape(12, 4, 3)
        for m, molecule in enumerate(one):
            bond = molecule[2] - molecule[1]
            molecule[2:] += given[m] * bond / np.linalg.norm(bond)
        body.append(one.reshape(-1, 3))
    assert "never varies" in found(12, np.array(body))


def test_too_few_frames_are_said_to_be_too_few():
    assert "so few frames" in found(2, frames(2, 3, 0.002))
    check = RigidDistancesBetweenBeads(*chains(2))
    check.add(frames(2, 1, 0.0)[0])
    check.check(complete=False)  # more may come


def test_spread_is_a_standard_deviation():
    """At the threshold of 0.5 pm: below it a distance is rigid, above it not."""
    for width, rigid in ((0.0004, True), (0.0006, False)):
        spread = DistanceSpread(np.array([0]), np.array([1]))
        for shift in np.random.default_rng(3).normal(0, width, 4000):
            spread.add(np.array([[[0, 0, 0], [0.15 + shift, 0, 0]]]))
        assert spread.rigid.tolist() == [rigid]


def test_one_bead_per_molecule_needs_no_frames():
    n = 3
    topology = chains(n)[1]
    beads = BeadTopology(("A",), np.zeros(n, int), np.zeros(n), np.arange(n))
    atoms = [np.arange(4) + 4 * k for k in range(n)]
    check = RigidDistancesBetweenBeads(Mapping(atoms, np.full(4 * n, 12.0), beads), topology)
    check.check(complete=True)
