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
from openmm_cgkd.frames.split import Split, locate
from openmm_cgkd.mean_forces.file import MeanForces, read_mean_forces
from openmm_cgkd.mean_forces.noise import noise_floor
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.utils.statistics import root

from .graphs import FrameGraphs
from .metrics import bead_groups

logger = logging.getLogger(__name__)

_NOT_HELD_OUT = {
    "training": "which the network has seen",
    "validation": "which chooses the epoch",
}


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
    split : Split, optional
        Of `frames`, to tell in which part the configurations lie.

    Attributes
    ----------
    graphs : FrameGraphs
        The configurations to evaluate the network at.
    parts : ndarray of str, shape (n_configurations,)
        As `locate` names them; ``outside`` without a split.
    floors : dict of str to NoiseFloor
        By bead type; of all beads under the empty name.
    noise_floor : dict of str to float
        `noise_floor_rmse`, overall and per bead type, kJ/mol/nm: RMSE of the exact mean force
        against the mapped forces of `frames`.

    Raises
    ------
    FramesError
        If mean forces and frames are of different beads or temperatures.
    """

    def __init__(
        self,
        mean_forces: MeanForces,
        frames: Frames,
        cutoff: float,
        prior: PriorParameters,
        split: Split | None = None,
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
        self.floors = {
            "" if floor.name == "all" else floor.name: floor
            for floor in noise_floor(frames, mean_forces)
        }
        self.noise_floor = {
            f"noise_floor_rmse{_suffix(name)}": max(floor.noise, 0.0) ** 0.5
            for name, floor in self.floors.items()
        }
        self.parts = (
            np.full(len(mean_forces), "outside")
            if split is None
            else locate(frames, split, mean_forces.positions, mean_forces.box, mean_forces.time)
        )
        self._squared_errors = mean_forces.standard_error.astype(float) ** 2

    @property
    def held_out(self) -> np.ndarray:
        """Which configurations lie neither in the training nor in the validation part."""
        return ~np.isin(self.parts, ("training", "validation"))

    @property
    def counts(self) -> dict[str, int]:
        """Number of configurations in every part."""
        names = ("training", "validation", "test", "outside")
        return {name: int((self.parts == name).sum()) for name in names}

    def errors(self, forces: np.ndarray) -> dict[str, float]:
        """`mean_force_rmse` and its standard error `mean_force_rmse_se`, kJ/mol/nm, overall and per
        bead type.

        Where some configurations lie in the training or the validation part, and at least two do
        not, `held_out_mean_force_rmse` and so on are of the latter alone.

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
        squares, chosen = self.squares(forces), self.held_out
        results = self._roots(squares, "")
        if 2 <= chosen.sum() < len(chosen):
            results |= self._roots(squares[chosen], "held_out_")
        return results

    def squares(self, forces: np.ndarray) -> np.ndarray:
        """Squared errors less the squared standard errors of the mean forces; as `errors`.

        Returns
        -------
        ndarray, shape (n_frames, n_beads, 3), (kJ/mol/nm)^2
        """
        wrong = forces + self.graphs.prior_forces - self.graphs.frames.forces
        return wrong.astype(float) ** 2 - self._squared_errors

    def by_part(self, forces: np.ndarray) -> dict[str, dict[str, float]]:
        """Errors over all beads by part of the split; as `errors`.

        Returns
        -------
        dict
            By part ``configurations``, and where there are at least two ``rmse`` and ``rmse_se``,
            kJ/mol/nm.
        """
        squares, found = self.squares(forces), {}
        for name, count in self.counts.items():
            found[name] = {"configurations": float(count)}
            if count > 1:
                errors = self._roots(squares[self.parts == name], "")
                found[name] |= {
                    "rmse": errors["mean_force_rmse"],
                    "rmse_se": errors["mean_force_rmse_se"],
                }
        return found

    def _roots(self, squares: np.ndarray, prefix: str) -> dict[str, float]:
        results = {}
        for name, beads in bead_groups(self.graphs.frames.beads).items():
            per_frame = squares[:, beads].mean(axis=(1, 2))
            rmse, error = root(
                float(per_frame.mean()), float(per_frame.std(ddof=1) / np.sqrt(len(per_frame)))
            )
            results[f"{prefix}mean_force_rmse{_suffix(name)}"] = rmse
            results[f"{prefix}mean_force_rmse_se{_suffix(name)}"] = error
        return results

    def warn(self) -> None:
        """Log a warning if configurations lie where a network learns or is chosen."""
        counts, held_out = self.counts, int(self.held_out.sum())
        places = [
            f"{counts[name]} {'lies' if counts[name] == 1 else 'lie'} in the {name} part, {why}"
            for name, why in _NOT_HELD_OUT.items()
            if counts[name]
        ]
        if places:
            logger.warning(
                "mean forces: of %d configurations, %s; %s",
                len(self.parts),
                ", and ".join(places),
                f"errors on the other {held_out} are given apart, as held_out_mean_force_rmse."
                if held_out > 1
                else "so errors against them are not those of held-out data; take configurations"
                " from the test part, with a smaller --last of 'cgkd meanforce'.",
            )


def _suffix(type_name: str) -> str:
    return f"_{type_name}" if type_name else ""


def load_mean_force_test(
    path: Path | str | None,
    frames: Frames,
    cutoff: float,
    prior: PriorParameters,
    split: Split | None = None,
) -> MeanForceTest | None:
    """Read mean-force frames, if there are any, and log the noise floor they give.

    With the split of the frames a warning tells of configurations that are not held out.

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
    test = MeanForceTest(mean_forces, frames, cutoff, prior, split)
    test.warn()
    return test
