"""`cgkd`: parse, call one function, print; no science in it.

The stages are imported inside the commands, after the configuration has been read: they load torch
and OpenMM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from . import analysis_commands, frame_commands, run_commands, setup_commands
from .base import READS, Command, CommandGroup, StageCommand

app = typer.Typer(cls=CommandGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from openmm_cgkd.simulation.engines import stack_report

    for name, state in stack_report().items():
        typer.echo(f"{name:<14} {state}")
    raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show versions, platforms and the state of the stack.",
        ),
    ] = False,
) -> None:
    """Coarse-grained force fields by knowledge distillation, run inside OpenMM.

    Every stage logs into the run folder, skips finished work and resumes interrupted work.
    Quantities in YAML files carry a unit.
    """


# in the order of the help
_COMMANDS: dict[str, Callable[..., None]] = {
    "init": setup_commands.init,
    "reference": frame_commands.reference,
    "meanforce": frame_commands.meanforce,
    "noise": frame_commands.noise,
    "map": frame_commands.map,
    "verify": frame_commands.verify,
    "teach": run_commands.teach,
    "label": run_commands.label,
    "distill": run_commands.distill,
    "export": run_commands.export,
    "simulate": run_commands.simulate,
    "timestep": run_commands.timestep,
    "compare": analysis_commands.compare,
    "stability": analysis_commands.stability,
    "report": analysis_commands.report,
    "run": run_commands.run,
    "schema": setup_commands.schema,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=StageCommand if _name in READS else Command)(_function)


def main() -> None:
    """Entry point of the console script."""
    app()
