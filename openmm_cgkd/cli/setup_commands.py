"""Commands that help to write configuration files."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.schema import json_schema
from openmm_cgkd.config.system import SystemConfig


class Kind(StrEnum):
    """Kinds of configuration files."""

    RUN = "run"
    SYSTEM = "system"


def schema(
    kind: Annotated[Kind, typer.Argument(help="Of run.yaml or of system.yaml.")],
) -> None:
    """Print the JSON Schema of a configuration file, by which editors complete and check it."""
    found = json_schema(RunConfig if kind is Kind.RUN else SystemConfig)
    typer.echo(json.dumps(found, indent=1))
