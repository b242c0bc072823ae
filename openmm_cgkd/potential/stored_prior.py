"""What a prior must be: of `prior.json`, of a potential file and of a fit alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openmm_cgkd.utils.text_file import shown

_MOST_BONDS = 30  # of a bead
_Positive = Annotated[float, Field(gt=0)]
_Names = Annotated[Sequence[str], Field(min_length=1, max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Molecule(_Strict):
    beads: _Names
    bonds: Sequence[Annotated[Sequence[int], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def _bonds_join_beads(self) -> Self:
        for bond in self.bonds:
            if not all(0 <= bead < len(self.beads) for bead in bond) or bond[0] == bond[1]:
                raise ValueError(f"bond {list(bond)} does not join two of {len(self.beads)} beads")
        pairs = {frozenset(bond) for bond in self.bonds}
        if len(pairs) < len(self.bonds):
            raise ValueError("a bond stands there twice")
        ends = Counter(bead for pair in pairs for bead in pair)
        if max(ends.values(), default=0) > _MOST_BONDS:  # angles grow with their square
            raise ValueError(f"a bead has more than {_MOST_BONDS} bonds")
        return self


class _Bond(_Strict):
    types: Annotated[Sequence[str], Field(min_length=2, max_length=2)]
    constant: _Positive
    length: _Positive


class _Angle(_Strict):
    types: Annotated[Sequence[str], Field(min_length=3, max_length=3)]
    constant: _Positive
    cosine: float = Field(ge=-1, le=1)


class _Bonded(_Strict):
    molecules: Sequence[_Molecule]
    bonds: Sequence[_Bond]
    angles: Sequence[_Angle]


class StoredPrior(_Strict):
    """Fields of `PriorParameters`, with types and ranges."""

    type_names: _Names
    contact: Sequence[Sequence[Annotated[float, Field(ge=0, le=100)]]]
    force: float = Field(ge=0)
    p: float = Field(ge=1e-9, lt=1)
    distance: float = Field(gt=1e-6, le=100)
    bonded: _Bonded | None = None
    stiffness: float | None = Field(None, gt=0, le=1e15)

    @model_validator(mode="after")
    def _types_fit(self) -> Self:
        n, rows = len(self.type_names), [list(row) for row in self.contact]
        if len(rows) != n or any(len(row) != n for row in rows):
            raise ValueError(f"contact is not a table of {n} by {n} bead types")
        if len(set(self.type_names)) < n:
            raise ValueError(f"the bead types {shown(list(self.type_names))} are not all different")
        if rows != [list(column) for column in zip(*rows, strict=True)]:
            raise ValueError("contact is not symmetric")
        if self.bonded is not None:
            named = [
                *(name for molecule in self.bonded.molecules for name in molecule.beads),
                *(name for term in self.bonded.bonds for name in term.types),
                *(name for term in self.bonded.angles for name in term.types),
            ]
            unknown = sorted(set(named) - set(self.type_names))
            if unknown:
                raise ValueError(f"bonded names {unknown[0]!r}, which is no bead type")
        return self

    @model_validator(mode="after")
    def _not_softer_than_at_contact(self) -> Self:
        least = slope_at_contact(self.force, self.p, self.distance)
        if self.stiffness is not None and self.stiffness < least:
            raise ValueError(
                f"stiffness {self.stiffness:g} kJ/mol/nm^2 is below {least:g}, the slope that the"
                " force has at contact already"
            )
        return self


def slope_at_contact(force: float, p: float, distance: float) -> float:
    """Slope of the force of `PairRepulsion` at its distance t, s p a, kJ/mol/nm^2."""
    return force * p * math.log(1 / p) / distance


def mistake_in_prior(content: Mapping[str, Any]) -> str:
    """Field and reason of the first thing wrong with the content of a prior; empty if none."""
    try:
        StoredPrior.model_validate(dict(content))
    except ValidationError as error:
        return first_mistake(error)
    return ""


def first_mistake(error: ValidationError) -> str:
    """Field, value and reason of the first thing that is wrong."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{field}: {reason}" if field else reason
    return f"{field}: got {shown(first['input'])}: {reason[0].lower()}{reason[1:]}"
