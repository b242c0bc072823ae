"""The one reader of YAML: plain mappings, lists, text and numbers, from files of strangers, too.

It reads a subset of YAML 1.2. Dates, ``yes``, ``no`` and ``1:30`` are text. What is refused:
everything that costs more than its size in the file shows, and everything that two readers could
take for two things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from openmm_cgkd.exceptions import CGKDError

from .text_file import read_text, shown

_DEEPEST = 30
_MOST_VALUES = 50_000  # aliases count as what they stand for
_MOST_DIGITS = 18
_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")  # kinds of values that can be keys
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it


class _YamlError(Exception):
    """What is wrong, and in which line."""

    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.line = mark.line + 1


class _Loader(_Base):
    """PyYAML's safe loader with fewer kinds of values."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def decimal(self, node: yaml.ScalarNode) -> int:
        digits = node.value.lstrip("+-")
        if len(digits) > _MOST_DIGITS:
            raise _YamlError(
                f"a number has {len(digits)} digits; write at most {_MOST_DIGITS}", node.start_mark
            )
        if digits.startswith("0") and digits != "0":
            raise _YamlError(
                f"{node.value} begins with 0, which YAML reads as octal; write"
                f" {int(node.value)}, or '{node.value}' in quotes if it is text",
                node.start_mark,
            )
        return int(node.value)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.decimal)


def read_yaml(path: Path, what: str, error: type[CGKDError]) -> Any:
    """Content of a YAML file as plain Python values.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, such as "a YAML configuration", for messages.
    error : type of CGKDError
        What is raised.

    Raises
    ------
    CGKDError
        Of the type `error`: naming the file, the line and the cure.
    """
    return parse_yaml(read_text(path, what, error), path, error)


def parse_yaml(text: str, source: Path | str, error: type[CGKDError]) -> Any:
    """Content of YAML text that comes from `source`; errors as `read_yaml`."""
    try:
        _check(text)
        return yaml.load(text, Loader=_Loader)
    except _YamlError as problem:
        raise error(f"{source}, line {problem.line}: {problem}.") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = source if mark is None else f"{source}, line {mark.line + 1}"
        reason = getattr(problem, "problem", None) or " ".join(str(problem).split())
        raise error(
            f"{place}: cannot be read as YAML ({reason}); correct the text there."
        ) from problem


def line_of(text: str, place: Sequence[int | str]) -> int | None:
    """Line of the value at `place`, a way of keys and indices, in text that `parse_yaml` reads.

    The line of the last part of the way that is there.
    """
    node = yaml.compose(text, Loader=_Loader)
    line = None if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            key, node = None, node.value[part] if part < len(node.value) else None
        elif isinstance(node, yaml.MappingNode):
            key, node = next(
                (pair for pair in node.value if pair[0].value == str(part)), (None, None)
            )
        else:
            break
        if node is None:
            break
        line = (key or node).start_mark.line + 1
    return line


class _Open:
    """A list or a mapping whose end has not been read."""

    def __init__(self, anchor: str | None, mapping: bool) -> None:
        self.anchor, self.mapping = anchor, mapping
        self.values = 1  # it and what it holds so far
        self.keys: set[str] = set()
        self.at_key = mapping

    def next(self, name: str | None, event: Any) -> None:
        """Keys and values of a mapping take turns; keys are names (not None) and differ."""
        if not self.mapping:
            return
        if self.at_key:
            if name is None:
                found = shown(getattr(event, "value", "(a list or mapping)"))
                raise _YamlError(
                    f"the key {found} is no text; write a name before the colon, in quotes if it"
                    " looks like a number",
                    event.start_mark,
                )
            if name in self.keys:
                raise _YamlError(
                    f"the key {shown(name)} stands twice in one mapping; keep one",
                    event.start_mark,
                )
            self.keys.add(name)
        self.at_key = not self.at_key


def _check(text: str) -> None:
    """Refuse what the loader could not read in little time, or would read without a word."""
    opened: list[_Open] = []
    sizes: dict[str, int] = {}  # values in what an anchor names
    documents = 0
    loader = _Loader(text)
    while loader.check_event():
        event: Any = loader.get_event()
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _YamlError("a second document begins; keep one", event.start_mark)
            continue
        if isinstance(event, yaml.NodeEvent) and opened:
            opened[-1].next(_name(loader, event), event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _YamlError(
                    f"the alias *{event.anchor} names nothing that ends before it; write the value"
                    " itself",
                    event.start_mark,
                )
            size, anchor = sizes[event.anchor], None
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag not in (None, "!"):
                raise _YamlError(
                    f"{shown(event.tag)} is a tag; write plain values without tags",
                    event.start_mark,
                )
            size, anchor = 1, event.anchor
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append(_Open(anchor, isinstance(event, yaml.MappingStartEvent)))
                if len(opened) > _DEEPEST:
                    raise _YamlError(
                        f"values are nested deeper than {_DEEPEST} levels; write fewer",
                        event.start_mark,
                    )
                continue
        elif isinstance(event, yaml.CollectionEndEvent):
            done = opened.pop()
            size, anchor = done.values, done.anchor
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if opened:
            opened[-1].values += size
            if sum(each.values for each in opened) > _MOST_VALUES:
                raise _YamlError(
                    f"holds more than {_MOST_VALUES} values, aliases written out; write fewer",
                    event.start_mark,
                )


def _name(loader: Any, event: Any) -> str | None:
    """The text of a value that can be a key."""
    if not isinstance(event, yaml.ScalarEvent):
        return None
    kind = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    return event.value if kind in _NAMES else None
