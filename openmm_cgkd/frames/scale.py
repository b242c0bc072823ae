"""Whether positions and a box are in nm.

Beads of a liquid keep a distance from each other, and leave little room. Lengths in another unit
show in both: apart from a factor of ten everything looks as it should.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.utils.box import box_volume, lattice_coordinates, shifts_into_box

logger = logging.getLogger(__name__)

_FEWEST = 8  # beads; fewer say nothing
_SAMPLED = 5000  # beads whose neighbors are looked at
# multiples of the shortest distance that beads keep
_OVERLAP = 0.5
_NEAREST = 0.7, 2.5  # to the nearest bead in a liquid, median
_FAR = 4.0  # such a median has no liquid
# number density times the cube of that distance
_FILL = 0.05, 2.0
_EMPTY = 0.25  # of the mean density: less than a liquid has anywhere
_THIN = 0.02  # below it a box may be far too large
# relative standard deviation of the distances to the nearest bead: 0.06 in liquids, more in gases;
# below this the beads were put on a lattice, whose distances tell nothing of their unit
_LATTICE = 0.02
# share of beads in an overlap
_SOUND, _DOUBTFUL = 0.01, 0.05
# factors for positions and box, what is wrong, and the cure
_MISTAKES = (
    (0.1, 0.1, "positions and box look as if they were in angstrom", "divide both by 10"),
    (0.1, 1, "positions look as if they were in angstrom", "divide them by 10, not the box"),
    (1, 0.1, "the box looks as if it were in angstrom", "divide it by 10, not the positions"),
    (10, 10, "positions and box look ten times too small", "multiply both by 10"),
    (10, 1, "positions look ten times too small", "multiply them by 10, not the box"),
    (1, 10, "the box looks ten times too small", "multiply it by 10, not the positions"),
)


def nearest_distances(positions: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """Distance from some beads to the bead nearest to each, shape (at most 5000,), nm.

    Distances far above the mean one between beads may be larger than they are.

    Parameters
    ----------
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, optional
        Without it there are no periodic images.
    """
    positions = np.asarray(positions, dtype=float)
    others = positions
    if box is not None:
        positions = positions + shifts_into_box(positions, box)
        reach = (
            2
            * (box_volume(box) / len(positions)) ** (1 / 3)
            * np.linalg.norm(np.linalg.inv(box), axis=0)
        )
        cells = np.stack(np.meshgrid(*3 * [[-1, 0, 1]], indexing="ij"), axis=-1).reshape(-1, 3)
        own = lattice_coordinates(positions, box)
        near = [
            positions[((own + c > -reach) & (own + c < 1 + reach)).all(axis=1)] + c @ box
            for c in cells
        ]
        others = np.concatenate(near)
    every = max(1, len(positions) // _SAMPLED)
    return cKDTree(others).query(positions[::every], k=2)[0][:, 1]


def unit_mistake(
    positions: np.ndarray, box: np.ndarray | None, shortest: float
) -> tuple[str, str] | None:
    """What is wrong with the unit of a configuration of a liquid, and the cure; None if nothing is.

    Something is wrong only where one factor of ten makes a liquid of what is none. A thin gas on a
    lattice looks like a lattice in angstrom, so there is only a warning; other gases have no
    distances that would be those of a liquid.

    Parameters
    ----------
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    shortest : float, nm
        About the shortest distance that beads keep.
    """
    if len(positions) < _FEWEST or not np.isfinite(positions).all():
        return None
    overlaps, median, fill, spread = _look(positions, box, shortest)
    if overlaps <= _DOUBTFUL and median < _FAR and fill > _THIN:
        return None
    for scale, box_scale, mistake, cure in _MISTAKES:
        if box is None and scale != box_scale:
            continue
        right = None if box is None else box_scale * box
        found, nearest, filled, _ = _look(scale * positions, right, shortest)
        if (
            found <= _SOUND
            and _NEAREST[0] <= nearest <= _NEAREST[1]
            and (box is None or _FILL[0] <= filled <= _FILL[1])
            and (right is None or scale == box_scale or _is_full(scale * positions, right))
        ):
            mistake = mistake if box is not None else mistake.replace(" and box", "")
            cure = cure if box is not None else cure.replace("both", "them")
            numbers = (
                f"half of the beads have their nearest at {median * shortest:.2g} nm or more, then"
                f" at {nearest * shortest:.2g} nm, and beads keep about {shortest:.2g} nm"
            )
            if scale == box_scale < 1 and spread < _LATTICE:
                logger.warning(
                    "A thin gas on a lattice, or %s: %s; if it is no gas, %s.",
                    mistake,
                    numbers,
                    cure,
                )
                return None
            return f"{mistake} ({numbers})", cure
    return None


def check_scale(
    path: Path,
    positions: np.ndarray,
    box: np.ndarray,
    like: np.ndarray,
    like_box: np.ndarray,
) -> None:
    """Refuse a configuration in another unit than one of the same liquid.

    Parameters
    ----------
    path : path
        Where the configuration is from, for the message.
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm
    like : ndarray, shape (n_beads, 3), nm
        Of the all-atom frames.
    like_box : ndarray, shape (3, 3), nm

    Raises
    ------
    FramesError
    """
    if found := unit_mistake(positions, box, shortest_distance(like, like_box)):
        raise FramesError(
            f"{path}: {found[0]}, as the all-atom frames show; {found[1]}, by writing the"
            " trajectory again with its true unit."
        )


def _look(
    positions: np.ndarray, box: np.ndarray | None, shortest: float
) -> tuple[float, float, float, float]:
    """Share of overlapping beads; median nearest distance over `shortest`; how full; spread."""
    nearest = nearest_distances(positions, box) / shortest
    fill = np.inf if box is None else len(positions) * shortest**3 / abs(box_volume(box))
    spread = float(nearest.std() / nearest.mean()) if nearest.any() else 0.0
    return float((nearest < _OVERLAP).mean()), float(np.median(nearest)), float(fill), spread


def _is_full(positions: np.ndarray, box: np.ndarray) -> bool:
    """Whether every part of a box has beads: a drop in a large box is no mistake."""
    edge = max(2, int((len(positions) / 4) ** (1 / 3)))
    inside = lattice_coordinates(positions + shifts_into_box(positions, box), box)
    cells = np.clip(inside * edge, 0, edge - 1).astype(int) @ [edge**2, edge, 1]
    return np.bincount(cells, minlength=edge**3).min() >= _EMPTY * len(positions) / edge**3


def shortest_distance(positions: np.ndarray, box: np.ndarray | None = None) -> float:
    """About the shortest distance that beads keep, nm: that of the closest hundredth of them."""
    return float(np.quantile(nearest_distances(positions, box), 0.01))
