"""A picture of curves as one SVG file, which any browser opens, light or dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 300  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 46  # around its plot
# Told apart by people who do not see colours alike, and on white and on black (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; fill: #1a1a1a }
.axis { stroke: #8a8a8a; fill: none } .grid { stroke: #8a8a8a; stroke-opacity: .25; fill: none }
.mark { stroke: #8a8a8a; stroke-dasharray: 5 4 }
.title { font-weight: 600 } .small { font-size: 12px }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { svg { background: #16181c; fill: #e6e6e6 } }
"""


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A plot: its curves, and a dashed line across where that helps to read it."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    mark: float | None = None  # height of the dashed line


@dataclass(frozen=True)
class _Scale:
    """Values to pixels along one axis."""

    low: float
    high: float
    first: float  # pixel of `low`
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def draw(panels: Sequence[Panel]) -> str:
    """Return the SVG with the panels one below the other; names are escaped."""
    height = HEIGHT * len(panels)
    body = "".join(
        f'<g transform="translate(0 {HEIGHT * row})">{"".join(_panel(panel))}</g>\n'
        for row, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}"><style>{STYLE}</style>\n{body}</svg>\n'
    )


def _panel(panel: Panel) -> Iterator[str]:
    xs = [x for curve in panel.curves for x, _ in curve.points]
    ys = [y for curve in panel.curves for _, y in curve.points]
    ys += [panel.mark] if panel.mark is not None else []
    yield _text(LEFT, 22, panel.title, "title")
    if not xs:
        yield _text(LEFT, HEIGHT / 2, "nothing was measured", "small")
        return
    across = _Scale(*_room(0.0, max(xs)), LEFT, WIDTH - RIGHT)
    up = _Scale(*_room(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)
    yield from _axes(panel, across, up)
    for number, curve in enumerate(panel.curves):
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
        colour = COLOURS[number % len(COLOURS)]
        yield f'<polyline class="curve" stroke="{colour}" points="{points}"/>'
    yield from _keys([curve.name for curve in panel.curves])


def _axes(panel: Panel, across: _Scale, up: _Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in ticks(up.low, up.high):
        yield f'<path class="grid" d="M{LEFT} {up(value):.1f}H{right}"/>'
        yield _text(LEFT - 8, up(value) + 4, short(value), "small", anchor="end")
    for value in ticks(across.low, across.high):
        yield _text(across(value), bottom + 17, short(value), "small", anchor="middle")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield _text((LEFT + right) / 2, HEIGHT - 10, panel.x, "small", anchor="middle")
    middle = (TOP + bottom) / 2
    yield (
        f'<text class="small" text-anchor="middle" '
        f'transform="translate(14 {middle:.0f}) rotate(-90)">{escape(panel.y)}</text>'
    )
    if panel.mark is not None:
        yield f'<path class="mark" d="M{LEFT} {up(panel.mark):.1f}H{right}"/>'


def _keys(names: Sequence[str]) -> Iterator[str]:
    """Name the curves in the line of the title, where none of them runs, from the right."""
    right = float(WIDTH - RIGHT)
    for number, name in reversed(list(enumerate(names))):
        right -= 7.0 * len(name) + 8
        yield _text(right, 22, name, "small")
        right -= 28
        colour = COLOURS[number % len(COLOURS)]
        yield f'<path stroke="{colour}" stroke-width="3" d="M{right:.0f} 18h22"/>'
        right -= 12


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{name}" {place}>{escape(text)}</text>'


def _room(low: float, high: float) -> tuple[float, float]:
    """Return the range widened a little, so that no curve runs along the frame."""
    span = high - low or abs(high) or 1.0
    return (low if low == 0 else low - 0.04 * span), high + 0.04 * span


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return round numbers within [low, high], about `wanted` of them."""
    rough = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def short(value: float) -> str:
    """Return a number as an axis shows it: 250K, 1.5M, 6.2."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
