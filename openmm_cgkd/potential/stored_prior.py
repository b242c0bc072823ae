"""What the prior in a file must look like before anything is built from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    p: float = Field(gt=0, lt=1)
    distance: float = Field(gt=1e-6, le=100)
    bonded: _Bonded | None = None

    @model_validator(mode="after")
    def _types_fit(self) -> Self:
        n, rows = len(self.type_names), [list(row) for row in self.contact]
        if len(rows) != n or any(len(row) != n for row in rows):
            raise ValueError(f"contact is not a table of {n} by {n} bead types")
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
