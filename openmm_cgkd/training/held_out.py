"""The final student on the test part, which no training and no choice has looked at.

Its error against the mapped forces is mostly noise. What of it is not can be told where the noise
has been measured, which checks the error against mean forces: docs/physics.md has the formula.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.split import apply_split
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.custom_network import CustomNetwork
from openmm_cgkd.potential.forces import cutoff_of
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.statistics import (
    BlockedMean,
    error_words,
    mean_of,
    root,
    standard_error,
)

from .graphs import FrameGraphs
from .labels import open_labels
from .mean_force_test import MeanForceTest, load_mean_force_test
from .metrics import bead_groups
from .predict import predict
from .task import TEST

logger = logging.getLogger(__name__)

_SIGNIFICANT = 0.01  # a rarer difference is not put down to chance


def evaluate_student(
    checkpoint: Path | str,
    frames: Frames,
    prior: PriorParameters,
    labels: Path | str | None = None,
    split: SplitConfig | None = None,
    *,
    mean_forces: Path | str | None = None,
    network: CustomNetwork | None = None,
) -> dict[str, Any]:
    """Compare a student with the test part, log the errors and write them beside its checkpoint.

    Parameters
    ----------
    checkpoint : path
    frames : Frames
        All frames that the split divides.
    prior : PriorParameters
    labels : path, optional
        The teachers' labels of these frames.
    split : SplitConfig, optional
        That of the training.
    mean_forces : path, optional
        Mean-force frames.
    network : CustomNetwork, optional
        Where the checkpoint is of such a one.

    Returns
    -------
    dict
        What ``test.json`` holds, see docs/formats.md.

    Raises
    ------
    ModelFileError
        If the checkpoint is missing or damaged.
    FramesError
        If labels or mean forces do not belong to the frames.
    """
    checkpoint = Path(checkpoint)
    student, _ = load_checkpoint(checkpoint, network)
    parts = apply_split(frames, split or SplitConfig())
    graphs = FrameGraphs(frames[parts.test], cutoff_of(student), prior)
    forces = predict(student, graphs, range(len(graphs)))[0]
    against = load_mean_force_test(mean_forces, frames, graphs.cutoff, prior, parts)
    result: dict[str, Any] = {
        "checkpoint_sha256": file_hash(checkpoint),
        "frames": len(graphs),
        "time_ps": [float(graphs.frames.time[k]) for k in (0, -1)],
        "mapped": mapped_errors(forces, graphs),
    }
    if labels is not None:
        with open_labels(Path(labels), frames) as file:
            # contiguous in time
            known = file["forces"][parts.test[0] : parts.test[-1] + 1]
        result["teachers"] = errors_over_time(forces - known, graphs)
    if against is not None:
        at_means = predict(student, against.graphs, range(len(against.graphs)))[0]
        result["mean_forces"] = compare_with_mean_forces(forces, graphs, at_means, against)
    log_result(result)
    write_record(checkpoint.parent / TEST, result)
    return result


def errors_over_time(errors: np.ndarray, graphs: FrameGraphs) -> dict[str, dict[str, Any]]:
    """RMSE over all beads and by bead type, with errors that know of correlation in time.

    Parameters
    ----------
    errors : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        At the frames of `graphs`, in the order of time.

    Returns
    -------
    dict
        By bead type, and ``all``: ``rmse`` and ``rmse_se``, kJ/mol/nm, the latter None for a single
        frame; ``at_least``, whether the frames are too few for more than a lower bound of it.
    """
    squares = errors.astype(float) ** 2
    return {
        name or "all": _entry(mean_of(squares[:, beads].mean(axis=(1, 2))))
        for name, beads in bead_groups(graphs.frames.beads).items()
    }


def _entry(square: BlockedMean, known: float = 0.0, known_error: float = 0.0) -> dict[str, Any]:
    """Root of a mean square, to which another one is added."""
    rmse, error = root(square.mean + known, float(np.hypot(square.error, known_error)))
    return {"rmse": rmse, "rmse_se": _finite(error), "at_least": not square.plateau}


def mapped_errors(forces: np.ndarray, graphs: FrameGraphs) -> dict[str, dict[str, Any]]:
    """As `errors_over_time`, of network and prior against the mapped forces.

    Of all beads also the ``share``, the mean square over the variance of the mapped forces.
    """
    mapped = graphs.frames.forces
    found = errors_over_time(forces + graphs.prior_forces - mapped, graphs)
    found["all"]["share"] = found["all"]["rmse"] ** 2 / float(np.var(mapped, dtype=float))
    return found


def compare_with_mean_forces(
    forces: np.ndarray, graphs: FrameGraphs, at_means: np.ndarray, against: MeanForceTest
) -> dict[str, Any]:
    r"""The error against mean forces, measured and implied by the error against mapped forces.

    Parameters
    ----------
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the network at the test frames.
    graphs : FrameGraphs
        The test frames.
    at_means : ndarray, shape (n_configurations, n_beads, 3), kJ/mol/nm
        Of the network at the configurations of the mean forces.
    against : MeanForceTest

    Returns
    -------
    dict
        ``by_part``, the errors that were measured; ``measured``, those of held-out configurations
        if there are two of them, else of all; ``implied``; ``p_value`` of the hypothesis that both
        are equal.

    Notes
    -----
    With M the model, f the mapped force and F the mean force, :math:`\langle |M - F|^2 \rangle =
    \langle |M - f|^2 \rangle - (\langle f^2 \rangle - \langle F^2 \rangle)`, the loss less the
    noise (Noid et al., J. Chem. Phys. 2008, 128, 244114). In ``implied`` the mean square of F comes
    from all configurations of the mean forces. The p-value needs none: it compares
    :math:`M^2 - 2 M f` of the frames with :math:`M^2 - 2 M F` of the configurations of
    ``measured``.
    """
    model, mapped = forces + graphs.prior_forces.astype(float), graphs.frames.forces
    excess = model**2 - 2 * model * mapped
    implied = {}
    for name, beads in bead_groups(graphs.frames.beads).items():
        floor = against.floors[name]
        square = mean_of(excess[:, beads].mean(axis=(1, 2)))
        implied[name or "all"] = _entry(square, floor.mean_force, floor.mean_force_error)

    chosen = against.held_out if against.held_out.sum() > 1 else np.full(len(at_means), True)
    model = at_means + against.graphs.prior_forces.astype(float)
    measured = (model**2 - 2 * model * against.graphs.frames.forces).mean(axis=(1, 2))[chosen]
    series = mean_of(excess.mean(axis=(1, 2)))
    combined = np.hypot(series.safe_error, standard_error(measured))
    distance = abs(series.mean - measured.mean()) / combined
    p_value = 2 * student_t.sf(distance, max(1, min(series.blocks, len(measured)) - 1))

    found = against.errors(at_means)
    prefix = "held_out_" if "held_out_mean_force_rmse" in found else ""
    return {
        "by_part": against.by_part(at_means),
        "measured": {
            "configurations": int(chosen.sum()),
            "held_out": bool(against.held_out[chosen].all()),
            "rmse": found[f"{prefix}mean_force_rmse"],
            "rmse_se": found[f"{prefix}mean_force_rmse_se"],
        },
        "implied": implied,
        "p_value": _finite(float(p_value)),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _text(entry: dict[str, Any]) -> str:
    error = entry["rmse_se"]
    bound = not entry.get("at_least", False)
    return f"{entry['rmse']:.2f}" + ("" if error is None else f" +- {error_words(error, bound)}")


def _all_and_types(errors: dict[str, dict[str, Any]]) -> str:
    types = ", ".join(f"{name} {_text(entry)}" for name, entry in errors.items() if name != "all")
    return f"{_text(errors['all'])} kJ/mol/nm ({types})"


def log_result(result: dict[str, Any]) -> None:
    """Log what `evaluate_student` found, with a warning where it contradicts itself."""
    logger.info(
        "student on the test part, %d frames from %g to %g ps: force RMSE against mapped forces %s,"
        " %.4f of their variance",
        result["frames"],
        *result["time_ps"],
        _all_and_types(result["mapped"]),
        result["mapped"]["all"]["share"],
    )
    if "teachers" in result:
        logger.info(
            "student on the test part: force RMSE against the teachers' mean %s",
            _all_and_types(result["teachers"]),
        )
    if "mean_forces" not in result:
        return
    found = result["mean_forces"]
    measured, implied, p_value = found["measured"], found["implied"], found["p_value"]
    logger.info(
        "student: force RMSE against mean forces, implied by the test part and the noise floor, %s;"
        " measured on %d configurations%s, %s kJ/mol/nm (p = %s that they are equal)",
        _all_and_types(implied),
        measured["configurations"],
        " outside the training and validation parts" if measured["held_out"] else "",
        _text(measured),
        "unknown" if p_value is None else f"{p_value:.2g}",
    )
    if p_value is not None and p_value < _SIGNIFICANT:
        logger.warning(
            "student: the implied error against mean forces, %s, and the measured one, %s"
            " kJ/mol/nm, differ by more than chance (p = %.1g); compare fluid, density and"
            " protocol of the mean forces with those of the frames, for one of the two is wrong.",
            _text(implied["all"]), _text(measured), p_value,
        )  # fmt: skip
