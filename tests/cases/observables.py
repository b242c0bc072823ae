"""Configurations with known structure, and the vectors to the neighbours in one by brute force."""

import numpy as np

from openmm_cgkd.analysis.observables.neighbors import Frame

TRICLINIC = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.5, 0.6, 2.1]])
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def ideal_gas(
    n_frames: int, counts: dict[str, int], box: np.ndarray = TRICLINIC, seed: int = 1
) -> list[Frame]:
    """Independent uniform points, several boxes away from the origin."""
    names = np.repeat(list(counts), list(counts.values()))
    fractions = np.random.default_rng(seed).uniform(-2, 3, (n_frames, len(names), 3))
    return [Frame(points @ box, box, names) for points in fractions]


def lattice(basis: list, cells: int = 4, constant: float = 0.5) -> Frame:
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3), axis=-1).reshape(-1, 1, 3)
    positions = constant * (grid + np.array(basis)).reshape(-1, 3)
    return Frame(positions, constant * cells * np.eye(3), np.array(["X"] * len(positions)))


def arms(frame: Frame, cutoff: float) -> list[tuple[int, int, np.ndarray]]:
    """All (bead, neighbour, vector), by trying 27 images of beads in the box."""
    images = (
        np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
        @ frame.box
    )
    inside = frame.positions - np.floor(frame.positions @ np.linalg.inv(frame.box)) @ frame.box
    found = []
    for i, x in enumerate(inside):
        for j, y in enumerate(inside):
            found += [(i, j, v) for v in y - x + images if i != j and np.linalg.norm(v) < cutoff]
    return found


def angle(v: np.ndarray, w: np.ndarray) -> float:
    return float(
        np.degrees(np.arccos(np.clip(v @ w / np.linalg.norm(v) / np.linalg.norm(w), -1, 1)))
    )
