"""The pictures of the report: SVG whose text keeps its size at any width, since all lengths along x are shares.

A chart has no box of its own to scale: x coordinates are per cent of whatever width there is, labels stand outside the
plot, and what would need a path lies in a nested picture that may be stretched. Knows numbers and names, no comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import NamedTuple

from dllm_bench.pages.markup import Markup, join, tag

COLOURS = 8
HOW_TO_READ = (  # a `scatter`
    "Up and to the left is better. Filled signs are on the front: no other is as good in both, and better in one."
)
_SHAPES = (
    "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z",  # circle
    "M-4.4-4.4h8.8v8.8h-8.8Z",  # square
    "M0-5.6L5.4 4.2h-10.8Z",  # triangle
    "M0-6L6 0 0 6-6 0Z",  # diamond
    "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4Z",  # plus
)


class Scale(NamedTuple):
    """Numbers along an axis."""

    low: float
    high: float
    ticks: Sequence[float]

    def at(self, value: float) -> str:
        """Where a number lies, in per cent from the low end."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def up(self, value: float) -> str:
        """The same from the high end: y grows downwards."""
        return f"{100 * (self.high - value) / (self.high - self.low):.2f}%"


def scale(low: float, high: float, most: int = 6) -> Scale:
    """An axis with round ends that holds both numbers, in at most about `most` steps of 1, 2 or 5 by ten to a power."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** floor(log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span <= power * factor * most * 1.0001)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, max(last, first + 1) + 1)]
    return Scale(ticks[0], ticks[-1], ticks)


def whole(low: int, high: int) -> Scale:
    """An axis of bars or cells, one for every whole number from low to high; a tick stands in the middle of its bar."""
    return Scale(low - 0.5, high + 0.5, [x for x in scale(low, high).ticks if low <= x <= high and x == int(x)])


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:,.10g}" if abs(value) >= 1e-4 else f"{value:.3g}"


def mark(series: int) -> Markup:
    """A scheduler's sign: colour and shape, 40 of them."""
    return tag("path", d=_SHAPES[series % len(_SHAPES)], class_="mark")


def key(series: int) -> Markup:
    """The sign beside a name."""
    return tag("svg", mark(series), viewBox="-7 -7 14 14", class_=f"key {colour(series)}", aria_hidden="true")


def named(series: int, name: str) -> Markup:
    """A scheduler's sign and name; a long spec breaks behind its separators."""
    pieces = re.findall(r"[^:,+/]*[:,+/]?", name)
    return join(key(series), tag("code", *(join(piece, tag("wbr")) for piece in pieces if piece)))


def colour(series: int) -> str:
    """The class that a scheduler's sign and bars have in all charts."""
    return f"c{series % COLOURS}"


class Point(NamedTuple):
    """A scheduler in the plane."""

    name: str
    x: float
    y: float
    low: float | None  # interval of y
    high: float | None
    front: bool  # no other one is as good in both, and better in one


def scatter(points: Sequence[Point], *, label: str) -> Markup:
    """Points with their intervals and the steps of the front, better to the left and to the top; an axis each."""
    xs = scale(0, max(point.x for point in points))
    ys = scale(
        min(point.y if point.low is None else point.low for point in points),
        max(point.y if point.high is None else point.high for point in points),
    )
    names = _placed(points, xs, ys)
    parts = [
        *(tag("line", x1="0", x2="100%", y1=ys.up(y), y2=ys.up(y), class_="grid") for y in ys.ticks),
        *(tag("text", number(y), x="-8", y=ys.up(y), dy="4", class_="end muted") for y in ys.ticks),
        *_x_axis(xs),
        *_front(points, xs, ys),
        *(_point(i, point, xs, ys) for i, point in enumerate(points)),
        *names,
    ]
    return tag("svg", *parts, class_="plot tall", role="img", aria_label=label)


def _x_axis(xs: Scale) -> list[Markup]:
    """Tick labels below the plot; the outer ones stay within it."""
    sides = {xs.low: "start", xs.high: "end"}
    return [
        tag("text", number(x), x=xs.at(x), y="100%", dy="18", class_=f"{sides.get(x, 'middle')} muted")
        for x in xs.ticks
    ]


def _front(points: Sequence[Point], xs: Scale, ys: Scale) -> list[Markup]:
    return [
        tag("line", x1=xs.at(x), x2=xs.at(u), y1=ys.up(y), y2=ys.up(v), class_="front")
        for (x, y), (u, v) in pairwise(_stairs(points, xs.high))
    ]


def _stairs(points: Sequence[Point], end: float) -> list[tuple[float, float]]:
    """The corners of the front, from its first point to the right end."""
    best = sorted({(point.x, point.y) for point in points if point.front})
    stairs = best[:1]
    for x, y in best[1:]:
        stairs += [(x, stairs[-1][1]), (x, y)]
    return [*stairs, (end, stairs[-1][1])]


def _point(series: int, point: Point, xs: Scale, ys: Scale) -> Markup:
    x, y = xs.at(point.x), ys.up(point.y)
    parts = [tag("title", point.name)]
    if point.low is not None and point.high is not None:
        parts.append(tag("line", x1=x, x2=x, y1=ys.up(point.low), y2=ys.up(point.high), class_="whisker"))
    parts.append(tag("svg", mark(series), x=x, y=y, class_="at"))
    return tag("g", *parts, class_=f"{colour(series)}{'' if point.front else ' hollow'}", data_series=series)


_Box = tuple[float, float, float, float]  # left, top, right, bottom
_WIDTH, _HEIGHT = 560, 260  # the narrowest plot that shows names, in pixels; wider ones only move them apart
_LONGEST = 36  # letters of a name that may stand in the plot; the legend has all of them


def _placed(points: Sequence[Point], xs: Scale, ys: Scale) -> list[Markup]:
    """Names beside their points, above or below, where there is room for them."""

    def spot(x: float, y: float) -> tuple[float, float]:
        return _share(xs.at(x)) * _WIDTH, _share(ys.up(y)) * _HEIGHT

    taken = [_around(spot(point.x, point.y), 7) for point in points]
    taken += [_join(_around(spot(p.x, p.y if p.low is None else p.low), 3), spot(p.x, p.high or p.y)) for p in points]
    taken += [_join(_around(spot(*a), 1), spot(*b)) for a, b in pairwise(_stairs(points, xs.high))]
    names = []
    for i, point in enumerate(points):
        (x, y), width = spot(point.x, point.y), 7.2 * len(point.name)
        top, bottom = (spot(point.x, point.y if at is None else at)[1] for at in (point.high, point.low))
        for side, shift, left, middle in (
            ("start", 11, x + 11, y),
            ("end", -11, x - 11 - width, y),
            *(
                (side, 0, left, edge)
                for edge in (top - 12, bottom + 12)
                for side, left in (("middle", x - width / 2), ("start", x), ("end", x - width))
            ),
        ):
            box = (left, middle - 8, left + width, middle + 8)
            inside = left >= 0 and left + width <= _WIDTH and -4 <= middle <= _HEIGHT and len(point.name) <= _LONGEST
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                text = tag("text", point.name, x=xs.at(point.x), y=ys.up(point.y), dx=shift, dy=middle - y + 4)
                names.append(tag("g", text, class_=f"name {side}", data_series=i))
                break
    return names


def _around(spot: tuple[float, float], margin: float) -> _Box:
    x, y = spot
    return x - margin, y - margin, x + margin, y + margin


def _join(box: _Box, spot: tuple[float, float]) -> _Box:
    """The box that holds a box and a spot."""
    x, y = spot
    return min(box[0], x), min(box[1], y), max(box[2], x), max(box[3], y)


def _share(per_cent: str) -> float:
    return float(per_cent[:-1]) / 100


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def bars(heights: Sequence[float], *, lines: Sequence[tuple[str, str]] = (), label: str) -> Markup:
    """Bars side by side over the whole width, each 0 to 1 high; `lines` are (class, x in per cent) across them."""
    path = "".join(f"M{i} 1v{-height:.3f}h.9V1z" for i, height in enumerate(heights) if height)
    parts = [_stretched(len(heights), tag("path", d=path, class_="bar"))]
    parts += [tag("line", x1=x, x2=x, y1="0", y2="100%", class_=name) for name, x in lines]
    return tag("svg", *parts, class_="plot strip", role="img", aria_label=label)


def cells(values: Sequence[int], *, borders: Sequence[int] = (), label: str) -> Markup:
    """A row of cells, one per value: 0 is empty, 1 to 9 a shade; `borders` are the cells that something starts with."""
    paths: dict[int, str] = {}
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            paths[values[start]] = paths.get(values[start], "") + f"M{start} 0h{i - start}v1h{start - i}z"
            start = i
    shades = [tag("path", d=path, class_=f"h{value}") for value, path in sorted(paths.items()) if value]
    ticks = tag("path", d="".join(f"M{i} 0v1" for i in borders), class_="border")
    picture = _stretched(len(values), *shades, ticks)
    return tag("svg", picture, class_="plot strip", role="img", aria_label=label, data_length=len(values))


def profile(values: Sequence[float | None], *, band: tuple[float, float], label: str) -> Markup:
    """A step per position, 0 to 1 high, before a band of heights; None: decided, a bar in grey."""
    seen = [(i, value) for i, value in enumerate(values) if value is not None]
    decided = "".join(f"M{i} 1v-1h1V1z" for i, value in enumerate(values) if value is None)
    area = "".join(f"M{i} 1v{-value:.3f}h1V1z" for i, value in seen)
    steps = "".join(f"M{i} {1 - value:.3f}h1" for i, value in seen)
    edges = [(edge, f"{100 * (1 - edge):.0f}%") for edge in band]
    parts = [
        tag("rect", x="0", width="100%", y=edges[1][1], height=f"{100 * (band[1] - band[0]):.0f}%", class_="band"),
        _stretched(
            len(values),
            tag("path", d=decided, class_="decided"),
            tag("path", d=area, class_="area"),
            tag("path", d=steps, class_="steps"),
        ),
        *(tag("line", x1="0", x2="100%", y1=y, y2=y, class_="edge") for _, y in edges),
        *(tag("text", number(edge), x="-5", y=y, dy="4", class_="name end muted") for edge, y in edges),
    ]
    return tag("svg", *parts, class_="plot strip high", role="img", aria_label=label)


def axis(xs: Scale) -> Markup:
    """Tick labels for the strips above."""
    return tag("svg", *_x_axis(xs), class_="plot axis", aria_hidden="true")


def _stretched(width: int, *parts: Markup) -> Markup:
    box = {"viewBox": f"0 0 {max(1, width)} 1", "preserveAspectRatio": "none"}
    return tag("svg", *parts, width="100%", height="100%", **box)
