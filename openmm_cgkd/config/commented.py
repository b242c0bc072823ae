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
    for name in type(config).model_fields:
        if isinstance(getattr(config, name), BaseModel):
            lines.append("")
        lines += _field(config, name, config.model_dump(mode="json")[name], "", True)
    return "\n".join(lines) + "\n"


def _field(section: BaseModel, name: str, plain: Any, indent: str, active: bool) -> Iterator[str]:
    """Lines of a field whose plain value is given, in a section that is a comment or not."""
    value, field = getattr(section, name), type(section).model_fields[name]
    inner = section_of(field)
    if inner is not None and isinstance(value, BaseModel):
        set_here = active and _sets_something(value)
        yield _line(f"{name}:", _meaning(inner.__doc__), indent, set_here)
        for each in type(value).model_fields:
            yield from _field(value, each, plain[each], indent + "  ", set_here)
    elif inner is not None and isinstance(value, list):
        yield _line(f"{name}:", _meaning(inner.__doc__), indent, active)
        for each, its in zip(value, plain, strict=True):
            chosen = {
                key: its[key] for key in type(each).model_fields if key in each.model_fields_set
            }
            yield f"{indent}  - {_flow(chosen)}"
    else:
        words = "" if field.description in (None, unit_of(field)) else str(field.description)
        entry = f"{name}: {_flow(plain)}"
        yield _line(entry, words, indent, active and name in section.model_fields_set)


def _sets_something(section: BaseModel) -> bool:
    return bool(section.model_fields_set)


def _line(text: str, meaning: str, indent: str, active: bool) -> str:
    line = indent + text if active else f"# {indent}{text}"
    return f"{line:<{_COLUMN - 1}} # {meaning}" if meaning else line


def _meaning(documentation: str | None) -> str:
    """The first sentence of what a section is, as one comment."""
    return (documentation or "").strip().split("\n")[0].rstrip(".")


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()
