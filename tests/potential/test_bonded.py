"""Molecules of several beads.

Bonds and angles against formulas written out, Boltzmann inversion, exclusions, the exported file.
"""

import dataclasses
import json

import numpy as np
import openmm
import pytest
import torch

from openmm_cgkd import CGPotential
from openmm_cgkd.config.run import PriorConfig
from openmm_cgkd.exceptions import FramesError, ModelFileError
from openmm_cgkd.frames.frames import Frames, read_frames, write_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.molecules import bead_bonds
from openmm_cgkd.potential.bonded import BondedParameters, bonded_prior, find_angles, fit_bonded
from openmm_cgkd.potential.export import write_potential
from openmm_cgkd.potential.network import TensorNetEnergies
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import Prior, PriorParameters, fit_prior
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.testing.validate import validate_potential
from tests.cases.potential import (
    CONTACT,
    CUBIC,
    CUTOFF,
    NAMES,
    PRIOR,
    TRICLINIC,
    images,
    metadata,
    torchmd_network,
)

GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
K_BOND, LENGTH, K_ANGLE, COSINE = 8000.0, 0.3, 40.0, -0.5
BONDED = BondedParameters(
    molecules=[
        {"beads": ["CHO", "EGL", "CHO"], "bonds": [[0, 1], [1, 2]]},
        {"beads": ["CL"], "bonds": []},
    ],
    bonds=[{"types": ["EGL", "CHO"], "constant": K_BOND, "length": LENGTH}],
    angles=[{"types": ["CHO", "EGL", "CHO"], "constant": K_ANGLE, "cosine": COSINE}],
)
MOLECULES = PriorParameters(
    PRIOR.type_names, PRIOR.contact, PRIOR.force, PRIOR.p, PRIOR.distance, BONDED
)
N_CHAINS, N_IONS = 8, 4


def chain_beads(n_chains: int = N_CHAINS, n_ions: int = N_IONS) -> BeadTopology:
    """Chains CHO-EGL-CHO, then single CL."""
    types = np.array([0, 2, 0] * n_chains + [1] * n_ions)
    molecules = np.concatenate([np.repeat(np.arange(n_chains), 3), n_chains + np.arange(n_ions)])
    bonds = np.array([(3 * k + i, 3 * k + i + 1) for k in range(n_chains) for i in (0, 1)])
    return BeadTopology(
        NAMES, types, np.array([104.17, 35.45, 62.07])[types], molecules, bonds=bonds
    )


BEADS = chain_beads()


def configuration(box: np.ndarray, seed: int = 0) -> np.ndarray:
    """Chains and ions on lattice sites of the box, shaken; molecules whole."""
    rng = np.random.default_rng(seed)
    sites = (
        np.stack(np.meshgrid(range(2), range(2), range(3), indexing="ij"), axis=-1).reshape(-1, 3)
        / [2, 2, 3]
        @ box
    )
    shape = np.array([[-0.27, 0, 0], [0, 0.14, 0], [0.27, 0, 0]])
    chains = [site + shape + rng.uniform(-0.02, 0.02, (3, 3)) for site in sites[:N_CHAINS]]
    return np.concatenate(
        [*chains, sites[N_CHAINS : N_CHAINS + N_IONS] + rng.uniform(-0.02, 0.02, (N_IONS, 3))]
    )


def written_out(positions: np.ndarray, box: np.ndarray | None) -> float:
    """The whole prior of whole molecules, term by term."""
    first, second, vectors = images(positions, box)
    a, energy = np.log(1 / PRIOR.p) / PRIOR.distance, 0.0
    for i, j, vector in zip(first, second, vectors, strict=True):
        if BEADS.molecules[i] != BEADS.molecules[j]:  # in a chain of three every pair is excluded
            t = CONTACT[BEADS.types[i], BEADS.types[j]]
            energy += PRIOR.force * PRIOR.p / a * np.exp(a * (t - np.linalg.norm(vector)))
    for k in range(N_CHAINS):
        arms = positions[[3 * k, 3 * k + 2]] - positions[3 * k + 1]
        lengths = np.linalg.norm(arms, axis=1)
        energy += 0.5 * K_BOND * ((lengths - LENGTH) ** 2).sum()
        energy += 0.5 * K_ANGLE * (arms[0] @ arms[1] / lengths.prod() - COSINE) ** 2
    return energy


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("chains") / "student.pt"
    described = metadata(prior=MOLECULES.as_dict())
    arguments = (BEADS.types, configuration(CUBIC), CUBIC, BEADS.bonds)
    return write_potential(
        path, TensorNetEnergies(torchmd_network()), MOLECULES, described, *arguments
    )


def test_angles_of_a_ring_and_a_branch():
    ring = find_angles(torch.tensor([[0, 1], [1, 2], [0, 2]])).tolist()
    assert sorted(angle[1] for angle in ring) == [0, 1, 2]
    branch = find_angles(torch.tensor([[0, 1], [0, 2], [3, 0]])).tolist()
    assert sorted(sorted((a, c)) for a, _, c in branch) == [[1, 2], [1, 3], [2, 3]]
    assert {b for _, b, _ in branch} == {0}


def test_bond_and_angle_by_hand():
    """A right angle with arms of 0.3 and 0.35 nm: 0 + 8000/2 0.05^2 + 40/2 0.5^2 = 15 kJ/mol."""
    terms = bonded_prior(NAMES, BONDED)
    terms.set_bonds(torch.tensor([0, 2, 0]), torch.tensor([[1, 0], [1, 2]]))
    positions = torch.tensor(
        [[0.3, 0, 0], [0, 0, 0], [0, 0.35, 0]], dtype=torch.float64, requires_grad=True
    )
    first, second = terms.ends()
    energy = terms(positions[second] - positions[first])
    assert energy.item() == pytest.approx(15.0)
    energy.backward()
    # the stretched arm pulls back with 8000 0.05 = 400; the angle turns its end with 40 0.5 / 0.35
    # towards larger angles
    assert -positions.grad[2].numpy() == pytest.approx([-20 / 0.35, -400, 0])
    assert -positions.grad.sum(0).numpy() == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("box", [CUBIC, TRICLINIC], ids=["cubic", "triclinic"])
def test_prior_of_training_and_file_equal_the_formula(file, box):
    x = configuration(box)
    expected = written_out(x, box)
    # beads of one molecule in different images
    shifted = x + np.random.default_rng(1).integers(-2, 3, x.shape) @ box
    prior = Prior(MOLECULES, CUTOFF, BEADS.types, BEADS.bonds)
    energy, forces = prior.energy_and_forces(shifted, box, find_pairs(shifted, box, CUTOFF))
    # contact distances are stored in single precision
    assert energy == pytest.approx(expected, rel=1e-6)
    for bead, axis in ((0, 0), (1, 1), (4, 2), (25, 0)):
        step = np.zeros_like(x)
        step[bead, axis] = 1e-5
        slope = (written_out(x + step, box) - written_out(x - step, box)) / 2e-5
        assert forces[bead, axis] == pytest.approx(-slope, rel=1e-4, abs=1e-3)
    # the file without its network: the difference of two files whose networks are the same
    plain = torch.jit.load(str(file))
    plain.set_types(torch.from_numpy(BEADS.types))
    plain.set_bonds(torch.from_numpy(BEADS.bonds))
    at, cell = torch.tensor(shifted), torch.from_numpy(box)
    pairs = find_pairs(x, box, CUTOFF)
    arrays = (torch.from_numpy(array) for array in (pairs.first, pairs.second))
    vectors = torch.from_numpy(x[pairs.second] - x[pairs.first] + pairs.shifts).float()
    learned = (
        TensorNetEnergies(torchmd_network())(torch.from_numpy(BEADS.types), *arrays, vectors)
        .sum()
        .item()
    )
    assert plain(at, cell).item() - learned == pytest.approx(expected, rel=1e-4)


def test_file_needs_bonds(file):
    potential = torch.jit.load(str(file))
    potential.set_types(torch.from_numpy(BEADS.types))
    at = torch.tensor(configuration(CUBIC))
    with pytest.raises(torch.jit.Error, match="call set_bonds after set_types"):
        potential(at, torch.from_numpy(CUBIC))
    with pytest.raises(torch.jit.Error, match="has no such term"):
        potential.set_bonds(torch.tensor([[24, 25]]))
    with pytest.raises(torch.jit.Error, match="rows of two bead indices from 0 to 27"):
        potential.set_bonds(torch.tensor([[0, 28]]))
    potential.set_bonds(torch.from_numpy(BEADS.bonds))
    potential(at, torch.from_numpy(CUBIC))
    potential.set_types(torch.from_numpy(BEADS.types))  # other beads: the bonds are asked for again
    with pytest.raises(torch.jit.Error, match="call set_bonds after set_types"):
        potential(at, torch.from_numpy(CUBIC))


@pytest.mark.parametrize(
    ("engine", "platform", "box"),
    [("fast", "CPU", CUBIC), ("portable", "Reference", None)],
    ids=["fast", "portable"],
)
def test_conformance(file, engine, platform, box):
    """Finite differences, lattice shifts, single molecules and all else that OpenMM needs.

    Three chains and an ion.
    """
    few = [*range(9), 3 * N_CHAINS]
    topology, tolerance = (
        bead_topology_to_openmm(chain_beads(3, 1), box),
        1e-5 if engine == "portable" else 3e-5,
    )
    validate_potential(
        CGPotential(file, engine), topology, configuration(CUBIC)[few], None, [platform], tolerance
    ).raise_if_failed()


def test_topologies_and_fast_file(file, tmp_path):
    """Bonds come with the file: the topology only says which beads are one residue.

    The fast file has them, too.
    """
    topology = bead_topology_to_openmm(BEADS, CUBIC)
    assert [[a.index, b.index] for a, b in topology.bonds()] == BEADS.bonds.tolist()
    described = metadata(prior=MOLECULES.as_dict(), kind="fast")
    arguments = (BEADS.types, configuration(CUBIC), CUBIC, BEADS.bonds)
    fast = write_potential(
        tmp_path / "fast.pt", TensorNetEnergies(torchmd_network()), MOLECULES, described, *arguments
    )
    without = BeadTopology(NAMES, BEADS.types, BEADS.masses, BEADS.molecules)
    energies = []
    cases = [
        (file, "fast", topology),
        (file, "fast", without.to_mdtraj()),
        (fast, "fast", BEADS),
        (file, "portable", topology),
    ]
    for path, engine, beads in cases:
        potential = CGPotential(path, engine)
        system = potential.createSystem(beads, boxVectors=CUBIC)
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
        )
        context.setPositions(configuration(CUBIC))
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies == pytest.approx([energies[0]] * 4, rel=1e-5)
    single = BeadTopology(NAMES, BEADS.types, BEADS.masses, np.arange(len(BEADS.types)))
    with pytest.raises(
        ModelFileError,
        match=(
            r"begins with bead 0 has the beads CHO, the potential knows CHO-EGL-CHO, CL; give every"
        ),
    ):
        CGPotential(file).createSystem(single, boxVectors=CUBIC)


def test_one_bead_molecules_have_no_bonded_terms():
    assert PRIOR.bonded is None
    assert "bonded" not in PRIOR.as_dict()
    assert PriorParameters(**json.loads(json.dumps(MOLECULES.as_dict()))) == PriorParameters(
        list(NAMES), MOLECULES.contact, MOLECULES.force, MOLECULES.p, MOLECULES.distance, BONDED
    )


# --- Boltzmann inversion --------------------------------------------------------------------------


def draw(density, low: float, high: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Samples of an unnormalised density, by its inverse cumulative distribution on a fine grid."""
    grid = np.linspace(low, high, 20001)
    cumulative = np.cumsum(density(grid))
    return np.interp(rng.random(n), cumulative / cumulative[-1], grid)


def sampled_chains(n_frames: int, n_chains: int, box: np.ndarray, seed: int = 3) -> Frames:
    """Chains A-B-C at random places whose bonds and angles follow their own terms at 300 K."""
    rng, energy = np.random.default_rng(seed), GAS_CONSTANT * 300
    n = n_frames * n_chains
    # a soft bond, so that the weight r^2 of the volume element moves the mean by 0.01 nm
    soft = draw(lambda r: r**2 * np.exp(-1500 * (r - 0.30) ** 2 / 2 / energy), 0.01, 0.7, n, rng)
    stiff = draw(lambda r: r**2 * np.exp(-9000 * (r - 0.25) ** 2 / 2 / energy), 0.01, 0.7, n, rng)
    cosine = draw(lambda c: np.exp(-60 * (c + 0.3) ** 2 / 2 / energy), -1, 1, n, rng)
    axis = rng.normal(size=(n, 3))
    axis /= np.linalg.norm(axis, axis=1)[:, None]
    other = np.cross(axis, rng.normal(size=(n, 3)))
    other /= np.linalg.norm(other, axis=1)[:, None]
    middle = rng.random((n, 3)) @ box
    last = middle + stiff[:, None] * (
        cosine[:, None] * axis + np.sqrt(1 - cosine**2)[:, None] * other
    )
    positions = np.stack([middle + soft[:, None] * axis, middle, last], axis=1).reshape(
        n_frames, 3 * n_chains, 3
    )
    fractional = positions @ np.linalg.inv(box)
    # bead by bead, so that faces cut molecules
    positions = (fractional - np.floor(fractional)) @ box
    types, molecules = np.tile([0, 1, 2], n_chains), np.repeat(np.arange(n_chains), 3)
    bonds = np.array([(3 * k + i, 3 * k + i + 1) for k in range(n_chains) for i in (0, 1)])
    beads = BeadTopology(("A", "B", "C"), types, np.ones(3 * n_chains), molecules, bonds=bonds)
    index = np.arange(n_frames)
    forces = rng.normal(size=positions.shape)
    return Frames(
        positions,
        forces,
        np.repeat(box[None], n_frames, 0),
        index.astype(float),
        index,
        beads,
        {"temperature": 300.0},
    )


@pytest.fixture(scope="module")
def chains() -> Frames:
    return sampled_chains(200, 200, 3 * TRICLINIC)


def test_boltzmann_inversion_recovers_the_terms(chains):
    found = fit_bonded(chains)
    assert found.molecules == [{"beads": ["A", "B", "C"], "bonds": [[0, 1], [1, 2]]}]
    assert [term["types"] for term in found.bonds] == [["A", "B"], ["B", "C"]]
    assert [term["types"] for term in found.angles] == [["A", "B", "C"]]
    for term, (constant, length) in zip(found.bonds, ((1500, 0.30), (9000, 0.25)), strict=True):
        # standard error 2e-4; the plain mean of the soft one is 0.0105 higher
        assert term["length"] == pytest.approx(length, abs=1e-3)
        # standard error 0.7 %, more with weights
        assert term["constant"] == pytest.approx(constant, rel=0.04)
    assert found.angles[0]["cosine"] == pytest.approx(-0.3, abs=5e-3)
    assert found.angles[0]["constant"] == pytest.approx(60, rel=0.04)


def test_contact_leaves_out_bonded_neighbors():
    """Chains on the sites of a lattice.

    Contact is the smallest distance between beads of different chains.
    """
    edge, chains = 1.6, sampled_chains(20, 8, 3 * np.eye(3))
    sites = np.stack(np.meshgrid(*3 * [[0, edge / 2]], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    sites = sites + np.random.default_rng(0).uniform(-0.1, 0.1, (20, 8, 1, 3))
    local = chains.positions.reshape(20, 8, 3, 3) - chains.positions.reshape(20, 8, 3, 3)[:, :, 1:2]
    positions = (sites + local - np.round(local / 3) * 3).reshape(20, 24, 3)
    frames = dataclasses.replace(
        chains, positions=positions, box=np.repeat(edge * np.eye(3)[None], 20, 0)
    )
    contact = np.array(fit_prior(frames, PriorConfig()).contact)
    deltas = positions[:, :, None] - positions[:, None]
    distances = np.linalg.norm(deltas - np.round(deltas / edge) * edge, axis=-1)
    types, same = frames.beads.types, frames.beads.molecules[:, None] == frames.beads.molecules
    for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        pairs = (types[:, None] == a) & (types == b)
        assert (
            contact[a, b]
            == contact[b, a]
            == pytest.approx(distances[:, pairs & ~same].min(), abs=0.0051)
        )
    bonded = distances[:, same & (types[:, None] == 0) & (types == 1)]
    assert bonded.min() < contact[0, 1] - 0.02  # bonds are shorter


def test_bonds_survive_the_frames_file(tmp_path, chains):
    few = chains[:3]
    write_frames(few, tmp_path / "frames.h5")
    again = read_frames(tmp_path / "frames.h5")
    assert np.array_equal(again.beads.bonds, few.beads.bonds)
    other = dataclasses.replace(again, beads=dataclasses.replace(again.beads, bonds=None))
    assert other.identity != again.identity  # training depends on them


def test_molecules_without_bonds_are_refused(chains):
    few = chains[:3]
    for bonds, message in (
        (
            np.zeros((0, 2), dtype=int),
            "A-B-C from bead 0 on are not joined by bonds; map the frames again",
        ),
        (np.delete(few.beads.bonds, 3, axis=0), "A-B-C from bead 3 on are not joined"),
        (
            np.concatenate([few.beads.bonds, [[3, 5]]]),
            "Two kinds of molecules have the beads A-B-C but other bonds",
        ),
    ):
        with pytest.raises(FramesError, match=message):
            fit_bonded(dataclasses.replace(few, beads=dataclasses.replace(few.beads, bonds=bonds)))
    still = dataclasses.replace(few, positions=np.repeat(few.positions[:1], 3, 0))
    one = {
        name: getattr(few.beads, name)[:3] for name in ("types", "masses", "molecules", "charges")
    }
    beads = dataclasses.replace(few.beads, **one, bonds=few.beads.bonds[:2])
    with pytest.raises(
        FramesError, match="The bond A-B does not vary in the frames; give more frames"
    ):
        fit_bonded(dataclasses.replace(still, positions=still.positions[:, :3], beads=beads))


def test_bead_bonds():
    """A chain of six atoms.

    Two beads with a bond between, or two end beads with two free atoms on either side of the middle
    bond.
    """
    chain = np.array([(k, k + 1) for k in range(5)])
    assert bead_bonds(np.array([0, 0, 0, 1, 1, 1]), chain).tolist() == [[0, 1]]
    assert bead_bonds(np.array([1, -1, -1, -1, -1, 0]), chain).tolist() == [[0, 1]]
    assert bead_bonds(np.array([0, -1, 1, 1, -1, 2]), chain).tolist() == [[0, 1], [1, 2]]
    assert bead_bonds(np.array([0, 0, 1, 1]), np.array([[0, 1], [2, 3]])).tolist() == []
    assert bead_bonds(np.array([0, 1]), np.zeros((0, 2), dtype=int)).tolist() == []
