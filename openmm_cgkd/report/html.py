"""The HTML page of a report.

Template, style and script are filled with figures, pictures, tables and words.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .bokeh import colors_of, embed
from .charts import REFERENCE_LABEL, Chart, Maps
from .run_record import Contents
from .tables import Table
from .verdict import BOUNDS, verdicts


def render(
    contents: Contents,
    charts: Sequence[Chart],
    maps: Maps | None,
    tables: dict[str, list[Table]],
    stills: dict[str, str],
    stability: dict[str, str],
    with_files: bool,
) -> str:
    """The whole page.

    Parameters
    ----------
    contents : Contents
    charts : sequence of Chart
    maps : Maps or None
    tables : dict
        Tables by section: errors, stability, speed, provenance.
    stills : dict
        Addresses of pictures by name.
    stability : dict
        Those of the stability protocol: names of the pictures to names of the runs.
    with_files : bool
        Whether the page names pictures and tables beside it.
    """
    loader = PackageLoader(__package__)
    environment = Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["cell"] = _cell
    style, code = (
        Markup(loader.get_source(environment, f"report.{kind}")[0]) for kind in ("css", "js")
    )
    return environment.get_template("report.html").render(
        style=style,
        code=code,
        contents=contents,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        verdicts=verdicts(contents),
        bounds=BOUNDS,
        colors=colors_of([REFERENCE_LABEL, *contents.models]),
        charts=charts,
        maps=maps,
        live=embed(contents, charts, maps),
        stills=stills,
        stability_pictures=stability,
        tables=tables,
        with_files=with_files,
        configurations={
            run.name: run.configuration for run in contents.runs if run.configuration is not None
        },
    )


def _cell(value: Any) -> str:
    """A number as it is read, a dash for what is not known; all digits are in the CSV files."""
    if value is None:
        return "\u2013"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.5g}" if abs(value) >= 100 else f"{value:.3g}"
