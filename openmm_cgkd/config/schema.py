"""JSON Schemas of the configuration files, by which editors complete and check them."""

from __future__ import annotations

import json
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

    It does not know units, bounds of quantities, and rules between fields, and it does not allow
    numbers and switches in quotes.

    Parameters
    ----------
    kind : type of ConfigFile
    """
    found = kind.model_json_schema(schema_generator=_WithoutTitles)
    for section in (found, *found["$defs"].values()):
        for name, field in section["properties"].items():
            for key in YOUNGER:  # for this package alone
                field.pop(key, None)
            if "$ref" in field and name not in section.get("required", ()):
                # the name of a section without a field is null in YAML
                field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]
    return {"$schema": DIALECT, **found, "title": kind.usual_name}


def schema_text(kind: type[ConfigFile]) -> str:
    """`json_schema` as the text of a file."""
    return json.dumps(json_schema(kind), indent=1) + "\n"
