"""Plans side by side as a picture or a page."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lengthen.planning.forecast import Forecast, table
from lengthen.planning.plan import PlanPoint
from lengthen.reporting import html as page
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError

PAGE = ".html"
KINDS = (".svg", ".png", PAGE)  # of a picture
TOKENS = "trained tokens"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # of powers of 1000


def panels(forecasts: Sequence[Forecast]) -> list[Panel]:
    """Return what a run looks like against trained tokens, a curve for each forecast."""
    scale, prefix = _scale(max(one.plan.flops for one in forecasts))
    by_token: list[tuple[str, str, Callable[[PlanPoint], float | None]]] = [
        ("Length", "tokens in a row", lambda p: p.length),
        ("Tokens per step", "tokens in a step", lambda p: p.step_tokens),
        ("Learning rate by token", "learning rate", lambda p: p.learning_rate),
        ("FLOP so far", f"{prefix}FLOP", lambda p: p.flops / scale),
    ]
    if any(one.plan.corpus is not None for one in forecasts):
        by_token.append(("Leftovers", "tokens", lambda p: p.leftover))
    panels = []
    for title, unit, value in by_token:
        curves = []
        for one in forecasts:
            pairs = ((point.tokens, value(point)) for point in one.plan.curve)
            curves.append(Curve(one.name, [(x, y) for x, y in pairs if y is not None]))
        panels.append(Panel(title, TOKENS, unit, curves))
    by_step, seconds = [], []
    for one in forecasts:
        by_step.append(Curve(one.name, [(p.step, p.learning_rate) for p in one.plan.curve]))
        tokens = (point.tokens for point in one.plan.curve)
        seconds.append(Curve(one.name, list(zip(tokens, one.seconds, strict=True))))
    panels.insert(3, Panel("Learning rate by step", "step", "learning rate", by_step))
    panels.insert(5, Panel("Seconds so far", TOKENS, "seconds", seconds))
    return panels


def _scale(most: float) -> tuple[float, str]:
    """Return the power of 1000 that leaves `most` a short number, and its prefix."""
    power = min(int(math.log10(max(1.0, most))) // 3, len(PREFIXES) - 1)
    return 1000.0**power, PREFIXES[power]


def check_out(out: Path) -> None:
    """Raise SettingError where a picture cannot become the file `out`."""
    if out.suffix not in KINDS:
        raise SettingError("--out", f"must end in {', '.join(KINDS[:-1])} or {PAGE}", str(out))
    if out.is_dir() or not out.parent.is_dir():
        raise SettingError("--out", "must be a file in a directory that exists", str(out))


def write(out: Path, forecasts: Sequence[Forecast]) -> None:
    """Write the panels as one SVG or PNG, or with the table as one page where `out` ends in .html.

    Raises SettingError as `check_out` does, StorageError where the disk refuses it.
    """
    check_out(out)
    if out.suffix != PAGE:
        from lengthen.reporting.figures import draw  # matplotlib, which no other command waits for

        Disk().replace_file(out, draw(panels(forecasts), out.suffix))
        return
    title = f"Plan: {', '.join(one.name for one in forecasts)}"
    page.write(out, [], title=title, tables=[table(forecasts)], panels=panels(forecasts))
