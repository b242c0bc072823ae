"""Commands that help to write configuration files."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.schema import schema_text
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.utils.progress import duration_words


class Kind(StrEnum):
    """Kinds of configuration files."""

    RUN = "run"
    SYSTEM = "system"


def schema(
    kind: Annotated[Kind, typer.Argument(help="Of run.yaml or of system.yaml.")],
) -> None:
    """Print the JSON Schema of a configuration file, by which editors complete and check it."""
    typer.echo(schema_text(RunConfig if kind is Kind.RUN else SystemConfig), nl=False)


def init(
    folder: Annotated[Path, typer.Argument(help="New folder of the fluid.", show_default=False)],
    molecule: Annotated[
        list[str],
        typer.Option(
            "--molecule",
            metavar="[NAME=]FILE:COUNT",
            help="PDB file of one molecule with CONECT records, or SDF file, and how many; once"
            " for each kind.",
            show_default=False,
        ),
    ],
    temperature: Annotated[
        str, typer.Option("--temperature", help="Such as '298.15 K'.", show_default=False)
    ],
    force_field: Annotated[
        Path | None,
        typer.Option("--force-field", help="OpenMM force-field XML.", show_default=False),
    ] = None,
    density: Annotated[
        str, typer.Option("--density", help="Of the liquid, as far as it is known.")
    ] = "1 g/cm^3",
) -> None:
    """Begin with a fluid of your own: a folder with system.yaml and run.yaml, which explain
    themselves.
    """
    from openmm_cgkd.stages.new_fluid import write_new_fluid

    fluid = write_new_fluid(folder, molecule, temperature, force_field, density)
    typer.echo(
        f"{fluid.folder}: {fluid.n_atoms:,} atoms, {fluid.n_beads:,} beads, a box of"
        f" {fluid.edge:.2f} nm"
    )
    typer.echo(
        f"{fluid.simulated / 1000:.3g} ns of all-atom dynamics take about"
        f" {duration_words(fluid.seconds)} on the processor of this machine, if two of its cores"
        " make 24 ns/day of 2,520 atoms; much less on a GPU"
    )
    if fluid.lacks_force_field:
        typer.echo(f"next: put an OpenMM force field into {fluid.folder / 'forcefield.xml'}")
    typer.echo(f"then: cgkd run {shlex.quote(str(fluid.folder / 'run.yaml'))}")
