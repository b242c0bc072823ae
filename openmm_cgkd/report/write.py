"""The report of a comparison: one HTML page, and beside it pictures and tables.

The page needs no network.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from openmm_cgkd.analysis.comparison.tables import write_csv
from openmm_cgkd.analysis.plotting import draw_curves, draw_maps, save
from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.utils.files import replacing, write_text
from openmm_cgkd.utils.lock import locked, locked_file

from . import tables
from .charts import Chart, Maps, charts, maps
from .force_table import forces
from .run_record import Contents, read_contents
from .samples_table import decorrelation, samples
from .tables import Table

PAGE = "report.html"
_MAPS = 4  # rows of the picture of maps
_FORMATS = ("png", "svg")


def write_report(run: Path | str, output: Path | None = None) -> Path:
    """Write the report of a run that has been compared with all-atom.

    Parameters
    ----------
    run : path
        A run folder, its run.yaml, or the folder of ``cgkd compare --against``.
    output : path, optional
        A folder, which gets ``report.html``, pictures as PNG and SVG, and tables as CSV; ``report``
        in the folder of the run if absent. A name that ends in ``.html`` is that of the page alone.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    AnalysisError, ConfigError, ModelFileError
        As `read_contents`.
    CompatibilityError
        If Bokeh or Jinja2 is not installed.
    """
    try:
        from .html import render
    except ImportError as error:
        raise CompatibilityError(
            "The report needs Bokeh and Jinja2; install them with: pip install 'bokeh>=3.8'"
            " 'jinja2>=3.1'."
        ) from error
    contents = read_contents(run)
    output = Path(output) if output else contents.root / "report"
    alone = output.suffix == ".html"
    drawn, found, sections = charts(contents), maps(contents), _tables(contents)
    with (
        locked_file(output) if alone else locked(output),
        tempfile.TemporaryDirectory() as discarded,
    ):
        folder = Path(discarded) if alone else output
        stills = _write_pictures(contents, drawn, found, folder)
        stability = _copy_stability(contents, folder)
        stills |= {name: _address((folder / f"{name}.svg").read_text()) for name in stability}
        for table in (table for section in sections.values() for table in section):
            write_csv(folder / f"{table.name}.csv", table.header, table.rows)
        path = output if alone else output / PAGE
        page = render(contents, drawn, found, sections, stills, stability, with_files=not alone)
        write_text(path, page)
    return path


def _write_pictures(
    contents: Contents, drawn: Sequence[Chart], found: Maps | None, folder: Path
) -> dict[str, str]:
    """Pictures of all charts with their numbers; their addresses."""
    pictures = {
        chart.name: draw_curves(
            chart.panels,
            chart.axis,
            f"{contents.title}: {chart.title}",
            chart.caption,
            chart.columns,
        )
        for chart in drawn
    }
    if found is not None:
        shown = found.rows[:_MAPS]
        caption = (
            f"The {len(shown)} of {len(found.rows)} triples furthest from all-atom. {found.caption}"
        )
        pictures["cdf"] = draw_maps(shown, f"{contents.title}: {found.title}", caption)
    for name, picture in pictures.items():
        save(picture, folder / name, _FORMATS)
        _copy(contents.folder / f"{name}.csv", folder / f"{name}.csv")
    return {name: _bare(picture) for name, picture in pictures.items()}


def _bare(picture: Figure) -> str:
    """Address of a picture without its caption, which stands on the page."""
    picture.supxlabel("")
    file = io.StringIO()
    picture.savefig(file, format="svg")
    return _address(file.getvalue())


def _copy_stability(contents: Contents, folder: Path) -> dict[str, str]:
    """Copy the pictures of the stability protocol of each run.

    Returns the name of the run by the name of its picture.
    """
    names = {}
    for k, run in enumerate(contents.runs, start=1):
        if run.stability is not None:
            name = "stability" if len(contents.runs) == 1 else f"stability-{k}"
            for kind in _FORMATS:
                _copy(run.stability_picture(kind), folder / f"{name}.{kind}")
            names[name] = run.name
    return names


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as fresh:
        shutil.copyfile(source, fresh)


def _address(picture: str) -> str:
    """An SVG picture as an address that holds it."""
    # hundredths of a point are finer than any printer; scales of letters are small numbers and stay
    short = re.sub(r"(\d\d\.\d\d)\d+", r"\1", picture)
    return f"data:image/svg+xml;base64,{base64.b64encode(short.encode()).decode()}"


def _tables(contents: Contents) -> dict[str, list[Table]]:
    """Tables by the section of the page."""
    shells = tables.errors(contents, ("adf", "cdf", "coordination"), "errors_shells")
    sections: dict[str, list[Table | None]] = {
        "errors": [
            tables.scores(contents),
            tables.errors(contents, ("rdf",), "errors_rdf"),
            tables.peaks(contents),
            shells,
            forces(contents),
        ],
        "stability": [tables.stability(contents)],
        "speed": [
            tables.speed(contents),
            samples(contents),
            decorrelation(contents),
            tables.dynamics(contents),
        ],
        "provenance": [tables.provenance(contents)],
    }
    return {
        name: [table for table in section if table is not None]
        for name, section in sections.items()
    }
