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

import mdtraj
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from openmm_cgkd.exceptions import MappingError

from .mapping import Mapping
from .rigid import DistanceSpread, MoleculeKind, molecule_kinds

logger = logging.getLogger(__name__)

_SAMPLES = 10  # molecules, over all frames, for each free coefficient: 30 force components


class _Sums:
    """Sums over the frames of all molecules of one kind.

    Attributes
    ----------
    kind : MoleculeKind
    products : ndarray, shape (n_atoms, n_atoms)
        Sum of f_i . f_j.
    samples : int
        Molecules times frames.
    """

    def __init__(self, kind: MoleculeKind) -> None:
        n = kind.atoms.shape[1]
        self.kind, self.products, self.samples = kind, np.zeros((n, n)), 0
        self._pairs = np.triu_indices(n, 1)
        self._spread = DistanceSpread(*self._pairs)

    def add(self, positions: np.ndarray, forces: np.ndarray) -> None:
        f = forces[self.kind.atoms]
        self.products += np.einsum("mik,mjk->ij", f, f)
        self._spread.add(positions[self.kind.atoms])
        self.samples += len(f)

    def groups(self) -> np.ndarray:
        """Number of the rigid group of every atom, shape (n_atoms,)."""
        first, second = self._pairs
        rigid = self._spread.rigid
        if rigid is None:
            raise MappingError(
                f"The optimal force map of {self.kind.name} needs at least {_SAMPLES + 1} molecules"
                f" over all frames, there are {self.samples}; give more frames or set force_map:"
                " basic."
            )
        n = self.kind.atoms.shape[1]
        joined = csr_matrix((np.ones(rigid.sum()), (first[rigid], second[rigid])), shape=(n, n))
        return connected_components(joined, directed=False)[1]


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
        self._kinds = [_Sums(kind) for kind in molecule_kinds(mapping, topology)]

    def add(self, positions: np.ndarray, forces: np.ndarray) -> None:
        """Add a frame of all atoms.

        Positions (n_atoms, 3) of whole molecules are in nm, forces (n_atoms, 3) in kJ/mol/nm.
        """
        for sums in self._kinds:
            sums.add(positions, forces)

    def solve(self) -> tuple[Mapping, str]:
        """The mapping with its optimal force map, and a record of the coefficients as JSON.

        Raises
        ------
        MappingError
            If a constraint joins beads so that no force map is consistent, or the frames are too
            few for the coefficients.
        """
        rows, columns, values, record = [], [], [], []
        for sums in self._kinds:
            kind, coefficients = sums.kind, self._coefficients(sums)
            for bead, of_atoms in enumerate(coefficients):
                rows.append(np.broadcast_to(kind.beads[:, bead, None], kind.atoms.shape).ravel())
                columns.append(kind.atoms.ravel())
                values.append(np.broadcast_to(of_atoms, kind.atoms.shape).ravel())
            record.append(self._record(sums, coefficients))
        shape = (self.mapping.topology.n_beads, self.mapping.n_atoms)
        matrix = csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape
        )
        return self.mapping.with_force_map(matrix), json.dumps(
            {"kind": "optimal", "molecules": record}
        )

    def _coefficients(self, sums: _Sums) -> np.ndarray:
        """Minimise b G b under the linear conditions, shape (n_beads, n_atoms)."""
        kind, group = sums.kind, sums.groups()
        join = np.eye(group.max() + 1)[group]  # (n_atoms, n_groups)
        # times one coefficient per group must be 1 for the bead itself, 0 for the others
        conditions = kind.weights @ join
        n_beads, n_groups = conditions.shape
        free = n_groups - n_beads
        if sums.samples < (needed := _SAMPLES * max(1, free)):
            raise MappingError(
                f"The optimal force map of {kind.name} needs at least {needed} molecules over all"
                f" frames, there are {sums.samples}; give more frames or set force_map: basic."
            )
        products = join.T @ sums.products @ join
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

    def _record(self, sums: _Sums, coefficients: np.ndarray) -> dict[str, object]:
        """Coefficients of one kind of molecule with the RMS force component that they give.

        The latter is in kJ/mol/nm; it is logged, too.
        """
        kind, group = sums.kind, sums.groups()
        atoms = [self._topology.atom(int(index)).name for index in kind.atoms[0]]
        beads = []
        for bead, of_atoms in zip(kind.beads[0], coefficients, strict=True):
            inside = self.mapping.bead_of_atom[kind.atoms[0]] == bead
            # of the bead's atoms, and of those constrained to them
            plain = np.isin(group, group[inside]).astype(float)
            rms, plain_rms = (
                float(np.sqrt(b @ sums.products @ b / (3 * sums.samples)))
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
