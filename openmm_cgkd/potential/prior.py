"""Fixed prior: a pair repulsion, and bonds and angles.

The repulsion keeps beads from overlapping where the all-atom data are silent.

For each pair of bead types U(r) = (s p / a) exp(a (t - r)) with a = ln(1/p) / d, where t is the
first r with g(r) > threshold, s the mean magnitude of the mapped force components, p the share of s
that the repulsion has at t, and d the distance inside t at which its force reaches s. Form and
numbers follow the public coarse-graining example of the hippynn project; each pair is counted once.
The decay length 1/a is 5 pm, and a bead steps further in 30 fs. So where the slope of the force has
grown to the stiffness, the force goes on along its tangent. Molecules of several beads have bonds
and angles besides (`bonded`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openmm_cgkd.config.run import PriorConfig
from openmm_cgkd.exceptions import ConfigError, FramesError, RecordError, TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.records import read_record, write_record

from .bonded import BondedParameters, BondedPrior, bonded_prior, fit_bonded, nearest_vectors
from .forces import energies_and_forces
from .pairs import Pairs, find_pairs
from .signature import NO_BEND
from .stored_prior import mistake_in_prior, slope_at_contact

logger = logging.getLogger(__name__)


class PairRepulsion(nn.Module):
    """Exponential repulsion between bead types, continued by a parabola.

    With x = a (t - r), U = (s p / a) exp(x) up to the exponent b, the bend, at which its second
    derivative s p a exp(b) is the stiffness K. Beyond, U is the Taylor polynomial of second degree
    about b, (s p / a) exp(b) (1 + (x - b) + (x - b)^2 / 2), so the force is F + K (r_b - r), with F
    the force at the distance r_b of the bend.

    Parameters
    ----------
    contact : Tensor, shape (n_types, n_types), nm
        Distance t of each pair of types, symmetric.
    force : float
        s, kJ/mol/nm.
    p, distance : float
        Share of s at contact, and d in nm.
    cutoff : float
        Pairs at or beyond it contribute nothing, nm.
    stiffness : float, optional
        K, kJ/mol/nm^2; absent: exponential to its end.

    Attributes
    ----------
    height, steepness, bend : float
        s p / a, kJ/mol; a, 1/nm; b.
    """

    def __init__(
        self,
        contact: Tensor,
        force: float,
        p: float,
        distance: float,
        cutoff: float,
        stiffness: float | None = None,
    ) -> None:
        super().__init__()
        self.steepness = math.log(1 / p) / distance
        self.height = force * p / self.steepness
        slope = slope_at_contact(force, p, distance)
        self.bend = NO_BEND
        if stiffness is not None and slope > 0:  # it has no height without forces
            self.bend = min(math.log(stiffness) - math.log(slope), NO_BEND)
        self.cutoff = cutoff
        self.n_types = int(contact.shape[0])
        self.contact: Tensor
        self.register_buffer("contact", contact.reshape(-1))

    def forward(self, types: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
        """Per-bead energies (n_beads,), kJ/mol, half of each pair to either bead.

        Arguments as `TensorNetEnergies`.
        """
        distances = torch.linalg.vector_norm(vectors, dim=1)
        kinds = types.index_select(0, first) * self.n_types + types.index_select(0, second)
        exponent = self.steepness * (self.contact.index_select(0, kinds) - distances)
        beyond = torch.relu(exponent - self.bend)
        growth = torch.exp(exponent.clamp(max=self.bend)) * (1 + beyond + 0.5 * beyond * beyond)
        half = 0.5 * self.height * growth * (distances < self.cutoff).to(distances.dtype)
        energies = torch.zeros(types.shape[0], dtype=vectors.dtype, device=vectors.device)
        return energies.index_add(0, first, half).index_add(0, second, half)


@dataclass(frozen=True)
class PriorParameters:
    """What the prior needs, as plain numbers for a JSON file.

    Attributes
    ----------
    type_names, contact, force, p, distance
        As for `PairRepulsion`.
    bonded : BondedParameters or None
        None for molecules of one bead.
    stiffness : float or None
        As for `PairRepulsion`; None in files from before there was one.
    """

    type_names: tuple[str, ...]
    contact: list[list[float]]
    force: float
    p: float
    distance: float
    bonded: BondedParameters | None = None
    stiffness: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bonded, dict):
            object.__setattr__(self, "bonded", BondedParameters(**self.bonded))

    def bent(self, stiffness: float) -> PriorParameters:
        """The same with a stiffness.

        Parameters
        ----------
        stiffness : float, kJ/mol/nm^2

        Raises
        ------
        ConfigError
            If the stiffness is below the slope that the force has at contact.
        """
        least = slope_at_contact(self.force, self.p, self.distance)
        if stiffness < least:
            raise ConfigError(
                f"prior.stiffness: got {stiffness:g} kJ/mol/nm^2, but where beads get into contact"
                f" the force has the slope {least:g} already, and it must grow further inside; set"
                f" at least {2 * least:.2g} kilojoule/mole/nanometer**2."
            )
        return replace(self, stiffness=stiffness)

    def build(self, cutoff: float) -> PairRepulsion:
        return PairRepulsion(
            torch.tensor(self.contact),
            self.force,
            self.p,
            self.distance,
            cutoff,
            self.stiffness,
        )

    def build_bonded(self) -> BondedPrior:
        return bonded_prior(self.type_names, self.bonded)

    @property
    def identity(self) -> str:
        """SHA-256 of the parameters as JSON."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The parameters as JSON."""
        return json.dumps(self.as_dict(), indent=1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; reads back with ``PriorParameters(**...)``."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Prior:
    """The whole prior of one set of beads in double precision, for training and for checks.

    Parameters
    ----------
    parameters : PriorParameters
    cutoff : float, nm
        Of the repulsion.
    types : ndarray, shape (n_beads,)
    bonds : ndarray, shape (n_bonds, 2)
    """

    def __init__(
        self, parameters: PriorParameters, cutoff: float, types: np.ndarray, bonds: np.ndarray
    ) -> None:
        self._types = torch.from_numpy(types.astype(np.int64))
        self._repulsion, self._bonded = parameters.build(cutoff).double(), parameters.build_bonded()
        self._bonded.set_bonds(self._types, torch.from_numpy(bonds))

    def energy_and_forces(
        self, positions: np.ndarray, box: np.ndarray | None, pairs: Pairs
    ) -> tuple[float, np.ndarray]:
        """Energy, kJ/mol, and forces (n_beads, 3), kJ/mol/nm, of one configuration.

        Parameters
        ----------
        positions : ndarray, shape (n_beads, 3), nm
        box : ndarray, shape (3, 3), nm, or None
        pairs : Pairs
            All pairs within the cutoff.
        """
        bonded = self._bonded
        if bonded.has_bonds:
            pairs = pairs[
                bonded.repels(torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)).numpy()
            ]
        energies, repulsive = energies_and_forces(
            self._repulsion,
            self._types,
            torch.from_numpy(positions.astype(float)),
            torch.from_numpy(pairs.first),
            torch.from_numpy(pairs.second),
            torch.from_numpy(pairs.shifts),
        )
        energy, forces = float(energies.detach().sum()), repulsive.numpy()
        if bonded.has_bonds:
            first, second = (ends.numpy() for ends in bonded.ends())
            vectors = torch.from_numpy(
                nearest_vectors(positions, box, first, second)
            ).requires_grad_()
            with torch.enable_grad():
                stretched = bonded(vectors)
                (gradient,) = torch.autograd.grad(stretched, vectors)
            energy += stretched.item()
            np.add.at(forces, first, gradient.numpy())
            np.subtract.at(forces, second, gradient.numpy())
        return energy, forces


def fit_prior(
    frames: Frames, config: PriorConfig | None = None, bin_width: float = 0.005
) -> PriorParameters:
    """Read contact distances off the all-atom radial distribution functions; fit bonds and angles.

    Pairs of beads one or two bonds apart do not count in the distribution functions, since they
    feel no repulsion.

    Parameters
    ----------
    frames : Frames
        All-atom frames; pairs are searched up to 1 nm or half the box, whichever is smaller.
    config : PriorConfig, optional
    bin_width : float, nm

    Raises
    ------
    ConfigError
        If the stiffness is below the slope that the force has at contact.
    FramesError
        If two types never meet within the searched distance, the repulsion of a pair that the
        frames cannot hold cannot be estimated, or as `fit_bonded`.
    """
    config = config or PriorConfig()
    return fit_exponential(frames, config, bin_width).bent(config.stiffness)


def fit_exponential(
    frames: Frames, config: PriorConfig, bin_width: float = 0.005
) -> PriorParameters:
    """As `fit_prior`, without a stiffness."""
    bonded = fit_bonded(frames)
    r_max = min(1.0, 0.499 * frames.smallest_height)
    edges = np.arange(0, r_max + bin_width, bin_width)
    n_types = len(frames.beads.type_names)
    counts = np.zeros((n_types, n_types, len(edges) - 1))
    density = np.zeros((n_types, n_types))  # expected pairs per nm^3 of shell, summed over frames
    population = np.bincount(frames.beads.types, minlength=n_types)
    possible = np.outer(population, population) - np.diag(population)
    terms = bonded_prior(tuple(frames.beads.type_names), bonded)
    terms.set_bonds(
        torch.from_numpy(frames.beads.types.astype(np.int64)), torch.from_numpy(frames.beads.bonds)
    )
    for i, j in frames.beads.types[terms.excluded.unique(dim=0).numpy()]:
        possible[i, j] -= 1
        possible[j, i] -= 1
    for positions, box in zip(frames.positions, frames.box, strict=True):
        pairs = find_pairs(positions, box, r_max)
        if terms.has_bonds:
            pairs = pairs[
                terms.repels(torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)).numpy()
            ]
        vectors = positions[pairs.second].astype(float) - positions[pairs.first] + pairs.shifts
        bins = np.minimum((np.linalg.norm(vectors, axis=1) / bin_width).astype(int), len(edges) - 2)
        a, b = frames.beads.types[pairs.first], frames.beads.types[pairs.second]
        np.add.at(counts, (a, b, bins), 1)
        np.add.at(counts, (b, a, bins), 1)
        density += possible / box_volume(box)
    shell = 4 / 3 * np.pi * np.diff(edges**3)
    contact = np.zeros((n_types, n_types))
    for a in range(n_types):
        for b in range(n_types):
            if possible[a, b] == 0:
                continue  # estimated below
            g = counts[a, b] / (density[a, b] * shell)
            if not (g > config.threshold).any():
                names = frames.beads.type_names
                raise FramesError(
                    f"Beads {names[a]} and {names[b]} never come within {r_max:g} nm in the frames;"
                    " give more frames."
                )
            contact[a, b] = edges[np.argmax(g > config.threshold)]
    _estimate_unseen(contact, possible, tuple(frames.beads.type_names))
    force = float(np.abs(frames.forces).mean())
    return PriorParameters(
        tuple(frames.beads.type_names),
        contact.tolist(),
        force,
        config.p,
        config.distance,
        bonded,
    )


def _estimate_unseen(contact: np.ndarray, possible: np.ndarray, names: tuple[str, ...]) -> None:
    """Contact distances of pairs that the frames cannot hold, from the other pairs; in place.

    The only bead of its type never meets its like. Were the repulsion left out, a box with two such
    beads would let them sit on one another. Radii add up: t_aa = 2 t_ab - t_bb. Where unlike beads
    attract each other, as ions do, that is too short: like beads come no nearer than t_ab. The mean
    over b.
    """
    unseen = np.argwhere(
        (possible == 0) & (np.arange(len(names))[:, None] >= np.arange(len(names)))
    )
    estimates = {}
    for a, b in unseen:
        others = [c for c in range(len(names)) if possible[a, c] and possible[b, c]]
        values = [
            max(
                contact[a, c],
                contact[b, c],
                contact[a, c] + contact[b, c] - contact[c, c] if possible[c, c] else 0.0,
            )
            for c in others
        ]
        if not values:
            raise FramesError(
                f"The frames hold no pair of beads {names[a]} and {names[b]} and none from which"
                " their repulsion could be estimated; give frames with more molecules."
            )
        estimates[a, b] = float(np.mean(values))
        logger.warning(
            "no pair of beads %s and %s in the frames: their repulsion begins at %.3f nm, estimated"
            " from other pairs",
            names[a],
            names[b],
            estimates[a, b],
        )
    for (a, b), value in estimates.items():
        contact[a, b] = contact[b, a] = value


def write_prior(prior: PriorParameters, path: Path | str) -> None:
    """Write a pair prior as JSON, complete or not at all."""
    write_record(Path(path), prior.as_dict())


def read_prior(path: Path | str) -> PriorParameters:
    """Read a pair prior that `write_prior` wrote.

    Raises
    ------
    TrainingError
        If the file is missing, was changed, or holds what is no repulsion.
    """
    cure = "delete it and run 'cgkd teach', which fits it again"
    try:
        data = read_record(Path(path), cure)
    except RecordError as error:
        raise TrainingError(str(error)) from error
    if wrong := mistake_in_prior(data):
        raise TrainingError(f"{path}: is not a pair prior: {wrong}; {cure}.")
    return PriorParameters(tuple(data.pop("type_names")), **data)
