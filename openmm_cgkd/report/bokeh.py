"""Charts as Bokeh figures.

Colours are those of light paper; ``report.js`` follows the theme of the page and finds lines by
their tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.palettes import Magma256
from bokeh.plotting import figure
from bokeh.resources import Resources

from openmm_cgkd.analysis.plotting import COLORS, REFERENCE, Axis, Line, Panel

from .charts import REFERENCE_LABEL, Chart, Maps
from .run_record import Contents

_TOOLS = "box_zoom,pan,wheel_zoom,reset,save"
_DASHES = ("solid", "dashed", "dotdash")
_HEIGHT = 270  # pixels
_NARROW = 4  # number of columns from which on labels have little room
# ticks of logarithmic axes
_TICKS = [digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5)]


@dataclass(frozen=True)
class InteractiveFigures:
    """Figures that a reader can zoom, as HTML and script of the page.

    Attributes
    ----------
    library : str
        BokehJS.
    script : str
        The script that draws the figures.
    places : dict
        HTML elements that the figures are drawn into, by name of the chart.
    maps : list of dict
        Of every distance-angle distribution its title, range of distances (nm) and end of the
        colour scale.
    """

    library: str
    script: str
    places: dict[str, list[str]]
    maps: list[dict[str, Any]]


def colors_of(labels: Sequence[str]) -> dict[str, str]:
    """Colour by label, all-atom first, as in the pictures."""
    return {
        label: REFERENCE if k == 0 else COLORS[(k - 1) % len(COLORS)]
        for k, label in enumerate(labels)
    }


def embed(contents: Contents, charts: Sequence[Chart], maps: Maps | None) -> InteractiveFigures:
    """Figures of all charts and the script that draws them, all within the page."""
    figures = {chart.name: _chart(chart) for chart in charts}
    scales: list[dict[str, Any]] = []
    if maps is not None:
        scales = [_scale(row.title, row.maps, row.r_edges) for row in maps.rows]
        figures["cdf"] = _maps(maps, scales)
    if any(run.survival for run in contents.runs):
        figures["survival"] = [_survival(contents)]
    flat = {
        f"{name} {k}": drawn for name, group in figures.items() for k, drawn in enumerate(group)
    }
    script, divs = components(flat, wrap_script=False)
    places = {
        name: [divs[f"{name} {k}"] for k in range(len(group))] for name, group in figures.items()
    }
    library = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
    return InteractiveFigures("\n".join(library), script.replace("</", "<\\/"), places, scales)


def _chart(chart: Chart) -> list[figure]:
    axis, panels = chart.axis, chart.panels
    x_range = None if axis.x_limits is None else Range1d(*axis.x_limits)
    y_range = None if axis.logarithmic else _y_range(panels, axis) if axis.same_height else None
    columns = chart.columns or 3
    drawn = []
    for k, panel in enumerate(panels):
        plot = _empty(
            axis, x_range, y_range or (None if axis.logarithmic else _y_range([panel], axis))
        )
        if columns >= _NARROW:
            if axis.angles:
                plot.xaxis.ticker = FixedTicker(ticks=[0, 60, 120, 180])
            if k % columns:
                plot.yaxis.axis_label = None
        if axis.logarithmic:  # all panels zoom together
            x_range, y_range = plot.x_range, plot.y_range
        _draw(plot, panel, axis)
        drawn.append(plot)
    return drawn


def _y_range(panels: Sequence[Panel], axis: Axis) -> Range1d:
    lines = [line for panel in panels for line in panel.lines]
    top = 1.05 * max(float(np.nanmax(line.y + line.band)) for line in lines)
    bottom = min(float(np.nanmin(line.y - line.band)) for line in lines)
    return Range1d(1.05 * min(bottom, 0.0) if axis.signed else 0, top or 1)


def _empty(axis: Axis, x_range: Any, y_range: Any) -> figure:
    ranges = {
        name: value
        for name, value in (("x_range", x_range), ("y_range", y_range))
        if value is not None
    }
    kind = "log" if axis.logarithmic else "linear"
    plot = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        tools=_TOOLS,
        active_drag="box_zoom",
        x_axis_type=kind,
        y_axis_type=kind,
        **ranges,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.xaxis.axis_label, plot.yaxis.axis_label = axis.x_label, axis.y_label
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = "13px"
    plot.axis.major_label_text_font_size = "12px"
    plot.axis.minor_tick_line_color = None
    plot.outline_line_color = None
    plot.background_fill_alpha = plot.border_fill_alpha = 0  # the background is that of the page
    if axis.angles:
        plot.xaxis.ticker = FixedTicker(ticks=list(range(0, 181, 30)))
    if axis.logarithmic:
        plot.yaxis.ticker = FixedTicker(ticks=_TICKS)
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[000000000]")
    return plot


def _draw(plot: figure, panel: Panel, axis: Axis) -> None:
    data = {"x": panel.x}
    for k, line in enumerate(panel.lines):
        data |= {
            f"y{k}": line.y,
            f"band{k}": line.band,
            f"low{k}": line.y - line.band,
            f"high{k}": line.y + line.band,
        }
    source = ColumnDataSource(data)
    if axis.baseline is not None:
        plot.line(
            panel.x[[0, -1]], [axis.baseline] * 2, line_color="#999999", line_width=1
        ).tags = ["guide", ""]
    colors = colors_of([line.label for line in panel.lines])
    for k, line in enumerate(panel.lines):
        color, dash = colors[line.label], _DASHES[max(k - 1, 0) // len(COLORS) % len(_DASHES)]
        band = plot.varea(
            "x", f"low{k}", f"high{k}", source=source, fill_color=color, fill_alpha=0.22
        )
        drawn = [
            plot.line("x", f"y{k}", source=source, line_color=color, line_width=2, line_dash=dash)
        ]
        if axis.markers:
            drawn.append(
                plot.scatter(
                    "x", f"y{k}", source=source, size=6, fill_color=color, line_color=color
                )
            )
        for renderer in (band, *drawn):
            renderer.tags = ["band" if renderer is band else "line", line.label]
    # an invisible line carries the tooltip of all lines, also when some are hidden
    tooltip_line = plot.line("x", "y0", source=source, line_alpha=0)
    tooltip_line.tags = ["anchor", ""]
    form = "0.00" if _large(panel.lines) else "0.000"
    tips = [
        (axis.x_label, "@x{0.[000]}"),
        *(
            (line.label, f"@y{k}{{{form}}} ± @band{k}{{{form}}}")
            for k, line in enumerate(panel.lines)
        ),
    ]
    plot.add_tools(
        HoverTool(
            renderers=[tooltip_line],
            mode="vline",
            tooltips=tips,
            point_policy="follow_mouse",
            visible=False,
        )
    )


def _large(lines: Sequence[Line]) -> bool:
    return max(float(np.nanmax(line.y)) for line in lines) > 20


def _scale(title: str, values: dict[str, np.ndarray], r_edges: np.ndarray) -> dict[str, Any]:
    """Range of distances and of colours: as in the pictures, without single noisy cells."""
    filled = int(np.argmax(np.sum([each.sum(axis=1) for each in values.values()], axis=0) > 0))
    top = max(1.0, float(np.quantile(values[REFERENCE_LABEL], 0.998)))
    return {
        "title": title,
        "start": float(r_edges[max(0, filled - 1)]),
        "end": float(r_edges[-1]),
        "high": top,
    }


def _maps(maps: Maps, scales: list[dict[str, Any]]) -> list[figure]:
    """A figure per label, which holds the maps of all triples and shows the first.

    The page shows another when the reader asks for it.
    """
    mapper = LinearColorMapper(palette=Magma256[::-1], low=0, high=scales[0]["high"], name="maps")
    x_range, y_range = Range1d(scales[0]["start"], scales[0]["end"]), Range1d(0, 180)
    axis = Axis("r / nm", "angle / degrees")
    drawn = []
    for label in maps.rows[0].maps:
        data: dict[str, Any] = {}
        for k, row in enumerate(maps.rows):
            data[f"image{k}"] = [row.maps[label].T.astype(np.float32)]
            data[f"left{k}"] = [row.r_edges[0]]
            data[f"width{k}"] = [row.r_edges[-1] - row.r_edges[0]]
        plot = _empty(axis, x_range, y_range)
        plot.yaxis.ticker = FixedTicker(ticks=list(range(0, 181, 30)))
        style = {"y": 0, "dh": 180, "color_mapper": mapper, "source": ColumnDataSource(data)}
        image = plot.image("image0", x="left0", dw="width0", **style)
        image.tags = ["map", label]
        tips = [("r / nm", "$x{0.000}"), ("angle / degrees", "$y{0}"), (label, "@$name{0.00}")]
        image.name = "image0"
        plot.add_tools(HoverTool(renderers=[image], tooltips=tips, visible=False))
        plot.grid.visible = False
        drawn.append(plot)
    return drawn


def _survival(contents: Contents) -> figure:
    """Share of the runs that are still physical, a step per failure."""
    known = [(run, run.survival) for run in contents.runs if run.survival]
    end = max(float(columns["time / ps"][-1]) for _, columns in known)
    plot = _empty(Axis("time / ps", "share still physical"), Range1d(0, end), Range1d(0, 1.04))
    colors = colors_of([REFERENCE_LABEL, *contents.models])
    for run, columns in known:
        source = ColumnDataSource({name.split(" ")[0]: values for name, values in columns.items()})
        color = colors[run.model]
        band = plot.varea_step(
            "time",
            "low",
            "high",
            step_mode="after",
            source=source,
            fill_color=color,
            fill_alpha=0.18,
        )
        line = plot.step(
            "time", "share", source=source, mode="after", line_color=color, line_width=2
        )
        band.tags, line.tags = ["band", run.model], ["line", run.model]
        tips = [
            ("time / ps", "@time{0.[00]}"),
            (run.name, "@share{0.00} (95 %: @low{0.00} to @high{0.00})"),
        ]
        plot.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=tips, visible=False))
    return plot
