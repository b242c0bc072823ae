"""What the pages say of their tables, against the tables."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import stats

from scripts.claims import p_value
from scripts.denoising.plan import FULL
from scripts.denoising.report import all_claims, claims_table, markdown_table
from scripts.study.tables import CLAIMS, claim_rows, claims_markdown
from tests.cases.paths import ROOT

DOCS = ROOT / "docs"


def read(name: str) -> list[dict]:
    """Rows of a table, numbers as numbers, nothing as None."""

    def value(text: str) -> float | str | None:
        try:
            return float(text)
        except ValueError:
            return text or None

    with open(DOCS / name, newline="") as file:
        return [{key: value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def page(name: str) -> str:
    """A page in one line."""
    return " ".join((DOCS / name).read_text().split())


def of(rows: list[dict], key: str, **place: object) -> np.ndarray:
    chosen = [row for row in rows if all(row[name] == value for name, value in place.items())]
    return np.array([row[key] for row in sorted(chosen, key=lambda row: row["seed"])])


def short(values: np.ndarray, digits: int) -> str:
    """Mean with the standard deviation in units of its last digit."""
    return f"{values.mean():.{digits}f}({round(values.std(ddof=1) * 10**digits)})"


def test_claims_of_the_study_are_those_of_its_results():
    rows = read("study/results.csv")
    claims = claim_rows(rows)
    for written, found in zip(read("study/claims.csv"), claims, strict=True):
        assert written == {
            key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for key, value in found.items()
        }
        a, b = (of(rows, found["error"], variant=name) for name in CLAIMS[found["claim"]])
        assert found["p"] == pytest.approx(stats.ttest_1samp(a / b, 1).pvalue)
    assert claims_markdown(claims) in (DOCS / "study" / "results.md").read_text()


def test_words_of_the_study_have_the_numbers_of_its_results():
    rows, text = read("study/results.csv"), page("study/README.md")
    forces = {
        name: of(rows, "mean_force_rmse", variant=name)
        for name in ("direct", "single-F+e", "ensemble-F", "ensemble-F+e", "committee")
    }
    for first, second, words in (
        ("committee", "direct", "**The ensemble is better than direct force matching: yes**, {}"),
        ("ensemble-F+e", "committee", "One network does the work of the ensemble: nearly**, {}"),
    ):
        assert words.format(short(forces[first] / forces[second], 3)) in text
    ratio = forces["ensemble-F+e"] / forces["direct"]
    p = stats.ttest_1samp(ratio, 1).pvalue
    assert f"**That distillation keeps part of this is not shown**: {short(ratio, 4)}" in text
    assert f"with F+e, p = {p:.3f}." in text
    assert p > 0.05
    spread = forces["direct"].var(ddof=1) / forces["ensemble-F"].var(ddof=1)
    assert f"three seeds do not show it: p = {stats.f.sf(spread, 2, 2):.2f} (one-sided" in text
    ablation = {row["variant"]: row["rdf_error"] for row in read("study/ablation/results.csv")}
    ratio = ablation["frames-250"] / ablation["base"]
    assert f"the RDF error is {ratio:.2f} times as large" in text


def test_words_of_the_denoising_page_have_the_numbers_of_its_results():
    rows, text = read("denoising/results.csv"), page("denoising.md")
    table = markdown_table(claims_table(all_claims(rows, FULL)))
    assert table in (DOCS / "denoising.md").read_text()

    def ratio(first: str, second: str, frames: int, noise: float | None) -> np.ndarray:
        place = {"frames": frames, "noise": noise}
        place["data"] = "ethaline" if noise is None else "known truth"
        return of(rows, "rmse", variant=first, **place) / of(rows, "rmse", variant=second, **place)

    def percent(*arguments) -> str:
        return short(100 * (ratio(*arguments) - 1), 1)

    labels = 1 / ratio("teacher", "labels", 1000, None).mean()
    assert f"by a factor of {labels:.1f} (ethaline) to 14" in text
    student = ("student F+e", "ensemble")
    for what, frames, noise in (
        ("{} % at noise 3 (open)", 200, 3),
        ("{} % at noise 10 (open)", 200, 10),
        ("{} % on ethaline (p = 0.004)", 1000, None),
        ("{} % with 400 frames at noise 3 (p = 0.009)", 400, 3),
    ):
        assert what.format(percent(*student, frames, noise)) in text
    for name, noise, what in (
        ("student F+E", 3, "F+E has {} % more error at noise 3"),
        ("student F+e", 3, "F+e {} % and"),
    ):
        assert what.format(percent(name, "student F", 200, noise)) in text


def test_p_values_at_their_limits():
    assert p_value({"mean": 0.9, "std": None}, 1) is None
    assert p_value({"mean": 0.9, "std": 0.0}, 3) == 0
    assert p_value({"mean": 1.0, "std": 0.0}, 3) == 1
