"""What system.yaml and run.yaml share: strict sections, relative paths, reading and writing.

Every physical quantity carries a unit; unknown fields are errors.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    ValidationError,
)

from openmm_cgkd.exceptions import ConfigError


def _write_path(path: Path, info: SerializationInfo) -> str:
    """Path from the folder into which the configuration is written to the same file."""
    if not info.context or path.is_absolute():
        return str(path)
    return os.path.relpath(info.context["from"] / path, info.context["to"])


RelativePath = Annotated[Path, PlainSerializer(_write_path)]


class Section(BaseModel):
    """A part of a configuration: unknown fields are errors, values are fixed once they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ConfigFile(Section):
    """A whole configuration file; its relative paths refer to the folder of the file."""

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


_Config = TypeVar("_Config", bound=ConfigFile)


def describe_mistake(source: Path | str, error: ValidationError) -> str:
    """One sentence for the first thing wrong in a configuration."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown field; check the spelling or remove it"
    elif first["type"] != "value_error":
        message = f"got {first['input']!r}: {message[0].lower()}{message[1:]}"
        if first["type"] == "missing":
            message = "required field is missing; add it"
    return f"{source}: {field}: {message}."


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


def load(kind: type[_Config], path: Path | str) -> _Config:
    """Read a YAML file as a configuration.

    Raises
    ------
    ConfigError
        Naming the file, the field, the value and the cure.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; give the path of a YAML configuration."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"{path}: cannot be read as YAML ({' '.join(str(error).split())})."
        ) from error
    return parse(kind, data, path, path.parent)


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


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
