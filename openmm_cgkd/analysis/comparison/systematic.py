"""How far the structure of a model is from all-atom when the noise of both is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import blocked_mean, root, safe_error

SIGNIFICANT = 0.01  # p of a perfect model below which a difference is called real
_DRAWS = 1000  # of the noise, for p
_BEYOND_BLOCKS = 2.0  # standard deviations by which the difference of the runs may exceed the noise
_SIGMAS = 1.645  # of a one-sided limit of 95 %
_FEW, _MORE = 4, 8  # numbers of blocks whose scatter tells of a memory that outlasts them


@dataclass(frozen=True)
class SystematicError:
    r"""Root mean square difference between a model and all-atom, without noise.

    Attributes
    ----------
    square : float
        Unbiased estimate of the mean over all bins of (model - all-atom)^2; noise can make it
        negative.
    square_se : float
        Its standard error.
    square_limit : float
        The square is smaller than this with 95 % confidence.
    p : float
        How often a perfect model would show as much or more.
    perfect_rmse, perfect_mean_absolute : float
        What the plain root mean square and mean absolute difference between the model and the mean
        over all parts of the all-atom runs would be if the model were perfect: noise alone.
    independent : bool
        Whether the all-atom runs are independent of each other. Halves of one run are not: what
        changes slowly in it is the same in both and counts as an error of the model.
    converged : bool
        Whether the noise of every trajectory is known from its blocks (see `blocked_mean`), and
        explains how far the all-atom runs are apart. If not, the standard error is a lower bound
        and p is too small.
    """

    square: float
    square_se: float
    square_limit: float
    p: float
    perfect_rmse: float
    perfect_mean_absolute: float
    independent: bool
    converged: bool

    @property
    def rmse(self) -> float:
        """Square root of `square`, 0 where that is negative."""
        return root(self.square, self.square_se)[0]

    @property
    def rmse_se(self) -> float:
        """Standard error of `rmse`."""
        return root(self.square, self.square_se)[1]

    @property
    def upper_limit(self) -> float:
        """The error is smaller than this with 95 % confidence."""
        return float(np.sqrt(self.square_limit))

    @property
    def significant(self) -> bool:
        """Whether a perfect model would show this in less than one of a hundred cases."""
        return self.p < SIGNIFICANT

    @property
    def words(self) -> str:
        """What is found, in words."""
        doubt = "" if self.converged and self.independent else ", at least"
        if self.significant:
            return (
                f"systematic error {self.rmse:.3f} ({self.rmse_se:.3f}{doubt}) rms,"
                f" p {'<' if self.p < 0.001 else '='} {max(self.p, 0.001):.3f}"
            )
        return (
            f"no systematic error found (p = {self.p:.2f}), it is below {self.upper_limit:.3f} rms"
            f"{', if the runs are long enough to tell' if doubt else ''}"
        )

    def numbers(self) -> dict[str, float | bool]:
        """All of it as plain data, by the names in ``comparison.json``."""
        return {
            "systematic": self.rmse,
            "systematic_square": self.square,
            "systematic_se": self.rmse_se,
            "systematic_limit": self.upper_limit,
            "systematic_p": self.p,
            "systematic_at_least": not (self.converged and self.independent),
            "perfect_rmse": self.perfect_rmse,
            "perfect_mean_absolute": self.perfect_mean_absolute,
        }


@dataclass(frozen=True)
class _Sampled:
    """Mean curve of one trajectory; the rows of `noise` times normal numbers are its noise."""

    mean: np.ndarray
    noise: np.ndarray  # shape (n_blocks, bins); noise.T @ noise is the covariance of the mean
    converged: bool
    freedom: float  # degrees of freedom of that covariance

    @property
    def trace(self) -> float:
        """Expected square of the noise."""
        return float(np.sum(self.noise**2))

    def overlap(self, other: _Sampled) -> float:
        """Trace of the product of the covariances of two trajectories."""
        return float(np.sum((self.noise @ other.noise.T) ** 2))

    @property
    def own_overlap(self) -> float:
        """Trace of the square of the covariance, without the bias of few blocks.

        For normal noise (Bai and Saranadasa, Stat. Sin. 1996, 6, 311).
        """
        n = self.freedom
        if n < 2:
            return self.trace**2
        return max(0.0, n**2 / ((n - 1) * (n + 2)) * (self.overlap(self) - self.trace**2 / n))


def systematic_error(
    all_atom: Sequence[np.ndarray],
    model: np.ndarray,
    weights: np.ndarray | None = None,
    independent: bool = True,
) -> SystematicError:
    r"""Difference between a model and all-atom without the noise of either.

    With the curve c of the model and :math:`a_1, a_2` of two independent all-atom runs of the true
    curve, the noise of one run has nothing to do with that of the other, so

    .. math:: \langle (c - a_1)(c - a_2) \rangle - \langle \mathrm{var}(c) \rangle

    has the mean square of the error of the model as its expectation, as far as the blocks tell the
    variance of c (of few, slow components they tell a tenth of it too much); < > is the mean over
    bins. Of more runs all pairs count. The variance of c comes from the blocks of the model's own
    trajectory. So do the standard error and, by drawing noise from the blocks of all trajectories,
    p. If the runs differ by more than their blocks tell, each gets the variance besides that they
    show: by a difference that is significant, and where blocks have no plateau by any. Where a
    trajectory is too short for a plateau, what its blocks do not show is added as if memory were
    lost exponentially. The standard error is 0.9 to 2 times the true one; docs/observables.md tells
    where p is too small.

    Parameters
    ----------
    all_atom : sequence of ndarray, shape (n_parts, bins)
        For every run the curves of successive stretches of time, equally long.
    model : ndarray, shape (n_parts, bins)
    weights : ndarray, shape (bins,), optional
        Sum to 1; the same for all bins if absent.
    independent : bool
        Whether the runs are, see `SystematicError`.

    Raises
    ------
    AnalysisError
        If there are fewer than two runs, or fewer than two parts of a trajectory.
    """
    if len(all_atom) < 2:
        raise AnalysisError(
            f"The error without noise needs two independent all-atom runs, got {len(all_atom)}."
        )
    bins = np.shape(model)[1]
    scale = np.sqrt(np.full(bins, 1 / bins) if weights is None else weights)
    c = _sampled(model * scale)
    runs = _with_seen_noise([_sampled(run * scale) for run in all_atom])
    pairs = list(combinations(runs, 2))
    products = [float((c.mean - a.mean) @ (c.mean - b.mean)) for a, b in pairs]
    square = float(np.mean(products)) - c.trace
    chance = _variance_of_noise(c, runs)
    total = _Sampled(
        c.mean - np.mean([run.mean for run in runs], axis=0),
        np.concatenate([c.noise, *(run.noise / len(runs) for run in runs)]),
        True,
        np.nan,  # not asked for
    )
    along = float(np.sum((total.noise @ total.mean) ** 2))
    of_noise = (
        c.own_overlap
        + sum(
            2 * c.overlap(run) / len(runs) ** 2 + run.own_overlap / len(runs) ** 4 for run in runs
        )
        + sum(2 * a.overlap(b) / len(runs) ** 4 for a, b in pairs)
    )
    along = max(along - of_noise, 0.0)
    # the difference that is looked at is from all frames, of which a long run has more
    shares = np.array([len(run) for run in all_atom]) / sum(len(run) for run in all_atom)
    plain = np.concatenate(
        [c.noise, *(share * run.noise for share, run in zip(shares, runs, strict=True))]
    )
    noise = np.sqrt(np.sum(plain**2, axis=0))
    known = scale > 0
    return SystematicError(
        square,
        float(np.sqrt(chance + 4 * along)),
        _limit(square, chance, along, total),
        _chance_of(square, c, runs),
        float(np.sqrt(np.sum(plain**2))),
        float(np.sqrt(2 / np.pi) * np.sum((noise * scale)[known])),
        independent,
        all(sampled.converged for sampled in (c, *runs)),
    )


def _limit(square: float, chance: float, along: float, total: _Sampled) -> float:
    """What the square of the error is smaller than with 95 % confidence.

    The largest one that would rarely show so little. The noise of the estimate grows with the
    error; how much, the estimate itself tells if it is large, and the noise if it is small.
    """
    growth = along / square if square**2 > 4 * (chance + 4 * along) else 0.0
    growth = max(growth, total.overlap(total) / total.trace if total.trace > 0 else 0.0)
    # (limit - square)^2 = k^2 (chance + 4 growth limit)
    half = 2 * _SIGMAS**2 * growth
    return max(
        0.0, square + half + np.sqrt(max(0.0, half * (half + 2 * square)) + _SIGMAS**2 * chance)
    )


def _sampled(series: np.ndarray, beyond: bool = True) -> _Sampled:
    """Mean and noise of a trajectory, from blocks as long as its correlation asks for.

    Where it is too short for that, from what they tell of longer ones if `beyond`.
    """
    blocked = blocked_mean(series)
    means = _cut(series, blocked.blocks)
    noise = (means - means.mean(axis=0)) / np.sqrt(len(means) * (len(means) - 1))
    if not blocked.plateau:  # the largest of all blockings is the best lower bound
        largest, found = float(np.sum(blocked.error**2)), float(np.sum(noise**2))
        expected = _beyond_blocks(series, largest) if beyond else largest
        noise *= np.sqrt(max(1.0, expected / found)) if found > 0 else 1.0
    return _Sampled(series.mean(axis=0), noise, blocked.plateau, len(means) - 1)


def _cut(series: np.ndarray, count: int) -> np.ndarray:
    """Means of so many successive blocks; what does not fill them is left out at the beginning."""
    size = len(series) // count
    return series[len(series) - count * size :].reshape(count, size, -1).mean(axis=1)


def _beyond_blocks(series: np.ndarray, largest: float) -> float:
    """Squared noise of the mean of a trajectory that is too short for a plateau of its blocks.

    As if memory were lost exponentially, in the time t times the length of the trajectory, which is
    found from how much more four blocks tell than eight. At least what the blocks tell, `largest`,
    and at most what `safe_error` takes it for.
    """
    highest = safe_error(1.0, False) ** 2 * largest
    if len(series) < _MORE:
        return highest
    few, more = (
        float(np.sum(_cut(series, count).var(axis=0, ddof=1))) / count for count in (_FEW, _MORE)
    )
    if not few > more > 0:
        return largest
    memory = np.geomspace(1e-3, 1.0, 200)
    expected = [_told_by(count, memory) for count in (_FEW, _MORE)]
    factor = np.interp(few / more, expected[0] / expected[1], _of_mean(memory) / expected[0])
    return float(np.clip(few * factor, largest, highest))


def _of_mean(memory: np.ndarray) -> np.ndarray:
    """Variance of a mean of noise of variance 1 that forgets as exp(-x / memory), length 1."""
    return 2 * memory * (1 - memory * (1 - np.exp(-1 / memory)))


def _told_by(count: int, memory: np.ndarray) -> np.ndarray:
    """What the scatter of the means of that many blocks makes of this variance, on average."""
    return (_of_mean(count * memory) - _of_mean(memory)) / (count - 1)


def excess_of_runs(series: Sequence[np.ndarray]) -> float:
    """Variance between independent runs that their blocks do not tell, summed over the bins.

    That is beyond the squared errors of `blocked_mean`, of every run alike: what changes so slowly
    does not depend on how long a run is. 0 where there is none.

    Parameters
    ----------
    series : sequence of ndarray, shape (n_parts, bins)
        As `all_atom` of `systematic_error`.
    """
    before = [_sampled(run, beyond=False) for run in series]
    after = _with_seen_noise(before)
    if after is before:
        return 0.0
    told = sum(float(np.nansum(np.square(blocked_mean(run).error))) for run in series)
    return max(0.0, sum(run.trace for run in after) - told) / len(series)


def _with_seen_noise(runs: list[_Sampled]) -> list[_Sampled]:
    """Runs whose noise explains how far they are apart."""
    seen = float(np.mean([np.sum((a.mean - b.mean) ** 2) for a, b in combinations(runs, 2)]))
    traces = np.mean([a.trace + b.trace for a, b in combinations(runs, 2)])
    if not traces > 0:
        return runs
    spread = np.mean(
        [2 * (a.own_overlap + b.own_overlap + 2 * a.overlap(b)) for a, b in combinations(runs, 2)]
    )
    allowed = _BEYOND_BLOCKS * np.sqrt(spread) if all(run.converged for run in runs) else 0.0
    if seen <= traces + allowed:
        return runs
    # of all runs alike, in the shape of the noise of all
    share = (seen - traces) / 2 / sum(run.trace for run in runs)
    between = np.concatenate([np.sqrt(share) * run.noise for run in runs])
    found = []
    for k, run in enumerate(runs):
        own = np.array([(share + (j == k)) * other.trace for j, other in enumerate(runs)])
        # of a sum of variances (Welch, Biometrika 1947, 34, 28)
        freedom = own.sum() ** 2 / sum(
            x**2 / max(other.freedom, 1) for x, other in zip(own, runs, strict=True)
        )
        noise = np.concatenate([run.noise, between])
        found.append(_Sampled(run.mean, noise, False, float(freedom)))
    return found


def _variance_of_noise(c: _Sampled, runs: list[_Sampled]) -> float:
    """Variance of the estimate for a perfect model."""
    pairs = list(combinations(runs, 2))
    blocks = len(c.noise)
    return (
        2 * c.own_overlap * blocks / max(blocks - 1, 1)
        + 4 * sum(c.overlap(run) for run in runs) / len(runs) ** 2
        + sum(a.overlap(b) for a, b in pairs) / len(pairs) ** 2
    )


def _chance_of(square: float, c: _Sampled, runs: list[_Sampled]) -> float:
    """Share of draws of the noise of all trajectories that give at least this much."""
    random = np.random.default_rng(0)
    rows = np.cumsum([0, *(len(sampled.noise) for sampled in (c, *runs))])
    # products of the noise from those of its rows: curves may have many more bins than blocks
    stacked = np.concatenate([c.noise, *(run.noise for run in runs)])
    products, drawn = stacked @ stacked.T, random.standard_normal((_DRAWS, rows[-1]))
    parts = [slice(start, stop) for start, stop in pairwise(rows)]

    def product(a: slice, b: slice) -> np.ndarray:
        return np.sum((drawn[:, a] @ products[a, b]) * drawn[:, b], axis=1)

    own = parts[0]
    values = np.mean(
        [
            product(own, own) - product(own, a) - product(own, b) + product(a, b)
            for a, b in combinations(parts[1:], 2)
        ],
        axis=0,
    )
    # what is not a number is no finding
    return float((1 + np.sum(~(values - c.trace < square))) / (1 + _DRAWS))
