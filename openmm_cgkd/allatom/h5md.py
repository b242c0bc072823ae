"""H5MD trajectories: what of this format's freedoms can be read for certain.

Format: de Buyl, Colberg, Hofling, Comput. Phys. Commun. 2014, 185, 1546, version 1.1.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.admission import check_reach
from openmm_cgkd.frames.heaps import check_heaps


def check_h5md(path: Path, n_atoms: int) -> None:
    """Refuse what MDAnalysis would pair by its index or take for granted.

    Positions, forces and boxes of different steps, without units, or in different ones; particles
    that are stored in another order in every frame; box vectors that it would turn.

    Parameters
    ----------
    path : path
    n_atoms : int
        Of the topology.

    Raises
    ------
    FramesError
        Naming the cure.
    DamageError
        If HDF5 could not read the text in it.
    """
    check_heaps(path)
    with h5py.File(path, "r") as file:
        check_reach(file, path, soft_links=True)
        groups = list(file["particles"].values())
        wrong = "has several groups of particles; write all atoms in one group"
        if len(groups) == 1:
            wrong = _wrong(groups[0])
    if wrong:
        raise FramesError(f"{path}: {wrong}.")


def _wrong(group: h5py.Group) -> str:
    """What of H5MD's freedoms cannot be read, with the cure; empty if all can."""
    data = {name: group[name] for name in ("position", "force") if name in group}
    without = [
        name
        for name, each in data.items()
        if "unit" not in each["value"].attrs or "unit" not in each["time"].attrs
    ]
    if without:
        return (
            f"{' and '.join(without)} do not state the units of their values and times; write the"
            " unit attributes"
        )
    if len({each["time"].attrs["unit"] for each in data.values()}) > 1:
        return "positions and forces have times in different units; write both in one"
    steps = [each["step"][()] for each in data.values()]
    if len(steps) == 2 and not np.array_equal(*steps):
        return "positions and forces were written at different steps; write both at the same steps"
    if "id" in group:
        ids = group["id"]
        ids = np.atleast_2d(ids["value"][()] if isinstance(ids, h5py.Group) else ids[()])
        if not (ids == ids.min() + np.arange(ids.shape[1])).all():
            return "stores the particles in another order than their ids; sort them by id"
    box = group["box"]
    boundary = [np.char.decode(np.bytes_(each)) for each in box.attrs.get("boundary", [])]
    if boundary and any(str(each) != "periodic" for each in boundary):
        return (
            "has a box that is not periodic in all directions; only periodic fluids can be mapped"
        )
    if "edges" in box and "position" in data:
        edges = box["edges"]
        if edges["value"].attrs.get("unit") != data["position"]["value"].attrs["unit"]:
            return "the box has no unit or another one than the positions; write both in one"
        if "step" in edges and not np.array_equal(edges["step"][()], steps[0]):
            return "boxes and positions were written at different steps; write both at the same"
        vectors = edges["value"][()]
        if vectors.ndim == 3 and np.abs(np.triu(vectors, 1)).max() > 1e-6 * np.abs(vectors).max():
            return (
                "its box vectors are not in reduced form (first along x, second in the xy plane);"
                " rotate box, positions and forces"
            )
    return ""
