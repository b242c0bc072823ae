"""Stage 7: does the coarse-grained simulation have the structure of the all-atom one?"""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunConfig
from ..exceptions import AnalysisError
from ..files import file_hash, replacing, write_text
from ..frames import Frames, read_frames
from ..progress import log_to, progress
from ..run_folder import RunFolder, Stage
from .errors import CurveError, curve_error, jackknife_error, standard_error
from .figures import Panel, draw_rdfs
from .rdf import RDF, block_rdfs, first_peak, largest_r_max
from .trajectory import Trajectory, read_trajectory

logger = logging.getLogger(__name__)

_VOLUME_TOLERANCE = 0.01  # relative; beyond it the two runs are at different states and differ for that reason alone
_DEFINITIONS = {
    "mean_absolute_error": "mean over all bins from 0 to r_max of |g_CG - g_AA|",
    "integrated_absolute_error": "integral of |g_CG - g_AA| from 0 to r_max, nm",
    "rmse": "square root of the mean over all bins of (g_CG - g_AA)^2",
    "all_atom_halves": "mean absolute difference between the first and the second half of the all-atom frames; smaller errors mean nothing",
    "normalisation": "1 for an ideal gas at any system size: N_a N_b pairs, N_a (N_a - 1) / 2 for like types",
    "standard_error": "of curves: over contiguous time blocks; of errors and peaks: jackknife over the same blocks",
}


@dataclass(frozen=True)
class Curve:
    """One RDF with the block curves behind its error; built from an even number of parts, two to a block."""

    parts: list[RDF]

    @cached_property
    def rdf(self) -> RDF:
        return RDF.merged(self.parts)

    @property
    def g(self) -> np.ndarray:
        return self.rdf.values

    @cached_property
    def blocks(self) -> np.ndarray:
        """g(r) of every time block, shape (n_blocks, bins)."""
        pairs = zip(self.parts[::2], self.parts[1::2], strict=True)
        return np.array([RDF.merged(pair).values for pair in pairs])

    @property
    def standard_error(self) -> np.ndarray:
        return standard_error(self.blocks)

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """g(r) of the first and of the second half of the frames."""
        middle = len(self.parts) // 2
        return RDF.merged(self.parts[:middle]).values, RDF.merged(self.parts[middle:]).values

    def peak(self) -> dict[str, float | None]:
        """First peak, nulls where there is none."""
        r = self.rdf.bin_centers
        peak = first_peak(r, self.g)
        if peak is None:
            return dict.fromkeys(("position", "position_se", "height", "height_se"))

        def value_of(name: str) -> Callable[[np.ndarray], float]:
            return lambda g: getattr(first_peak(r, g), name, math.nan)

        errors = {f"{name}_se": _number(jackknife_error(self.blocks, value_of(name))) for name in ("position", "height")}
        return {"position": peak.position, "height": peak.height, **errors}


@dataclass(frozen=True)
class PairComparison:
    """All-atom and coarse-grained RDF of one pair of bead types."""

    types: tuple[str, str]
    all_atom: Curve
    coarse_grained: Curve

    @property
    def bin_width(self) -> float:
        return self.all_atom.rdf.r_max / self.all_atom.rdf.bins

    @cached_property
    def error(self) -> CurveError:
        return curve_error(self.coarse_grained.g, self.all_atom.g, self.bin_width)

    @cached_property
    def error_se(self) -> float:
        """Standard error of the mean absolute error from the blocks of both trajectories."""
        aa, cg = self.all_atom, self.coarse_grained
        return math.hypot(
            jackknife_error(aa.blocks, lambda g: curve_error(cg.g, g, self.bin_width).mean_absolute),
            jackknife_error(cg.blocks, lambda g: curve_error(g, aa.g, self.bin_width).mean_absolute),
        )

    @cached_property
    def floor(self) -> float:
        """Mean absolute difference between the halves of the all-atom frames."""
        return curve_error(*self.all_atom.halves, self.bin_width).mean_absolute

    def numbers(self) -> dict[str, Any]:
        return {
            "types": list(self.types),
            "mean_absolute_error": self.error.mean_absolute,
            "mean_absolute_error_se": self.error_se,
            "integrated_absolute_error": self.error.integrated_absolute,
            "rmse": self.error.rmse,
            "all_atom_halves": self.floor,
            "first_peak": {"all_atom": self.all_atom.peak(), "coarse_grained": self.coarse_grained.peak()},
        }

    def panel(self) -> Panel:
        return Panel(
            title="\u2013".join(self.types),
            r=self.all_atom.rdf.bin_centers,
            reference=self.all_atom.g,
            reference_se=self.all_atom.standard_error,
            model=self.coarse_grained.g,
            model_se=self.coarse_grained.standard_error,
            error=self.error.mean_absolute,
            error_se=self.error_se,
            floor=self.floor,
        )


def compare(run: RunConfig) -> Path:
    """Compare the coarse-grained trajectory of a run with its all-atom frames.

    Reads ``simulation/trajectory.dcd`` (or ``.xtc``), ``simulation/topology.pdb`` and, if present, ``simulation/simulation.json``;
    writes ``comparison.json``, ``rdf.csv`` and ``rdf.png`` into the comparison folder.

    Returns
    -------
    Path
        ``comparison.json``.

    Raises
    ------
    AnalysisError
        If the trajectory has other beads or another box volume than the all-atom frames, is too short for the blocks, if a pair
        of bead types is empty, or r_max is above half the box.
    FramesError
        If the all-atom frames cannot be read.
    """
    folder = RunFolder(run)
    path = folder.simulation / f"trajectory.{run.simulation.trajectory}"
    outputs = [folder.comparison / name for name in ("comparison.json", "rdf.csv", "rdf.png")]
    with log_to(folder.log("compare")):
        frames = read_frames(folder.frames)
        trajectory = read_trajectory(path, folder.simulation / "topology.pdb")
        speed = _simulation_numbers(folder.simulation / "simulation.json")
        inputs = {"comparison": run.comparison, "frames": frames.identity, "trajectory": file_hash(path), "simulation": speed}
        stage = Stage(folder, "compare", inputs, outputs)
        if stage.finished:
            return outputs[0]
        r_max = _check(frames, trajectory, run)
        pairs = _compare_pairs(frames, trajectory, run.comparison.bins, r_max, run.comparison.blocks)
        report = _report(frames, trajectory, pairs, run, r_max, speed)
        write_text(outputs[0], json.dumps(report, indent=1, allow_nan=False))
        _write_curves(outputs[1], pairs)
        system, temperature = report["system"], report["temperature"]
        with replacing(outputs[2]) as fresh:
            draw_rdfs(fresh, [pair.panel() for pair in pairs], f"{system} at {temperature:g} K", _caption(report))
        _log_table(pairs, report)
        stage.finish()
    return outputs[0]


def _check(frames: Frames, trajectory: Trajectory, run: RunConfig) -> float:
    """Refuse what cannot be compared; return r_max in nm."""
    # a PDB file keeps four characters of a name
    expected, found = [name[:4] for name in frames.beads.names], [name[:4] for name in trajectory.names]
    if expected != found:
        raise AnalysisError(
            f"The trajectory holds other beads ({_composition(found)}) than the all-atom frames ({_composition(expected)}), "
            "or in another order; compare runs of the same system."
        )
    volumes = [float(np.abs(np.linalg.det(boxes)).mean()) for boxes in (frames.box, trajectory.boxes)]
    if abs(volumes[1] / volumes[0] - 1) > _VOLUME_TOLERANCE:
        raise AnalysisError(
            f"The mean box volume is {volumes[1]:.3f} nm^3 in the trajectory and {volumes[0]:.3f} nm^3 in the all-atom frames; "
            "simulate at the all-atom density."
        )
    blocks = run.comparison.blocks
    for what, n in (("all-atom frames", len(frames)), ("frames of the trajectory", len(trajectory.positions))):
        if n < 2 * blocks:
            raise AnalysisError(
                f"{n} {what} are too few for comparison.blocks = {blocks}, which needs {2 * blocks}; simulate longer or use fewer blocks."
            )
    largest = min(largest_r_max(frames.box), largest_r_max(trajectory.boxes))
    r_max = run.comparison.r_max or largest
    if r_max > largest:
        raise AnalysisError(f"comparison.r_max of {r_max:g} nm is above half the smallest box height; use at most {largest:g} nm.")
    return r_max


def _composition(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"


def _compare_pairs(frames: Frames, trajectory: Trajectory, bins: int, r_max: float, blocks: int) -> list[PairComparison]:
    # two parts to a block, so that blocks and halves both come from one pass over the frames
    curves = []
    for label, positions, boxes in (("all-atom", frames.positions, frames.box), ("coarse-grained", trajectory.positions, trajectory.boxes)):
        with progress(f"RDFs {label}", len(positions)) as meter:
            curves.append(block_rdfs(positions, boxes, frames.beads, bins, r_max, 2 * blocks, meter.update))
    pairs = [PairComparison(types, Curve(curves[0][types]), Curve(curves[1][types])) for types in curves[0]]
    for pair in pairs:
        if not pair.all_atom.g.any():
            raise AnalysisError(
                f"Beads {pair.types[0]} and {pair.types[1]} never come within {r_max:g} nm in the all-atom frames; raise comparison.r_max."
            )
    return pairs


def _simulation_numbers(path: Path) -> dict[str, Any] | None:
    """What the simulation stage left about its speed and temperature, or None."""
    if not path.exists():
        logger.info("%s is absent: the comparison states no speed and no temperature", path.name)
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise AnalysisError(f"{path}: is not valid JSON ({error}); run 'cgkd simulate' again.") from error


def _report(
    frames: Frames, trajectory: Trajectory, pairs: list[PairComparison], run: RunConfig, r_max: float, speed: dict[str, Any] | None
) -> dict[str, Any]:
    numbers = [pair.numbers() for pair in pairs]
    return {
        "system": frames.attributes.get("system", "unnamed system"),
        "temperature": frames.temperature,
        "frames": {"all_atom": len(frames), "coarse_grained": len(trajectory.positions), "coarse_grained_trajectories": 1},
        "frames_sha256": frames.identity,
        "bins": run.comparison.bins,
        "r_max": r_max,
        "blocks": run.comparison.blocks,
        "definitions": _DEFINITIONS,
        "mean": {key: float(np.mean([pair[key] for pair in numbers])) for key in ("mean_absolute_error", "rmse", "all_atom_halves")},
        "pairs": numbers,
        "simulation": speed,
    }


def _write_curves(path: Path, pairs: list[PairComparison]) -> None:
    """CSV: r in nm, then g(r), its standard error and the running coordination number of every pair and source."""
    columns = {"r / nm": pairs[0].all_atom.rdf.bin_centers}
    for pair in pairs:
        name = "-".join(pair.types)
        for source, curve in (("AA", pair.all_atom), ("CG", pair.coarse_grained)):
            columns |= {f"{name} {source} g": curve.g, f"{name} {source} g se": curve.standard_error}
            columns[f"{name} {source} coordination to outer edge"] = curve.rdf.coordination
    with replacing(path) as fresh, open(fresh, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True))


def _caption(report: dict[str, Any]) -> str:
    frames, mean = report["frames"], report["mean"]
    return (
        f"error: mean |Δg| from 0 to {report['r_max']:.3g} nm; mean of all pairs {mean['mean_absolute_error']:.3f}, "
        f"all-atom halves {mean['all_atom_halves']:.3f}\n"
        f"{frames['all_atom']} all-atom and {frames['coarse_grained']} CG frames, one trajectory each; "
        f"bands: ±2 standard errors over {report['blocks']} time blocks"
    )


def _log_table(pairs: list[PairComparison], report: dict[str, Any]) -> None:
    for pair in pairs:
        numbers = ("-".join(pair.types), pair.error.mean_absolute, pair.error_se, pair.error.rmse, pair.floor)
        logger.info("%-12s RDF error %.3f +- %.3f, rmse %.3f, all-atom halves %.3f", *numbers)
    mean = report["mean"]
    logger.info("mean of %d pairs: RDF error %.3f, all-atom halves %.3f", len(pairs), mean["mean_absolute_error"], mean["all_atom_halves"])


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return value if math.isfinite(value) else None
