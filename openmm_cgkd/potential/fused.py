"""Message passing for simulation: loops over edges with radial filters from tables, and loops over beads.

Features have shape (9, n_beads, channels), components as in `tensornet`. Loops run in parallel over beads; every bead
sums over its own neighbours, so no two threads write to the same place and results do not depend on the number of
threads. Nothing per edge and channel is stored. Filters are cubic polynomials on an even grid in r, smooth to the first derivative;
forces take the derivatives of these polynomials, so interpolation does not harm energy conservation.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_parallel = numba.njit(fastmath=True, cache=True, nogil=True, parallel=True, error_model="numpy")
_serial = numba.njit(fastmath=True, cache=True, nogil=True, error_model="numpy")

_SQRT2, _SQRT3, _SQRT6 = math.sqrt(2.0), math.sqrt(3.0), math.sqrt(6.0)


@_serial
def _locate(r, spacing, n):
    """Interval of r, and its place in it from 0 to 1."""
    k = min(int(r / spacing), n - 1)
    return k, r / spacing - k


@_serial
def _shape(x, y, z, out):
    """Components of identity, skew matrix and traceless outer product of a unit vector, as `TensorNetEnergies._shape`."""
    out[0] = _SQRT3
    out[1], out[2], out[3] = _SQRT2 * x, _SQRT2 * y, _SQRT2 * z
    out[4], out[5], out[6] = _SQRT2 * x * y, _SQRT2 * x * z, _SQRT2 * y * z
    out[7] = (x * x - y * y) / _SQRT2
    out[8] = (2 * z * z - x * x - y * y) / _SQRT6


@_parallel
def embed(row, column, vectors, types, pair, table, spacing, out):
    n, channels = table.shape[0], pair.shape[2]
    for i in numba.prange(row.shape[0] - 1):
        g = np.empty(9, table.dtype)
        for e in range(row[i], row[i + 1]):
            x, y, z = -vectors[e, 0], -vectors[e, 1], -vectors[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            k, t = _locate(r, spacing, n)
            _shape(x / r, y / r, z / r, g)
            a, b = types[i], types[column[e]]
            for f in range(channels):
                z0 = pair[a, b, f]
                r0 = (table[k, 0, 0, f] + t * (table[k, 1, 0, f] + t * (table[k, 2, 0, f] + t * table[k, 3, 0, f]))) * z0
                r1 = (table[k, 0, 1, f] + t * (table[k, 1, 1, f] + t * (table[k, 2, 1, f] + t * table[k, 3, 1, f]))) * z0
                r2 = (table[k, 0, 2, f] + t * (table[k, 1, 2, f] + t * (table[k, 2, 2, f] + t * table[k, 3, 2, f]))) * z0
                out[0, i, f] += g[0] * r0
                out[1, i, f] += g[1] * r1
                out[2, i, f] += g[2] * r1
                out[3, i, f] += g[3] * r1
                out[4, i, f] += g[4] * r2
                out[5, i, f] += g[5] * r2
                out[6, i, f] += g[6] * r2
                out[7, i, f] += g[7] * r2
                out[8, i, f] += g[8] * r2


@_parallel
def embed_backward(row, column, vectors, types, pair, table, spacing, gradient, out):
    n, channels = table.shape[0], pair.shape[2]
    for i in numba.prange(row.shape[0] - 1):
        g = np.empty(9, table.dtype)
        for e in range(row[i], row[i + 1]):
            x, y, z = -vectors[e, 0], -vectors[e, 1], -vectors[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            k, t = _locate(r, spacing, n)
            x, y, z = x / r, y / r, z / r
            _shape(x, y, z, g)
            a, b = types[i], types[column[e]]
            zero = table.dtype.type(0)
            radial, s1, s2, s3, s4, s5, s6, s7, s8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
            for f in range(channels):
                z0 = pair[a, b, f]
                r1 = (table[k, 0, 1, f] + t * (table[k, 1, 1, f] + t * (table[k, 2, 1, f] + t * table[k, 3, 1, f]))) * z0
                r2 = (table[k, 0, 2, f] + t * (table[k, 1, 2, f] + t * (table[k, 2, 2, f] + t * table[k, 3, 2, f]))) * z0
                d0 = table[k, 1, 0, f] + t * (2 * table[k, 2, 0, f] + t * (3 * table[k, 3, 0, f]))
                d1 = table[k, 1, 1, f] + t * (2 * table[k, 2, 1, f] + t * (3 * table[k, 3, 1, f]))
                d2 = table[k, 1, 2, f] + t * (2 * table[k, 2, 2, f] + t * (3 * table[k, 3, 2, f]))
                g1, g2, g3 = gradient[1, i, f], gradient[2, i, f], gradient[3, i, f]
                g4, g5, g6 = gradient[4, i, f], gradient[5, i, f], gradient[6, i, f]
                g7, g8 = gradient[7, i, f], gradient[8, i, f]
                radial += z0 * (
                    d0 * g[0] * gradient[0, i, f]
                    + d1 * (g[1] * g1 + g[2] * g2 + g[3] * g3)
                    + d2 * (g[4] * g4 + g[5] * g5 + g[6] * g6 + g[7] * g7 + g[8] * g8)
                )
                s1 += r1 * g1
                s2 += r1 * g2
                s3 += r1 * g3
                s4 += r2 * g4
                s5 += r2 * g5
                s6 += r2 * g6
                s7 += r2 * g7
                s8 += r2 * g8
            ux = _SQRT2 * (s1 + y * s4 + z * s5 + x * s7) - 2 * x * s8 / _SQRT6
            uy = _SQRT2 * (s2 + x * s4 + z * s6 - y * s7) - 2 * y * s8 / _SQRT6
            uz = _SQRT2 * (s3 + x * s5 + y * s6) + 4 * z * s8 / _SQRT6
            radial /= spacing  # slopes above are per interval
            along = x * ux + y * uy + z * uz
            # the shape is that of the reversed vector, hence the signs
            out[e, 0] -= radial * x + (ux - along * x) / r
            out[e, 1] -= radial * y + (uy - along * y) / r
            out[e, 2] -= radial * z + (uz - along * z) / r


@_parallel
def mix(row, column, vectors, table, spacing, features, out):
    n, channels = table.shape[0], features.shape[2]
    for i in numba.prange(row.shape[0] - 1):
        for e in range(row[i], row[i + 1]):
            x, y, z = vectors[e, 0], vectors[e, 1], vectors[e, 2]
            k, t = _locate(math.sqrt(x * x + y * y + z * z), spacing, n)
            j = column[e]
            for f in range(channels):
                r0 = table[k, 0, 0, f] + t * (table[k, 1, 0, f] + t * (table[k, 2, 0, f] + t * table[k, 3, 0, f]))
                r1 = table[k, 0, 1, f] + t * (table[k, 1, 1, f] + t * (table[k, 2, 1, f] + t * table[k, 3, 1, f]))
                r2 = table[k, 0, 2, f] + t * (table[k, 1, 2, f] + t * (table[k, 2, 2, f] + t * table[k, 3, 2, f]))
                out[0, i, f] += r0 * features[0, j, f]
                out[1, i, f] += r1 * features[1, j, f]
                out[2, i, f] += r1 * features[2, j, f]
                out[3, i, f] += r1 * features[3, j, f]
                out[4, i, f] += r2 * features[4, j, f]
                out[5, i, f] += r2 * features[5, j, f]
                out[6, i, f] += r2 * features[6, j, f]
                out[7, i, f] += r2 * features[7, j, f]
                out[8, i, f] += r2 * features[8, j, f]


@_parallel
def mix_backward(row, column, vectors, table, spacing, features, gradient, d_features, d_vectors):
    n, channels = table.shape[0], features.shape[2]
    for i in numba.prange(row.shape[0] - 1):
        for e in range(row[i], row[i + 1]):
            x, y, z = vectors[e, 0], vectors[e, 1], vectors[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            k, t = _locate(r, spacing, n)
            j = column[e]
            radial = table.dtype.type(0)
            for f in range(channels):
                r0 = table[k, 0, 0, f] + t * (table[k, 1, 0, f] + t * (table[k, 2, 0, f] + t * table[k, 3, 0, f]))
                r1 = table[k, 0, 1, f] + t * (table[k, 1, 1, f] + t * (table[k, 2, 1, f] + t * table[k, 3, 1, f]))
                r2 = table[k, 0, 2, f] + t * (table[k, 1, 2, f] + t * (table[k, 2, 2, f] + t * table[k, 3, 2, f]))
                d0 = table[k, 1, 0, f] + t * (2 * table[k, 2, 0, f] + t * (3 * table[k, 3, 0, f]))
                d1 = table[k, 1, 1, f] + t * (2 * table[k, 2, 1, f] + t * (3 * table[k, 3, 1, f]))
                d2 = table[k, 1, 2, f] + t * (2 * table[k, 2, 2, f] + t * (3 * table[k, 3, 2, f]))
                g0, g1, g2, g3 = gradient[0, j, f], gradient[1, j, f], gradient[2, j, f], gradient[3, j, f]
                g4, g5, g6, g7, g8 = gradient[4, j, f], gradient[5, j, f], gradient[6, j, f], gradient[7, j, f], gradient[8, j, f]
                d_features[0, i, f] += r0 * g0
                d_features[1, i, f] += r1 * g1
                d_features[2, i, f] += r1 * g2
                d_features[3, i, f] += r1 * g3
                d_features[4, i, f] += r2 * g4
                d_features[5, i, f] += r2 * g5
                d_features[6, i, f] += r2 * g6
                d_features[7, i, f] += r2 * g7
                d_features[8, i, f] += r2 * g8
                # the edge j <- i has the same length, so its share is booked here, where the gradient of j is at hand
                radial += (
                    d0 * features[0, i, f] * g0
                    + d1 * (features[1, i, f] * g1 + features[2, i, f] * g2 + features[3, i, f] * g3)
                    + d2
                    * (
                        features[4, i, f] * g4
                        + features[5, i, f] * g5
                        + features[6, i, f] * g6
                        + features[7, i, f] * g7
                        + features[8, i, f] * g8
                    )
                )
            radial /= spacing * r  # slopes above are per interval
            d_vectors[e, 0] += radial * x
            d_vectors[e, 1] += radial * y
            d_vectors[e, 2] += radial * z


@_serial
def _matrix(x):
    """3x3 matrix, row by row, of nine components."""
    x0, x1, x2, x3, x4, x5, x6, x7, x8 = x
    trace, diagonal, axial = x0 / _SQRT3, x7 / _SQRT2, x8 / _SQRT6
    return (
        trace + diagonal - axial,
        (x4 - x3) / _SQRT2,
        (x5 + x2) / _SQRT2,
        (x4 + x3) / _SQRT2,
        trace - diagonal - axial,
        (x6 - x1) / _SQRT2,
        (x5 - x2) / _SQRT2,
        (x6 + x1) / _SQRT2,
        trace + 2 * axial,
    )


@_serial
def _components(m):
    """Nine components of a 3x3 matrix; inverse and transpose of `_matrix`."""
    return (
        (m[0] + m[4] + m[8]) / _SQRT3,
        (m[7] - m[5]) / _SQRT2,
        (m[2] - m[6]) / _SQRT2,
        (m[3] - m[1]) / _SQRT2,
        (m[1] + m[3]) / _SQRT2,
        (m[2] + m[6]) / _SQRT2,
        (m[5] + m[7]) / _SQRT2,
        (m[0] - m[4]) / _SQRT2,
        (2 * m[8] - m[0] - m[4]) / _SQRT6,
    )


@_serial
def _anticommutator(a, b):
    """AB + BA."""
    return (
        2 * a[0] * b[0] + a[1] * b[3] + a[2] * b[6] + b[1] * a[3] + b[2] * a[6],
        a[0] * b[1] + a[1] * b[4] + a[2] * b[7] + b[0] * a[1] + b[1] * a[4] + b[2] * a[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8] + b[0] * a[2] + b[1] * a[5] + b[2] * a[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6] + b[3] * a[0] + b[4] * a[3] + b[5] * a[6],
        a[3] * b[1] + 2 * a[4] * b[4] + a[5] * b[7] + b[3] * a[1] + b[5] * a[7],
        a[3] * b[2] + a[4] * b[5] + a[5] * b[8] + b[3] * a[2] + b[4] * a[5] + b[5] * a[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6] + b[6] * a[0] + b[7] * a[3] + b[8] * a[6],
        a[6] * b[1] + a[7] * b[4] + a[8] * b[7] + b[6] * a[1] + b[7] * a[4] + b[8] * a[7],
        a[6] * b[2] + a[7] * b[5] + 2 * a[8] * b[8] + b[6] * a[2] + b[7] * a[5],
    )


@_serial
def _transpose(m):
    return m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]


@_serial
def _load(x, i, f):
    return x[0, i, f], x[1, i, f], x[2, i, f], x[3, i, f], x[4, i, f], x[5, i, f], x[6, i, f], x[7, i, f], x[8, i, f]


@_serial
def _dot(a, b):
    return (
        a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + a[4] * b[4] + a[5] * b[5] + a[6] * b[6] + a[7] * b[7] + a[8] * b[8]
    )


@_parallel
def normalise(x, out):
    """x / (|x|^2 + 1) for each bead and channel."""
    for i in numba.prange(x.shape[1]):
        for f in range(x.shape[2]):
            a = _load(x, i, f)
            scale = 1 / (_dot(a, a) + 1)
            out[0, i, f] = a[0] * scale
            out[1, i, f] = a[1] * scale
            out[2, i, f] = a[2] * scale
            out[3, i, f] = a[3] * scale
            out[4, i, f] = a[4] * scale
            out[5, i, f] = a[5] * scale
            out[6, i, f] = a[6] * scale
            out[7, i, f] = a[7] * scale
            out[8, i, f] = a[8] * scale


@_parallel
def normalise_backward(x, gradient):
    """Replace the gradient of `normalise`'s result by that of x."""
    for i in numba.prange(x.shape[1]):
        for f in range(x.shape[2]):
            a, g = _load(x, i, f), _load(gradient, i, f)
            scale = 1 / (_dot(a, a) + 1)
            along = 2 * _dot(a, g) * scale * scale
            gradient[0, i, f] = g[0] * scale - along * a[0]
            gradient[1, i, f] = g[1] * scale - along * a[1]
            gradient[2, i, f] = g[2] * scale - along * a[2]
            gradient[3, i, f] = g[3] * scale - along * a[3]
            gradient[4, i, f] = g[4] * scale - along * a[4]
            gradient[5, i, f] = g[5] * scale - along * a[5]
            gradient[6, i, f] = g[6] * scale - along * a[6]
            gradient[7, i, f] = g[7] * scale - along * a[7]
            gradient[8, i, f] = g[8] * scale - along * a[8]


@_parallel
def product(left, right, out):
    """C / (|C|^2 + 1) with C = LR + RL, as matrices."""
    for i in numba.prange(left.shape[1]):
        for f in range(left.shape[2]):
            c_ = _components(_anticommutator(_matrix(_load(left, i, f)), _matrix(_load(right, i, f))))
            scale = 1 / (_dot(c_, c_) + 1)
            out[0, i, f] = c_[0] * scale
            out[1, i, f] = c_[1] * scale
            out[2, i, f] = c_[2] * scale
            out[3, i, f] = c_[3] * scale
            out[4, i, f] = c_[4] * scale
            out[5, i, f] = c_[5] * scale
            out[6, i, f] = c_[6] * scale
            out[7, i, f] = c_[7] * scale
            out[8, i, f] = c_[8] * scale


@_parallel
def product_backward(left, right, gradient, d_left, d_right):
    """Gradients of `product` with respect to both factors."""
    for i in numba.prange(left.shape[1]):
        for f in range(left.shape[2]):
            a, b = _matrix(_load(left, i, f)), _matrix(_load(right, i, f))
            c_, g = _components(_anticommutator(a, b)), _load(gradient, i, f)
            scale = 1 / (_dot(c_, c_) + 1)
            along = 2 * _dot(c_, g) * scale * scale
            inner = _matrix((
                g[0] * scale - along * c_[0],
                g[1] * scale - along * c_[1],
                g[2] * scale - along * c_[2],
                g[3] * scale - along * c_[3],
                g[4] * scale - along * c_[4],
                g[5] * scale - along * c_[5],
                g[6] * scale - along * c_[6],
                g[7] * scale - along * c_[7],
                g[8] * scale - along * c_[8],
            ))
            da = _components(_anticommutator(inner, _transpose(b)))
            db = _components(_anticommutator(inner, _transpose(a)))
            d_left[0, i, f] = da[0]
            d_right[0, i, f] = db[0]
            d_left[1, i, f] = da[1]
            d_right[1, i, f] = db[1]
            d_left[2, i, f] = da[2]
            d_right[2, i, f] = db[2]
            d_left[3, i, f] = da[3]
            d_right[3, i, f] = db[3]
            d_left[4, i, f] = da[4]
            d_right[4, i, f] = db[4]
            d_left[5, i, f] = da[5]
            d_right[5, i, f] = db[5]
            d_left[6, i, f] = da[6]
            d_right[6, i, f] = db[6]
            d_left[7, i, f] = da[7]
            d_right[7, i, f] = db[7]
            d_left[8, i, f] = da[8]
            d_right[8, i, f] = db[8]


@_parallel
def add_update(x, update):
    """x += U + UU, as matrices."""
    for i in numba.prange(x.shape[1]):
        for f in range(x.shape[2]):
            u = _load(update, i, f)
            m = _matrix(u)
            square = _components(_anticommutator(m, m))
            x[0, i, f] += u[0] + square[0] / 2
            x[1, i, f] += u[1] + square[1] / 2
            x[2, i, f] += u[2] + square[2] / 2
            x[3, i, f] += u[3] + square[3] / 2
            x[4, i, f] += u[4] + square[4] / 2
            x[5, i, f] += u[5] + square[5] / 2
            x[6, i, f] += u[6] + square[6] / 2
            x[7, i, f] += u[7] + square[7] / 2
            x[8, i, f] += u[8] + square[8] / 2


@_parallel
def add_update_backward(update, gradient, out):
    """Gradient of the update in `add_update`."""
    for i in numba.prange(update.shape[1]):
        for f in range(update.shape[2]):
            m, g = _matrix(_load(update, i, f)), _load(gradient, i, f)
            inner = _components(_anticommutator(_matrix(g), _transpose(m)))
            out[0, i, f] = g[0] + inner[0]
            out[1, i, f] = g[1] + inner[1]
            out[2, i, f] = g[2] + inner[2]
            out[3, i, f] = g[3] + inner[3]
            out[4, i, f] = g[4] + inner[4]
            out[5, i, f] = g[5] + inner[5]
            out[6, i, f] = g[6] + inner[6]
            out[7, i, f] = g[7] + inner[7]
            out[8, i, f] = g[8] + inner[8]


@_parallel
def repulsion(row, column, vectors, types, contact, height, steepness, energies, gradient):
    """Half of U(r) = height exp(steepness (contact - r)) to either bead, and the gradient with respect to the vectors."""
    for i in numba.prange(row.shape[0] - 1):
        for e in range(row[i], row[i + 1]):
            x, y, z = vectors[e, 0], vectors[e, 1], vectors[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            half = 0.5 * height * math.exp(steepness * (contact[types[i], types[column[e]]] - r))
            energies[i] += half
            gradient[e, 0], gradient[e, 1], gradient[e, 2] = -steepness * half * x / r, -steepness * half * y / r, -steepness * half * z / r
