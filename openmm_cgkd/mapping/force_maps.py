"""Optimal linear force maps: of all maps consistent with the bead positions the least noisy.

A map F = B f gives the mean force if B M^T = 1, where R = M r are the bead positions, and if atoms
whose distance is constrained share their coefficients (Ciccotti et al., ChemPhysChem 2005, 6,
1809). The mean of F given R is then the same for all, so the one of least mean square has the least
noise (Kraemer et al., J. Phys. Chem. Lett. 2023, 14, 3970). Here a bead takes forces of its own
molecule alone, and like molecules share their coefficients.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

import mdtraj
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from openmm_cgkd.exceptions import MappingError

from .mapping import Mapping

logger = logging.getLogger(__name__)

# nm; the stiffest bonds vibrate by three times as much at room temperature, files round to a tenth
_RIGID = 5e-4
_SAMPLES = 10  # molecules, over all frames, for each free coefficient: 30 force components


@dataclass
class _Kind:
    """All molecules of one kind, and sums over their frames.

    Attributes
    ----------
    name : str
    atoms : ndarray, shape (n_molecules, n_atoms)
    beads : ndarray, shape (n_molecules, n_beads)
    weights : ndarray, shape (n_beads, n_atoms)
        Position map of one molecule.
    products : ndarray, shape (n_atoms, n_atoms)
        Sum of f_i . f_j.
    first : ndarray, shape (n_atoms, n_atoms), nm
        Distances in one molecule; `shift` and `square` are sums of the deviations from it and of
        their squares.
    samples : int
        Molecules times frames.
    """

    name: str
    atoms: np.ndarray
    beads: np.ndarray
    weights: np.ndarray
    products: np.ndarray = field(init=False)
    first: np.ndarray | None = field(init=False, default=None)
    shift: np.ndarray | float = field(init=False, default=0.0)
    square: np.ndarray | float = field(init=False, default=0.0)
    samples: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.products = np.zeros(2 * (self.atoms.shape[1],))

    def add(self, positions: np.ndarray, forces: np.ndarray) -> None:
        f, x = forces[self.atoms], positions[self.atoms]
        self.products += np.einsum("mik,mjk->ij", f, f)
        distances = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
        self.first = distances[0] if self.first is None else self.first
        self.shift = self.shift + (distances - self.first).sum(axis=0)
        self.square = self.square + ((distances - self.first) ** 2).sum(axis=0)
        self.samples += len(x)

    def groups(self) -> np.ndarray:
        """Number of the rigid group of every atom, shape (n_atoms,)."""
        spread = np.sqrt(
            np.maximum(0.0, self.square / self.samples - (self.shift / self.samples) ** 2)
        )
        return connected_components(csr_matrix(spread < _RIGID), directed=False)[1]


class OptimalForceMap:
    """Fit the force map of least mean square; give it every frame with `add`, then `solve`.

    Which atoms are constrained is read off the frames: those whose distance does not vary.

    Parameters
    ----------
    mapping : Mapping
        Its beads may leave out atoms.
    topology : mdtraj.Topology
        All atoms, one residue per molecule.

    Raises
    ------
    MappingError
        If a molecule has no bead.
    """

    def __init__(self, mapping: Mapping, topology: mdtraj.Topology) -> None:
        self.mapping, self._topology = mapping, topology
        beads = mapping.topology
        of_molecule = np.split(
            np.arange(beads.n_beads),
            np.searchsorted(beads.molecules, np.arange(1, topology.n_residues)),
        )
        found: dict[tuple, list[tuple[np.ndarray, np.ndarray]]] = {}
        for residue, inside in zip(topology.residues, of_molecule, strict=True):
            if len(inside) == 0:
                raise MappingError(
                    f"Molecule {residue.name} has no bead; give it one, or leave the molecule out"
                    " of the simulation."
                )
            atoms = np.array([atom.index for atom in residue.atoms])
            owner = mapping.bead_of_atom[atoms]
            local = np.where(owner < 0, -1, owner - inside[0])
            key = (residue.name, tuple(local.tolist()), tuple(beads.types[inside].tolist()))
            found.setdefault(key, []).append((atoms, inside))
        self._kinds = []
        for (name, *_), members in found.items():
            atoms, inside = (np.stack(arrays) for arrays in zip(*members, strict=True))
            weights = mapping.position_map[inside[0]][:, atoms[0]].toarray()
            self._kinds.append(_Kind(name, atoms, inside, weights))

    def add(self, positions: np.ndarray, forces: np.ndarray) -> None:
        """Add a frame of all atoms.

        Positions (n_atoms, 3) of whole molecules are in nm, forces (n_atoms, 3) in kJ/mol/nm.
        """
        for kind in self._kinds:
            kind.add(positions, forces)

    def solve(self) -> tuple[Mapping, str]:
        """The mapping with its optimal force map, and a record of the coefficients as JSON.

        Raises
        ------
        MappingError
            If a constraint joins beads so that no force map is consistent, or the frames are too
            few for the coefficients.
        """
        rows, columns, values, record = [], [], [], []
        for kind in self._kinds:
            coefficients = self._coefficients(kind)
            for bead, of_atoms in enumerate(coefficients):
                rows.append(np.broadcast_to(kind.beads[:, bead, None], kind.atoms.shape).ravel())
                columns.append(kind.atoms.ravel())
                values.append(np.broadcast_to(of_atoms, kind.atoms.shape).ravel())
            record.append(self._record(kind, coefficients))
        shape = (self.mapping.topology.n_beads, self.mapping.n_atoms)
        matrix = csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape
        )
        return self.mapping.with_force_map(matrix), json.dumps(
            {"kind": "optimal", "molecules": record}
        )

    def _coefficients(self, kind: _Kind) -> np.ndarray:
        """Minimise b G b under the linear conditions, shape (n_beads, n_atoms)."""
        group = kind.groups()
        join = np.eye(group.max() + 1)[group]  # (n_atoms, n_groups)
        # times one coefficient per group must be 1 for the bead itself, 0 for the others
        conditions = kind.weights @ join
        n_beads, n_groups = conditions.shape
        free = n_groups - n_beads
        if kind.samples < (needed := _SAMPLES * max(1, free)):
            raise MappingError(
                f"The optimal force map of {kind.name} needs at least {needed} molecules over all"
                f" frames, there are {kind.samples}; give more frames or set force_map: basic."
            )
        products = join.T @ kind.products @ join
        scale = n_groups / max(np.trace(products), 1e-30)  # both blocks are then of order one
        system = np.block(
            [[scale * products, conditions.T], [conditions, np.zeros((n_beads, n_beads))]]
        )
        right = np.concatenate([np.zeros((n_groups, n_beads)), np.eye(n_beads)])
        solution = np.linalg.lstsq(system, right, rcond=None)[0][:n_groups]
        if not np.allclose(conditions @ solution, np.eye(n_beads), rtol=0, atol=1e-8):
            raise MappingError(
                f"Atoms of {kind.name} whose distance is fixed are in different beads; put such"
                " atoms in one bead."
            )
        return (join @ solution).T

    def _record(self, kind: _Kind, coefficients: np.ndarray) -> dict[str, object]:
        """Coefficients of one kind of molecule with the RMS force component that they give.

        The latter is in kJ/mol/nm; it is logged, too.
        """
        atoms = [self._topology.atom(int(index)).name for index in kind.atoms[0]]
        group, beads = kind.groups(), []
        for bead, of_atoms in zip(kind.beads[0], coefficients, strict=True):
            inside = self.mapping.bead_of_atom[kind.atoms[0]] == bead
            # of the bead's atoms, and of those constrained to them
            plain = np.isin(group, group[inside]).astype(float)
            rms, plain_rms = (
                float(np.sqrt(b @ kind.products @ b / (3 * kind.samples)))
                for b in (of_atoms, plain)
            )
            name = self.mapping.topology.names[bead]
            logger.info(
                "%s of %s: RMS force component %.1f kJ/mol/nm, %.1f with the basic force map",
                name,
                kind.name,
                rms,
                plain_rms,
            )
            beads.append(
                {
                    "type": name,
                    "coefficients": of_atoms.round(9).tolist(),
                    "rms": rms,
                    "rms_basic": plain_rms,
                }
            )
        return {"name": kind.name, "atoms": atoms, "beads": beads}
