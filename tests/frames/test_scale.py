"""Positions or boxes in another unit, told from liquids, gases and drops that are in nm."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.frames.scale import nearest_distances, shortest_distance, unit_mistake
from tests.cases.fluids import ETHALINE
from tests.cases.potential import TRICLINIC

SHORTEST = 0.34  # nm, of ethaline


@pytest.fixture(scope="module")
def liquid() -> tuple[np.ndarray, np.ndarray]:
    frames = read_frames(ETHALINE / "frames.h5")[-1:]
    return frames.positions[0].astype(float), frames.box[0]


@pytest.mark.parametrize("box", [None, TRICLINIC])
def test_nearest_distances_are_those_of_all_images(box):
    positions = np.random.default_rng(0).uniform(-3, 5, (60, 3))
    cells = np.stack(np.meshgrid(*3 * [np.arange(-5, 6)], indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = np.zeros((1, 3)) if box is None else cells @ box
    every = np.min([cdist(positions, positions + shift) + 9 * (shift == 0).all() * np.eye(60)
                    for shift in shifts], axis=0)  # fmt: skip
    np.testing.assert_allclose(nearest_distances(positions, box), every.min(axis=1), atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "box_scale", "mistake", "cure"),
    [
        (10, 10, "positions and box look as if they were in angstrom", "divide both by 10"),
        (10, 1, "positions look as if they were in angstrom", "divide them by 10, not the box"),
        (1, 10, "the box looks as if it were in angstrom", "divide it by 10, not the positions"),
        (0.1, 0.1, "positions and box look ten times too small", "multiply both by 10"),
        (0.1, 1, "positions look ten times too small", "multiply them by 10, not the box"),
        (1, 0.1, "the box looks ten times too small", "multiply it by 10, not the positions"),
    ],
)
def test_a_wrong_unit_is_named(liquid, scale, box_scale, mistake, cure):
    positions, box = liquid
    found = unit_mistake(scale * positions, box_scale * box, SHORTEST)
    assert found is not None
    assert found[0].startswith(mistake)
    assert found[1] == cure


def test_without_a_box(liquid):
    positions, _ = liquid
    found = unit_mistake(10 * positions, None, SHORTEST)
    assert found is not None
    assert found[0].startswith("positions look as if they were in angstrom")
    assert unit_mistake(positions, None, SHORTEST) is None


def test_what_is_in_nm_passes(liquid):
    positions, box = liquid
    rng = np.random.default_rng(1)
    assert unit_mistake(positions, box, SHORTEST) is None
    assert shortest_distance(positions, box) == pytest.approx(SHORTEST, abs=0.01)
    gas = rng.uniform(0, 40, (400, 3))
    assert unit_mistake(gas, 40 * np.eye(3), SHORTEST) is None
    crowd = rng.uniform(0, 3, (400, 3))  # overlaps, but in no unit a liquid
    assert unit_mistake(crowd, 3 * np.eye(3), SHORTEST) is None
    inside = (positions / np.diag(box)) % 1 * np.diag(box)
    drop = inside[np.linalg.norm(inside - np.diag(box) / 2, axis=1) < box[0, 0] / 2]
    assert len(drop) > 100
    assert unit_mistake(drop, 10 * box, SHORTEST) is None  # with vapor around it
    assert unit_mistake(10 * drop[:2], box, SHORTEST) is None  # two beads say nothing


def lattice(spacing: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    cells = np.stack(np.meshgrid(*3 * [np.arange(6.0)], indexing="ij"), axis=-1).reshape(-1, 3)
    basis = {"cubic": [[0, 0, 0]], "bcc": [[0, 0, 0], [0.5, 0.5, 0.5]]}[kind]
    edge = spacing / {"cubic": 1, "bcc": 0.75**0.5}[kind]
    return edge * np.concatenate([cells + each for each in basis]), 6 * edge * np.eye(3)


@pytest.mark.parametrize("kind", ["cubic", "bcc"])
@pytest.mark.parametrize("times", [1.1, 5, 11, 24, 60])
@pytest.mark.parametrize("has_box", [True, False])
def test_gas_on_a_lattice(caplog, kind, times, has_box):
    """However thin; where it could also be a dense lattice in angstrom, there is a warning."""
    positions, box = lattice(times * SHORTEST, kind)
    assert unit_mistake(positions, box if has_box else None, SHORTEST) is None
    doubtful = times in (11, 24)
    assert ("thin gas on a lattice, or positions" in caplog.text) == doubtful


def test_thin_gas_from_anywhere():
    """Random positions have neighbors that a liquid ten times as dense has not."""
    rng = np.random.default_rng(2)
    for edge in (20, 40, 80):
        gas = rng.uniform(0, edge, (500, 3))
        assert unit_mistake(gas, edge * np.eye(3), SHORTEST) is None


def test_lattice_in_a_box_in_angstrom():
    """The positions are those of a dense lattice, so that is no gas."""
    positions, box = lattice(1.2 * SHORTEST, "cubic")
    found = unit_mistake(positions, 10 * box, SHORTEST)
    assert found is not None
    assert found[0].startswith("the box looks as if it were in angstrom")
