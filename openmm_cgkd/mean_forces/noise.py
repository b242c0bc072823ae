"""Noise floor of force matching: how much of the labels' variance is mapping noise.

With f the mapped force and F its conditional mean, <|f - F_model|^2> = <|F - F_model|^2> + <|f -
F|^2> (Noid et al., J. Chem. Phys. 2008, 128, 244114): the second term is the same for every model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.beads import BeadTopology

from .file import MeanForces


@dataclass(frozen=True)
class NoiseFloor:
    """Variances per force component, (kJ/mol/nm)^2, of some beads.

    Attributes
    ----------
    name : str
        Bead type, or ``all``.
    label : float
        Of the mapped forces.
    mean_force : float
        Of their conditional means, freed of its own sampling error.
    mean_force_error : float
        Standard error of `mean_force`, by jackknife over the configurations.
    """

    name: str
    label: float
    mean_force: float
    mean_force_error: float

    @property
    def noise(self) -> float:
        """Variance of the mapping noise: the force-matching loss of the exact mean force."""
        return self.label - self.mean_force

    @property
    def share(self) -> float:
        """Part of the labels' variance that no model can explain."""
        return self.noise / self.label

    @property
    def share_error(self) -> float:
        """Standard error of `share`."""
        return self.mean_force_error / self.label


def noise_floor(frames: Frames, mean_forces: MeanForces) -> list[NoiseFloor]:
    """Noise floor of every bead type, and of all beads.

    Parameters
    ----------
    frames : Frames
        Mapped frames, whose forces are the labels of force matching.
    mean_forces : MeanForces
        Of the same system at the same temperature.

    Raises
    ------
    FramesError
        If the two are of different beads or temperatures, or the mean forces are of fewer than two
        configurations.
    """
    beads, others = frames.beads, mean_forces.beads
    if beads.type_names != others.type_names or not np.array_equal(beads.types, others.types):
        raise FramesError(
            f"The mean forces are of {_count(others)}, the frames of {_count(beads)}; give mean"
            " forces of the same system."
        )
    temperature = float(mean_forces.attributes.get("temperature", frames.temperature))
    if abs(temperature - frames.temperature) > 0.01:
        raise FramesError(
            f"The mean forces are at {temperature:g} K, the frames at {frames.temperature:g} K;"
            " give mean forces at the same one."
        )
    if len(mean_forces) < 2:
        raise FramesError(
            "The mean forces are of one configuration; a standard error needs at least two."
        )
    groups = [(name, beads.types == index) for index, name in enumerate(beads.type_names)]
    groups.append(("all", np.ones(beads.n_beads, bool)))
    return [_floor(name, group, frames, mean_forces) for name, group in groups]


def _count(beads: BeadTopology) -> str:
    return ", ".join(
        f"{(beads.types == index).sum()} {name}" for index, name in enumerate(beads.type_names)
    )


def _floor(name: str, beads: np.ndarray, frames: Frames, mean_forces: MeanForces) -> NoiseFloor:
    # mean forces of a fluid average to zero
    label = float((frames.forces[:, beads].astype(float) ** 2).mean())
    squares = (
        mean_forces.forces[:, beads].astype(float) ** 2
        - mean_forces.standard_error[:, beads].astype(float) ** 2
    )
    per_frame = squares.mean(axis=(1, 2))
    return NoiseFloor(
        name, label, float(per_frame.mean()), float(per_frame.std(ddof=1) / np.sqrt(len(per_frame)))
    )
