"""Whether atoms of a trajectory are those of the molecule files, by the lengths of all bonds."""

from __future__ import annotations

import mdtraj
import numpy as np

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.mapping.molecules import difference_operator

from .molecule_file import bond_lengths, load_molecule

# relative to the molecule file; bonds vibrate by 2 to 4 % and differ between force fields by less,
# and bonds of different atoms by more
_MEAN = 0.88, 1.13
_SINGLE = 0.5, 1.6


class BondCheck:
    """Compare bonds of frames with those of the molecule files.

    Each kind of bond on its own: atoms in another order leave the mean over all bonds nearly as it
    was. Wrong units show in all of them.

    Parameters
    ----------
    system : SystemConfig
    atoms : mdtraj.Topology
        All atoms with their bonds, one residue per molecule, names as in the molecule files.
    """

    def __init__(self, system: SystemConfig, atoms: mdtraj.Topology) -> None:
        lengths = {
            molecule.name: bond_lengths(load_molecule(system, molecule.name))
            for molecule in system.molecules
        }
        self._labels = [(name, f"{a}-{b}") for name, of_bond in lengths.items() for a, b in of_bond]
        self._expected = np.array([x for of_bond in lengths.values() for x in of_bond.values()])
        number = {label: k for k, label in enumerate(self._labels)}
        bonds = [sorted(bond, key=lambda atom: atom.index) for bond in atoms.bonds]
        self._bonds = np.array([(a.index, b.index) for a, b in bonds], dtype=int).reshape(-1, 2)
        self._vectors = difference_operator(self._bonds, atoms.n_atoms)
        self._kinds = np.array(
            [number[a.residue.name, f"{a.name}-{b.name}"] for a, b in bonds], dtype=int
        )
        self._expected_of_bond = self._expected[self._kinds]

    def __call__(self, positions: np.ndarray, where: str) -> None:
        """Check one frame.

        Parameters
        ----------
        positions : ndarray, shape (n_atoms, 3), nm
            Of whole molecules.
        where : str
            File and frame, for the message.

        Raises
        ------
        FramesError
            If the mean length of a kind of bond, or one bond, is far from that of the molecule
            file.
        """
        if len(self._bonds) == 0:
            return
        vectors = self._vectors @ positions
        length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        count = np.bincount(self._kinds, minlength=len(self._expected))
        mean = np.bincount(self._kinds, length, len(self._expected)) / np.maximum(count, 1)
        ratio = np.where(count > 0, mean / self._expected, 1.0)
        k = int(np.argmax(np.abs(np.log(np.maximum(ratio, 1e-9)))))
        # a single torn molecule moves the mean of a few bonds, not what most of them are
        usual = np.median(length[self._kinds == k]) / self._expected[k]
        if not (_MEAN[0] < ratio[k] < _MEAN[1] or _MEAN[0] < usual < _MEAN[1]):
            name, bond = self._labels[k]
            cause = (
                "the atoms are in another order than in the topology, or the molecule file is a"
                " rough drawing, whose energy must be minimised"
            )
            if ratio[count > 0].min() > _MEAN[1] or ratio[count > 0].max() < _MEAN[0]:
                cause = "the positions are in other units than the file or --units says"
            raise FramesError(
                f"{where}: the bonds {bond} of {name} are {mean[k]:.3g} nm long on average and"
                f" {self._expected[k]:.3g} nm in its molecule file; {cause}."
            )
        ratio = length / self._expected_of_bond
        if not (_SINGLE[0] < ratio.min() and ratio.max() < _SINGLE[1]):
            k = int(np.argmax(np.abs(np.log(np.maximum(ratio, 1e-9)))))
            name, bond = self._labels[self._kinds[k]]
            first, second = self._bonds[k]
            raise FramesError(
                f"{where}: the bond {bond} of {name} between atoms {first} and {second} is"
                f" {length[k]:.3g} nm long and {self._expected_of_bond[k]:.3g} nm in its"
                " molecule file; the molecule is torn: remove that frame, or give the box that"
                " belongs to it."
            )
