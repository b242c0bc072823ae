"""What the commands of `cgkd` share: help, log on the terminal, messages of errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from openmm_cgkd import __version__
from openmm_cgkd.config.fields import field_rows
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import CGKDError
from openmm_cgkd.utils.disk import describe_disk_error
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.progress import console, logger

# `typer.Context` narrows the argument of typer's own methods, whose type has no public name
_Context = Any

_STOPPED = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "ended by SIGTERM, as kill or the end of a job's time send it",
    signal.SIGHUP: "ended by SIGHUP, as a terminal that is closed sends it",
}

# what each command reads of its YAML file, shown by --help
READS: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "reference": (
        SystemConfig,
        ("name", "force_field", "temperature", "molecules", "beads", "reference"),
    ),
    "meanforce": (
        SystemConfig,
        ("name", "force_field", "temperature", "molecules", "beads", "mean_force"),
    ),
    "map": (SystemConfig, ("name", "temperature", "molecules", "beads", "force_map")),
    "teach": (
        RunConfig,
        (
            "folder",
            "frames",
            "max_frames",
            "mean_forces",
            "tensorboard",
            "seed",
            "workers",
            "execution",
            "split",
            "model",
            "prior",
            "teachers",
        ),
    ),
    "label": (
        RunConfig,
        ("folder", "frames", "max_frames", "mean_forces", "seed", "split", "teachers", "student"),
    ),
    "distill": (
        RunConfig,
        (
            "folder",
            "frames",
            "max_frames",
            "mean_forces",
            "tensorboard",
            "seed",
            "split",
            "model",
            "student",
            "simulation",
        ),
    ),
    "export": (RunConfig, ("folder", "frames")),
    "simulate": (
        RunConfig,
        ("folder", "frames", "potential", "run_script", "seed", "simulation"),
    ),
    "compare": (RunConfig, ("folder", "frames", "second_frames", "comparison")),
    "stability": (
        RunConfig,
        ("folder", "frames", "potential", "run_script", "seed", "simulation", "stability"),
    ),
    "run": (RunConfig, tuple(RunConfig.model_fields)),
}


class CommandGroup(TyperGroup):
    """All commands; options of the group are welcome after a command, too."""

    def parse_args(self, ctx: _Context, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)


class Command(TyperCommand):
    """A command whose errors become one message and an exit code."""

    def invoke(self, ctx: _Context) -> Any:
        ctx.obj = {"folder": None}
        debug = ctx.find_root().params["debug"]
        with _log_to_terminal():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as stop:
                number = getattr(stop, "number", signal.SIGINT)
                _fail(f"{_STOPPED[number]}; run the same command to resume", 128 + number, debug)
            except BrokenPipeError:  # nobody reads the results any more
                _discard_output()
                raise typer.Exit(128 + signal.SIGPIPE) from None
            except CGKDError as error:
                _fail(str(error), 2, debug)
            except Exception as error:
                folder = ctx.obj["folder"]
                if message := describe_disk_error(error, folder or Path()):
                    _fail(message, 2, debug)
                _fail(_unexpected(error, folder), 1, debug)


class StageCommand(Command):
    """A stage: its help lists the fields it reads."""

    def format_help(self, ctx: _Context, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        assert self.name is not None  # `commands` gives every command a name
        model, names = READS[self.name]
        file = "RUN.yaml" if model is RunConfig else "SYSTEM.yaml"
        table = Table(
            title=f"What it reads of {file}", title_justify="left", box=None, padding=(0, 2, 0, 0)
        )
        table.add_column("field", no_wrap=True)
        table.add_column("default")
        table.add_column("meaning")
        for row in field_rows(model, names):
            table.add_row(*map(escape, row))
        Console().print(table)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        console.file.write(traceback.format_exc())
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def _discard_output() -> None:
    """Let Python find no closed pipe when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(
            console=console,
            show_path=False,
            show_level=False,
            omit_repeated_times=False,
            log_time_format="%H:%M:%S",
        )
    else:
        handler = logging.StreamHandler(console.file)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
