"""The curves of a comparison as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.utils.files import file_hash, replacing

from .models import Analysis, Comparison, error_rows

_COLUMNS = {
    "rdf": ("r / nm", "g"),
    "adf": ("angle / degree", "p / degree^-1"),
    "coordination": ("neighbours", "share"),
}
_ERROR = ("se", "bound")  # "at least" where the standard error is a lower bound


def write_tables(comparison: Comparison, folder: Path) -> dict[str, str]:
    """CSV files of all curves with their standard errors, and of the errors.

    Returns
    -------
    dict of str
        SHA-256 of every file, for the record of the comparison.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    named = [
        ("AA", comparison.all_atom),
        *((result.label, result.analysis) for result in comparison.results),
    ]
    for kind in _COLUMNS:
        if keys := comparison.all_atom.structure.of_kind(kind):
            columns = _curve_columns(kind, keys, named)
            write_csv(folder / f"{kind}.csv", list(columns), zip(*columns.values(), strict=True))
    if maps := comparison.all_atom.structure.of_kind("cdf"):
        write_csv(
            folder / "cdf.csv",
            ["types", "r / nm", "angle / degree", *(f"{label} h" for label, _ in named)],
            _map_rows(maps, named),
        )
    errors = list(error_rows(comparison.results))
    write_csv(folder / "errors.csv", list(errors[0]), (map(_plain, row.values()) for row in errors))
    write_csv(
        folder / "msd.csv", ["run", "type", "t / ps", "msd / nm^2", *_ERROR], _msd_rows(named)
    )
    write_csv(
        folder / "decorrelation.csv",
        ["run", "function", "types", "t / ps", "F(k,t) / F(k,0)", *_ERROR],
        _decorrelation_rows(named),
    )
    if comparison.all_atom.order:
        write_csv(
            folder / "order.csv", ["run", "type", "q6", "density", *_ERROR], _order_rows(named)
        )
    if comparison.all_atom.structure_factor is not None:
        write_csv(
            folder / "structure_factor.csv",
            ["run", "types", "q / nm^-1", "S", *_ERROR],
            _structure_factor_rows(named),
        )
    return {path.name: file_hash(path) for path in sorted(folder.glob("*.csv"))}


def _curve_columns(
    kind: str, keys: Iterable[tuple[str, ...]], named: list[tuple[str, Analysis]]
) -> dict[str, np.ndarray]:
    axis, value = _COLUMNS[kind]
    columns: dict[str, np.ndarray] = {}
    for types in keys:
        name = "-".join(types)
        for label, analysis in named:
            curve = analysis.structure.curves[kind, types]
            if not columns:
                columns[axis] = (
                    curve.whole.numbers if kind == "coordination" else curve.whole.bin_centers
                )
            columns |= {
                f"{name} {label} {value}": curve.values,
                error_title(f"{name} {label} {value}", curve.blocked.plateau): curve.standard_error,
            }
            if kind == "rdf":
                columns[f"{name} {label} coordination to outer edge"] = curve.whole.coordination
    return columns


def _map_rows(
    maps: Iterable[tuple[str, ...]], named: list[tuple[str, Analysis]]
) -> Iterable[list[Any]]:
    for types in maps:
        wholes = [analysis.structure.curves["cdf", types].whole for _, analysis in named]
        values = np.array([whole.values for whole in wholes])
        r, angle = (
            0.5 * (edges[1:] + edges[:-1]) for edges in (wholes[0].r_edges, wholes[0].angle_edges)
        )
        for k, m in np.ndindex(values.shape[1:]):
            yield ["-".join(types), r[k], angle[m], *values[:, k, m]]


def _msd_rows(named: list[tuple[str, Analysis]]) -> Iterable[list[Any]]:
    for label, analysis in named:
        if not isinstance(analysis.diffusion, str):
            for name, result in analysis.diffusion.items():
                yield from (
                    [label, name, *row, _bound(result.independent)]
                    for row in zip(result.lag_times, result.msd, result.msd_se, strict=True)
                )


def _decorrelation_rows(named: list[tuple[str, Analysis]]) -> Iterable[list[Any]]:
    for label, analysis in named:
        found = analysis.decorrelation
        if isinstance(found, str):
            continue
        for name, curve in zip(found.half_times, found.curves, strict=True):
            yield from (
                [label, *name, *row, _bound(curve.plateau)]
                for row in zip(found.lag_times, curve.mean, curve.error, strict=True)
            )


def _order_rows(named: list[tuple[str, Analysis]]) -> Iterable[list[Any]]:
    for label, analysis in named:
        for name, curve in analysis.order.items():
            yield from (
                [label, name, *row, _bound(curve.blocked.plateau)]
                for row in zip(
                    curve.whole.bin_centers, curve.values, curve.standard_error, strict=True
                )
            )


def _structure_factor_rows(named: list[tuple[str, Analysis]]) -> Iterable[list[Any]]:
    for label, analysis in named:
        curve = analysis.structure_factor
        if curve is None:  # every trajectory has one, or none has
            continue
        for pair, values, errors in zip(
            curve.whole.pairs, curve.values, curve.standard_error, strict=True
        ):
            rows = zip(curve.whole.bin_centers, values, errors, strict=True)
            yield from (
                [label, "-".join(map(str, pair)), *row, _bound(curve.blocked.plateau)]
                for row in rows
                if np.isfinite(row[1])
            )


def error_title(curve: str, plateau: bool) -> str:
    """Title of the column with the standard error of a curve, which tells a lower bound."""
    return f"{curve} se" if plateau else f"{curve} se, at least"


def _bound(plateau: bool) -> str:
    return "" if plateau else "at least"


def _plain(value: Any) -> Any:
    """Lists as the words that they hold."""
    if isinstance(value, list):
        return " ".join(
            f"{each:.3g}" if isinstance(each, float) else str(each).lower() for each in value
        )
    return value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table, numbers with six digits."""
    with replacing(path) as fresh, open(fresh, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(
            [f"{value:.6g}" if isinstance(value, float | np.number) else value for value in row]
            for row in rows
        )
