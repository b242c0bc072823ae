r"""Intermediate scattering functions: how fast a liquid forgets its arrangement.

With :math:`\rho_a(\mathbf{k}, t) = \sum_{j \in a} \exp(-i \mathbf{k} \cdot \mathbf{r}_j(t))` of the
beads of a type, or :math:`\sum_j z_j \exp(-i \mathbf{k} \cdot \mathbf{r}_j(t))` of their charges,
the collective and the self function are

.. math:: F(k, t) = \frac{1}{N} \left\langle \mathrm{Re}\, \rho(\mathbf{k}, t_0 + t)
\rho^*(\mathbf{k}, t_0) \right\rangle, \qquad
F_s(k, t) = \frac{1}{N} \sum_j \left\langle \cos \mathbf{k} \cdot [\mathbf{r}_j(t_0 + t) -
\mathbf{r}_j(t_0)] \right\rangle

averaged over time origins and over vectors of similar length (Hansen and McDonald, Theory of Simple
Liquids, chapter 7). At reciprocal lattice vectors of the box neither depends on how beads are
wrapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from openmm_cgkd.exceptions import AnalysisError

from .structure_factor import box_fractions, lattice_vectors, wave_sums

K_RANGE = (6.0, 14.0)  # 1/nm, around the first peaks of S(k)
COLLECTIVE, CHARGE, SELF = "collective", "charge", "self"
_BINS = 4
# vectors at most, and numbers in memory: so many waves tell no more than fewer over as long a time
_VECTORS, _SELF_VECTORS = 512, 32
_NUMBERS = 4e7
_SELF_NUMBERS = 5e7  # summed for every lag
_PER_OCTAVE = 8  # lags, beyond the first 16
SHARE = 5  # a trajectory must be so many half-times long


@dataclass(frozen=True)
class Scattering:
    """Intermediate scattering functions, from parts in time that add up.

    Attributes
    ----------
    names : list of (str, str)
        "collective", "charge" or "self", and the bead type, of charge "all".
    k : ndarray, shape (bins,), 1/nm
        Mean length of the vectors in every bin; nan where there is none.
    lags : ndarray of int, shape (n_lags,)
        Frames between the two times, from 0 on.
    products : ndarray, shape (n_parts, n_names, bins, n_lags)
        Sums over time origins in a part and over vectors.
    counts : ndarray, shape (n_parts, n_lags)
        Time origins.
    """

    names: list[tuple[str, str]]
    k: np.ndarray
    lags: np.ndarray
    products: np.ndarray
    counts: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """F(k, t) / F(k, 0) in every bin, shape (n_names, bins, n_lags)."""
        return _normalized(self.products.sum(axis=0), self.counts.sum(axis=0))

    @property
    def band(self) -> np.ndarray:
        """The same of all bins together, weighted as they scatter; shape (n_names, n_lags)."""
        return _normalized(self.products.sum(axis=(0, 2)), self.counts.sum(axis=0))

    @property
    def band_left_out(self) -> np.ndarray:
        """`band` without each of the parts, shape (n_parts, n_names, n_lags)."""
        whole, parts = self.products.sum(axis=(0, 2)), self.products.sum(axis=2)
        return _normalized(whole - parts, (self.counts.sum(axis=0) - self.counts)[:, None])

    def in_bin(self, index: int) -> Scattering:
        """The functions of one bin of k."""
        chosen = slice(index, index + 1)
        return replace(self, k=self.k[chosen], products=self.products[:, :, chosen])


def _normalized(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / counts
        return means / means[..., :1]


def intermediate_scattering(
    positions: np.ndarray,
    boxes: np.ndarray,
    types: np.ndarray,
    type_names: Sequence[str],
    charges: np.ndarray | None = None,
    stretches: Sequence[slice] | None = None,
    starts: Sequence[int] = (0,),
    k_range: tuple[float, float] = K_RANGE,
    bins: int = _BINS,
) -> Scattering:
    """Self and collective intermediate scattering functions of every bead type, and of charge.

    The vectors are those of the mean box. Where the box changes they change with it, so that waves
    keep their numbers of crests.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
        Wrapped or not.
    boxes : ndarray, shape (n_frames, 3, 3), nm
    types : ndarray, shape (n_beads,)
        Indices into `type_names`.
    type_names : sequence of str
    charges : ndarray, shape (n_beads,), optional
        Without any, or if all are 0, there is no function of charge.
    stretches : sequence of slice, optional
        Of frames that follow each other at equal intervals; all frames if absent. Lags go to a
        fifth of all frames, as far as half of them are time origins.
    starts : sequence of int
        First frames of the parts in time, the first of them 0. A pair of times belongs to the part
        of the earlier one.
    k_range : pair of float, 1/nm
    bins : int
        Equal bins of k.

    Raises
    ------
    AnalysisError
        If the box has no vector in the range, or no two frames follow each other.
    """
    members = {name: types == k for k, name in enumerate(type_names) if (types == k).any()}
    weights = {(COLLECTIVE, name): chosen for name, chosen in members.items()}
    if charges is not None and np.any(charges):
        weights[CHARGE, "all"] = charges
    stretches = [slice(0, len(positions))] if stretches is None else list(stretches)
    lags = lag_grid(_longest_lag([part.stop - part.start for part in stretches]))
    part_of = np.searchsorted(starts, np.arange(len(positions)), side="right") - 1
    times = _Times(lags, stretches, part_of, len(starts))
    indices, lengths = _vectors(
        boxes.mean(axis=0), k_range, int(_NUMBERS / (len(positions) * len(weights)))
    )
    edges = np.linspace(*k_range, bins + 1)
    where = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, bins - 1)
    names = [*weights, *((SELF, name) for name in members)]
    products = np.zeros((len(starts), len(names), bins, len(lags)))
    fractions = box_fractions(positions, boxes)
    waves = wave_sums(fractions, indices, list(weights.values()))
    for row in range(len(weights)):
        for k in np.unique(where):
            products[:, row, k] = times.products(waves[:, row, where == k])
    del waves
    few = min(_SELF_VECTORS, int(_SELF_NUMBERS / fractions[..., 0].size) + 1, len(indices))
    for index in np.linspace(0, len(indices) - 1, few).astype(int):
        angles = fractions @ (-2 * np.pi * indices[index]).astype(np.float32)
        phases = np.exp(1j * angles)
        for row, chosen in enumerate(members.values(), len(weights)):
            products[:, row, where[index]] += times.products(phases[:, chosen])
    number = np.bincount(where, minlength=bins)
    k_mean = np.where(number, np.bincount(where, lengths, bins) / np.maximum(number, 1), np.nan)
    return Scattering(names, k_mean, lags, products, times.counts)


def _longest_lag(lengths: Sequence[int]) -> int:
    """In frames, for stretches of so many frames.

    A lag that only a few long stretches hold is known from these few alone.
    """
    n, longer = sum(lengths), np.bincount(lengths)[::-1].cumsum()[::-1]  # stretches as long as this
    origins = np.append(longer[::-1].cumsum()[::-1], 0)[1:]  # by lag
    if len(origins) < 3:
        raise AnalysisError(
            "No two frames follow each other in the usual time between frames; save frames at equal"
            " intervals."
        )
    enough = np.flatnonzero(origins[: n // SHARE + 1] >= n / 2)
    return max(int(enough[-1]), 1)


def _vectors(
    box: np.ndarray, k_range: tuple[float, float], at_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lattice vectors in a range of lengths, in order of them, evenly thinned."""
    indices, lengths = lattice_vectors(box, k_range[1])
    indices, lengths = indices[lengths >= k_range[0]], lengths[lengths >= k_range[0]]
    if not len(indices):
        raise AnalysisError(
            f"A box with vectors of {np.linalg.norm(box, axis=1).round(3).tolist()} nm has no wave"
            f" with k between {k_range[0]:g} and {k_range[1]:g} 1/nm; use a larger box or a wider"
            " range."
        )
    # vectors of one length in any order, so that none of the axes is preferred
    mixed = np.random.default_rng(0).permutation(len(indices))
    order = mixed[np.argsort(lengths[mixed], kind="stable")]
    count = min(len(order), _VECTORS, max(at_most, 1))
    chosen = order[np.linspace(0, len(order) - 1, count).astype(int)]
    return indices[chosen], lengths[chosen]


def lag_grid(last: int) -> np.ndarray:
    """Lags in frames: the first 16, then eight for every doubling, and the last."""
    octaves = np.log2(max(last / 16, 1))
    later = 16 * 2 ** (np.arange(np.floor(_PER_OCTAVE * octaves) + 1) / _PER_OCTAVE)
    found = np.concatenate([np.arange(17), later.round().astype(int), [last]])
    return np.unique(found[found <= max(last, 1)])


def half_time(lag_times: np.ndarray, values: np.ndarray) -> float:
    """Time after which a function has fallen to a half, between two lags on a straight logarithm.

    Of a function that stays above it the time at which an exponential through its last value would;
    infinite if that is 1 or above.

    Parameters
    ----------
    lag_times : ndarray, shape (n_lags,), ps
        From 0 on.
    values : ndarray, shape (n_lags,)
        Of the lags, 1 for the first.
    """
    below = np.flatnonzero(values < 0.5)
    if len(below) == 0:
        last = float(values[-1])
        return float(lag_times[-1] * np.log(0.5) / np.log(last)) if last < 1 else np.inf
    k = int(below[0])
    times = lag_times[k - 1 : k + 1]
    # of two values of which one is negative the logarithm is none
    edge = np.log(np.maximum(values[k - 1 : k + 1], 1e-3))
    return float(np.interp(-np.log(0.5), -edge, times))


class _Times:
    """Sums over pairs of times by lag and by part."""

    def __init__(
        self, lags: np.ndarray, stretches: Sequence[slice], part_of: np.ndarray, n_parts: int
    ) -> None:
        self.lags, self.stretches, self.part_of, self.n_parts = lags, stretches, part_of, n_parts
        counts = np.zeros((n_parts, len(lags)))
        for k, earlier, _ in self._pairs():
            counts[:, k] += np.bincount(part_of[earlier], minlength=n_parts)
        self.counts = counts

    def _pairs(self) -> Iterator[tuple[int, slice, slice]]:
        for k, lag in enumerate(self.lags.tolist()):
            for start, stop in ((part.start, part.stop) for part in self.stretches):
                if stop - start > lag:
                    yield k, slice(start, stop - lag), slice(start + lag, stop)

    def products(self, amplitudes: np.ndarray) -> np.ndarray:
        """Sum over columns of Re a*(t0) a(t0 + lag), shape (n_parts, n_lags).

        Amplitudes have shape (n_frames, n_columns).
        """
        plain = np.ascontiguousarray(amplitudes).view(np.float32)  # real and imaginary side by side
        sums = np.zeros((self.n_parts, len(self.lags)))
        for k, earlier, later in self._pairs():
            series = np.einsum("ij,ij->i", plain[earlier], plain[later])
            sums[:, k] += np.bincount(self.part_of[earlier], series, self.n_parts)
        return sums
