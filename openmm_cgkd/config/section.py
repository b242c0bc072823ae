"""What system.yaml and run.yaml share: strict sections, relative paths, reading and writing.

Every physical quantity carries a unit; unknown fields are errors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from openmm_cgkd.exceptions import CGKDError, ConfigError
from openmm_cgkd.utils.text_file import read_text, shown
from openmm_cgkd.utils.yaml_file import line_of, parse_yaml


def _write_path(path: Path, info: SerializationInfo) -> str:
    """Path from the folder into which the configuration is written to the same file."""
    if not info.context or path.is_absolute():
        return str(path)
    return os.path.relpath(info.context["from"] / path, info.context["to"])


def _check_path(path: Path) -> Path:
    if "\0" in str(path) or len(str(path)) > 4000 or any(len(part) > 255 for part in path.parts):
        raise ValueError(f"got {shown(str(path))}; no file can have that name, give another")
    return path


RelativePath = Annotated[Path, AfterValidator(_check_path), PlainSerializer(_write_path)]


class Section(BaseModel):
    """A part of a configuration: unknown fields are errors, values are fixed once they are read.

    Numbers are finite, true and false are no numbers, and text can be printed.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        str_max_length=10_000,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose fields are all comments, which YAML reads as null, has its defaults."""
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if value is not None or not isinstance(cls._default(name), Section)
        }

    @classmethod
    def _default(cls, name: Any) -> Any:
        field = cls.model_fields.get(name)
        return None if field is None or field.is_required() else field.default

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None  # of a field validator
        kind = cls.model_fields[info.field_name].annotation
        if _holds_bool(value) and bool not in (kind, *get_args(kind)):
            raise ValueError(f"got {shown(value)}; write a number or text, not true or false")
        if any(
            not text.replace("\n", "").replace("\t", "").isprintable() for text in _texts(value)
        ):
            raise ValueError(f"got {shown(value)}; leave out what cannot be printed")
        return value


class ConfigFile(Section):
    """A whole configuration file; its relative paths refer to the folder of the file.

    Attributes
    ----------
    usual_name : str
        Of such a file, for messages.
    """

    usual_name: ClassVar[str]

    _folder: Path = PrivateAttr(default=Path())

    @property
    def base_folder(self) -> Path:
        """What relative paths refer to: the folder of the file."""
        return self._folder

    def relative_to(self, folder: Path) -> Self:
        """The same configuration with relative paths that refer to another folder."""
        moved = self.model_copy()
        moved._folder = folder.resolve()
        return moved

    def path(self, relative: Path) -> Path:
        """Absolute path of a file or folder named in this configuration."""
        return (self._folder / relative).resolve()


def _holds_bool(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_bool, value))
    return isinstance(value, bool)


def _texts(value: Any) -> Iterator[str]:
    """Text in a value; the sections in it look after themselves."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value:  # of a dictionary: its keys
            yield from _texts(each)


_Config = TypeVar("_Config", bound=ConfigFile)
_Model = TypeVar("_Model", bound=BaseModel)
_UNKNOWN = "unknown field; check the spelling or remove it"


def describe_mistake(
    source: Path | str, error: ValidationError, text: str | None = None, unknown: str = _UNKNOWN
) -> str:
    """One sentence for the first thing wrong in a configuration.

    Parameters
    ----------
    source : path or str
    error : ValidationError
    text : str, optional
        YAML text of the configuration, to name the line.
    unknown : str
        What is said of unknown fields.
    """
    first = error.errors()[0]
    field = ".".join(shown(part)[1:-1] for part in map(str, first["loc"])) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = unknown
    elif first["type"] == "missing":
        message = "required field is missing; add it"
    elif first["type"] != "value_error":
        message = f"got {shown(first['input'])}: {message[0].lower()}{message[1:]}"
    line = line_of(text, first["loc"]) if text else None
    return f"{source}: {field}: {message}{f' (line {line})' if line else ''}."


def parse(kind: type[_Config], data: Any, source: Path | str, folder: Path) -> _Config:
    """Validate plain data as a configuration; relative paths refer to `folder`.

    Raises
    ------
    ConfigError
        Naming the file, the field, the value and the cure.
    """
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: expected a mapping of fields to values, got {type(data).__name__}."
        )
    try:
        config = kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe_mistake(source, error)) from error
    return config.relative_to(folder)


def read_section(
    kind: type[_Model],
    path: Path,
    what: str,
    error: type[CGKDError] = ConfigError,
    unknown: str = _UNKNOWN,
) -> _Model:
    """Read a YAML file as a section.

    Parameters
    ----------
    kind : type
    path : path
    what : str
        What the file should be, such as "a YAML configuration", for messages.
    error : type of CGKDError
        What is raised.
    unknown : str
        What is said of unknown fields.

    Raises
    ------
    CGKDError
        Of the type `error`: naming the file, the field or the line, the value and the cure.
    """
    return _validate(kind, path, *_read(path, what, error), error, unknown)


def _read(path: Path, what: str, error: type[CGKDError]) -> tuple[str, dict]:
    """The text of a YAML file and what it says."""
    text = read_text(path, what, error)
    data = parse_yaml(text, path, error)
    if not isinstance(data, dict):
        raise error(
            f"{path}: expected a mapping of fields to values, got {_kind(data)}; give {what}."
        )
    return text, data


def _validate(
    kind: type[_Model],
    path: Path,
    text: str,
    data: dict,
    error: type[CGKDError],
    unknown: str,
) -> _Model:
    try:
        return kind.model_validate(data)
    except ValidationError as mistake:
        raise error(describe_mistake(path, mistake, text, unknown)) from mistake


def _kind(data: Any) -> str:
    return "nothing" if data is None else type(data).__name__


def load(kind: type[_Config], path: Path | str) -> _Config:
    """Read a YAML file as a configuration.

    Raises
    ------
    ConfigError
        Naming the file, the field, the value and the cure.
    """
    path = Path(path)
    what = f"the path of a {kind.usual_name}"
    if path.is_dir():
        found = ", ".join(sorted(file.name for file in path.glob("*.y*ml"))[:_MOST_NAMES])
        holds = f"; it holds {found}" if found else ""
        raise ConfigError(f"{path}: is a folder; give {what}{holds}.")
    text, data = _read(path, what, ConfigError)
    for other in ConfigFile.__subclasses__():
        # most of the fields of a file that is meant as the other kind are unknown to this one
        if len(set(other.model_fields) & set(data)) > len(set(kind.model_fields) & set(data)):
            raise ConfigError(f"{path}: has the fields of a {other.usual_name}; give {what}.")
    return _validate(kind, path, text, data, ConfigError, _UNKNOWN).relative_to(path.parent)


_MOST_NAMES = 6  # of files, in a message


def dump(config: ConfigFile, folder: Path | None = None) -> str:
    """The fully expanded configuration as YAML, every default spelled out.

    Parameters
    ----------
    folder : path, optional
        Where the YAML will be written; its relative paths then refer to that folder.
    """
    context = {"from": config.base_folder.resolve(), "to": folder.resolve()} if folder else None
    return yaml.safe_dump(config.model_dump(mode="json", context=context), sort_keys=False)


def plain_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a computation, configuration sections among them, as they read back from JSON."""
    return json.loads(json.dumps(inputs, default=_plain))


def fingerprint(inputs: dict[str, Any]) -> str:
    """SHA-256 of the inputs of a computation.

    Partial work carries it, so that work of other inputs is never resumed.
    """
    return hashlib.sha256(json.dumps(plain_inputs(inputs), sort_keys=True).encode()).hexdigest()


# of a field that earlier versions did not have: at its default it changes no result of theirs
YOUNGER = {"younger": True}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude=younger_at_default(value))
    return str(value)


def younger_at_default(section: BaseModel) -> set[str]:
    """Names of the fields that earlier versions did not have and that are at their defaults."""
    younger = {
        name
        for name, field in type(section).model_fields.items()
        if field.json_schema_extra == YOUNGER
    }
    if not younger:
        return set()
    # its defaults as they are read: with units, they are text
    default = type(section).model_validate(section.model_dump(mode="json", exclude=younger))
    return {name for name in younger if getattr(section, name) == getattr(default, name)}
