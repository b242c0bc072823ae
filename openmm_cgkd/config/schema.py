"""JSON Schemas of the configuration files, by which editors complete and check them."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from .section import YOUNGER, ConfigFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _WithoutTitles(GenerateJsonSchema):
    """Titles that Pydantic makes of field names tell nothing new."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(kind: type[ConfigFile]) -> dict[str, Any]:
    """JSON Schema of a configuration file.

    It allows whatever reading the file allows. It does not know units, bounds of quantities, and
    rules between fields.

    Parameters
    ----------
    kind : type of ConfigFile
    """
    found = kind.model_json_schema(schema_generator=_WithoutTitles)
    _remove(found, set(YOUNGER))
    return {"$schema": DIALECT, **found, "title": kind.usual_name}


def _remove(schema: Any, names: set[str]) -> None:
    """Remove keys that are meant for this package alone."""
    if isinstance(schema, dict):
        for name in names & schema.keys():
            del schema[name]
    for part in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(part, dict | list):
            _remove(part, names)
