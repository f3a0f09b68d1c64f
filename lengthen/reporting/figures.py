"""A picture of curves as one SVG file, which any browser opens, light or dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lengthen.reporting.legend import LINE, SAMPLE, Key, laid, width
from lengthen.util.errors import printable

WIDTH, HEIGHT = 760, 300  # of one panel, in pixels; lines of keys come on top
LEFT, RIGHT, TOP, BOTTOM = 78, 16, 40, 46  # around its plot
TITLE = 22  # baseline of a panel's title
# Told apart by people who do not see colours alike, and on white and on black (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "7 4", "2 3", "10 4 2 4", "14 5")  # pixels drawn and left out, in turn
STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; fill: #1a1a1a }
.axis { stroke: #8a8a8a; fill: none } .grid { stroke: #8a8a8a; stroke-opacity: .25; fill: none }
.mark { stroke: #8a8a8a; stroke-dasharray: 5 4 } .lesser { stroke-opacity: .5 }
.title { font-weight: 600 } .small { font-size: 12px }
.curve { fill: none; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { svg { background: #16181c; fill: #e6e6e6 } }
"""


@dataclass(frozen=True)
class Mark:
    """A point beside a curve, and what is to be said of it."""

    x: float
    y: float
    text: str
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[tuple[float, float]]
    family: str = ""  # curves of one family look alike and share a key; by default its own name
    breaks: Sequence[float] = ()  # where along x the value was not finite
    marks: Sequence[Mark] = ()

    @property
    def key(self) -> str:
        """The name under which the curve's colour is explained."""
        return self.family or self.name


@dataclass(frozen=True)
class Panel:
    """A plot: its curves, and dashed lines across where those help to read it.

    On a logarithmic axis only what is above zero has a place; the rest is left out.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    mark: float | None = None  # height of the dashed line
    lesser: Sequence[float] = ()  # heights of fainter ones
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class _Scale:
    """Values to pixels along one axis."""

    low: float
    high: float
    first: float  # pixel of `low`
    last: float
    log: bool

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    @property
    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def stroke(number: int) -> tuple[str, str]:
    """Return colour and dashes (SVG) of the family `number`, from 0; the first 30 differ."""
    row, column = divmod(number, len(COLOURS))
    return COLOURS[column], DASHES[row % len(DASHES)]


def families(panels: Sequence[Panel]) -> list[str]:
    """Return the families of all curves, in order of appearance."""
    return list(dict.fromkeys(curve.key for panel in panels for curve in panel.curves))


def draw(panels: Sequence[Panel]) -> str:
    """Return the SVG with the panels one below the other; names are escaped."""
    body, height = "", 0
    # The widest title decides for all panels, so that equal keys stand alike. Titles are bold.
    clear = LEFT + max((width(panel.title) * 9 // 8 for panel in panels), default=0)
    for panel in panels:
        keys = list(laid(families([panel]), clear, LEFT, WIDTH - RIGHT))
        deeper = LINE * max((key.line for key in keys), default=0)
        parts = [*_head(panel.title, keys, TITLE - deeper), *_panel(panel)]
        body += f'<g transform="translate(0 {height + deeper})">{"".join(parts)}</g>\n'
        height += HEIGHT + deeper
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}"><style>{STYLE}</style>\n{body}</svg>\n'
    )


def _head(title: str, keys: Sequence[Key], top: int) -> Iterator[str]:
    """Yield the title and the keys of a panel; `top` is the title's baseline."""
    yield _text(LEFT, top, title, "title")
    for number, key in enumerate(keys):
        y = top + LINE * key.line
        yield f'<path {_stroke(number)} stroke-width="3" d="M{key.x} {y - 4}h22"/>'
        yield _text(key.x + SAMPLE, y, key.text, "small", whole=key.name)


def _panel(panel: Panel) -> Iterator[str]:
    points = [_placed(panel, curve) for curve in panel.curves]
    xs = [x for curve in points for x, _ in curve]
    ys = [y for curve in points for _, y in curve]
    ys += [panel.mark] if panel.mark is not None else []
    if not xs:
        yield _text(LEFT, HEIGHT / 2, "nothing was measured", "small")
        return
    first = min(xs) if panel.log_x else 0.0
    across = _Scale(*_room(first, max(xs), panel.log_x), LEFT, WIDTH - RIGHT, panel.log_x)
    up = _Scale(*_room(min(ys), max(ys), panel.log_y), HEIGHT - BOTTOM, TOP, panel.log_y)
    yield from _axes(panel, across, up)
    keys = families([panel])
    thickness = 2 if len(keys) == len(panel.curves) else 1.2
    for curve, places in zip(panel.curves, points, strict=True):
        style = f'{_stroke(keys.index(curve.key))} stroke-width="{thickness}"'
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in places)
        yield f'<polyline class="curve" {style} points="{line}"/>'
        for x in curve.breaks:
            if across.low <= x <= across.high:
                yield f'<path {style} d="M{across(x) - 4:.1f} {HEIGHT - BOTTOM - 9}l8 8m0-8l-8 8"/>'
        yield from _marked(curve, keys.index(curve.key), across, up)


def _marked(curve: Curve, number: int, across: _Scale, up: _Scale) -> Iterator[str]:
    colour, _ = stroke(number)
    for mark in curve.marks:
        if across.low <= mark.x <= across.high and up.low <= mark.y <= up.high:
            fill = "none" if mark.hollow else colour
            place = f'cx="{across(mark.x):.1f}" cy="{up(mark.y):.1f}" r="3"'
            yield f'<circle {place} stroke="{colour}" fill="{fill}"/>'


def _placed(panel: Panel, curve: Curve) -> list[tuple[float, float]]:
    return [
        (x, y) for x, y in curve.points if (x > 0 or not panel.log_x) and (y > 0 or not panel.log_y)
    ]


def _stroke(number: int) -> str:
    colour, dashes = stroke(number)
    return f'stroke="{colour}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _axes(panel: Panel, across: _Scale, up: _Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in up.ticks:
        yield f'<path class="grid" d="M{LEFT} {up(value):.1f}H{right}"/>'
        yield _text(LEFT - 8, up(value) + 4, short(value), "small", anchor="end")
    for value in across.ticks:
        yield _text(across(value), bottom + 17, short(value), "small", anchor="middle")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 10, panel.x, "small", anchor="middle")
    middle = (TOP + bottom) / 2
    yield (
        f'<text class="small" text-anchor="middle" '
        f'transform="translate(14 {middle:.0f}) rotate(-90)">{_escaped(panel.y)}</text>'
    )
    marks = [(value, "mark lesser") for value in panel.lesser]
    marks += [] if panel.mark is None else [(panel.mark, "mark")]
    for value, name in marks:
        if up.low <= value <= up.high:
            yield f'<path class="{name}" d="M{LEFT} {up(value):.1f}H{right}"/>'


def _text(x: float, y: float, text: str, name: str, anchor: str = "start", whole: str = "") -> str:
    """Return text at its place; where it is cut short, `whole` is what the pointer shows."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    more = f"<title>{escape(whole)}</title>" if whole not in ("", text) else ""
    return f'<text class="{name}" {place}>{_escaped(text)}{more}</text>'


def _escaped(text: str) -> str:
    # XML has no place for most control characters, nor UTF-8 for the bytes of an odd file name.
    return escape(printable(text))


def _room(low: float, high: float, log: bool) -> tuple[float, float]:
    """Return the range widened a little, so that no curve runs along the frame."""
    if log:
        factor = (high / low) ** 0.04 if high > low else 1.1
        return low / factor, high * factor
    span = high - low or abs(high) or 1.0
    return (low if low == 0 else low - 0.04 * span), high + 0.04 * span


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return round numbers within [low, high], about `wanted` of them."""
    rough = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers within [low, high], evenly spread along a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [mark for mark in marks if low <= mark <= high]
    return inside if len(inside) >= 3 else ticks(low, high)


def short(value: float) -> str:
    """Return a number as an axis shows it: 250K, 1.5M, 6.2."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
