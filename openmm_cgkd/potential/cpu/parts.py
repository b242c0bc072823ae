"""How loops over beads are cut: parts of a few beads, which each make scratch space once."""

from __future__ import annotations

from .jit import compiled

_serial = compiled()

_BEADS = 8  # few, so that as many parts come to every thread


@_serial
def n_parts(n):
    """Number of parts of n beads."""
    return -(-n // _BEADS)


@_serial
def part(p, n):
    """First and last but one of n beads in part p."""
    return _BEADS * p, min(_BEADS * (p + 1), n)


@_serial
def most(count, begin, end):
    """Most edges of a bead in a part."""
    largest = 0
    for i in range(begin, end):
        largest = max(largest, count[i])
    return largest
