"""`cgkd`: parse, call one function, print; no science in it.

The stages are imported inside the commands, after the configuration has been read: they load torch and OpenMM.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel, BeforeValidator, PlainSerializer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from . import __version__
from .config import RunConfig, SystemConfig, load_run, load_system
from .exceptions import CGKDError, ConfigError
from .files import write_text
from .progress import console, logger

# what each command reads of its YAML file, shown by --help
_READS: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "reference": (SystemConfig, ("name", "force_field", "temperature", "molecules", "beads", "reference")),
    "meanforce": (SystemConfig, ("name", "force_field", "temperature", "molecules", "beads", "mean_force")),
    "map": (SystemConfig, ("name", "temperature", "molecules", "beads")),
    "teach": (RunConfig, ("folder", "frames", "max_frames", "seed", "workers", "split", "model", "prior", "teachers")),
    "label": (RunConfig, ("folder", "frames", "max_frames", "split", "teachers")),
    "distill": (RunConfig, ("folder", "frames", "max_frames", "seed", "split", "model", "student")),
    "export": (RunConfig, ("folder", "frames")),
    "simulate": (RunConfig, ("folder", "frames", "seed", "simulation")),
    "compare": (RunConfig, ("folder", "frames", "comparison")),
    "run": (RunConfig, tuple(RunConfig.model_fields)),
}


class _Group(TyperGroup):
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if "--debug" in args:  # welcome after the command, too
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)


class _Plain(TyperCommand):
    """A command whose errors become one message and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:
        ctx.obj = {"folder": None}
        debug = ctx.find_root().params["debug"]
        with _log_to_terminal():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                _fail("interrupted; run the same command to resume", 130, debug)
            except CGKDError as error:
                _fail(str(error), 2, debug)
            except Exception as error:
                _fail(_unexpected(error, ctx.obj["folder"]), 1, debug)


class _Command(_Plain):
    """A stage: its help lists the fields it reads."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        model, names = _READS[self.name]
        file = "RUN.yaml" if model is RunConfig else "SYSTEM.yaml"
        table = Table(title=f"What it reads of {file}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("field", no_wrap=True)
        table.add_column("default")
        table.add_column("meaning")
        for row in _field_rows(model, names):
            table.add_row(*map(escape, row))
        Console().print(table)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        console.file.write(traceback.format_exc())
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def _unexpected(error: Exception, folder: Path | None) -> str:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if folder is None:
        return f"{message}; repeat with --debug for the traceback."
    try:
        write_text(folder / "error.log", f"openmm_cgkd {__version__}\n{traceback.format_exc()}")
    except OSError:  # for example a full disk
        return f"{message}; repeat with --debug for the traceback."
    return f"{message}; the traceback is in {folder / 'error.log'}."


@contextmanager
def _log_to_terminal() -> Iterator[None]:
    plain = {"show_path": False, "show_level": False, "omit_repeated_times": False, "log_time_format": "%H:%M:%S"}
    handler = RichHandler(console=console, **plain) if console.is_terminal else logging.StreamHandler(console.file)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _field_rows(model: type[BaseModel], names: tuple[str, ...], indent: str = "") -> Iterator[tuple[str, str, str]]:
    """Rows (field, default, meaning) of a configuration section, nested sections indented as in YAML."""
    for name in names:
        field = model.model_fields[name]
        section = _section(field)
        if section is not None:
            yield f"{indent}{name}:", "", "list of" if get_origin(field.annotation) is list else ""
            yield from _field_rows(section, tuple(section.model_fields), indent + "  ")
            continue
        unit = _unit(field)
        default = "required" if field.is_required() else "absent" if field.default is None else str(field.default)
        if unit and not isinstance(field.default, str):  # a default that is written out carries its unit
            default = f"{default} ({unit})"
        yield f"{indent}{name}", default, "" if field.description in (None, unit) else field.description


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section a field holds one or a list of."""
    kind = get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _unit(field: FieldInfo) -> str:
    """Unit of a dimensional field, as its serializer writes it; only dimensional types parse their input."""
    parts = [*field.metadata, *(part for kind in get_args(field.annotation) for part in get_args(kind)[1:])]
    if not any(isinstance(part, BeforeValidator) for part in parts):
        return ""
    write = next(part.func for part in parts if isinstance(part, PlainSerializer))
    return write(1.0).removeprefix("1 ")


app = typer.Typer(cls=_Group, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="What to do; see docs/formats.md.", show_default=False)]
SystemFile = Annotated[Path, typer.Argument(metavar="SYSTEM.yaml", help="The fluid; see docs/formats.md.", show_default=False)]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Results go here instead of the folder named in RUN.yaml.", show_default=False)
]


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from .runtime.compatibility import stack_report

    for name, state in stack_report().items():
        typer.echo(f"{name:<14} {state}")
    raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions, platforms and the state of the stack.")
    ] = False,
) -> None:
    """Coarse-grained force fields by knowledge distillation, run inside OpenMM.

    Every stage logs into the run folder, skips finished work and resumes interrupted work. Quantities in YAML files carry a unit.
    """


def _open_run(ctx: typer.Context, path: Path, folder: Path | None) -> RunConfig:
    run = load_run(path)
    if folder is not None:
        run = run.model_copy(update={"folder": folder.absolute()})
    if run.run_folder.exists() and not run.run_folder.is_dir():
        raise ConfigError(f"{path}: folder: {run.run_folder} is a file; name a folder for the results.")
    ctx.obj["folder"] = run.run_folder
    return run


def _command(name: str) -> Any:
    return app.command(name, cls=_Command)


@_command("reference")
def _reference(
    ctx: typer.Context,
    system: SystemFile,
    folder: Annotated[Path, typer.Option("--folder", help="Box, states, logs and frames.h5 go here.", show_default=False)],
    start: Annotated[
        Path | None,
        typer.Option("--start", help="Put atoms back on the last of these mapped frames instead of packing a box.", show_default=False),
    ] = None,
) -> None:
    """Simulate the fluid all-atom and write mapped frames: pack, minimise, anneal, NPT, NVT."""
    config = load_system(system)
    ctx.obj["folder"] = folder.absolute()
    from .reference.run import run_reference

    typer.echo(run_reference(config, folder, start))


@_command("meanforce")
def _meanforce(
    ctx: typer.Context,
    system: SystemFile,
    trajectory: Annotated[Path, typer.Argument(help="All atoms, such as production.xtc of 'cgkd reference'.", show_default=False)],
    folder: Annotated[Path, typer.Option("--folder", help="Estimates and mean_forces.h5 go here.", show_default=False)],
    frames: Annotated[int, typer.Option("--frames", min=2, help="Configurations, evenly spaced.")] = 20,
    last: Annotated[float, typer.Option("--last", min=0, max=1, help="They come from this last share of the trajectory.")] = 0.1,
) -> None:
    """Average the forces on beads that are held: the mean force that models ought to learn, free of mapping noise."""
    config = load_system(system)
    ctx.obj["folder"] = folder.absolute()
    from .reference.meanforce import run_mean_forces

    typer.echo(run_mean_forces(config, trajectory, folder, frames, last))


@app.command("noise", cls=_Plain)
def _noise(
    ctx: typer.Context,
    frames: Annotated[Path, typer.Argument(help="Mapped frames.", show_default=False)],
    mean_forces: Annotated[Path, typer.Option("--meanforce", help="Mean-force frames of the same fluid.", show_default=False)],
) -> None:
    """Show how much of the mapped forces is noise that no model can learn."""
    from .frames import read_frames
    from .mean_forces import read_mean_forces
    from .noise import noise_floor

    table = Table(title="variance per force component, (kJ/mol/nm)^2", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("beads", "labels", "mean force", "noise", "share of the loss that stays"):
        table.add_column(title, justify="left" if title == "beads" else "right")
    for floor in noise_floor(read_frames(frames), read_mean_forces(mean_forces)):
        mean_force = f"{floor.mean_force:.0f} +- {floor.mean_force_error:.0f}"
        table.add_row(floor.name, f"{floor.label:.0f}", mean_force, f"{floor.noise:.0f}", f"{floor.share:.3f} +- {floor.share_error:.3f}")
    Console().print(table)


@_command("map")
def _map(
    ctx: typer.Context,
    trajectory: Annotated[Path, typer.Argument(help="All-atom trajectory with positions and forces, such as .trr.", show_default=False)],
    topology: Annotated[Path, typer.Argument(help="Names and residues of the same atoms: PDB, GRO or TPR.", show_default=False)],
    system: Annotated[Path, typer.Option("--system", help="system.yaml of the fluid.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="File of mapped frames.")] = Path("frames.h5"),
) -> None:
    """Map an existing all-atom trajectory with forces onto beads."""
    config = load_system(system)
    from .trajectory import map_trajectory

    typer.echo(map_trajectory(config, trajectory, topology, output))


@_command("teach")
def _teach(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the teachers: an ensemble of networks that match the noisy mapped forces."""
    config = _open_run(ctx, run, folder)
    from .training.teach import train_teachers

    for path in train_teachers(config):
        typer.echo(path)


@_command("label")
def _label(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Label the frames with the teachers: mean forces, centred per-bead energies and their spread."""
    config = _open_run(ctx, run, folder)
    from .training.label import label_frames

    typer.echo(label_frames(config))


@_command("distill")
def _distill(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the student on the labels."""
    config = _open_run(ctx, run, folder)
    from .training.distill import train_student

    typer.echo(train_student(config))


@_command("export")
def _export(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Write the student as one TorchScript file that OpenMM can run."""
    config = _open_run(ctx, run, folder)
    from .export import export_student

    typer.echo(export_student(config))


@_command("simulate")
def _simulate(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Run coarse-grained Langevin dynamics with the exported student."""
    config = _open_run(ctx, run, folder)
    from .runtime.simulate import simulate

    typer.echo(simulate(config))


@_command("compare")
def _compare(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Compare radial distribution functions, coarse-grained against all-atom."""
    config = _open_run(ctx, run, folder)
    from .analysis.compare import compare

    typer.echo(compare(config))


@_command("run")
def _run(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Run all stages in order; without frames in RUN.yaml the all-atom stage comes first."""
    config = _open_run(ctx, run, folder)
    from .workflow import run_all, summary

    run_all(config)
    typer.echo()
    for label, value in summary(config):
        typer.echo(f"{label:<24} {value}")


def main() -> None:
    """Entry point of the console script."""
    app()
