"""Independent runs: times to failure, survival curve, rate of failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2

from openmm_cgkd.analysis.observables.aggregation import Clusters
from openmm_cgkd.utils.statistics import BlockedMean

CAUSES = ("non-finite", "exploded", "hot", "aggregated")


@dataclass(frozen=True)
class Replica:
    """One coarse-grained run.

    Attributes
    ----------
    index, start : int
        Number of the run and of the all-atom frame it started from.
    time : float, ps
        Time to failure, or the length of the run.
    cause : str or None
        One of CAUSES; None if the run stayed physical.
    detail : str
        The failure in words.
    mean_temperature : float or None, kelvin
    temperature_drift : float or None, kelvin/ns
        Slope after the first window, until failure.
    energy_drift : float or None, kJ/mol/ns
        Slope of the potential energy per bead.
    mean_temperature_se, temperature_drift_se, energy_drift_se, pressure_se : float or None
        Standard errors.
    at_least : tuple of str
        Values whose standard error is a lower bound.
    largest_cluster : int or None
    closest : float or None
        Smallest distance between beads as a share of the smallest all-atom distance of their types.
    pressure : float or None, bar
        Mean over some frames before failure.
    """

    index: int
    start: int
    time: float
    cause: str | None
    detail: str
    mean_temperature: float | None = None
    temperature_drift: float | None = None
    energy_drift: float | None = None
    largest_cluster: int | None = None
    closest: float | None = None
    pressure: float | None = None
    mean_temperature_se: float | None = None
    temperature_drift_se: float | None = None
    energy_drift_se: float | None = None
    pressure_se: float | None = None
    at_least: tuple[str, ...] = ()

    def with_values(self, **values: BlockedMean | None) -> Replica:
        """The same with some values and their standard errors; None changes nothing."""
        known = {name: value for name, value in values.items() if value is not None}
        short = tuple(name for name, value in known.items() if not value.plateau)
        changes: dict[str, Any] = {}
        for name, value in known.items():
            error = float(value.error) if math.isfinite(value.error) else None
            changes |= {name: float(value.mean), f"{name}_se": error}
        return replace(self, **changes, at_least=(*self.at_least, *short))


@dataclass(frozen=True)
class Traces:
    """One run against time.

    Attributes
    ----------
    times : ndarray, shape (n_frames,), ps
    temperatures : ndarray, shape (n_frames,), kelvin
    averages : ndarray, shape (n_frames,), kelvin
        Mean temperature of the window that ends here.
    energies : ndarray, shape (n_frames,), kJ/mol
        Potential energy per bead.
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    clusters : Clusters
    """

    times: np.ndarray
    temperatures: np.ndarray
    averages: np.ndarray
    energies: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    clusters: Clusters


def survival(
    replicas: Sequence[Replica], duration: float, points: int = 201
) -> dict[str, np.ndarray]:
    """Share of the runs that are still physical, with Wilson's 95 % interval for a binomial share.

    All runs are equally long, so this is the Kaplan-Meier estimate.

    Parameters
    ----------
    replicas : sequence of Replica
    duration : float, ps
    points : int
        Evenly spaced times.

    Returns
    -------
    dict
        "time" (ps), "share", "low" and "high"; the times of failures are among the times.
    """
    failures = np.array([replica.time for replica in replicas if replica.cause is not None])
    times = np.union1d(np.linspace(0, duration, points), failures)
    alive = len(replicas) - np.array([np.count_nonzero(failures <= time) for time in times])
    intervals = {
        n: binomtest(int(n), len(replicas)).proportion_ci(0.95, "wilson") for n in np.unique(alive)
    }
    low, high = np.array([[intervals[n].low, intervals[n].high] for n in alive]).T
    return {"time": times, "share": alive / len(replicas), "low": low, "high": high}


@dataclass(frozen=True)
class FailureRate:
    """Failures per ns, of a rate that does not change with time.

    Attributes
    ----------
    count : int
        Failures.
    time : float, ns
        Of all runs together, each until it failed.
    """

    count: int
    time: float

    @classmethod
    def of(cls, replicas: Sequence[Replica]) -> FailureRate:
        """Of some runs."""
        count = sum(replica.cause is not None for replica in replicas)
        return cls(count, sum(replica.time for replica in replicas) / 1000)

    @property
    def rate(self) -> float:
        """Failures per ns; infinite without any time."""
        return self.count / self.time if self.time > 0 else math.inf

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval.

        Failures in a time T are Poisson distributed, so it is chi2(0.025, 2 k) / 2 T (Garwood,
        Biometrika 1936, 28, 437).
        """
        if self.count == 0 or self.time == 0:
            return 0.0
        return float(chi2.ppf(0.025, 2 * self.count)) / 2 / self.time

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval, chi2(0.975, 2 k + 2) / 2 T.

        Without a failure there is no other end, and the bound is chi2(0.95, 2) / 2 T = 3.0 / T.
        """
        if self.time == 0:
            return math.inf
        share = 0.975 if self.count else 0.95
        return float(chi2.ppf(share, 2 * self.count + 2)) / 2 / self.time

    def survival(self, time: float) -> float:
        """Smallest probability of surviving a time (ns) within the interval."""
        return math.exp(-self.high * time)

    @staticmethod
    def needed(time: float, share: float) -> float:
        """Total time without failure (ns) for `survival` of a time (ns) to be at least a share."""
        return FailureRate(0, 1.0).high * time / -math.log(share)

    @property
    def words(self) -> str:
        """The rate with its interval."""
        if self.time == 0:
            return "every run failed at once"
        if self.count == 0:
            return f"fewer than {self.high:.2g} failures per ns (95 %)"
        return f"{self.rate:.2g} failures per ns (95 %: {self.low:.2g} to {self.high:.2g})"
