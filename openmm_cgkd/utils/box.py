"""Every formula about box vectors, outside of compiled kernels.

A box is a 3 x 3 array whose rows are the box vectors a, b, c in nm. In OpenMM's reduced form, a
along x and b in the xy plane, six of its numbers are not zero: wherever a box is passed as plain
numbers, they come in the order ax, bx, by, cx, cy, cz.
"""

from __future__ import annotations

import numpy as np

from openmm_cgkd.exceptions import BoxError


def box_numbers(rows: list[list[float]]) -> list[float]:
    """The numbers ax, bx, by, cx, cy, cz of box vectors in reduced form; also for TorchScript."""
    a, b, c = rows[0], rows[1], rows[2]
    return [a[0], b[0], b[1], c[0], c[1], c[2]]


def checked_box_numbers(rows: list[list[float]], cutoff: float) -> list[float]:
    """As `box_numbers`, after a check of the form and against the cutoff; also for TorchScript.

    Parameters
    ----------
    rows : list of list of float, shape (3, 3), nm
        Box vectors.
    cutoff : float, nm

    Raises
    ------
    RuntimeError
        If the box is not in reduced form, or its smallest height is below twice the cutoff.
    """
    a, b, c = rows[0], rows[1], rows[2]
    if a[1] != 0.0 or a[2] != 0.0 or b[2] != 0.0:
        raise RuntimeError(
            "Box vectors must be in OpenMM's reduced form: a along x, b in the xy plane."
        )
    volume = a[0] * b[1] * c[2]
    # area of the face spanned by two vectors; height = volume / area
    area_bc = ((b[1] * c[2]) ** 2 + (b[0] * c[2]) ** 2 + (b[0] * c[1] - b[1] * c[0]) ** 2) ** 0.5
    area_ca = ((a[0] * c[2]) ** 2 + (a[0] * c[1]) ** 2) ** 0.5
    height = min(volume / area_bc, min(volume / area_ca, c[2]))
    # OpenMM passes boxes in single precision on some platforms
    if height < 2.0 * cutoff * (1.0 - 1e-6):
        raise RuntimeError(
            f"The smallest box height of {height} nm is below twice the cutoff of {cutoff} nm; use"
            " a larger box."
        )
    return box_numbers(rows)


def kernel_box(rows: list[list[float]]) -> tuple[float, ...]:
    """A box as the CPU kernels take it: the six `box_numbers`, then 1/ax, 1/by, 1/cz.

    Parameters
    ----------
    rows : list of list of float, shape (3, 3) or (0, 3), nm
        Reduced box vectors; empty for open boundaries, which give nine zeros.
    """
    if len(rows) == 0:
        return (0.0,) * 9
    ax, bx, by, cx, cy, cz = box_numbers(rows)
    return ax, bx, by, cx, cy, cz, 1 / ax, 1 / by, 1 / cz


def box_volume(box: np.ndarray) -> np.ndarray:
    """Volumes, shape (...), nm^3, of boxes of shape (..., 3, 3); negative if left-handed."""
    return np.linalg.det(box)


def lattice_coordinates(vectors: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Vectors (..., 3), nm, as multiples of the three vectors of a box (3, 3) or of one box each.

    Parameters
    ----------
    vectors : ndarray, shape (..., 3), nm
    box : ndarray, shape (3, 3), nm, or (n, 3, 3) for vectors of shape (n, m, 3)
    """
    return vectors @ np.linalg.inv(box)


def nearest_images(vectors: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Nearest periodic images of difference vectors; arguments as `lattice_coordinates`.

    Right for all distances up to half the smallest box height.
    """
    return vectors - np.round(lattice_coordinates(vectors, box)) @ box


def shifts_into_box(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What moves positions into the box, nm; arguments as `lattice_coordinates`."""
    return -np.floor(lattice_coordinates(positions, box)) @ box


def box_heights(box: np.ndarray) -> np.ndarray:
    """Distances between opposite faces, shape (..., 3), nm, of boxes of shape (..., 3, 3)."""
    return 1.0 / np.linalg.norm(np.linalg.inv(box), axis=-2)


def smallest_height(box: np.ndarray) -> float:
    """Smallest distance between opposite faces of boxes of shape (..., 3, 3), nm."""
    return box_heights(box).min()


def reduced_box(box: np.ndarray) -> np.ndarray:
    """The same lattice with the smallest off-diagonal numbers, which OpenMM wants.

    Parameters
    ----------
    box : ndarray, shape (3, 3), nm
        Box vectors as rows, a along x and b in the xy plane.

    Raises
    ------
    BoxError
        If the vectors are not of this form.
    """
    if box.shape != (3, 3) or np.triu(box, 1).any() or not (np.diag(box) > 0).all():
        raise BoxError(
            f"Box vectors {box.tolist()} nm are not in OpenMM's form; put a along x and b in the xy"
            " plane, as MDTraj does."
        )
    a, b, c = box
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.array([a, b, c])


def largest_r_max(boxes: np.ndarray) -> float:
    """Half the smallest height of boxes (..., 3, 3), rounded down to 0.001 nm."""
    return float(np.floor(500 * smallest_height(boxes) - 1e-6) / 1000)
