"""Independent runs: times to failure, survival curve, rate of failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, chi2

from openmm_cgkd.analysis.observables.aggregation import Clusters

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


def failure_rate(replicas: Sequence[Replica]) -> tuple[float, float]:
    """Failures per ns, and the upper end of the one-sided 95 % interval.

    For a rate that does not change with time.

    Failures in a total time T are Poisson distributed, so the bound is chi2(0.95, 2 k + 2) / 2 T
    (Garwood, Biometrika 1936, 28, 437).
    """
    total = sum(replica.time for replica in replicas) / 1000
    count = sum(replica.cause is not None for replica in replicas)
    if total == 0:
        return math.inf, math.inf
    return count / total, float(chi2.ppf(0.95, 2 * count + 2)) / 2 / total
