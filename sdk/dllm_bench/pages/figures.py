"""The figures of the report: from a comparison to charts, each with its message in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dllm_bench.metrics import front
from dllm_bench.pages import charts
from dllm_bench.pages.markup import Markup, tag
from dllm_bench.results import Comparison, Outcome, Recording
from dllm_bench.sheet import counted

BAND = (0.1, 0.8)
"""Confidences that move from step to step: AdaBlock's volatility band (arXiv:2509.26432, section 3)."""
_BINS = 64  # bars of a histogram, at most
_SHADES = 9


class Strip(NamedTuple):
    """A line of a chart: whose it is, its picture, its numbers in words."""

    head: Markup
    picture: Markup
    words: str
    series: int | None = None


def section(title: str, *parts: Markup) -> Markup:
    """A part of the page under a heading."""
    name = title.lower().replace(" ", "-").replace(",", "")
    return tag("section", tag("h2", title, id=name), *parts, aria_labelledby=name)


def table(
    name: str,
    titles: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str | Iterable[Markup]]]],
    *,
    caption: str = "",
    start: int = 0,  # below 0: of none
    class_: str | None = None,
) -> Markup:
    """A table that may be wider than the screen, within reach of the keyboard; the first row is of series `start`."""
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    body = [
        tag("tr", tag("th", first, scope="row"), *map(partial(tag, "td"), cells), data_series=i if i >= 0 else None)
        for i, (first, cells) in enumerate(rows, start)
    ]
    said = tag("caption", tag("span", caption)) if caption else ""  # it stays in sight where the table is scrolled
    whole = tag("table", said, tag("thead", head), tag("tbody", *body), class_=class_)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=f"{name}, a table")


def plane(what: str, points: Sequence[charts.Point], caption: str | Markup, *, unit: str = "%") -> Markup:
    """Quality against forward passes."""
    best = sorted((point for point in points if point.front), key=lambda point: point.x)
    message = ", ".join(f"{point.name} {point.y:.1f} % with {point.x:.1f} passes" for point in best)
    return section(
        f"{what} against forward passes".capitalize(),
        tag("p", charts.HOW_TO_READ),
        tag(
            "figure",
            tag("p", f"{what}, {unit}", class_="title muted"),
            tag("div", charts.scatter(points, label=f"The front: {message}."), class_="frame"),
            tag("p", "forward passes per prompt", class_="title muted right"),
            tag("figcaption", caption),
        ),
    )


def accuracy(comparison: Comparison) -> Markup:
    """Accuracy against forward passes, or agreement where nothing is scored."""
    rows = comparison.rows
    scored = all(row.accuracy is not None for row in rows)
    baseline = "first row" if len({row.cache for row in rows}) == 1 else "first cache"
    quality = [100 * (row.agreement if row.accuracy is None else row.accuracy) for row in rows]
    best = front([-y for y in quality], [row.nfe for row in rows])
    points = [
        charts.Point(
            row.scheduler,
            row.nfe,
            y,
            100 * row.accuracy_low if row.accuracy_low is not None else None,
            100 * row.accuracy_high if row.accuracy_high is not None else None,
            i in best,
        )
        for i, (row, y) in enumerate(zip(rows, quality, strict=True))
    ]
    what = "accuracy" if scored else f"agreement with the {baseline}"
    return plane(what, points, _legend([row.scheduler for row in rows]), unit="% (95 % interval)" if scored else "%")


def _legend(names: Sequence[str]) -> Markup:
    items = (tag("li", charts.named(i, name), data_series=i, class_=charts.colour(i)) for i, name in enumerate(names))
    return tag("ul", *items, class_="legend many" if len(names) > 6 else "legend")


def latency(comparison: Comparison) -> Markup:
    """How long prompts took, scheduler by scheduler."""
    if not comparison.outcomes:
        return Markup()
    xs = charts.scale(0, max(outcome.seconds for outcome in comparison.outcomes))
    strips = []
    for i, row in enumerate(comparison.rows):
        seconds = [outcome.seconds for outcome in _of(comparison, row.scheduler)]
        counts, _ = np.histogram(seconds, bins=_BINS, range=(0, xs.ticks[-1]))
        marks = {"p50": row.latency_p50_s, "p95": row.latency_p95_s, "p99": row.latency_p99_s}
        words = " · ".join(f"{name} {_brief(value)}" for name, value in marks.items())
        lines = [(name, xs.at(value)) for name, value in marks.items()]
        picture = charts.bars((counts / max(counts)).tolist(), lines=lines, label=f"Latency in seconds: {words}")
        strips.append(Strip(charts.named(i, row.scheduler), picture, words, i))
    keys = (
        tag("li", tag("svg", tag("line", x1="7", x2="7", y1="0", y2="14", class_=name), class_="key"), text)
        for name, text in (("p50", "median"), ("p95", "95th percentile"), ("p99", "99th percentile"))
    )
    return section(
        "Latency",
        tag("p", "Seconds from the start of a prompt's batch until it was done; bars count prompts."),
        tag("figure", tag("ul", *keys, class_="legend"), _strips(strips, charts.axis(xs), "seconds")),
    )


def blocks(comparison: Comparison) -> Markup:
    """How long the blocks of each scheduler were."""
    lengths = [[n for one in _of(comparison, row.scheduler) for n in one.blocks] for row in comparison.rows]
    longest = max((n for mine in lengths for n in mine), default=0)
    if not longest:
        return Markup()
    width = -(-longest // _BINS)
    edges = np.arange(0.5, longest + width, width)
    xs = charts.whole(1, int(edges[-1]))
    strips = []
    for i, (row, mine) in enumerate(zip(comparison.rows, lengths, strict=True)):
        if not mine:
            continue
        counts, _ = np.histogram(mine, bins=edges)
        words = f"median {np.median(mine):g} · {len(mine) / row.n:.1f} per prompt"
        picture = charts.bars((counts / max(counts)).tolist(), label=f"Block lengths: {words}")
        strips.append(Strip(charts.named(i, row.scheduler), picture, words, i))
    return section(
        "Block lengths",
        tag("p", "How many masked positions a block had when it was opened; bars count blocks."),
        tag("figure", _strips(strips, charts.axis(xs), "positions")),
    )


def recordings(comparison: Comparison) -> Markup:
    """A prompt of each task, position by position."""
    tasks = dict.fromkeys(one.task for one in comparison.recordings)
    if not tasks:
        return Markup()
    parts = [
        _recorded(comparison, [one for one in comparison.recordings if one.task == task], is_open=i == 0)
        for i, task in enumerate(tasks)
    ]
    shades = (tag("i", class_=f"h{shade}") for shade in range(1, _SHADES + 1))
    key = tag(
        "p", "first pass ", tag("span", *shades, class_="shades", aria_hidden="true"), " last pass", class_="muted"
    )
    return section(
        "Step by step",
        tag(
            "p",
            "The first prompt of a task. Shades: in which of its passes a row decided a position; gaps: a block ends.",
        ),
        key,
        *parts,
    )


def _recorded(comparison: Comparison, mine: Sequence[Recording], *, is_open: bool) -> Markup:
    """One prompt: who decided what when, how sure the model was, what came out."""
    first = mine[0]
    prompt = comparison.prompts.get(first.task, {}).get(first.prompt, "")
    length = max((i + 1 for one in mine for i, step in enumerate(one.order) if step), default=1)
    series = [[row.scheduler for row in comparison.rows].index(one.scheduler) for one in mine]
    xs = charts.whole(0, length - 1)
    order = [
        Strip(charts.named(i, one.scheduler), _order(one, length), _passes(one), i)
        for i, one in zip(series, mine, strict=True)
    ]
    parts = [
        tag("h3", "Order of decisions"),
        tag("figure", _strips(order, charts.axis(xs), "position"), class_="order"),
        tag("p", class_="readout muted", role="status"),
    ]
    if first.snapshots:
        parts += [
            tag("h3", "Confidence"),
            tag(
                "p",
                f"How sure the model is of every position while {first.scheduler} decodes: decided positions in "
                f"grey; between the lines the band from {BAND[0]} to {BAND[1]}.",
            ),
            tag("figure", _strips(_snapshots(first, length), charts.axis(xs), "position")),
        ]
    answers = (tag("li", charts.named(i, one.scheduler), _answer(one)) for i, one in zip(series, mine, strict=True))
    return tag(
        "details",
        tag("summary", tag("b", first.task), " ", tag("bdi", _short(prompt), class_="mono")),
        *([] if prompt.strip() == _short(prompt) else [tag("pre", tag("bdi", prompt))]),
        *parts,
        tag("h3", "Answers"),
        tag("ul", *answers, class_="answers"),
        open=is_open,
        class_="prompt",
    )


def _order(one: Recording, length: int) -> Markup:
    order, block = one.order[:length], one.block[:length]
    starts = [i for i in range(1, length) if block[i] not in (0, block[i - 1])]
    neighbours = [(a, b) for a, b in pairwise(order) if a and b]
    rising = sum(a <= b for a, b in neighbours) / max(1, len(neighbours))
    blocks = len({number for number in block if number})
    share = f"{100 * rising:.0f} % of neighbours from left to right or together"
    label = f"{_passes(one)}, {counted(blocks, 'block')}; {share}"
    return charts.cells([_shade(step, one.passes) for step in order], borders=starts, label=label)


def _passes(one: Recording) -> str:
    return counted(one.passes, "pass", "passes")


def _shade(step: int, passes: int) -> int:
    return step and 1 + (_SHADES - 1) * (step - 1) // max(1, passes - 1)


def _snapshots(one: Recording, length: int) -> list[Strip]:
    strips = []
    for snapshot in one.snapshots:
        values = snapshot.confidence[:length]
        inside = sum(value is not None and BAND[0] <= value <= BAND[1] for value in values)
        head = tag("span", f"{100 * snapshot.decided:.0f} % decided")
        words = f"{inside} in the band"
        strips.append(Strip(head, charts.profile(values, band=BAND, label=f"Confidence: {words}"), words))
    return strips


def _answer(one: Recording) -> Markup:
    """The text, each token underlined in the shade of its pass; of the EOS tokens that fill it up only the first."""
    tokens = []
    for at, (text, step, sure) in enumerate(zip(one.tokens, one.order, one.confidence, strict=True)):
        if step and (text or not at or one.tokens[at - 1]):
            shown = text.replace("\n", "↵\n") or "∎"
            title = f"pass {step}, {100 * sure:.0f} % sure"
            tokens.append(tag("bdi", shown, class_=f"h{_shade(step, one.passes)}", title=title, data_at=at))
    return tag("p", *tokens, class_="answer mono")


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _strips(strips: Sequence[Strip], axis: Markup, unit: str) -> Markup:
    """Strips below each other over one axis."""
    lines = [
        tag(
            "li",
            tag("span", one.head, class_="head"),
            one.picture,
            tag("span", one.words, class_="words muted"),
            data_series=one.series,
            class_=None if one.series is None else charts.colour(one.series),
        )
        for one in strips
    ]
    foot = tag("li", tag("span"), axis, tag("span", unit, class_="words muted"), class_="foot", aria_hidden="true")
    return tag("ul", *lines, foot, class_="strips")


def _brief(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 0.1 else f"{seconds:.3g}"


def _of(comparison: Comparison, scheduler: str) -> list[Outcome]:
    return [outcome for outcome in comparison.outcomes if outcome.scheduler == scheduler]
