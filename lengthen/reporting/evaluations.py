"""Plots of what evaluations measured along a curve, such as the loss by position."""

import math

from lengthen.evaluation import results
from lengthen.evaluation.tables import Results, Shown, curves_of
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.errors import printable


def panels(models: Results) -> list[Panel]:
    """Return a plot of each curve, all models in it, along a logarithmic axis at first."""
    return [
        Panel(
            title, printable(curves[0][1].axis), "nats", [_line(*one) for one in curves], log_x=True
        )
        for title, curves in curves_of(models).items()
    ]


def _line(one: Shown, curve: results.Curve) -> Curve:
    places = [place for place in zip(curve.at, curve.values, strict=True) if place[0] > 0]
    points = [(x, y) for x, y in places if math.isfinite(y)]
    breaks = [x for x, y in places if not math.isfinite(y)]
    return Curve(one.name, points, one.model, breaks=breaks)
