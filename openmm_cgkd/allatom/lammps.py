"""Read LAMMPS text dumps with forces, one frame at a time.

Such dumps are written by ``dump ID all custom N FILE id x y z fx fy fz``.

Format and unit styles: LAMMPS manual, commands ``dump``, ``dump_modify``, ``units`` and page
"Triclinic simulation boxes".
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from openmm_cgkd.exceptions import BoxError, ConfigError, FramesError, MappingError
from openmm_cgkd.utils.units import ANGSTROM, BOHR, ELECTRON_VOLT, HARTREE, KILOCALORIE, NEWTON

# unit style: its units of length in nm, of force in kJ/mol/nm, of time in ps
UNIT_STYLES = {
    "real": (ANGSTROM, 10 * KILOCALORIE, 1e-3),
    "metal": (ANGSTROM, 10 * ELECTRON_VOLT, 1.0),
    "electron": (BOHR, HARTREE / BOHR, 1e-3),
    "si": (1e9, NEWTON, 1e12),
}
# columns of coordinates, and whether they are fractions of the box
_COORDINATES = {
    ("x", "y", "z"): False,
    ("xu", "yu", "zu"): False,
    ("xs", "ys", "zs"): True,
    ("xsu", "ysu", "zsu"): True,
}
_FORCES = ("fx", "fy", "fz")


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
    """

    positions: np.ndarray
    forces: np.ndarray
    box: np.ndarray
    time: float
    step: int
    types: np.ndarray | None = None


def is_lammps_dump(path: Path) -> bool:
    """Whether a file begins as LAMMPS text dumps do, compressed or not."""
    try:
        with _open(path) as file:
            return file.read(6) == "ITEM: "
    except (OSError, EOFError, zlib.error):  # a folder, or gzip's numbers by chance
        return False


def _open(path: Path) -> TextIO:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return open(path, encoding="utf-8", errors="replace")


class LammpsDump:
    """Frames of a LAMMPS dump; iterate over it.

    Parameters
    ----------
    path : path
    n_atoms : int
        Atoms of the topology, in the order of their LAMMPS ids.
    units : str
        Unit style of the run: a key of `UNIT_STYLES`. Dumps carry no units, unless ``dump_modify
        units yes`` was used; then both must agree.
    timestep : float, optional
        Time step, ps, for dumps without times (``dump_modify time yes``).

    Raises
    ------
    ConfigError
        If the unit style or the time step is missing, unknown or contradicts the file.
    """

    def __init__(self, path: Path, n_atoms: int, units: str | None, timestep: float | None) -> None:
        if units not in UNIT_STYLES:
            given = (
                "LAMMPS dumps carry no units"
                if units is None
                else f"unit style '{units}' cannot be mapped"
            )
            raise ConfigError(
                f"{path}: {given}; give --units with the style of the run:"
                f" {', '.join(UNIT_STYLES)}."
            )
        self._path, self._n_atoms, self._units, self._timestep = path, n_atoms, units, timestep
        self._length, self._force, self._time = UNIT_STYLES[units]

    def __len__(self) -> int:
        try:
            with _open(self._path) as file:
                return sum(line.startswith("ITEM: TIMESTEP") for line in file)
        except (OSError, EOFError, zlib.error) as error:
            raise FramesError(
                f"{self._path}: cannot be decompressed; the file is cut off or damaged."
            ) from error

    def __iter__(self) -> Iterator[AtomFrame]:
        with _open(self._path) as file:
            k = 0
            while (header := self._header(file, k)) is not None:
                yield self._frame(file, header, k)
                k += 1

    def _header(self, file: TextIO, k: int) -> dict[str, Any] | None:
        """Items before the atoms of frame k; None at the end of the file."""
        items: dict[str, Any] = {}
        for line in iter(file.readline, ""):
            name = line.removeprefix("ITEM: ").strip()
            if not line.startswith("ITEM: "):
                raise self._damaged(k)
            if name.startswith("ATOMS"):
                return items | {"columns": name.split()[1:]}
            if name.startswith("BOX BOUNDS"):
                items["flags"] = name.split()[2:]
                items["BOX"] = [file.readline().split() for _ in range(3)]
            else:
                items[name] = file.readline().strip()
        if items:
            raise self._damaged(k)
        return None

    def _damaged(self, k: int) -> FramesError:
        return FramesError(
            f"{self._path}: frame {k} cannot be read as a LAMMPS dump; the file is cut off or"
            " damaged, remove that frame."
        )

    def _frame(self, file: TextIO, header: dict[str, Any], k: int) -> AtomFrame:
        coordinates, forces = self._columns(header["columns"], k)
        typed = "type" in header["columns"]
        try:
            step, n_atoms = int(header["TIMESTEP"]), int(header["NUMBER OF ATOMS"])
            time = float(header["TIME"]) if "TIME" in header else None
            bounds = np.array(header["BOX"], dtype=float)
            names = ["id", *coordinates, *forces, *(["type"] if typed else [])]
            wanted = [header["columns"].index(name) for name in names]
            table = np.loadtxt(list(islice(file, n_atoms)), usecols=wanted, ndmin=2)
        except (KeyError, ValueError, IndexError) as error:
            raise self._damaged(k) from error
        if len(table) != n_atoms:
            raise self._damaged(k)
        if n_atoms != self._n_atoms:
            raise MappingError(
                f"{self._path}: frame {k} has {n_atoms} atoms, the topology {self._n_atoms}; give"
                " the topology of this dump."
            )
        origin, box = self._box(header["flags"], bounds, k)
        table = table[np.argsort(table[:, 0])]
        if not np.array_equal(table[:, 0], np.arange(1, n_atoms + 1)):
            raise MappingError(
                f"{self._path}: the atom ids of frame {k} are not 1 to {n_atoms}; dump all atoms of"
                " the topology."
            )
        positions = table[:, 1:4] @ box + origin if _COORDINATES[coordinates] else table[:, 1:4]
        time = self._checked_time(header.get("UNITS", self._units), time, step)
        return AtomFrame(
            positions * self._length,
            table[:, 4:7] * self._force,
            box * self._length,
            time,
            step,
            table[:, 7].astype(int) if typed else None,
        )

    def _columns(self, columns: list[str], k: int) -> tuple[tuple[str, str, str], tuple[str, ...]]:
        """Names of the coordinate and force columns."""
        found = [names for names in _COORDINATES if set(names) <= set(columns)]
        for present, what in (
            ("id" in columns, "atom ids"),
            (found, "positions"),
            (set(_FORCES) <= set(columns), "forces"),
        ):
            if not present:
                raise FramesError(
                    f"{self._path}: frame {k} has no {what}; dump the columns id x y z fx fy fz."
                )
        return found[0], _FORCES

    def _box(self, flags: list[str], bounds: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Origin (3,) and box vectors (3, 3), from the bounding box and the tilts xy, xz, yz."""
        if not flags:
            raise BoxError(
                f"{self._path}: frame {k} does not say whether its box is periodic (LAMMPS before"
                " 2010); if it is, write 'ITEM: BOX BOUNDS pp pp pp' in every frame."
            )
        if flags[-3:] != 3 * ["pp"]:
            raise BoxError(
                f"{self._path}: frame {k} has boundaries {' '.join(flags[-3:])}; only boxes"
                " periodic in all directions are mapped."
            )
        if bounds.shape not in ((3, 2), (3, 3)) or "abc" in flags:
            raise BoxError(
                f"{self._path}: frame {k} has a box of general vectors; dump without"
                " 'triclinic/general'."
            )
        xy, xz, yz = bounds[:, 2] if bounds.shape[1] == 3 else np.zeros(3)
        low = bounds[:, 0] - [min(0, xy, xz, xy + xz), min(0, yz), 0]
        high = bounds[:, 1] - [max(0, xy, xz, xy + xz), max(0, yz), 0]
        lengths = high - low
        return low, np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])

    def _checked_time(self, units: str, time: float | None, step: int) -> float:
        """Time in ps; checks that the file agrees with what the user said."""
        if units != self._units:
            raise ConfigError(
                f"{self._path}: is in unit style {units}, not {self._units}; give --units {units}."
            )
        if time is not None:
            if self._timestep is not None:
                raise ConfigError(f"{self._path}: carries times of its own; leave out --timestep.")
            return time * self._time
        if self._timestep is None:
            raise ConfigError(
                f"{self._path}: carries steps but no times; give --timestep, for example --timestep"
                " '1 femtosecond'."
            )
        return step * self._timestep
