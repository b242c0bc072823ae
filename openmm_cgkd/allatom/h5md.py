"""H5MD trajectories: what of this format's freedoms can be read for certain.

Format: de Buyl, Colberg, Hofling, Comput. Phys. Commun. 2014, 185, 1546, version 1.1. The reader of
MDAnalysis lets HDF5 expand chunks of any size, so the numbers are read by `frames.values` here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.admission import check_attribute, check_numbers, check_reach
from openmm_cgkd.frames.gromacs_files import ParticlesError
from openmm_cgkd.frames.guard import GuardedFile
from openmm_cgkd.frames.seal import plain_text
from openmm_cgkd.frames.values import read_values
from openmm_cgkd.utils.foreign import reading
from openmm_cgkd.utils.text_file import shown
from openmm_cgkd.utils.units import ANGSTROM, KILOCALORIE, NEWTON

from .atom_frame import AtomFrame

FORMAT = "an H5MD trajectory"
# names of units as programs write them, in nm, ps and kJ/mol/nm
_UNITS = {
    "position": {
        "nm": 1.0,
        **dict.fromkeys(("Angstrom", "angstrom", "A"), ANGSTROM),
        "pm": 1e-3,
        "fm": 1e-6,
    },
    "time": {
        "ps": 1.0,
        "fs": 1e-3,
        "ns": 1e3,
        **dict.fromkeys(("second", "sec", "s"), 1e12),
        "AKMA": math.sqrt(ANGSTROM**2 / KILOCALORIE),  # dalton nm^2 / kJ/mol is ps^2
    },
    "force": {
        "kJ mol-1 nm-1": 1.0,
        "kJ mol-1 Angstrom-1": 1 / ANGSTROM,
        **dict.fromkeys(("kcal mol-1 Angstrom-1", "kcal mol-1 A-1"), KILOCALORIE / ANGSTROM),
        **dict.fromkeys(("Newton", "N", "J m-1"), NEWTON),
    },
}
_SERIES = {"position": "positions", "force": "forces"}
# bytes of positions in memory; more where chunks are longer, which are unpacked as a whole
PIECE, _LONGEST_PIECE = 2**22, 2**28


class H5mdTrajectory:
    """Frames of an H5MD file; refuses what would have to be taken for granted.

    That is positions, forces and boxes of different steps, without units, or in different ones;
    particles that are stored in another order in every frame; box vectors that would have to be
    turned.

    Parameters
    ----------
    path : path
    n_atoms : int
        Of the topology.

    Raises
    ------
    FramesError
        Naming the cure.
    ParticlesError
        If the file holds another number of atoms.
    DamageError
        If a part does not expand to its size, or HDF5 could not read the text in it.
    """

    def __init__(self, path: Path, n_atoms: int) -> None:
        self._path, self._n_atoms = path, n_atoms
        with self._group() as group:
            self._check_parts(group)
            self._check_shapes(group)
            self._factors = {name: self._unit(group[name]["value"], name) for name in _SERIES}
            self._factors["time"] = self._unit(group["position/time"], "time")
            self._steps = self._same_steps(group)
            self._times = self._factors["time"] * self._values(group["position/time"])
            self._check_ids(group)
            self._boxes = self._read_boxes(group)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[AtomFrame]:
        with self._group() as group:
            for rows in self._pieces(*(group[name]["value"] for name in _SERIES)):
                cure = f"frame {rows.start} or one soon after it is damaged, remove it"
                with reading(self._path, FORMAT, cure, FramesError):
                    positions, forces = (
                        self._factors[name] * self._values(group[name]["value"], rows).astype(float)
                        for name in _SERIES
                    )
                for k in range(rows.start, rows.stop):
                    frame = AtomFrame(
                        positions[k - rows.start],
                        forces[k - rows.start],
                        self._boxes[k],
                        float(self._times[k]),
                        int(self._steps[k]),
                        **(self._identity(group) if k == 0 else {}),
                    )
                    frame.check(self._path, k)
                    yield frame

    @contextmanager
    def _group(self) -> Iterator[h5py.Group]:
        """The only group of particles."""
        with GuardedFile(self._path) as guarded, h5py.File(guarded, "r") as file:
            check_reach(file, self._path, soft_links=True)
            particles = self._part(file, "particles", h5py.Group, "write all atoms in it")
            groups = [each for each in particles.values() if isinstance(each, h5py.Group)]
            if len(groups) != 1:
                raise self._error(
                    f"has {len(groups)} groups of particles; write all atoms in one group"
                )
            yield groups[0]

    def _error(self, wrong: str) -> FramesError:
        return FramesError(f"{self._path}: {wrong}.")

    def _part(self, parent: h5py.Group, name: str, kind: type, cure: str) -> Any:
        """A group or dataset that must be there."""
        part = parent.get(name)
        if not isinstance(part, kind):
            place, what = f"{parent.name}/{name}".replace("//", "/"), kind.__name__.lower()
            raise self._error(f"has no {what} {place}; {cure}")
        return part

    def _check_parts(self, group: h5py.Group) -> None:
        for name, plural in _SERIES.items():
            if name not in group:
                raise self._error(
                    f"has no {plural}; write both positions and forces of every frame"
                )
            for part in ("value", "step", "time"):
                cure = f"write value, step and time of the {plural} of every frame"
                self._part(group, f"{name}/{part}", h5py.Dataset, cure)

    def _pieces(self, *datasets: h5py.Dataset) -> Iterator[slice]:
        """Rows that are read at once, so that no chunk is unpacked again and again."""
        row = max(1, math.prod(datasets[0].shape[1:]) * datasets[0].dtype.itemsize)
        chunk = max(each.chunks[0] if each.chunks else 1 for each in datasets)
        step = max(1, min(chunk, _LONGEST_PIECE // row), PIECE // row // chunk * chunk)
        for first in range(0, len(datasets[0]), step):
            yield slice(first, min(first + step, len(datasets[0])))

    def _values(self, dataset: h5py.Dataset, rows: slice = slice(None)) -> np.ndarray:
        check_numbers(dataset.name, dataset.id, self._path)
        return read_values(dataset, rows)

    def _attribute(self, item: h5py.HLObject, name: str) -> Any:
        """Value of an attribute, None if there is none."""
        if name not in item.attrs:
            return None
        check_attribute(item.name, h5a.open(item.id, name.encode()), self._path)
        return item.attrs[name]

    def _check_shapes(self, group: h5py.Group) -> None:
        for name, plural in _SERIES.items():
            check_numbers(group[name]["value"].name, group[name]["value"].id, self._path)
            shape = group[name]["value"].shape
            if len(shape) != 3 or shape[2] != 3:
                raise self._error(f"{plural} have shape {shape}, expected frames, atoms and 3")
            if shape[1] != self._n_atoms:
                raise ParticlesError(f"{plural} are of {shape[1]} atoms")
            for what in ("step", "time"):
                if group[name][what].shape != shape[:1]:
                    raise self._error(
                        f"has not one {what} for each of its {shape[0]} {plural}; write the {what}"
                        " of every frame"
                    )

    def _unit(self, dataset: h5py.Dataset, kind: str) -> float:
        """Factor to the units of this package."""
        unit = self._attribute(dataset, "unit")
        if unit is None:
            raise self._error(f"{dataset.name} does not state its unit; write the attribute 'unit'")
        known = _UNITS[kind]
        if not isinstance(unit, str | bytes) or plain_text(unit) not in known:
            raise self._error(
                f"{dataset.name} is in {shown(unit)}, which is not known; use one of"
                f" {', '.join(known)}"
            )
        return known[plain_text(unit)]

    def _same_steps(self, group: h5py.Group) -> np.ndarray:
        if self._unit(group["force/time"], "time") != self._factors["time"]:
            raise self._error(
                "positions and forces have times in different units; write both in one"
            )
        steps, others = (self._values(group[name]["step"]) for name in _SERIES)
        if not np.array_equal(steps, others):
            raise self._error(
                "positions and forces were written at different steps; write both at the same steps"
            )
        return steps

    def _check_ids(self, group: h5py.Group) -> None:
        if "id" not in group:
            return
        name = "id/value" if isinstance(group["id"], h5py.Group) else "id"
        ids = self._part(group, name, h5py.Dataset, "write one id for every atom, or no ids")
        if ids.ndim not in (1, 2) or ids.shape[-1] != self._n_atoms or not ids.size:
            raise self._error(
                f"ids of particles have shape {ids.shape}, expected one for each of"
                f" {self._n_atoms} atoms; write all, or no ids"
            )
        for rows in self._pieces(ids):
            some = self._values(ids, rows)
            first = rows.start if ids.ndim == 1 else 0
            if rows.start == 0:
                lowest = some.min()
            if not (some == lowest + first + np.arange(some.shape[-1])).all():
                raise self._error(
                    "stores the particles in another order than their ids; sort them by id"
                )

    def _identity(self, group: h5py.Group) -> dict[str, np.ndarray]:
        """Species and masses of the atoms, where they are known and do not change."""
        found = {}
        for name, part in (("types", "species"), ("masses", "mass")):
            data = group.get(part)
            if isinstance(data, h5py.Group):
                data = data.get("value")
            if not isinstance(data, h5py.Dataset) or data.shape[-1:] != (self._n_atoms,):
                continue
            if data.dtype.kind not in "iuf" or not data.size:
                continue
            unit = self._attribute(data, "unit")
            if name == "masses" and (
                unit is None or plain_text(unit) not in ("u", "Da", "dalton", "amu", "g/mol")
            ):
                continue
            values = self._values(data) if data.ndim == 1 else self._values(data, slice(0, 1))[0]
            found[name] = values.astype(int if name == "types" else float)
        return found

    def _read_boxes(self, group: h5py.Group) -> np.ndarray:
        """Box vectors of every frame, shape (n_frames, 3, 3), nm."""
        periodic = "write the box; only periodic fluids can be mapped"
        box = self._part(group, "box", h5py.Group, periodic)
        boundary = self._attribute(box, "boundary")
        kinds = np.atleast_1d("periodic" if boundary is None else boundary)
        if any(plain_text(each) != "periodic" for each in kinds):
            raise self._error(
                "has a box that is not periodic in all directions; only periodic fluids can be"
                " mapped"
            )
        if "edges" not in box:
            raise self._error("has no box; only periodic fluids can be mapped")
        edges, n = box["edges"], len(self._steps)
        moves = isinstance(edges, h5py.Group)
        values = self._part(box, "edges/value", h5py.Dataset, periodic) if moves else edges
        if self._attribute(values, "unit") is None or (
            self._unit(values, "position") != self._factors["position"]
        ):
            raise self._error(
                "the box has no unit or another one than the positions; write both in one"
            )
        if values.shape not in (((n, 3), (n, 3, 3)) if moves else ((3,), (3, 3))):
            raise self._error(f"the box has shape {values.shape}, expected that of {n} frames")
        if moves and "step" in edges:
            steps = edges["step"]
            if steps.shape != (n,) or not np.array_equal(self._values(steps), self._steps):
                raise self._error(
                    "boxes and positions were written at different steps; write both at the same"
                )
        vectors = self._values(values).astype(float)
        if not moves:
            vectors = np.broadcast_to(vectors, (n, *vectors.shape))
        if vectors.ndim == 2:
            vectors = vectors[:, None, :] * np.eye(3)
        diagonal = np.diagonal(vectors, axis1=1, axis2=2)
        above = np.abs(np.triu(vectors, 1)).max(initial=0.0)
        if above > 1e-6 * np.abs(vectors).max(initial=0.0) or (diagonal < 0).any():
            raise self._error(
                "its box vectors are not in reduced form (first along x, second in the xy plane);"
                " rotate box, positions and forces"
            )
        return self._factors["position"] * np.tril(vectors)
