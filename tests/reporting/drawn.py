"""What an SVG of lengthen.reporting.figures shows: its texts and the points of its lines."""

import re
import xml.etree.ElementTree as xml
from collections import defaultdict

Points = list[tuple[float, float]]
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: bytes) -> list[str]:
    """Return every text of the picture, in the order of its file."""
    return ["".join(one.itertext()) for one in xml.fromstring(picture).iter(f"{SVG}text")]


def names(picture: bytes) -> list[str]:
    """Return the texts that are no numbers of an axis."""
    return [text for text in texts(picture) if not text.lstrip("-\u2212")[:1].isdigit()]


def lines(picture: bytes) -> dict[int, list[Points]]:
    """Return the points of every curve by the number of its panel, in points of 1/72 inch.

    As everywhere in an SVG, a larger y is further down.
    """
    found = defaultdict(list)
    for group in xml.fromstring(picture).iter(f"{SVG}g"):
        if place := re.fullmatch(r"panel-(\d+)-curve-\d+", group.get("id", "")):
            path = next(group.iter(f"{SVG}path"))
            pairs = re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
            found[int(place[1])].append([(float(x), float(y)) for x, y in pairs])
    return dict(found)


def colours(picture: bytes) -> list[str]:
    """Return the colour of every curve, in the order of the file."""
    return [
        re.findall(r"stroke: (#\w+)", path.get("style", ""))[0]
        for group in xml.fromstring(picture).iter(f"{SVG}g")
        if "curve" in group.get("id", "")
        for path in group.iter(f"{SVG}path")
    ]


def as_shares(panel: list[Points]) -> list[Points]:
    """Return the points of a panel's curves as shares of the box around all of them.

    So the same data are the same numbers in whatever size and place a version of matplotlib draws
    them.
    """
    xs, ys = ([point[axis] for curve in panel for point in curve] for axis in (0, 1))
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    return [[((x - min(xs)) / wide, (y - min(ys)) / high) for x, y in curve] for curve in panel]
