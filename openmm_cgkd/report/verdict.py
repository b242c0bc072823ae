"""The verdict on a model, in words and marks.

The bounds stand in docs/observables.md and on the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from openmm_cgkd.analysis.comparison.decorrelation import samples_words
from openmm_cgkd.analysis.comparison.systematic import SIGNIFICANT
from openmm_cgkd.analysis.stability.survival import FailureRate
from openmm_cgkd.utils.statistics import error_words, root, safe_error

from .run_record import Contents, Run, rate_of

# root mean square of g(r) over all bins: 0.03 is hard to see in a plot, 0.15 is hard to miss
GOOD_STRUCTURE, FAIR_STRUCTURE = 0.03, 0.15
# relative; the first as the bound of the time-step search
GOOD_TEMPERATURE, FAIR_TEMPERATURE = 0.02, 0.05

# 95 % bounds on a rate of failure: surviving is only worth the time that it was tried for
ENOUGH_TIME = 1.0  # ns
ENOUGH_SURVIVAL = 0.5

BOUNDS = (
    f"Structure: by the RDF error without noise (rms), which counts as 0 if it is not significant"
    f" (p < {SIGNIFICANT:g}): green up to {GOOD_STRUCTURE:g}, yellow up to {FAIR_STRUCTURE:g}, red"
    " above; grey instead of green or yellow where its upper 95 % limit is more than twice that"
    " bound. Red wherever beads aggregate. Stability: green without failure in at least"
    f" {ENOUGH_TIME:g} ns of all runs, if a run as long as simulation.production then survives with"
    f" at least {ENOUGH_SURVIVAL:.0%} (lower 95 % bound), grey without failure in less; yellow if"
    f" at most half of the runs fail, red above. Temperature: green within {GOOD_TEMPERATURE:.0%},"
    f" yellow within {FAIR_TEMPERATURE:.0%}, red above, grey if its error does not tell. Speed:"
    " green if it makes more independent samples per day than all-atom by two standard errors"
    " (where these are not known, more ns per day), else yellow. Grey: not known. The verdict is"
    " the worst of them, and grey instead of green while structure or stability is not known."
)


class Mark(IntEnum):
    """Mark of a finding; of several findings the worst mark, which is the largest, counts."""

    UNKNOWN = 0
    GOOD = 1
    FAIR = 2
    POOR = 3

    @property
    def word(self) -> str:
        return ("not known", "good", "fair", "poor")[self]


@dataclass(frozen=True)
class Finding:
    """One figure of a model.

    Attributes
    ----------
    mark : Mark
    value : str
        The figure itself.
    note : str
        What it is to be compared with.
    sentence : str
        Both in words.
    """

    mark: Mark
    value: str
    note: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Findings on a model by topic: structure, stability, temperature, speed."""

    model: str
    findings: dict[str, Finding]

    @property
    def mark(self) -> Mark:
        worst = max(finding.mark for finding in self.findings.values())
        return Mark.UNKNOWN if worst is Mark.GOOD and not self._tested else worst

    @property
    def _tested(self) -> bool:
        return all(self.findings[topic].mark for topic in ("structure", "stability"))

    @property
    def headline(self) -> str:
        return self.mark.word if self._tested else f"{self.mark.word}, as far as tested"

    @property
    def text(self) -> str:
        """Sentences for the top of the page."""
        return " ".join(finding.sentence for finding in self.findings.values() if finding.sentence)


def verdicts(contents: Contents) -> list[Verdict]:
    """A verdict on every model, that of the smallest RDF error first."""
    found = [
        (rdf_error(runs)[0], Verdict(name, _findings(runs, contents)))
        for name, runs in contents.models.items()
    ]
    return [verdict for _, verdict in sorted(found, key=lambda item: item[0])]


def rdf_error(runs: list[Run]) -> tuple[float, float | None]:
    """Mean RDF error over all pairs and trainings, and its standard deviation over trainings."""
    means = [
        np.mean([curve["mean_absolute"] for curve in run.curves("rdf").values()]) for run in runs
    ]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None


def _findings(runs: list[Run], contents: Contents) -> dict[str, Finding]:
    return {
        "structure": _structure(runs),
        "stability": _stability(runs),
        "temperature": _temperature(runs),
        "speed": _speed(runs, contents.all_atom_speed),
    }


def _structure(runs: list[Run]) -> Finding:
    (error, spread), found = rdf_error(runs), [run.record["systematic"]["rdf"] for run in runs]
    value = f"{error:.3f}" if spread is None else f"{error:.3f} ± {spread:.3f}"
    size, _ = root(float(np.mean([each["systematic_square"] for each in found])), np.nan)
    limit = max(each["systematic_limit"] for each in found)
    # a single bad training counts, by Bonferroni's inequality: it holds though all share the noise
    # of all-atom
    p = min(1.0, len(found) * min(each["systematic_p"] for each in found))
    perfect = float(np.mean([each["perfect_mean_absolute"] for each in found]))
    doubt = any(each["systematic_at_least"] for each in found)
    significant = p < SIGNIFICANT
    mark = _structure_mark(size if significant else 0.0, limit)
    told = f"without noise below {limit:.3f} rms"
    if significant:
        told = f"{size:.3f} rms without noise, p {'< 0.001' if p < 1.5e-3 else f'= {p:.3f}'}"
        if mark is Mark.UNKNOWN:
            told += f", but up to {limit:.3f}"
    start = {
        Mark.GOOD: f"The structure {'is close to' if significant else 'agrees with'} all-atom",
        Mark.FAIR: "The structure is near all-atom",
        Mark.POOR: "The structure is far from all-atom",
        Mark.UNKNOWN: "The data do not tell how far the structure is from all-atom",
    }[mark]
    sentence = (
        f"{start}: the mean RDF error is {value}, a perfect model would show {perfect:.3f}"
        f" ({told})."
    )
    if doubt:
        sentence += (
            " The all-atom run is a single one or the runs are short, so the noise may be larger"
            " than that."
        )
    clumped = [run for run in runs if run.record["aggregation"]["first_frame"] is not None]
    if clumped:
        mark = Mark.POOR
        share = max(run.record["aggregation"]["share_of_frames"] for run in clumped)
        sentence += (
            f" Its beads aggregate: up to {share:.0%} of the frames show what all-atom never does."
        )
    note = f"RDF error; {told}" + ("; beads aggregate" if clumped else "")
    return Finding(mark, value, note, sentence)


def _structure_mark(size: float, limit: float) -> Mark:
    """Mark of an error without noise that is smaller than a limit with 95 % confidence."""
    for mark, highest in ((Mark.GOOD, GOOD_STRUCTURE), (Mark.FAIR, FAIR_STRUCTURE)):
        if size <= highest:
            return mark if limit <= 2 * highest else Mark.UNKNOWN
    return Mark.POOR


def _stability(runs: list[Run]) -> Finding:
    tested = [run.stability for run in runs if run.stability]
    if not tested:
        return Finding(
            Mark.UNKNOWN,
            "not tested",
            "cgkd stability",
            "How long it stays physical has not been tested (cgkd stability).",
        )
    total, failed = (sum(report[name] for report in tested) for name in ("replicas", "failed"))
    rate = rate_of(tested)
    # what the model is for; older protocols do not say
    planned = max(report.get("production", report["duration"]) for report in tested)
    needed = max(ENOUGH_TIME, FailureRate.needed(planned / 1000, ENOUGH_SURVIVAL))
    durations = sorted({report["duration"] for report in tested})
    length = " and ".join(f"{duration:g}" for duration in durations)
    mark = Mark.GOOD if rate.time >= needed else Mark.UNKNOWN
    if failed:
        mark = Mark.FAIR if 2 * failed <= total else Mark.POOR
    causes = {
        cause: sum(report["causes"][cause] for report in tested) for cause in tested[0]["causes"]
    }
    named = ", ".join(f"{count} {cause}" for cause, count in causes.items() if count)
    note = f"runs of {length} ps; {rate.words}" + (f"; {named}" if named else "")
    sentence = f"{total - failed} of {total} runs of {length} ps stayed physical" + (
        f" ({named})" if named else ""
    )
    sentence += f": {rate.words}"
    if mark is Mark.UNKNOWN:
        sentence += (
            f", which is too little to rely on for {planned:g} ps; {math.ceil(10 * needed) / 10:g}"
            " ns without failure in all runs together are enough (stability.replicas and"
            " stability.duration)"
        )
    sentence += "."
    return Finding(mark, f"{total - failed} of {total}", note, sentence)


def _temperature(runs: list[Run]) -> Finding:
    known = [
        run.simulation for run in runs if run.simulation and "mean_temperature" in run.simulation
    ]
    if not known:
        return Finding(Mark.UNKNOWN, "not known", "", "")
    furthest = max(
        known, key=lambda numbers: abs(numbers["mean_temperature"] - numbers["temperature"])
    )
    mean, wanted = furthest["mean_temperature"], furthest["temperature"]
    plateau = not furthest.get("mean_temperature_at_least", False)
    error = furthest.get("mean_temperature_se")  # older runs do not say
    value = f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error_words(error, plateau, '.1f')}"
    off = abs(mean / wanted - 1)
    # without an error it tells only what is far off
    margin = 2 * FAIR_TEMPERATURE if error is None else 2 * safe_error(error, plateau) / wanted
    mark = _temperature_mark(off, margin)
    sentences = {
        Mark.GOOD: "",
        Mark.UNKNOWN: f"The mean temperature is {value} K, which does not tell whether it is the"
        f" {wanted:g} K that were set.",
    }
    sentence = sentences.get(mark, f"The mean temperature is {value} K, {wanted:g} K was set.")
    return Finding(mark, f"{value} K", f"{wanted:g} K set", sentence)


def _temperature_mark(off: float, margin: float) -> Mark:
    """Mark of a relative deviation that is known to a margin, two standard errors."""
    bounds = ((Mark.GOOD, GOOD_TEMPERATURE), (Mark.FAIR, FAIR_TEMPERATURE))
    if margin > GOOD_TEMPERATURE and off - margin <= FAIR_TEMPERATURE:
        return Mark.UNKNOWN
    return next((mark for mark, highest in bounds if off <= highest), Mark.POOR)


def _speed(runs: list[Run], all_atom: float | None) -> Finding:
    known = [run.simulation["ns_per_day"] for run in runs if run.simulation]
    if not known:
        return Finding(Mark.UNKNOWN, "not known", "", "")
    speed = float(np.mean(known))
    value = f"{speed:.3g} ns/day"
    made = _samples(runs)
    told = samples_words(made)
    samples = f" {told[0].upper()}{told[1:]}"
    if all_atom is None:
        return Finding(
            Mark.UNKNOWN,
            value,
            "all-atom not known",
            f"It runs at {value}; the speed of all-atom is not known.{samples}",
        )
    ratio = speed / all_atom
    mark = Mark.GOOD if _surely_more(made, ratio) else Mark.FAIR
    sentence = f"It runs at {value}, {ratio:.2g} times the {all_atom:.3g} ns/day of all-atom."
    note = f"{ratio:.2g} times all-atom"
    if "ratio" in made:
        note += f", {made['ratio']:.2g} times its samples"
    return Finding(mark, value, note, f"{sentence}{samples}")


def _surely_more(samples: dict[str, Any], ratio: float) -> bool:
    """Whether there are more samples than of all-atom by two errors, or else more ns per day."""
    if "ratio" not in samples:
        return ratio > 1
    if samples["ratio_is_bound"]:  # it is at least so large
        return samples["ratio"] > 1
    error = safe_error(samples["ratio_se"], not samples["ratio_at_least"])
    return samples["ratio"] - 2 * error > 1


def _samples(runs: list[Run]) -> dict[str, Any]:
    """Independent samples per day, of the training that makes fewest.

    One whose half-times are not known is too slow for its trajectory.
    """
    found = [run.record["samples"] for run in runs]
    return min(found, key=lambda each: each.get("per_day", -math.inf))
