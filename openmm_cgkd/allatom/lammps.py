"""Read LAMMPS text dumps with forces, one frame at a time.

Such dumps are written by ``dump ID all custom N FILE id x y z fx fy fz``.

Format and unit styles: LAMMPS manual, commands ``dump``, ``dump_modify``, ``units`` and page
"Triclinic simulation boxes".
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from openmm_cgkd.exceptions import BoxError, ConfigError, FramesError, MappingError
from openmm_cgkd.utils.text_file import shown
from openmm_cgkd.utils.units import ANGSTROM, BOHR, ELECTRON_VOLT, HARTREE, KILOCALORIE, NEWTON

from .atom_frame import AtomFrame

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
_LONGEST_LINE = 100_000  # characters
_LARGEST_TYPE = 2**31
_STEPS = 1e-5, 0.05  # ps, of all-atom dynamics


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
        with _open(self._path) as file:
            lines, k = self._lines(file), 0
            while (header := self._header(lines, k)) is not None:
                self._check_count(header, k)
                if sum(1 for _ in islice(lines, self._n_atoms)) < self._n_atoms:
                    raise self._damaged(k)
                k += 1
            return k

    def __iter__(self) -> Iterator[AtomFrame]:
        with _open(self._path) as file:
            lines, k, last = self._lines(file), 0, None
            while (header := self._header(lines, k)) is not None:
                frame = self._frame(lines, header, k)
                frame.check(self._path, k)
                if last is not None:
                    self._check_step(frame, last, k)
                last = frame
                yield frame
                k += 1

    def _lines(self, file: TextIO) -> Iterator[str]:
        """Lines of the file: a compressed one may hold any amount of text, or one endless line."""
        try:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise FramesError(
                        f"{self._path}: has a line of more than {_LONGEST_LINE} characters; give a"
                        " LAMMPS dump."
                    )
                yield line
        except (OSError, EOFError, zlib.error) as error:
            raise FramesError(
                f"{self._path}: cannot be decompressed; the file is cut off or damaged."
            ) from error

    def _header(self, lines: Iterator[str], k: int) -> dict[str, Any] | None:
        """Items before the atoms of frame k; None at the end of the file."""
        items: dict[str, Any] = {}
        for line in lines:
            if not line.strip() and not items and not next(lines, ""):
                return None  # a blank line at the end of a file
            name = line.removeprefix("ITEM: ").strip()
            if not line.startswith("ITEM: "):
                raise self._damaged(k)
            if name.startswith("ATOMS"):
                return items | {"columns": name.split()[1:]}
            content: list[Any] = next(lines, "").split()
            if name.startswith("BOX BOUNDS"):
                items["flags"] = name.split()[2:]
                name, content = "BOX", [content, *(next(lines, "").split() for _ in range(2))]
            if name in items:
                raise self._damaged(k)
            items[name] = content
        if items:
            raise self._damaged(k)
        return None

    def _damaged(self, k: int) -> FramesError:
        return FramesError(
            f"{self._path}: frame {k} cannot be read as a LAMMPS dump; the file is cut off or"
            " damaged, remove that frame."
        )

    def _check_count(self, header: dict[str, Any], k: int) -> None:
        """Refuse another number of atoms than that of the topology, before they are read."""
        try:
            (n_atoms,) = map(int, header["NUMBER OF ATOMS"])
        except (KeyError, ValueError) as error:
            raise self._damaged(k) from error
        if n_atoms != self._n_atoms:
            raise MappingError(
                f"{self._path}: frame {k} has {shown(n_atoms)} atoms, the topology {self._n_atoms};"
                " give the topology of this dump."
            )

    def _frame(self, lines: Iterator[str], header: dict[str, Any], k: int) -> AtomFrame:
        self._check_count(header, k)
        coordinates, forces = self._columns(header["columns"], k)
        typed = "type" in header["columns"]
        try:
            (step,) = map(int, header["TIMESTEP"])
            (time,) = map(float, header["TIME"]) if "TIME" in header else (None,)
            bounds = np.array(header["BOX"], dtype=float)
            names = ["id", *coordinates, *forces, *(["type"] if typed else [])]
            wanted = [header["columns"].index(name) for name in names]
            rows = list(islice(lines, self._n_atoms))
            table = np.loadtxt(rows, usecols=wanted, ndmin=2)
        except (KeyError, ValueError, IndexError) as error:
            raise self._damaged(k) from error
        if len(table) != self._n_atoms or (typed and not (abs(table[:, 7]) < _LARGEST_TYPE).all()):
            raise self._damaged(k)
        origin, box = self._box(header["flags"], bounds, k)
        order = np.argsort(table[:, 0])
        table = table[order]
        if not np.array_equal(table[:, 0], np.arange(1, self._n_atoms + 1)):
            raise MappingError(
                f"{self._path}: the atom ids of frame {k} are not 1 to {self._n_atoms}; dump all"
                " atoms of the topology."
            )
        positions = table[:, 1:4] @ box + origin if _COORDINATES[coordinates] else table[:, 1:4]
        units = " ".join(header.get("UNITS", [self._units]))
        return AtomFrame(
            positions * self._length,
            table[:, 4:7] * self._force,
            box * self._length,
            self._checked_time(units, time, step),
            step,
            table[:, 7].astype(int) if typed else None,
            # who the atoms are does not change
            **(self._identity(header["columns"], rows, order, k) if k == 0 else {}),
        )

    def _identity(
        self, columns: list[str], rows: list[str], order: np.ndarray, k: int
    ) -> dict[str, np.ndarray]:
        """Masses, elements and molecules of the atoms, in the order of their ids."""
        kinds = {"masses": ("mass", float), "elements": ("element", str), "molecules": ("mol", int)}
        found = {}
        for name, (column, kind) in kinds.items():
            if column in columns:
                place = columns.index(column)
                try:
                    found[name] = np.array([kind(row.split()[place]) for row in rows])[order]
                except (ValueError, IndexError, OverflowError) as error:
                    raise self._damaged(k) from error
        return found

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
        if (lengths <= 0).any():
            raise BoxError(
                f"{self._path}: the box of frame {k} has edges of"
                f" {' '.join(f'{length:g}' for length in lengths)}; correct its bounds, or remove"
                " that frame."
            )
        return low, np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])

    def _check_step(self, frame: AtomFrame, last: AtomFrame, k: int) -> None:
        """Refuse times that no all-atom dynamics has: another unit style, or a wrong time step."""
        if frame.step <= last.step or frame.time <= last.time:
            return  # told elsewhere
        step = (frame.time - last.time) / (frame.step - last.step)
        if not _STEPS[0] <= step <= _STEPS[1]:
            raise ConfigError(
                f"{self._path}: frame {k} comes {frame.time - last.time:.3g} ps and"
                f" {frame.step - last.step} steps after the one before, which makes steps of"
                f" {step:.3g} ps; give the right --units, or --timestep."
            )

    def _checked_time(self, units: str, time: float | None, step: int) -> float:
        """Time in ps; checks that the file agrees with what the user said."""
        if units != self._units:
            raise ConfigError(
                f"{self._path}: is in unit style {shown(units)[1:-1]}, not {self._units}; give"
                f" --units {units if units in UNIT_STYLES else 'with the style of the run'}."
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
