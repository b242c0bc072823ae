"""The error of a network without the noise of its labels.

The network is compared with mean forces of restrained all-atom runs.

Mean forces have an error of their own. The expected square of an estimate is the square of the
truth plus the squared standard error, so the latter is subtracted from every mean square here.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mean_forces.file import MeanForces, read_mean_forces
from openmm_cgkd.mean_forces.noise import noise_floor
from openmm_cgkd.potential.prior import PriorParameters

from .graphs import FrameGraphs

logger = logging.getLogger(__name__)


class MeanForceTest:
    """Mean forces ready for comparison with a network.

    Parameters
    ----------
    mean_forces : MeanForces
        At least two configurations.
    frames : Frames
        Of the same beads; its provenance holds the temperature.
    cutoff : float, nm
    prior : PriorParameters

    Attributes
    ----------
    graphs : FrameGraphs
        The configurations to evaluate the network at.
    noise_floor : dict of str to float
        `noise_floor_rmse`, overall and per bead type, kJ/mol/nm: RMSE of the exact mean force
        against the mapped forces of `frames`.

    Raises
    ------
    FramesError
        If mean forces and frames are of different beads or temperatures.
    """

    def __init__(
        self, mean_forces: MeanForces, frames: Frames, cutoff: float, prior: PriorParameters
    ) -> None:
        index = np.arange(len(mean_forces))
        arrays = (
            mean_forces.positions,
            mean_forces.forces,
            mean_forces.box,
            mean_forces.time,
            index,
        )
        self.graphs = FrameGraphs(Frames(*arrays, frames.beads, frames.attributes), cutoff, prior)
        floors = {
            "" if floor.name == "all" else f"_{floor.name}": max(floor.noise, 0.0)
            for floor in noise_floor(frames, mean_forces)
        }
        self.noise_floor = {
            f"noise_floor_rmse{suffix}": noise**0.5 for suffix, noise in floors.items()
        }
        self._squared_errors = mean_forces.standard_error.astype(float) ** 2

    def errors(self, forces: np.ndarray) -> dict[str, float]:
        """`mean_force_rmse` and its standard error `mean_force_rmse_se`, kJ/mol/nm, overall and per
        bead type.

        Parameters
        ----------
        forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
            Of the network alone, at the configurations of `graphs`.

        Notes
        -----
        The standard error is that of a mean over configurations, taken as independent, through the
        square root. An RMSE whose square is not above zero after the correction is given as 0, its
        error then as the root of that of the square.
        """
        beads = self.graphs.frames.beads
        wrong = forces + self.graphs.prior_forces - self.graphs.frames.forces
        squares = wrong.astype(float) ** 2 - self._squared_errors
        groups = {"": np.ones(beads.n_beads, dtype=bool)}
        groups |= {f"_{name}": beads.types == k for k, name in enumerate(beads.type_names)}
        results = {}
        for suffix, chosen in groups.items():
            per_frame = squares[:, chosen].mean(axis=(1, 2))
            error = float(per_frame.std(ddof=1) / np.sqrt(len(per_frame)))
            rmse = float(np.sqrt(max(per_frame.mean(), 0.0)))
            results[f"mean_force_rmse{suffix}"] = rmse
            results[f"mean_force_rmse_se{suffix}"] = (
                min(error / (2 * rmse), error**0.5) if rmse > 0 else error**0.5
            )
        return results


def load_mean_force_test(
    path: Path | str | None, frames: Frames, cutoff: float, prior: PriorParameters
) -> MeanForceTest | None:
    """Read mean-force frames, if there are any, and log the noise floor they give.

    Raises
    ------
    FramesError
        If the file is missing, foreign or damaged, of other beads or another temperature, or has
        fewer than two configurations.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    if path is None:
        return None
    mean_forces = read_mean_forces(path)
    for floor in noise_floor(frames, mean_forces):
        logger.info(
            "noise floor of %s beads: %.3f +- %.3f of label variance, "
            "so the R2 of a perfect model is %.3f",
            floor.name, floor.share, floor.share_error, 1 - floor.share,
        )  # fmt: skip
    return MeanForceTest(mean_forces, frames, cutoff, prior)
