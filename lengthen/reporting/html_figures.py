"""A panel as a figure of plotly: what its `to_html` takes, with its own legend and zoom.

Colours of text and grid are not here: the page's style sheet paints them, so that figures follow
its theme, and paper, without being drawn again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lengthen.reporting.curves import WORDED, Curve, Look, Panel, log_ticks
from lengthen.util.errors import printable

Json = dict[str, Any]

DIGITS = 6  # significant ones of what is not a whole number
FEW_POINTS = 20  # of a curve, that are shown as such
FEW_CURVES = 8  # as many leave room for thick lines
HEIGHT, LEGEND_LINE = 320, 20  # pixels: of a figure, and of a line of its legend
EDGES = 90  # pixels: of a figure's height, beside the lines of its legend
# Of a name, a line of the legend: to a space or the end of a folder, else of a word, or 30 letters.
LEGEND = re.compile(r".{1,30}(?:(?<=[ /])|$)|.{1,30}(?<=[-_=])|.{1,30}")
CLEAR = "rgba(0,0,0,0)"
FONT = {"family": "system-ui, sans-serif", "size": 12}


def figure(panel: Panel, looks: Mapping[str, Look], extent: Sequence[float]) -> Json:
    """Return the panel as `{"data": traces, "layout": layout}`.

    `looks` gives each family its look. `extent` is the range along x, above zero, of all panels
    with the same x, so that they show the same stretch; empty where none has a point there.
    """
    alone = len({curve.key for curve in panel.curves}) == len(panel.curves) <= FEW_CURVES
    traces = [
        trace
        for curve in panel.curves
        for trace in _traces(curve, looks[curve.key], 2.0 if alone else 1.2)
    ]
    named: set[str] = set()
    for trace in traces:  # the legend names each family once
        trace["showlegend"] = trace["legendgroup"] not in named
        named.add(trace["legendgroup"])
    return {"data": traces, "layout": _layout(panel, extent)}


def extents(panels: Sequence[Panel]) -> dict[str, list[float]]:
    """Return, for each name of an x axis, the range above zero of all curves along it."""
    ranges: dict[str, list[float]] = {}
    for panel in panels:
        xs = [x for curve in panel.curves for x, _ in curve.points if x > 0]
        xs += ranges.get(panel.x, [])
        ranges[panel.x] = [min(xs), max(xs)] if xs else []
    return ranges


def _traces(curve: Curve, look: Look, width: float) -> Iterator[Json]:
    yield {
        **_trace(
            curve, "lines+markers" if len(curve.points) <= FEW_POINTS else "lines", "%{y:.5~g}"
        ),
        "x": [rounded(x) for x, _ in curve.points],
        "y": [rounded(y) for _, y in curve.points],
        "line": {
            "color": look.colour,
            "width": width,
            "dash": ",".join(f"{pixels}px" for pixels in look.dashes) or "solid",
        },
        "marker": {"color": look.colour, "size": 5},
    }
    if curve.band:
        xs = [rounded(x) for x, _ in curve.points]
        lows, highs = ([rounded(y) for y in side] for side in zip(*curve.band, strict=True))
        yield {
            **_trace(curve, "lines", ""),
            "x": xs + xs[::-1],
            "y": highs + lows[::-1],
            "line": {"color": look.colour, "width": 0},
            "fill": "toself",
            "fillcolor": look.colour,
            "opacity": 0.2,
            "hoverinfo": "skip",
        }
    if curve.breaks:
        line = {"color": look.colour, "width": 2}
        yield {
            **_trace(curve, "markers", "not finite"),
            "yaxis": "y2",  # from 0 to 1: a value that is not finite has no height of its own
            "x": [rounded(x) for x in curve.breaks],
            "y": [0.03] * len(curve.breaks),
            "marker": {"color": look.colour, "size": 9, "symbol": "x-thin", "line": line},
        }


def _trace(curve: Curve, mode: str, value: str) -> Json:
    """Return what all traces of a curve have in common."""
    return {
        "type": "scatter",
        "mode": mode,
        "cliponaxis": False,  # a point at the edge is drawn whole
        "name": "<br>".join(map(_text, _lines(curve.key))),
        "meta": _text(curve.name),
        "legendgroup": _text(curve.key),
        "hovertemplate": "%{meta}<br>%{x:,.6~g}: " + value + "<extra></extra>",
    }


def _layout(panel: Panel, extent: Sequence[float]) -> Json:
    keys = {curve.key for curve in panel.curves}
    lines = sum(len(_lines(key)) for key in keys)
    across = _axis(panel.x, extent, log=panel.log_x)
    across["autorangeoptions"] = {"include": [rounded(x) for x in extent]}
    up = _axis(panel.y, [y for c in panel.curves for _, y in c.points if y > 0], log=panel.log_y)
    if panel.threshold is not None:
        # A line along the very edge would lose half of its label.
        up["autorangeoptions"] = {"include": [1.03 * panel.threshold]}
    return {
        "height": max(HEIGHT, EDGES + LEGEND_LINE * lines),
        "meta": _text(panel.x),  # the script of the page zooms figures of one x together
        "xaxis": across,
        "yaxis": up,
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "shapes": [] if panel.threshold is None else [_threshold(panel.threshold)],
        "margin": {"l": 60, "r": 42, "t": 30, "b": 46},
        "font": FONT,
        "hovermode": "closest",
        # Beside the figure; the script puts it below a narrow one.
        "legend": {"x": 1.05, "y": 1, "maxheight": 1, "tracegroupgap": 0},
        "showlegend": True,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
    }


def _axis(name: str, values: Sequence[float], *, log: bool) -> Json:
    large = bool(values) and 1000 <= max(values) < WORDED and min(values) >= 1
    ticks = log_ticks(values) if log else []
    return {
        "type": "log" if log else "linear",
        # With so few ticks plotly marks 1, 2 and 5 of a decade, and not all nine.
        "nticks": 3 if log else 0,
        **({"tickmode": "array", "tickvals": ticks} if ticks else {}),
        "title": {"text": _text(name), "font": {"size": 12}, "standoff": 8},
        # Thousands as 1.5k; but the same letters would make 5m of 0.005.
        "tickformat": "~s" if large else ".6~g",
        "zeroline": False,
    }


def _threshold(height: float) -> Json:
    place = {"textposition": "end", "xanchor": "left", "yanchor": "middle"}
    return {
        **{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height},
        "line": {"dash": "5px,4px", "width": 2},
        "label": {"text": f"{height:g}", **place},
    }


def _lines(name: str) -> list[str]:
    return [line.strip() for line in LEGEND.findall(" ".join(name.split()))]


def _text(name: str) -> str:
    return escape(printable(name))  # plotly reads tags in names, and JSON has no half characters


def rounded(value: float) -> float:
    """Return `value` with 6 significant digits; whole numbers keep all theirs."""
    if isinstance(value, int) or value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    return float(f"{value:.{DIGITS}g}")
