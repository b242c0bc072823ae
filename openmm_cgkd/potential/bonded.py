"""Bonds and angles between the beads of a molecule: harmonic priors, fitted to the all-atom frames.

U = k/2 (r - r0)^2 for two bonded beads, U = k/2 (cos a - c0)^2 for three in a row. Both follow from
Boltzmann inversion: a single such term makes the distributions r^2 exp(-U/kT) of the distance and
exp(-U/kT) of the cosine, so k = kT/variance and the centre is the mean, over samples with weight
1/r^2 for bonds and equal weight for cosines. The pair repulsion does not act between beads one or
two bonds apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openmm_cgkd.exceptions import FramesError, ModelFileError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.box import nearest_images
from openmm_cgkd.utils.units import GAS_CONSTANT


def find_angles(bonds: Tensor) -> Tensor:
    """Triples end, middle, end of all pairs of bonds (n_bonds, 2) that share a bead.

    Shape (n_angles, 3), int64.
    """
    pairs: list[list[int]] = bonds.tolist()
    near: dict[int, list[int]] = {}
    for pair in pairs:
        for k in range(2):
            if pair[k] not in near:
                near[pair[k]] = torch.jit.annotate(list[int], [])
            near[pair[k]].append(pair[1 - k])
    found: list[int] = []
    for middle, ends in near.items():
        for j in range(len(ends)):
            for i in range(j):
                found.extend([ends[i], middle, ends[j]])
    return torch.tensor(found, dtype=torch.int64).reshape(len(found) // 3, 3)


class BondedPrior(nn.Module):
    """Energy of the bonds and angles of a set of beads.

    Parameters
    ----------
    bond_table : Tensor, shape (n_types, n_types, 2)
        k (kJ/mol/nm^2) and r0 (nm) of each pair of types, symmetric; k = 0 where such beads are
        never bonded.
    angle_table : Tensor, shape (n_types, n_types, n_types, 2)
        k (kJ/mol) and c0 of each triple of types, symmetric in its ends.

    Attributes
    ----------
    members : Tensor, shape (n_bonds + n_angles, 3), int64
        Beads of every bond (the third is -1), then of every angle (the middle one in the middle).
    terms : Tensor, shape (n_bonds + n_angles, 2), float64
        Their k and r0 or c0.
    excluded : Tensor, shape (n_bonds + n_angles, 2), int64
        Pairs of beads without repulsion, the lower index first.
    """

    def __init__(self, bond_table: Tensor, angle_table: Tensor) -> None:
        super().__init__()
        self.bond_table: Tensor
        self.angle_table: Tensor
        self.members: Tensor
        self.terms: Tensor
        self.excluded: Tensor
        self.register_buffer("bond_table", bond_table.to(torch.float64))
        self.register_buffer("angle_table", angle_table.to(torch.float64))
        self.register_buffer("members", torch.zeros(0, 3, dtype=torch.int64))
        self.register_buffer("terms", torch.zeros(0, 2, dtype=torch.float64))
        self.register_buffer("excluded", torch.zeros(0, 2, dtype=torch.int64))
        self.needs_bonds = bool((bond_table[..., 0] > 0).any())
        self.n_beads, self.n_bonds = 0, 0
        self.has_bonds = False

    def set_bonds(self, types: Tensor, bonds: Tensor) -> None:
        """Say which beads are bonded: types (n_beads,) and bonds (n_bonds, 2), int64."""
        if (
            bonds.dim() != 2
            or bonds.shape[1] != 2
            or bool(((bonds < 0) | (bonds >= types.shape[0])).any())
        ):
            raise RuntimeError(
                f"Bonds must be rows of two bead indices from 0 to {types.shape[0] - 1}."
            )
        device = self.members.device
        bonds, angles, types = bonds.to(device), find_angles(bonds).to(device), types.to(device)
        i, j = bonds[:, 0], bonds[:, 1]
        a, b, c = angles[:, 0], angles[:, 1], angles[:, 2]
        terms = torch.cat(
            [self.bond_table[types[i], types[j]], self.angle_table[types[a], types[b], types[c]]]
        )
        if bool((terms[:, 0] <= 0).any()):
            raise RuntimeError(
                "A bond or an angle is between bead types that the potential has no such term for."
            )
        self.terms = terms
        self.members = torch.cat([torch.stack([i, j, torch.full_like(i, -1)], dim=1), angles])
        pairs = torch.cat([bonds, torch.stack([a, c], dim=1)])
        self.excluded = torch.stack([pairs.amin(1), pairs.amax(1)], dim=1)
        self.n_beads, self.n_bonds = types.shape[0], bonds.shape[0]
        self.has_bonds = bonds.shape[0] > 0

    def forget(self) -> None:
        """Without bonds, until `set_bonds`."""
        self.n_beads, self.has_bonds = 0, False

    def check(self, types: Tensor) -> None:
        """Refuse to go on without the bonds of these beads if the potential has bonds."""
        if self.needs_bonds and self.n_beads != types.shape[0]:
            raise RuntimeError(
                "The molecules of this potential have several beads; call set_bonds after"
                " set_types."
            )

    def repels(self, first: Tensor, second: Tensor) -> Tensor:
        """Which pairs feel the repulsion, shape (n_pairs,), bool."""
        n = self.n_beads
        keys = torch.minimum(first, second) * n + torch.maximum(first, second)
        return torch.logical_not(torch.isin(keys, self.excluded[:, 0] * n + self.excluded[:, 1]))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Beads from and to which the vectors of `forward` point.

        Of all bonds, then of the first and of the second arms of all angles.
        """
        n = self.n_bonds
        i, j, k = self.members[:, 0], self.members[:, 1], self.members[:, 2]
        return torch.cat([i[:n], j[n:], j[n:]]), torch.cat([j[:n], i[n:], k[n:]])

    def forward(self, vectors: Tensor) -> Tensor:
        """Energy, scalar, kJ/mol, from vectors between `ends`, (n_bonds + 2 n_angles, 3), nm."""
        n, m = self.n_bonds, self.members.shape[0] - self.n_bonds
        bonds, angles = self.terms[:n].to(vectors.dtype), self.terms[n:].to(vectors.dtype)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        energy = 0.5 * (bonds[:, 0] * (lengths[:n] - bonds[:, 1]) ** 2).sum()
        if m > 0:
            cosines = (vectors[n : n + m] * vectors[n + m :]).sum(1) / (
                lengths[n : n + m] * lengths[n + m :]
            )
            energy = energy + 0.5 * (angles[:, 0] * (cosines - angles[:, 1]) ** 2).sum()
        return energy


@dataclass(frozen=True)
class BondedParameters:
    """Bonded terms as plain numbers for a JSON file.

    Attributes
    ----------
    molecules : list of dict
        Every kind of molecule: ``beads``, the types of its beads in order, and ``bonds``, pairs of
        indices of them.
    bonds : list of dict
        ``types`` (two), ``constant`` in kJ/mol/nm^2, ``length`` in nm.
    angles : list of dict
        ``types`` (three, the middle one in the middle), ``constant`` in kJ/mol, ``cosine``.
    """

    molecules: list[dict[str, Any]]
    bonds: list[dict[str, Any]]
    angles: list[dict[str, Any]]

    @property
    def numbers(self) -> list[float]:
        """Constants, lengths and cosines."""
        return [bond[name] for bond in self.bonds for name in ("constant", "length")] + [
            angle[name] for angle in self.angles for name in ("constant", "cosine")
        ]

    def bonds_of(self, names: list[str], molecules: list[int]) -> np.ndarray:
        """Bonds of a set of beads, shape (n_bonds, 2).

        Parameters
        ----------
        names : list of str
            Type of every bead.
        molecules : list of int
            Molecule of every bead, ascending.

        Raises
        ------
        ModelFileError
            If a molecule is of no kind in `molecules`.
        """
        kinds = {
            tuple(kind["beads"]): np.array(kind["bonds"], dtype=np.int64).reshape(-1, 2)
            for kind in self.molecules
        }
        starts = [k for k in range(len(names)) if k == 0 or molecules[k] != molecules[k - 1]]
        found = [np.zeros((0, 2), dtype=np.int64)]
        for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
            beads = tuple(names[start:end])
            if beads not in kinds:
                known = ", ".join("-".join(kind) for kind in kinds)
                raise ModelFileError(
                    f"The molecule that begins with bead {start} has the beads {'-'.join(beads)},"
                    f" the potential knows {known}; give every molecule a residue of its own or"
                    " bonds between its beads, which stand in that order."
                )
            found.append(kinds[beads] + start)
        return np.concatenate(found)


def bonded_prior(type_names: tuple[str, ...], parameters: BondedParameters | None) -> BondedPrior:
    """Module of these parameters; without any terms if there are none."""
    n, index = len(type_names), {name: k for k, name in enumerate(type_names)}
    bonds, angles = (
        torch.zeros(n, n, 2, dtype=torch.float64),
        torch.zeros(n, n, n, 2, dtype=torch.float64),
    )
    for term in parameters.bonds if parameters else ():
        a, b = (index[name] for name in term["types"])
        bonds[a, b] = bonds[b, a] = torch.tensor(
            [term["constant"], term["length"]], dtype=torch.float64
        )
    for term in parameters.angles if parameters else ():
        a, b, c = (index[name] for name in term["types"])
        angles[a, b, c] = angles[c, b, a] = torch.tensor(
            [term["constant"], term["cosine"]], dtype=torch.float64
        )
    return BondedPrior(bonds, angles)


def nearest_vectors(
    positions: np.ndarray, box: np.ndarray | None, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Vectors from `first` to `second`, shape (n_pairs, 3), nm.

    Of pairs closer than half the smallest box height.
    """
    vectors = positions[second].astype(float) - positions[first]
    return vectors if box is None else nearest_images(vectors, box)


def fit_bonded(frames: Frames) -> BondedParameters | None:
    """Boltzmann inversion of all bonds and angles of the frames, type by type.

    None for molecules of one bead each.

    Raises
    ------
    FramesError
        If the beads of a molecule are not joined by bonds, or a length or an angle never varies.
    """
    beads = frames.beads
    molecules = _kinds(beads)
    if all(len(kind["beads"]) == 1 for kind in molecules):
        return None
    bonds = beads.bonds
    angles = find_angles(torch.from_numpy(bonds)).numpy()
    lengths, cosines = np.empty((len(frames), len(bonds))), np.empty((len(frames), len(angles)))
    for k, (positions, box) in enumerate(zip(frames.positions, frames.box, strict=True)):
        lengths[k] = np.linalg.norm(nearest_vectors(positions, box, *bonds.T), axis=1)
        arms = [nearest_vectors(positions, box, angles[:, 1], angles[:, end]) for end in (0, 2)]
        cosines[k] = (arms[0] * arms[1]).sum(1) / np.prod(
            [np.linalg.norm(arm, axis=1) for arm in arms], axis=0
        )
    energy = GAS_CONSTANT * frames.temperature
    return BondedParameters(
        molecules,
        [
            {"types": names, "constant": energy / var, "length": mean}
            for names, mean, var in _moments(beads, bonds, lengths, -2)
        ],
        [
            {"types": names, "constant": energy / var, "cosine": mean}
            for names, mean, var in _moments(beads, angles, cosines, 0)
        ],
    )


def _moments(
    beads: BeadTopology, members: np.ndarray, values: np.ndarray, power: int
) -> list[tuple[list[str], float, float]]:
    """Types, mean and variance of values for every kind of members.

    Values have shape (n_frames, n_members), their weights are values**power.
    """
    kinds: dict[tuple[int, ...], list[int]] = {}
    for k, types in enumerate(beads.types[members].tolist()):
        kinds.setdefault(min(tuple(types), tuple(reversed(types))), []).append(k)
    found = []
    for kind, columns in sorted(kinds.items()):
        names, chosen = [beads.type_names[t] for t in kind], values[:, columns]
        weights = chosen ** float(power)
        mean = np.average(chosen, weights=weights)
        variance = np.average((chosen - mean) ** 2, weights=weights)
        if not variance > 1e-12:
            raise FramesError(
                f"The {'bond' if power else 'angle'} {'-'.join(names)} does not vary in the frames;"
                " give more frames."
            )
        found.append((names, float(mean), float(variance)))
    return found


def _kinds(beads: BeadTopology) -> list[dict[str, Any]]:
    """Every kind of molecule once; checks that its bonds hold it together."""
    names = beads.names
    found: dict[tuple[str, ...], list[list[int]]] = {}
    starts = np.flatnonzero(np.diff(beads.molecules, prepend=-1))
    owner = np.searchsorted(starts, beads.bonds[:, 0], side="right") - 1
    order = np.argsort(owner, kind="stable")
    of_molecule = np.split(
        beads.bonds[order], np.searchsorted(owner[order], np.arange(1, len(starts)))
    )
    for start, end, bonds in zip(starts, [*starts[1:], beads.n_beads], of_molecule, strict=True):
        kind, local = tuple(names[start:end]), (bonds - start).tolist()
        reached = {0}
        for _ in local:
            reached |= {bead for bond in local if reached & set(bond) for bead in bond}
        if len(reached) < end - start:
            raise FramesError(
                f"The beads {'-'.join(kind)} from bead {start} on are not joined by bonds; map the"
                " frames again with a topology that holds the bonds between atoms (CONECT records"
                " of a PDB file)."
            )
        if found.setdefault(kind, local) != local:
            raise FramesError(
                f"Two kinds of molecules have the beads {'-'.join(kind)} but other bonds; name the"
                " beads differently."
            )
    return [{"beads": list(kind), "bonds": bonds} for kind, bonds in found.items()]
