"""Panels as one picture, fit for a paper: SVG or PNG, drawn by matplotlib."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from math import ceil
from textwrap import fill

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from lengthen.reporting.curves import WORDED, Curve, Look, Panel, Point, log_ticks, looks
from lengthen.util.errors import printable

WIDTH, HEIGHT = 7.2, 2.5  # inches: of the text of a page with one column, and of a panel
DOTS_PER_INCH = 200  # of a PNG
POINTS = 601  # of a curve at most: about three for each point (1/72 inch) of width
LETTERS, LETTERS_UP = 95, 35  # of the font that have room along the width and along the height
LINE = 0.2  # inches: of a line of the legend
FEW_CURVES = 8  # as many leave room for thick lines
STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "path.simplify": False,  # the points are few already
    "lines.scale_dashes": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lengthen",  # or ids are random
}
UNDATED = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
FOOT = 0.03  # of the height: where a value that is not finite has its cross
THOUSANDS = EngFormatter(sep="")


def draw(panels: Sequence[Panel], kind: str, among: Sequence[Panel] = ()) -> bytes:
    """Return the panels one below the other as a file of `kind`, ".svg" or ".png".

    Every family has the look that it has `among` panels, by default these, and the legend above
    explains it. In an SVG the lines of a panel are groups with the ids `panel-0-curve-0` and so on.
    """
    panels = [_printable(panel.thinned(POINTS)) for panel in panels]
    keys = {curve.key for panel in panels for curve in panel.curves}
    every = looks([_printable(panel) for panel in among] or panels)
    known = {key: look for key, look in every.items() if key in keys}
    with style.context(STYLE), warnings.catch_warnings():
        # A letter that no font here has is a box in a PNG, and itself in an SVG.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)), layout="constrained")
        if known:
            lines = _legend(figure, list(known.items()))
            figure.set_size_inches(WIDTH, HEIGHT * len(panels) + LINE * lines)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(len(panels), 1, number + 1)
            _panel(axes, panel, known, f"panel-{number}")
        out = BytesIO()
        # Tight: a name that is wider than the picture makes it wider, and none is cut.
        figure.savefig(
            out,
            format=kind.removeprefix("."),
            dpi=DOTS_PER_INCH,
            bbox_inches="tight",
            metadata=UNDATED[kind],
        )
    return out.getvalue()


def _printable(panel: Panel) -> Panel:
    curves = [replace(curve, family=_text(curve.key)) for curve in panel.curves]
    title, x, y = _text(panel.title), _text(panel.x), _text(panel.y, LETTERS_UP)
    return replace(panel, title=title, x=x, y=y, curves=curves)


def _text(name: str, width: int = LETTERS) -> str:
    # XML has no place for most control characters, nor UTF-8 for the bytes of an odd file name.
    return fill(printable(name), width, break_on_hyphens=False)


def _legend(figure: Figure, known: Sequence[tuple[str, Look]]) -> int:
    """Draw the legend above all panels, and return of how many lines it is."""
    names = [name for name, _ in known]
    fitting = LETTERS // (8 + max(len(name) for name in names))
    columns = min(len(names), max(1, fitting))
    legend = figure.legend(
        [_line([], look, 2.0) for _, look in known],
        names,
        loc="outside upper left",
        ncols=columns,
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return ceil(len(names) / columns) + sum(name.count("\n") for name in names)


def _line(points: Sequence[Point], look: Look, width: float) -> Line2D:
    line = Line2D(*_columns(points), color=look.colour, linewidth=width)
    if look.dashes:
        line.set_dashes(look.dashes)
    return line


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _panel(axes: Axes, panel: Panel, known: dict[str, Look], name: str) -> None:
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize="medium", parse_math=False)
    axes.set_xlabel(panel.x, parse_math=False)
    axes.set_ylabel(panel.y, parse_math=False)
    curves = [_placed(panel, curve) for curve in panel.curves]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    if not xs:
        axes.text(0.5, 0.5, "nothing was measured", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.set(xscale="log" if panel.log_x else "linear", yscale="log" if panel.log_y else "linear")
    alone = len({curve.key for curve in curves}) == len(curves) <= FEW_CURVES
    for number, curve in enumerate(curves):
        line = _line(curve.points, known[curve.key], 1.5 if alone else 0.8)
        line.set_gid(f"{name}-curve-{number}")
        axes.add_line(line)
        if len(curve.points) == 1:  # no line leads to it
            axes.scatter(*_columns(curve.points), s=20, c=line.get_color())
        if curve.breaks:
            foot = axes.get_xaxis_transform()  # x in values, y as a share of the height
            feet, colour = [FOOT] * len(curve.breaks), line.get_color()
            axes.scatter(curve.breaks, feet, s=25, c=colour, marker="x", transform=foot)
        if curve.band:
            along, (lows, highs) = _columns(curve.points)[0], _columns(curve.band)
            axes.fill_between(along, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.autoscale_view()
    _ticks(axes.xaxis, panel.log_x, xs)
    _ticks(axes.yaxis, panel.log_y, ys)
    if panel.threshold is not None:
        axes.axhline(panel.threshold, color="#666666", linewidth=1, linestyle=(0, (5, 4)))


def _placed(panel: Panel, curve: Curve) -> Curve:
    """Return the curve with what has a place on the panel's axes."""

    def fits(x: float, y: float) -> bool:
        return (x > 0 or not panel.log_x) and (y > 0 or not panel.log_y)

    return replace(
        curve,
        points=[(x, y) for x, y in curve.points if fits(x, y)],
        breaks=[x for x in curve.breaks if fits(x, 1)],
    )


def _ticks(axis: Axis, log: bool, values: Sequence[float]) -> None:
    axis.set_major_formatter(FuncFormatter(_short))
    if log:
        ticks = log_ticks(values)
        axis.set_major_locator(FixedLocator(ticks) if ticks else MaxNLocator(4))
        axis.set_minor_formatter(NullFormatter())


def _short(value: float, _: int) -> str:
    """Return a number as an axis shows it: 250k, 1.5M, 6.2."""
    return THOUSANDS(value) if 1000 <= abs(value) < WORDED else f"{value:.6g}"
