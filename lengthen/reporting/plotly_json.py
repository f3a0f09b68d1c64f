"""A panel as plotly's own JSON: plain dictionaries, since its Python classes are slow to load.

Colours of text and grid are not here: the page's style sheet paints them, so that figures follow
its theme, and paper, without being drawn anew.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from lengthen.reporting.figures import Curve, Panel, families, stroke
from lengthen.reporting.thin import thin

Json = dict[str, Any]

DIGITS = 6  # significant ones of what is not a whole number
FEW = 20  # points of a curve that are shown as such
THICK = 8  # curves that still leave room for thick lines
CLEAR = "rgba(0,0,0,0)"
FONT = {"family": "system-ui, sans-serif", "size": 12}
LOG_TICKS = 3  # plotly then marks 1, 2 and 5 of a decade, and not all nine; page.js knows it too


def figure(panel: Panel, numbers: Mapping[str, int], extent: tuple[float, float] | None) -> Json:
    """Return the panel as `{"data": traces, "layout": layout}`.

    `numbers` gives each family its look (picture.stroke). `extent` is the range along x, above
    zero, of all panels with the same x, so that they show the same stretch.
    """
    alone = len(families([panel])) == len(panel.curves) <= THICK
    traces = [
        trace
        for curve in panel.curves
        for trace in _traces(curve, numbers[curve.key], 2.0 if alone else 1.2)
    ]
    return {"data": traces, "layout": _layout(panel, extent)}


def thinned(panel: Panel, most: int) -> list[Curve]:
    """Return the panel's curves that have points, each with at most `most` of them."""
    return [
        replace(curve, points=thin(curve.points, most)) for curve in panel.curves if curve.points
    ]


def extents(panels: Sequence[Panel]) -> dict[str, tuple[float, float]]:
    """Return, for each name of an x axis, the range above zero of all curves along it."""
    found: dict[str, list[float]] = {}
    for panel in panels:
        xs = [x for curve in panel.curves for x, _ in curve.points if x > 0]
        found.setdefault(panel.x, []).extend([min(xs), max(xs)] if xs else [])
    return {name: (min(xs), max(xs)) for name, xs in found.items() if xs}


def _traces(curve: Curve, number: int, width: float) -> Iterator[Json]:
    colour, dashes = stroke(number)
    # plotly reads tags in names; `meta` keeps the name as it is, for the CSV.
    name = escape(curve.name)
    common = {"type": "scatter", "name": name, "meta": curve.name, "legendgroup": curve.key}
    line: Json = {"color": colour, "width": width}
    if dashes:
        line["dash"] = ",".join(f"{pixels}px" for pixels in dashes.split())
    yield {
        **common,
        "mode": "lines+markers" if len(curve.points) <= FEW else "lines",
        "x": [rounded(x) for x, _ in curve.points],
        "y": [rounded(y) for _, y in curve.points],
        "line": line,
        "marker": {"color": colour, "size": 5},
        "hovertemplate": "%{fullData.name}<br>%{x:,.6~g}: %{y:.5~g}<extra></extra>",
    }
    if curve.breaks:
        yield {
            **common,
            "mode": "markers",
            "yaxis": "y2",  # from 0 to 1: a value that is not finite has no height of its own
            "x": [rounded(x) for x in curve.breaks],
            "y": [0.03] * len(curve.breaks),
            "marker": {"color": colour, "size": 9, "symbol": "x-thin", "line": _thick(colour)},
            "hovertemplate": "%{fullData.name}<br>%{x:,.6~g}: not finite<extra></extra>",
        }

    if curve.marks:
        yield {
            **common,
            "meta": f"{curve.name}, marked",
            "mode": "markers",
            "x": [rounded(mark.x) for mark in curve.marks],
            "y": [rounded(mark.y) for mark in curve.marks],
            "text": [escape(mark.text) for mark in curve.marks],
            "marker": {
                "color": colour,
                "size": 7,
                "symbol": ["circle-open" if mark.hollow else "circle" for mark in curve.marks],
            },
            "hovertemplate": "%{fullData.name}<br>%{x:,.6~g}: %{text}<extra></extra>",
        }


def _thick(colour: str) -> Json:
    return {"color": colour, "width": 2}


def _layout(panel: Panel, extent: tuple[float, float] | None) -> Json:
    across = _axis(panel.x, extent or (1.0, 1.0), log=panel.log_x)
    if extent is not None:
        across["autorangeoptions"] = {"include": [rounded(x) for x in extent]}
    ys = [y for curve in panel.curves for _, y in curve.points if y > 0] or [1.0]
    up = _axis(panel.y, (min(ys), max(ys)), log=panel.log_y)
    if panel.lesser:
        # A line along the very edge would lose half of its label.
        up["autorangeoptions"] = {"include": [1.03 * max(panel.lesser)]}
    return {
        "xaxis": across,
        "yaxis": up,
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "shapes": list(_marks(panel)),
        "margin": {"l": 70, "r": 42, "t": 10, "b": 46},
        "font": FONT,
        "hovermode": "closest",
        "showlegend": False,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
    }


def _axis(name: str, extent: tuple[float, float], *, log: bool) -> Json:
    lowest, highest = extent
    return {
        "type": "log" if log else "linear",
        "title": {"text": escape(name), "font": {"size": 12}},
        # Thousands as 1.5k; but the same letters would make 5m of 0.005.
        "tickformat": "~s" if highest >= 1000 and lowest >= 1 else ".6~g",
        "nticks": LOG_TICKS if log else 0,
        "zeroline": False,
    }


def _marks(panel: Panel) -> Iterator[Json]:
    heights = [(height, 1.0) for height in panel.lesser]
    heights += [] if panel.mark is None else [(panel.mark, 2.0)]
    for height, width in heights:
        yield {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": height,
            "y1": height,
            "line": {"dash": "5px,4px", "width": width},
            "label": {
                "text": f"{height:g}",
                "textposition": "end",
                "xanchor": "left",
                "yanchor": "middle",
            },
        }


def rounded(value: float) -> float:
    """Return `value` with 6 significant digits; whole numbers keep all theirs."""
    if value == 0 or not math.isfinite(value):
        return value
    if isinstance(value, int) or value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    return float(f"{value:.{DIGITS}g}")
