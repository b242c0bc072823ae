"""A configuration as YAML that explains itself: what is set, and every default as a comment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from .fields import section_of, unit_of
from .section import ConfigFile

_COLUMN = 44  # where explanations begin


def commented_yaml(config: ConfigFile, head: str) -> str:
    """YAML of a configuration.

    Fields that are not set are comments, so that a later version may choose better defaults.

    Parameters
    ----------
    config : ConfigFile
    head : str
        Comment above, of one line or several.
    """
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    plain = config.model_dump(mode="json")
    for name in type(config).model_fields:
        if isinstance(getattr(config, name), BaseModel):
            lines.append("")
        lines += _field(config, name, plain[name], "")
    return "\n".join(lines) + "\n"


def _field(section: BaseModel, name: str, plain: Any, indent: str) -> Iterator[str]:
    """Lines of a field whose plain value is given."""
    value, field = getattr(section, name), type(section).model_fields[name]
    inner = section_of(field)
    if inner is not None and isinstance(value, BaseModel):
        # never a comment: a field below it that loses its mark must not fall to another section
        yield _line(f"{indent}{name}:", _meaning(inner.__doc__))
        for each in type(value).model_fields:
            yield from _field(value, each, plain[each], indent + "  ")
    elif inner is not None and isinstance(value, list):
        yield _line(f"{indent}{name}:", _meaning(inner.__doc__))
        for each, its in zip(value, plain, strict=True):
            chosen = {
                key: its[key] for key in type(each).model_fields if key in each.model_fields_set
            }
            yield f"{indent}  - {_flow(chosen)}"
    else:
        words = "" if field.description in (None, unit_of(field)) else str(field.description)
        mark = "" if name in section.model_fields_set else "# "
        yield _line(f"{indent}{mark}{name}: {_flow(plain)}", words)


def _line(text: str, meaning: str) -> str:
    return f"{text:<{_COLUMN - 1}} # {meaning}" if meaning else text


def _meaning(documentation: str | None) -> str:
    """The first sentence of what a section is, as one comment."""
    return (documentation or "").strip().split("\n")[0].rstrip(".")


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()
