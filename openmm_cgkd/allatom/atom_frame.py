"""One frame of an all-atom trajectory, whatever its format, and what every frame must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_cgkd.exceptions import BoxError, FramesError

# more than any fluid has, and less than what single precision holds; wrong units are found by the
# lengths of bonds, which is told better
_FARTHEST = 1e12  # nm
_STRONGEST = 1e20  # kJ/mol/nm
_LATEST = 1e15  # ps
_LAST_STEP = 2**53


@dataclass(frozen=True)
class AtomFrame:
    """One frame of an all-atom trajectory.

    Attributes
    ----------
    positions : ndarray, shape (n_atoms, 3), nm
        Molecules may be broken across the box.
    forces : ndarray, shape (n_atoms, 3), kJ/mol/nm
    box : ndarray, shape (3, 3), nm
        Box vectors as rows.
    time : float, ps
    step : int
    types : ndarray, shape (n_atoms,), optional
        Atom types, where the format has them: atoms of one type are of one element.
    masses : ndarray, shape (n_atoms,), optional
        Masses, dalton, where the format has them.
    elements : ndarray of str, shape (n_atoms,), optional
        Symbols of elements, where the format has them.
    molecules : ndarray, shape (n_atoms,), optional
        Numbers of molecules, where the format has them.
    """

    positions: np.ndarray
    forces: np.ndarray
    box: np.ndarray
    time: float
    step: int
    types: np.ndarray | None = None
    masses: np.ndarray | None = None
    elements: np.ndarray | None = None
    molecules: np.ndarray | None = None

    def check(self, path: Path, k: int) -> None:
        """Refuse what no simulation of a fluid gives.

        Parameters
        ----------
        path : path
            Where the frame comes from.
        k : int
            Its number.

        Raises
        ------
        FramesError
            If a number is not finite, or far too large.
        BoxError
            If the box has no volume.
        """
        for name, most, unit in (
            ("positions", _FARTHEST, "nm"),
            ("forces", _STRONGEST, "kJ/mol/nm"),
            ("box", _FARTHEST, "nm"),
            ("time", _LATEST, "ps"),
            ("step", _LAST_STEP, "steps"),
        ):
            # not a number if one of them is not
            largest = float(np.abs(np.asarray(getattr(self, name), float)).max(initial=0.0))
            if not np.isfinite(largest):
                raise FramesError(
                    f"{path}: {name} of frame {k} are not finite; remove that frame or run again"
                    " with a smaller time step."
                )
            if largest > most:
                raise FramesError(
                    f"{path}: {name} of frame {k} reach {largest:.3g} {unit}, which no fluid has;"
                    " check the units, or remove that frame."
                )
        if not np.linalg.det(self.box) > 0:
            raise BoxError(
                f"{path}: frame {k} has no periodic box; only periodic fluids can be mapped."
            )
