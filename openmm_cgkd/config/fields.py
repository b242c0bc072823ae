"""What the models of the configuration files tell of their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, PlainSerializer
from pydantic.fields import FieldInfo


def field_rows(
    model: type[BaseModel], names: tuple[str, ...], indent: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Rows (field, default, meaning) of a section; nested sections are indented as in YAML."""
    for name in names:
        field = model.model_fields[name]
        section = section_of(field)
        if section is not None:
            yield f"{indent}{name}:", "", "list of" if get_origin(field.annotation) is list else ""
            yield from field_rows(section, tuple(section.model_fields), indent + "  ")
            continue
        unit = unit_of(field)
        default = (
            "required"
            if field.is_required()
            else "absent"
            if field.default is None
            else str(field.default)
        )
        # a default that is written out carries its unit
        if unit and not isinstance(field.default, str):
            default = f"{default} ({unit})"
        yield (
            f"{indent}{name}",
            default,
            "" if field.description in (None, unit) else field.description,
        )


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
