"""What the models of the configuration files tell of their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, PlainSerializer
from pydantic.fields import FieldInfo


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section a field holds one or a list of."""
    kind = (
        get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
    )
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def unit_of(field: FieldInfo) -> str:
    """Unit of a field with a dimension, as its serializer writes it.

    Only such fields parse their input.
    """
    parts = [
        *field.metadata,
        *(part for kind in get_args(field.annotation) for part in get_args(kind)[1:]),
    ]
    if not any(isinstance(part, BeforeValidator) for part in parts):
        return ""
    write = next(part.func for part in parts if isinstance(part, PlainSerializer))
    return cast(Callable[[float], str], write)(1.0).removeprefix("1 ")
