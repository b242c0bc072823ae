"""How fast a trajectory forgets its arrangement, and how many independent samples that makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeGuard

import numpy as np

from openmm_cgkd.analysis.observables.scattering import (
    K_RANGE,
    SELF,
    SHARE,
    Scattering,
    half_time,
    intermediate_scattering,
)
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.statistics import BlockedMean, error_words

from .curves import blocked_statistic, count_parts, number
from .sources import Source
from .speed import NO_SPEED, Speed, hardware_note

# a sample: the structure is quadratic in the waves, so that of an exponential decay it remembers
# 1.44 half-times, of a stretched one with an exponent of 0.65 it remembers 1.65
HALF_TIMES_PER_SAMPLE = 2
_PS_PER_NS = 1000.0

Name = tuple[str, str]  # "collective", "charge" or "self", and the bead type


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Attributes
    ----------
    value, error : float
    plateau : bool
        If not, the error is a lower bound.
    bound : bool
        Whether the value is only a bound, and has no error: a half-time is at most this long, a
        ratio or a number of samples at least this large.
    """

    value: float
    error: float
    plateau: bool
    bound: bool = False

    def numbers(self, name: str) -> dict[str, Any]:
        """Plain data."""
        return {
            name: number(self.value),
            f"{name}_se": None if self.bound else number(self.error),
            f"{name}_at_least": not self.plateau,
            f"{name}_is_bound": self.bound,
        }

    def over(self, other: Estimate) -> Estimate:
        """The ratio of two.

        It is at least this large if `self` is at least, or `other` at most, so large. The other two
        bounds would make it an upper one, which nothing states: who divides refuses them.
        """
        ratio = self.value / other.value
        error = math.hypot(self.error / self.value, other.error / other.value) * ratio
        return Estimate(ratio, error, self.plateau and other.plateau, self.bound or other.bound)


@dataclass(frozen=True)
class Undecayed:
    """A function that has not fallen to a half.

    Attributes
    ----------
    name : (str, str)
    reached : float
        What is left of it.
    within : float, ps
        The longest lag.
    needed : float, ps
        How long the trajectory must be; infinite if that cannot be told.
    """

    name: Name
    reached: float
    within: float
    needed: float

    @property
    def words(self) -> str:
        """Why there is no half-time, and what to do."""
        cure = (
            f"simulate at least {_time_words(_rounded_up(self.needed))} without a gap"
            if math.isfinite(self.needed)
            else "simulate much longer"
        )
        return (
            f"{function_words(*self.name)} has fallen only to {self.reached:.2f} within"
            f" {_time_words(self.within)}, the longest time that the trajectory tells of; {cure}."
        )


@dataclass(frozen=True)
class Decorrelation:
    """Intermediate scattering functions of a trajectory.

    Attributes
    ----------
    interval : float, ps
        Time between frames.
    scattering : Scattering
    curves : list of BlockedMean
        F(k, t) / F(k, 0) of every function over all k, with standard errors, shape (n_lags,).
    half_times : dict
        `Estimate` (ps) or `Undecayed` by function.
    """

    interval: float
    scattering: Scattering
    curves: list[BlockedMean]
    half_times: dict[Name, Estimate | Undecayed]

    @property
    def lag_times(self) -> np.ndarray:
        """Lags, shape (n_lags,), ps."""
        return self.interval * self.scattering.lags

    @property
    def slowest(self) -> tuple[Name, Estimate | Undecayed]:
        """The function with the longest half-time, or the one that needs the longest trajectory."""
        undecayed = [found for found in self.half_times.values() if isinstance(found, Undecayed)]
        if undecayed:
            worst = max(undecayed, key=lambda found: found.needed)
            return worst.name, worst
        known = [
            (name, found) for name, found in self.half_times.items() if isinstance(found, Estimate)
        ]
        return max(known, key=lambda item: item[1].value)


def function_words(kind: str, types: str) -> str:
    """Name of a function as it is printed."""
    return f"{'F_s(k,t)' if kind == SELF else 'F(k,t)'} of {types if types != 'all' else 'charge'}"


def decorrelation(source: Source) -> Decorrelation | str:
    """Intermediate scattering functions of a trajectory, or why there are none."""
    found = source.stretches()
    if found is None:
        return source.no_times
    interval, stretches = found
    runs = source.pieces()
    parts = [count_parts(run, max(runs)) for run in runs]
    first = [0, *accumulate(runs)]
    starts = [
        begin + int(chunk[0])
        for begin, run, count in zip(first, runs, parts, strict=False)
        for chunk in np.array_split(np.arange(run), count)
    ]
    try:
        scattering = intermediate_scattering(
            source.positions,
            source.boxes,
            source.beads.types,
            source.type_names,
            source.charges,
            stretches,
            starts,
        )
    except AnalysisError as error:
        return str(error)
    times = interval * scattering.lags
    band, left_out = scattering.band, scattering.band_left_out
    curves = [blocked_statistic(values, left_out[:, k], parts) for k, values in enumerate(band)]
    half_times = {
        name: _half_time(name, times, band[k], left_out[:, k], parts)
        for k, name in enumerate(scattering.names)
    }
    return Decorrelation(interval, scattering, curves, half_times)


def _half_time(
    name: Name, times: np.ndarray, values: np.ndarray, left_out: np.ndarray, parts: list[int]
) -> Estimate | Undecayed:
    value = half_time(times, values)
    if not (values < 0.5).any():
        return Undecayed(name, float(values[-1]), float(times[-1]), SHARE * value)
    if values[1] < 0.5:  # how it fell in between is not known
        return Estimate(float(times[1]), math.nan, True, bound=True)
    others = np.array([half_time(times, each) for each in left_out])
    found = blocked_statistic(value, others, parts)
    return Estimate(value, found.error, found.plateau)


def decorrelation_numbers(
    model: Decorrelation | str, all_atom: Decorrelation | str | None = None
) -> dict[str, Any]:
    """Half-times by function, and how much faster the model forgets than all-atom.

    Instead {"absent": reason} where the model has none.
    """
    if isinstance(model, str):
        return {"absent": model}
    times, values = model.lag_times, model.scattering.values
    functions = []
    for row, (name, found) in enumerate(model.half_times.items()):
        kind, types = name
        by_k = [_in_bin(times, each) for each in values[row]]
        ratio = _ratio(all_atom.half_times[name], found) if _exists(all_atom) else {}
        numbers = {**_half_time_numbers(found), **ratio, "half_time_by_k": by_k}
        functions.append({"function": kind, "types": types, **numbers})
    (kind, types), slowest = model.slowest
    ratio = _ratio(all_atom.slowest[1], slowest) if _exists(all_atom) else {}
    return {
        "interval": model.interval,
        "k_range": list(K_RANGE),
        "k": [number(k) for k in model.scattering.k],
        "functions": functions,
        "slowest": {"function": kind, "types": types, **_half_time_numbers(slowest), **ratio},
    }


def _exists(found: Decorrelation | str | None) -> TypeGuard[Decorrelation]:
    return isinstance(found, Decorrelation)


def _half_time_numbers(found: Estimate | Undecayed) -> dict[str, Any]:
    if isinstance(found, Undecayed):
        return {"absent": found.words, "trajectory_needed": number(found.needed)}
    return found.numbers("half_time")


def _in_bin(times: np.ndarray, values: np.ndarray) -> float | None:
    """Half-time in one bin of k, where it can be told."""
    below = np.flatnonzero(values < 0.5)
    return number(half_time(times, values)) if len(below) and below[0] > 1 else None


def _ratio(all_atom: Estimate | Undecayed, model: Estimate | Undecayed) -> dict[str, Any]:
    found = _faster(all_atom, model)
    return {"faster_absent": found} if isinstance(found, str) else found.numbers("faster")


def _faster(all_atom: Estimate | Undecayed, model: Estimate | Undecayed) -> Estimate | str:
    """Half-time of all-atom over that of the model, or why that is not known."""
    if isinstance(all_atom, Undecayed):
        return f"All-atom: {all_atom.words}"
    if all_atom.bound:
        return (
            f"All-atom: falls to a half within the {all_atom.value:.3g} ps between frames; save"
            " all-atom frames more often."
        )
    if isinstance(model, Undecayed):
        return model.words
    return all_atom.over(model)


def decorrelation_words(numbers: dict[str, Any], sign: str = "±") -> str:
    """What `decorrelation_numbers` gives of the slowest function, as a sentence."""
    found = numbers.get("slowest", numbers)
    if "absent" in found:
        return f"no half-time: {found['absent']}"
    words = function_words(found["function"], found["types"])
    half = _number_words(found, "half_time", ".3g", sign, "at most")
    start = f"{words}, its slowest function, has a half-time of {half} ps"
    if "faster" not in found:
        return f"{start}; {found['faster_absent']}" if "faster_absent" in found else f"{start}."
    return f"{start}, {_number_words(found, 'faster', '.2g', sign)} times faster than all-atom."


# --- samples per day ---


def samples_per_day(found: Decorrelation | str, speed: Speed | None) -> Estimate | str:
    """Independent samples that a run makes in a day, or why that is not known."""
    if isinstance(found, str):
        return found
    slowest = found.slowest[1]
    if isinstance(slowest, Undecayed):
        return slowest.words
    if speed is None:
        return NO_SPEED
    made = Estimate(_PS_PER_NS * speed.ns_per_day / HALF_TIMES_PER_SAMPLE, 0.0, True)
    return made.over(slowest)


def samples_numbers(
    model: tuple[Decorrelation | str, Speed | None],
    all_atom: tuple[Decorrelation | str, Speed | None] | None = None,
) -> dict[str, Any]:
    """Independent samples per day, and their ratio to those of all-atom, as plain data."""
    own = samples_per_day(*model)
    if isinstance(own, str):
        return {"absent": own}
    numbers = own.numbers("per_day")
    if all_atom is None:
        return numbers
    other = samples_per_day(*all_atom)
    if isinstance(other, str):
        return numbers | {"ratio_absent": f"All-atom: {other}"}
    if other.bound:
        return numbers | {
            "ratio_absent": "All-atom: its frames are too far apart; save them more often."
        }
    note = hardware_note(model[1], all_atom[1])
    return numbers | own.over(other).numbers("ratio") | {"ratio_note": note}


def samples_words(numbers: dict[str, Any], sign: str = "±") -> str:
    """What `samples_numbers` gives, as a sentence; `sign` stands before standard errors."""
    if "absent" in numbers:
        return f"independent samples per day are not known. {numbers['absent']}"
    per_day = _number_words(numbers, "per_day", ".3g", sign)
    words = f"{per_day} independent samples of the model per day"
    if "ratio_absent" in numbers:
        return f"{words}; {numbers['ratio_absent'][0].lower()}{numbers['ratio_absent'][1:]}"
    if "ratio" not in numbers:
        return f"{words}."
    note = numbers["ratio_note"]
    ratio = _number_words(numbers, "ratio", ".2g", sign)
    return f"{words}, {ratio} times as many as all-atom{f' ({note})' if note else ''}."


def _number_words(
    numbers: dict[str, Any], name: str, form: str, sign: str, bound: str = "at least"
) -> str:
    value, error = numbers[name], numbers[f"{name}_se"]
    if numbers[f"{name}_is_bound"]:
        return f"{bound} {value:{form}}"
    if error is None:
        return f"{value:{form}}"
    return f"{value:{form}} {sign} {error_words(error, not numbers[f'{name}_at_least'])}"


def _rounded_up(time: float) -> float:
    """To two digits."""
    digit = 10 ** (math.floor(math.log10(time)) - 1)
    return math.ceil(time / digit - 1e-9) * digit


def _time_words(time: float) -> str:
    """A time in ps."""
    return f"{time / _PS_PER_NS:.3g} ns" if time >= _PS_PER_NS else f"{time:.3g} ps"
