"""Pages of the documentation that are made of the code: commands, fields, functions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import typer.main
from pydantic import BaseModel

import openmm_cgkd
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.fields import field_rows
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.system import SystemConfig


def write_all(docs: Path) -> None:
    """Write all pages below a folder, where they have changed."""
    pages = {
        "reference/commands.md": commands(),
        "reference/run_yaml.md": fields("run.yaml", RunConfig),
        "reference/system_yaml.md": fields("system.yaml", SystemConfig),
        "reference/functions.md": functions(),
    }
    systems = docs.parent / "systems"
    for readme in sorted(systems.glob("*/README.md")):
        for path in (readme, *sorted(readme.parent.glob("*validation.md"))):
            pages[f"fluids/{_page(readme.parent.name, path.name)}"] = _of_fluid(path)
    shutil.rmtree(docs / "reference/functions", ignore_errors=True)  # of names that are gone
    for name, text in pages.items():
        path = docs / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def links_of_site(text: str) -> str:
    """Links from the documentation to pages of fluids, which the site has elsewhere."""
    text = re.sub(
        r"\]\((?:\.\./)+systems/(\w+)/(\w+\.md)",
        lambda link: f"](/fluids/{_page(link[1], link[2])}",
        text,
    )
    return re.sub(r"\]\((?:\.\./)+README\.md", "](/index.md", text)


def _page(fluid: str, file: str) -> str:
    """Name of a page of a fluid."""
    return f"{fluid}.md" if file == "README.md" else f"{fluid}_{file}"


def _of_fluid(path: Path) -> str:
    """A page of a fluid with links and pictures that fit the site."""
    fluid = path.parent.name
    text = path.read_text().replace("](../../docs/", "](/")
    text = re.sub(r"\]\(\.\./(\w+)/README\.md", r"](/fluids/\1.md", text)
    text = re.sub(r"\]\((\w+\.md)", lambda link: f"](/fluids/{_page(fluid, link[1])}", text)
    return re.sub(r"\]\((\w+\.png)", rf"](../../systems/{fluid}/\1", text)


def commands() -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(app)
    parts = ["# Commands", "", str(group.help)]
    for name, command in group.commands.items():
        parts += ["", f"## cgkd {name}", "", _joined(command.help)]
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            option = parameter.param_type_name == "option"
            words = ", ".join(parameter.opts) if option else parameter.metavar or parameter.name
            default = "required" if parameter.required else _default(parameter)
            rows.append((f"`{words}`", default, _joined(getattr(parameter, "help", ""))))
        if rows:
            parts += ["", *_table(("argument or option", "default", "meaning"), rows)]
    return "\n".join(parts) + "\n"


def _default(parameter: object) -> str:
    shown = getattr(parameter, "show_default", None)
    default = getattr(parameter, "default", None)
    if isinstance(shown, str):
        return shown
    return "" if default in (None, False, (), []) or callable(default) else f"`{default}`"


def fields(title: str, kind: type[BaseModel]) -> str:
    """Every field of a configuration file."""
    parts = [f"# Fields of {title}", "", f"{_joined(kind.__doc__)} Every quantity has a unit."]
    parts += ["", "How the sections belong together: [file formats](../formats.md)."]
    rows = [
        (f"`{name.replace(' ', chr(160))}`", default, meaning)
        for name, default, meaning in field_rows(kind, tuple(kind.model_fields))
    ]
    parts += ["", *_table(("field", "default", "meaning"), rows)]
    return "\n".join(parts) + "\n"


def functions() -> str:
    """The public names of the package, in the order of the pipeline."""
    names = [name for name in openmm_cgkd.__all__ if not name.startswith("__")]
    return "\n".join(
        [
            "# Functions and classes",
            "",
            _joined(openmm_cgkd.__doc__),
            "",
            "```{eval-rst}",
            ".. currentmodule:: openmm_cgkd",
            ".. autosummary::",
            "   :toctree: functions",
            "   :nosignatures:",
            "",
            *(f"   {name}" for name in names),
            "```",
            "",
        ]
    )


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
