"""Functions of distance from a table: quintic B-splines on an even grid.

They are four times differentiable, and linear in the table.

Radial networks are then evaluated at a few hundred distances instead of at every pair, with
derivatives to spare.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

DEGREE = 5
_INTERVALS = 16  # per spacing of radial functions; the error falls with the sixth power, 1e-7 here
# quasi-interpolation of order six (de Boor, A Practical Guide to Splines): coefficients from values
# at five points around
_STENCIL = (13 / 240, -7 / 15, 73 / 40, -7 / 15, 13 / 240)
_BEYOND = 4  # points that the splines of the first and of the last interval need outside


def grid_spacing(cutoff: float, n_radial: int) -> float:
    """Spacing of the grid, nm, for radial functions evenly between zero and the cutoff."""
    return cutoff / (_INTERVALS * max(4, n_radial - 1))


def grid(cutoff: float, spacing: float) -> Tensor:
    """Distances whose function values make a table, nm, in double precision.

    Some are below zero and beyond the cutoff.
    """
    intervals = round(cutoff / spacing)
    return torch.arange(-_BEYOND, intervals + _BEYOND + 1, dtype=torch.float64) * spacing


def table(values: Tensor) -> Tensor:
    """Coefficients of splines through values on `grid`, both along the first axis.

    There are four fewer than values.
    """
    n = len(values) - len(_STENCIL) + 1
    terms = [weight * values[k : k + n] for k, weight in enumerate(_STENCIL)]
    return torch.stack(terms).sum(0)


@cache
def basis(order: int, spacing: float, dtype: str) -> np.ndarray:
    """Polynomials of the splines over one interval.

    Parameters
    ----------
    order : int
        Of the derivative.
    spacing : float, nm
    dtype : str

    Returns
    -------
    ndarray, shape (6, 6), nm**-order
        Row k: coefficients of the k-th spline that reaches into the interval, by powers of t = 0
        ... 1, where

            f(d) = sum over k of spline_k(t) table[interval + k].
    """
    pieces = [Polynomial([1.0])]  # of the cardinal spline of rising degree, by unit intervals
    for n in range(1, DEGREE + 1):
        lower, upper = [*pieces, Polynomial([0.0])], [Polynomial([0.0]), *pieces]
        pieces = [
            (Polynomial([s, 1.0]) * lower[s] + Polynomial([n + 1 - s, -1.0]) * upper[s]) / n
            for s in range(n + 1)
        ]
    coefficients = np.zeros((DEGREE + 1, DEGREE + 1))
    for row, piece in enumerate(reversed(pieces)):
        found = piece.deriv(order).coef if order else piece.coef
        coefficients[row, : len(found)] = found
    return (coefficients / spacing**order).astype(dtype)
