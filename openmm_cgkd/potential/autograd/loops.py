"""The loops over pairs and edges behind `messages`, compiled by numba.

All of them weight by functions of the distance, given as a table of splines (rows, 3 channels):
``basis`` holds the six splines of one interval, or a derivative of them, and ``per_nm`` the
intervals per nm. Everything stands in one file, because numba's cache looks at no other.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from openmm_cgkd.potential.compile_cache import compiled_once

_jit = partial(compiled_once, fastmath=True)


@_jit
def _splines(out, basis, t):
    """Values of the six splines at t."""
    for k in range(6):
        b = basis[k]
        out[k] = b[0] + t * (b[1] + t * (b[2] + t * (b[3] + t * (b[4] + t * b[5]))))


@_jit
def _place(u, rows):
    """Interval of u and place in it; beyond the table -1."""
    k = int(u)
    return (k if u >= 0 and k < rows - 5 else -1), u - k


@_jit
def _weights(out, table, first, s, scale):
    """Weights of one pair, shape (3 channels,), from the table's rows from `first` on."""
    a, b, c, d, e, f = (
        table[first],
        table[first + 1],
        table[first + 2],
        table[first + 3],
        table[first + 4],
        table[first + 5],
    )
    s0, s1, s2, s3, s4, s5 = (
        scale * s[0],
        scale * s[1],
        scale * s[2],
        scale * s[3],
        scale * s[4],
        scale * s[5],
    )
    for k in range(out.shape[0]):
        out[k] = s0 * a[k] + s1 * b[k] + s2 * c[k] + s3 * d[k] + s4 * e[k] + s5 * f[k]


@_jit
def _spread(table, first, s, scale, values):
    """Transpose of `_weights`: add values (3 channels,) to the table's rows from `first` on."""
    a, b, c, d, e, f = (
        table[first],
        table[first + 1],
        table[first + 2],
        table[first + 3],
        table[first + 4],
        table[first + 5],
    )
    s0, s1, s2, s3, s4, s5 = (
        scale * s[0],
        scale * s[1],
        scale * s[2],
        scale * s[3],
        scale * s[4],
        scale * s[5],
    )
    for k in range(values.shape[0]):
        v = values[k]
        a[k] += s0 * v
        b[k] += s1 * v
        c[k] += s2 * v
        d[k] += s3 * v
        e[k] += s4 * v
        f[k] += s5 * v


@_jit
def _order(component):
    return 0 if component == 0 else (1 if component < 4 else 2)


@_jit
def mix(out, table, basis, per_nm, distances, scales, features, first, second):
    channels = features.shape[2]
    w, s = np.empty(3 * channels, features.dtype), np.empty(6, features.dtype)
    for p in range(first.shape[0]):
        row, t = _place(distances[p] * per_nm, table.shape[0])
        if row < 0:
            continue
        _splines(s, basis, t)
        _weights(w, table, row, s, scales[p])
        i, j = first[p], second[p]
        for c in range(9):
            v = w[_order(c) * channels : (_order(c) + 1) * channels]
            to_i, to_j, of_i, of_j = out[i, c], out[j, c], features[i, c], features[j, c]
            for f in range(channels):
                to_i[f] += v[f] * of_j[f]
                to_j[f] += v[f] * of_i[f]


@_jit
def _products(out, left, right, i, j):
    """Products of features of two beads, summed over each order's components, (3 channels,)."""
    channels = left.shape[2]
    out[:] = 0
    for c in range(9):
        v = out[_order(c) * channels : (_order(c) + 1) * channels]
        left_i, left_j, right_i, right_j = left[i, c], left[j, c], right[i, c], right[j, c]
        for f in range(channels):
            v[f] += left_i[f] * right_j[f] + left_j[f] * right_i[f]


@_jit
def correlate(out, table, basis, per_nm, distances, left, right, first, second):
    channels = left.shape[2]
    w, v, s = (
        np.empty(3 * channels, left.dtype),
        np.empty(3 * channels, left.dtype),
        np.empty(6, left.dtype),
    )
    for p in range(first.shape[0]):
        row, t = _place(distances[p] * per_nm, table.shape[0])
        out[p] = 0
        if row < 0:
            continue
        _splines(s, basis, t)
        _weights(w, table, row, s, w.dtype.type(1))
        _products(v, left, right, first[p], second[p])
        total = w.dtype.type(0)
        for k in range(3 * channels):
            total += w[k] * v[k]
        out[p] = total


@_jit
def mix_table(out, basis, per_nm, distances, scales, left, right, first, second):
    channels = left.shape[2]
    v, s = np.empty(3 * channels, left.dtype), np.empty(6, left.dtype)
    for p in range(first.shape[0]):
        row, t = _place(distances[p] * per_nm, out.shape[0])
        if row < 0:
            continue
        _splines(s, basis, t)
        _products(v, left, right, first[p], second[p])
        _spread(out, row, s, scales[p], v)


@_jit
def gather(out, table, basis, per_nm, distances, shape, beads, kinds):
    channels = out.shape[2]
    w, s = np.empty(3 * channels, out.dtype), np.empty(6, out.dtype)
    for e in range(beads.shape[0]):
        row, t = _place(distances[e] * per_nm, table.shape[1])
        if row < 0:
            continue
        _splines(s, basis, t)
        _weights(w, table[kinds[e]], row, s, w.dtype.type(1))
        for c in range(9):
            v, g, to = (
                w[_order(c) * channels : (_order(c) + 1) * channels],
                shape[e, c],
                out[beads[e], c],
            )
            for f in range(channels):
                to[f] += g * v[f]


@_jit
def gather_shape(out, table, basis, per_nm, distances, features, beads, kinds):
    channels = features.shape[2]
    w, s = np.empty(3 * channels, out.dtype), np.empty(6, out.dtype)
    for e in range(beads.shape[0]):
        row, t = _place(distances[e] * per_nm, table.shape[1])
        out[e] = 0
        if row < 0:
            continue
        _splines(s, basis, t)
        _weights(w, table[kinds[e]], row, s, w.dtype.type(1))
        for c in range(9):
            v, of, total = (
                w[_order(c) * channels : (_order(c) + 1) * channels],
                features[beads[e], c],
                w.dtype.type(0),
            )
            for f in range(channels):
                total += v[f] * of[f]
            out[e, c] = total


@_jit
def gather_table(out, basis, per_nm, distances, shape, features, beads, kinds):
    channels = features.shape[2]
    w, s = np.empty(3 * channels, out.dtype), np.empty(6, out.dtype)
    for e in range(beads.shape[0]):
        row, t = _place(distances[e] * per_nm, out.shape[1])
        if row < 0:
            continue
        _splines(s, basis, t)
        w[:] = 0
        for c in range(9):
            v, g, of = (
                w[_order(c) * channels : (_order(c) + 1) * channels],
                shape[e, c],
                features[beads[e], c],
            )
            for f in range(channels):
                v[f] += g * of[f]
        _spread(out[kinds[e]], row, s, w.dtype.type(1), w)
