"""Mapping files of OpenMSCG's ``cgmap`` as atoms-to-beads maps.

They are YAML with ``site-types`` and ``system``.

Format: OpenMSCG documentation, command ``cgmap``. Anchors of nested groups count from the start of
the group around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

import mdtraj
import numpy as np
from pydantic import Field, model_validator

from openmm_cgkd.config.section import Section, read_section
from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.utils.text_file import shown

from .beads import BeadTopology
from .mapping import Mapping

_MASS_TOLERANCE = 0.02  # such files often write 12, 1 and 16 for the masses of C, H and O
_MOST_ATOMS = 10**9
_Name = Annotated[str, Field(pattern=r"^\S+$")]
_Index = Annotated[int, Field(ge=-_MOST_ATOMS, le=_MOST_ATOMS)]
_Weight = Annotated[float, Field(ge=-1e9, le=1e9)]


class _SiteType(Section):
    """Atoms of a bead, counted from its anchor, with their weights."""

    index: list[_Index] = Field(min_length=1)
    x_weight: list[_Weight] = Field(alias="x-weight")
    f_weight: list[float] = Field(alias="f-weight")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        n = len(self.index)
        for name, weights in (("x-weight", self.x_weight), ("f-weight", self.f_weight)):
            if len(weights) != n:
                raise ValueError(
                    f"has {len(weights)} values of {name} for {n} atoms; give one per atom"
                )
        if len(set(self.index)) < n:
            raise ValueError(
                f"names an atom twice in index {shown(self.index)}; name each atom once"
            )
        if any(weight != 1 for weight in self.f_weight):
            raise ValueError(
                f"has f-weight {shown(self.f_weight)}, but only 1 is supported: the force on a bead"
                " is the sum over its atoms"
            )
        if not (min(self.x_weight) >= 0 and sum(self.x_weight) > 0):
            raise ValueError(f"has x-weight {shown(self.x_weight)}; give the atomic masses")
        return self


class _Group(Section):
    """A pattern of beads or of smaller groups, repeated every `offset` atoms."""

    anchor: int = Field(ge=0, le=_MOST_ATOMS)
    repeat: int = Field(gt=0, le=_MOST_ATOMS)
    offset: int = Field(ge=0, le=_MOST_ATOMS)
    # an empty one would be repeated without end
    sites: list[tuple[str, _Index]] | None = Field(None, min_length=1)
    groups: list[_Group] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if (self.sites is None) == (self.groups is None):
            raise ValueError("needs either sites or groups, and not both")
        return self

    def anchors(self, start: int = 0) -> Iterator[tuple[str, int]]:
        """Site type and anchor atom of every bead, in the order of the file."""
        for k in range(self.repeat):
            begin = start + self.anchor + k * self.offset
            for name, shift in self.sites or ():
                yield name, begin + shift
            for group in self.groups or ():
                yield from group.anchors(begin)


class _CGMap(Section):
    site_types: dict[_Name, _SiteType] = Field(alias="site-types", min_length=1)
    system: list[_Group] = Field(min_length=1)


def mapping_from_cgmap(
    path: Path,
    topology: mdtraj.Topology,
    partial: bool = False,
    masses: np.ndarray | None = None,
) -> Mapping:
    """Map of a system from a mapping file of OpenMSCG.

    Parameters
    ----------
    path : path
    topology : mdtraj.Topology
        One residue per molecule.
    partial : bool
        Atoms may be in no bead, as in `Mapping`.
    masses : ndarray, shape (n_atoms,), dalton, optional
        True masses, as `mapping.atomic_masses` gives; those of the elements if absent.

    Returns
    -------
    Mapping
        Centres of mass with the true masses; the x-weights of the file only have to
        agree with them. Beads are in the order of the file, but those of one molecule stand
        together. Beads are bonded where atoms are.

    Raises
    ------
    MappingError
        If the file is not valid, an x-weight is no atomic mass, an f-weight is not 1, a bead
        reaches over two molecules, or an atom is in two beads or in none.
    """
    content = read_section(
        _CGMap,
        path,
        "a mapping file of OpenMSCG",
        MappingError,
        unknown=(
            "is not supported; only site-types with index, x-weight, f-weight and system with"
            " anchor, repeat, offset, sites, groups are"
        ),
    )
    if masses is None:
        masses = np.array([atom.element.mass for atom in topology.atoms])
    molecule_of_atom = np.array([atom.residue.index for atom in topology.atoms])
    names: list[str] = []
    bead_atoms: list[np.ndarray] = []
    molecules: list[int] = []
    for group in content.system:
        for name, anchor in group.anchors():
            atoms = _site_atoms(content, name, anchor, len(names), path, masses)
            owners = np.unique(molecule_of_atom[atoms])
            if len(owners) > 1:
                raise MappingError(
                    f"{path}: site {len(names)} ({name}) takes atoms of molecules"
                    f" {owners.tolist()}; keep a bead in one molecule."
                )
            if len(names) == len(masses):
                raise MappingError(
                    f"{path}: makes more beads than the {len(masses)} atoms of the topology;"
                    " check anchor, repeat and offset."
                )
            names.append(name)
            bead_atoms.append(atoms)
            molecules.append(owners[0])
    order = np.argsort(molecules, kind="stable")
    type_names = tuple(name for name in content.site_types if name in names)
    types = np.array([type_names.index(name) for name in names])[order]
    beads = BeadTopology(type_names, types, np.zeros(len(types)), np.array(molecules)[order])
    try:
        return Mapping([bead_atoms[k] for k in order], masses, beads, partial).with_bonds(topology)
    except MappingError as error:
        message = str(error)
        raise MappingError(f"{path}: {message[0].lower()}{message[1:]}") from error


def _site_atoms(
    content: _CGMap, name: str, anchor: int, site: int, path: Path, masses: np.ndarray
) -> np.ndarray:
    """Atoms of one bead; checks that they exist and that the weights are their masses."""
    if name not in content.site_types:
        raise MappingError(
            f"{path}: system names the site type {shown(name)[1:-1]}, site-types has"
            f" {shown(list(content.site_types))};"
            " correct the name."
        )
    kind = content.site_types[name]
    atoms = anchor + np.array(kind.index)
    if not 0 <= atoms.min() <= atoms.max() < len(masses):
        raise MappingError(
            f"{path}: site {site} ({name}) takes atoms {atoms.min()} to {atoms.max()}, the topology"
            f" has 0 to {len(masses) - 1}."
        )
    weights, expected = np.array(kind.x_weight), masses[atoms]
    if not np.allclose(weights / weights.sum(), expected / expected.sum(), rtol=_MASS_TOLERANCE):
        found = ", ".join(f"{mass:g}" for mass in expected[:20])
        raise MappingError(
            f"{path}: x-weight {shown(kind.x_weight)} of site {site} ({name}) are not the masses of"
            f" its atoms ({found}); beads are centres of mass, so correct the weights or the order"
            " of the atoms."
        )
    return atoms
