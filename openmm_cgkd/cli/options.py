"""Arguments and options that several commands of `cgkd` share, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.exceptions import ConfigError

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

SYSTEMS = Path(__file__).resolve().parents[2] / "systems"  # the fluids that come with the package
_SIMULATION = "simulate.yaml"  # of a fluid that comes with a student


def open_run(ctx: typer.Context, path: Path, folder: Path | None) -> RunConfig:
    """Read a run; the traceback of an unexpected error will go to the folder of the run.

    Raises
    ------
    ConfigError
        If the configuration is not valid, or its folder is a file.
    """
    run = load_run(path)
    if folder is not None:
        run = run.model_copy(update={"folder": folder.absolute()})
    if run.run_folder.exists() and not run.run_folder.is_dir():
        raise ConfigError(
            f"{path}: folder: {run.run_folder} is a file; name a folder for the results."
        )
    ctx.obj["folder"] = run.run_folder
    return run


def shipped(name: str | Path) -> Path:
    """The simulation of a fluid that comes with the package, by its name; or the path itself."""
    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path / _SIMULATION if path.is_dir() else path
    if (SYSTEMS / path / _SIMULATION).exists():
        return SYSTEMS / path / _SIMULATION
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
