"""Arguments and options that several commands of `cgkd` share, and what they open."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from openmm_cgkd.config.inputs import check_inputs
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.exceptions import ConfigError

from .base import READS

RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.yaml", help="What to do; see docs/formats.md.", show_default=False),
]
RunOrFluid = Annotated[
    Path,
    typer.Argument(
        metavar="RUN.yaml|FLUID",
        help="What to do; or a fluid of systems/ that has a student, 'ethaline'.",
        show_default=False,
    ),
]
SystemFile = Annotated[
    Path,
    typer.Argument(
        metavar="SYSTEM.yaml", help="The fluid; see docs/formats.md.", show_default=False
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Results go here instead of the folder named in RUN.yaml.",
        show_default=False,
    ),
]

# the fluids that come with the package; a link in a checkout, files in an installed package
SYSTEMS = Path(str(files("openmm_cgkd"))) / "systems"
_SIMULATION = "simulate.yaml"  # of a fluid that comes with a student


def open_run(ctx: typer.Context, path: Path, folder: Path | None) -> RunConfig:
    """Read a run; the traceback of an unexpected error will go to the folder of the run.

    Raises
    ------
    ConfigError
        If the configuration is not valid, names an input that is not there, or its folder is a
        file.
    """
    run = load_run(path)
    if folder is not None:
        run = run.model_copy(update={"folder": folder.absolute()})
    if run.run_folder.exists() and not run.run_folder.is_dir():
        raise ConfigError(
            f"{path}: folder: {run.run_folder} is a file; name a folder for the results."
        )
    if ctx.command.name in READS:
        check_inputs(run, READS[ctx.command.name][1])
    ctx.obj["folder"] = run.run_folder
    return run


def open_run_or_fluid(ctx: typer.Context, name: str | Path, folder: Path | None) -> RunConfig:
    """Read a run, or the simulation of a fluid that comes with the package, by its name.

    The results of such a simulation go to ``runs/NAME-student`` here, unless `folder` says
    otherwise: the package may be where users cannot write, or would not look.

    Raises
    ------
    ConfigError
        As `open_run`, or if there is neither such a file nor such a fluid.
    """
    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return open_run(ctx, path / _SIMULATION if path.is_dir() else path, folder)
    if (SYSTEMS / path / _SIMULATION).exists():
        return open_run(ctx, SYSTEMS / path / _SIMULATION, folder or Path(f"runs/{path}-student"))
    known = (
        ", ".join(sorted(file.parent.name for file in SYSTEMS.glob(f"*/{_SIMULATION}"))) or "none"
    )
    raise ConfigError(
        f"{name}: no such file, and no fluid that comes with a student ({known}); give the path of"
        " a run.yaml."
    )


def setting(meaning: str) -> Any:
    """An option whose help names the default."""
    return typer.Option(help=meaning, show_default=False)
