"""The report of a comparison: one page, from the verdict down to the definitions.

Reads a comparison and writes markup; every number in it was computed elsewhere. The page works without its script,
which sorts the table and shows who is who.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_bench import render
from dllm_bench.journal import NAME as RESULTS
from dllm_bench.journal import Unwritable
from dllm_bench.pages import charts, figures
from dllm_bench.pages.markup import Markup, join, tag
from dllm_bench.pages.shell import page
from dllm_bench.results import Comparison, Row
from dllm_bench.sheet import counted, percent
from dllm_sdk.errors import ConfigError
from dllm_sdk.writing import write_whole

NAME = "report.html"


def report(comparison: Comparison) -> str:
    """The page, as text."""
    title = render.title(comparison)
    main = tag(
        "main",
        tag("header", tag("h1", "Decoding strategies compared"), tag("p", title, class_="muted")),
        _verdict(comparison),
        _table(comparison),
        figures.accuracy(comparison),
        figures.latency(comparison),
        figures.blocks(comparison),
        figures.recordings(comparison),
        _tasks(comparison),
        _environment(comparison.environment),
        _definitions(comparison),
    )
    return page(f"dllm-bench: {title}", main, name="report")


def free_path(folder: str | Path | None) -> Path | None:
    """Where the report of that folder goes; ConfigError if one is there that results do not protect already."""
    path = None if folder is None else Path(folder) / NAME
    if path is not None and os.path.exists(path) and not path.with_name(RESULTS).exists():
        raise ConfigError(f"output {path} exists: give another folder, or remove it first")
    return path


def save(comparison: Comparison, path: Path) -> None:
    """Write the report, all of it or nothing. Raises Unwritable."""
    try:
        write_whole(path, report(comparison))
    except OSError as error:
        raise Unwritable(f"{path} cannot be written: {error.strerror}; what was measured is kept beside it") from error


def _verdict(comparison: Comparison) -> Markup:
    """What the cheapest scheduler costs, and how accurate it and the best one are; the rest on demand."""
    rows = comparison.rows
    cheapest, best = min(rows, key=lambda row: row.nfe), max(rows, key=lambda row: row.accuracy or 0)
    told = {one.scheduler: one.sentence() for one in comparison.differences}
    said = [told[name] for name in dict.fromkeys([cheapest.scheduler, best.scheduler]) if told.get(name)]
    rest = [text for text in render.remarks(comparison) if text not in said]
    return tag(
        "section",
        tag("h2", "Verdict", id="verdict"),
        *(tag("p", text) for text in [_cost(rows[0], cheapest), *said]),
        _more(counted(len(rest), "more remark"), rest),
        class_="verdict",
        aria_labelledby="verdict",
    )


def _cost(first: Row, cheapest: Row) -> str:
    if cheapest is first:
        return f"{first.scheduler} needs {first.nfe:.1f} forward passes per prompt; no other row needs fewer."
    times = f"{first.nfe / cheapest.nfe:.1f} times as many"
    return (
        f"{cheapest.scheduler} needs {cheapest.nfe:.1f} forward passes per prompt; "
        f"{first.scheduler} needs {first.nfe:.1f}, {times}."
    )


def _more(summary: str, texts: Sequence[str]) -> Markup:
    items = tag("ul", *(tag("li", text) for text in texts))
    return tag("details", tag("summary", summary), items) if texts else Markup()


def _table(comparison: Comparison) -> Markup:
    """The table of the command line; a name opens its scheduler's settings."""
    columns = render.columns_of(comparison)
    titles = ["scheduler", *(title for title, _ in columns)]
    rows = [(_settings(i, row), [show(row) for _, show in columns]) for i, row in enumerate(comparison.rows)]
    caption = "A row per scheduler, over all prompts; open a name to see its settings."
    table = figures.table("Schedulers", titles, rows, caption=caption, class_="sortable")
    return figures.section("Schedulers", table, tag("p", class_="unseen", role="status"))


def _settings(series: int, row: Row) -> Markup:
    about = {"class": row.family, "cache": row.cache, **row.fields}
    return tag("details", tag("summary", charts.named(series, row.scheduler)), _list(about))


def _list(about: Mapping[str, Any]) -> Markup:
    pairs = (tag("div", tag("dt", key), tag("dd", _plain(key, it))) for key, it in about.items())
    return tag("dl", *pairs)


def _plain(name: str, value: Any) -> str:
    """A setting as one would write it down."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain('', item)}" for key, item in value.items()) or "none"
    if isinstance(value, int) and name.endswith("bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if isinstance(value, str):
        return value if value.isprintable() and value.strip() else repr(value)
    return f"{value:,}" if isinstance(value, int) and name == "parameters" else str(value)


def _tasks(comparison: Comparison) -> Markup:
    """Quality and cost of every task; nothing for one task."""
    if len(comparison.tasks) < 2:
        return Markup()
    scored = any(row.accuracy is not None for row in comparison.rows)
    rows = [
        (charts.named(i, row.scheduler), [_cell(of_task[i], scored) for of_task in comparison.tasks.values()])
        for i, row in enumerate(comparison.rows)
    ]
    what = "Accuracy" if scored else "Agreement with the baseline"
    caption = f"{what} in %, and below it the forward passes per prompt."
    table = figures.table("By task", ["scheduler", *comparison.tasks], rows, caption=caption, class_="tasks")
    return figures.section("By task", table)


def _cell(row: Row, scored: bool) -> tuple[Markup, Markup]:
    quality = row.accuracy if scored else row.agreement
    return tag("b", percent(quality)), tag("span", f"{row.nfe:.1f}", class_="muted")


def _environment(about: Mapping[str, Any]) -> Markup:
    known = {name: value for name, value in about.items() if value is not None}  # no revision: not from the hub
    return figures.section("Environment", tag("div", _list(known), class_="wide"))


def _definitions(comparison: Comparison) -> Markup:
    texts = [
        *render.definitions(comparison),
        "front: schedulers such that no other is as good in both quality and passes, and better in one; filled signs.",
        "block length: masked positions of a block when it was opened.",
        "confidence: the probability of the likeliest token at a position that is not decided yet.",
        f"band: confidences from {figures.BAND[0]} to {figures.BAND[1]}, which move from step to step; what AdaBlock "
        "calls the volatility band (arXiv:2509.26432).",
    ]
    parts = (text.partition(": ") for text in texts)
    return figures.section("Definitions", tag("ul", *(tag("li", tag("b", a), join(b, c)) for a, b, c in parts)))
