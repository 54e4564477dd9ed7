"""The forms of a comparison: one function per format, each `Comparison -> text`. Knows numbers, not how they arose."""

from __future__ import annotations

import csv as csv_module
import io
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from dllm_bench.results import Comparison, Row

WIDTH = 100
_GAP = "  "
_NARROWEST_NAME = 16  # a longer spec is broken over lines

Style = Callable[[str], str]


def counted(number: int, what: str, plural: str = "") -> str:
    """1 prompt, 2 prompts."""
    return f"{number} {what if number == 1 else plural or what + 's'}"


def percent(share: float | None) -> str:
    """A share with one digit, without its sign; - for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        return "-"
    return f"{percent(row.accuracy)} [{percent(row.accuracy_low)}, {percent(row.accuracy_high)}]"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


_Column = tuple[str, Callable[[Row], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("n", lambda row: f"{row.n}"),
    ("accuracy [95 %]", _accuracy),
    ("answer", lambda row: percent(row.answer_accuracy)),
    ("agree", lambda row: percent(row.agreement)),
    ("NFE", lambda row: f"{row.nfe:.1f}"),
    ("fed", lambda row: f"{row.fed:,.0f}"),
    ("TPF", lambda row: f"{row.tpf:.2f}"),
    ("tokens/s", lambda row: f"{row.tokens_per_second:,.0f}"),
    ("p50 s", lambda row: _seconds(row.latency_p50_s)),
    ("p95 s", lambda row: _seconds(row.latency_p95_s)),
)


def columns_of(comparison: Comparison) -> list[_Column]:
    """Those that say something: accuracy if there are answers; agreement if not, or to show how far a cache drifts."""
    hidden = set()
    caches = {row.cache for row in comparison.rows}
    if all(row.accuracy is None for row in comparison.rows):
        hidden |= {"accuracy [95 %]", "answer"}
    if all(row.n_scored == row.n for row in comparison.rows) and len(caches) == 1:
        hidden |= {"agree"}
    if caches == {"none"}:
        hidden |= {"fed"}
    else:
        hidden |= {"p50 s"}
    return [column for column in _COLUMNS if column[0] not in hidden]


def title(comparison: Comparison) -> str:
    """What ran on what, in a line."""
    about: Mapping[str, Any] = comparison.environment
    names, tasks = ", ".join(comparison.tasks), f"{len(comparison.tasks)} tasks"
    temperature = f", temperature {about['temperature']:g}" if about.get("temperature") else ""
    threads = counted(about.get("threads", 0), "thread")
    dtype = f"{about['dtype']}, " if about.get("dtype") else ""
    parts = (
        f"{about.get('model')} on {counted(comparison.rows[0].n, 'prompt')} of {names if len(names) < 60 else tasks}",
        f"{about.get('device')}, {threads}, {dtype}batches of up to {about.get('batch_size')}, "
        f"seed {about.get('seed')}{temperature}",
    )
    return "; ".join(parts)


def definitions(comparison: Comparison) -> list[str]:
    """What the columns mean."""
    shown = {head for head, _ in columns_of(comparison)}
    lines = []
    if "answer" in shown:
        lines.append(
            "accuracy: % of prompts with every line right, and its 95 % Wilson interval; "
            "answer: % with the final answer right."
        )
    if "agree" in shown:
        several = len({row.cache for row in comparison.rows}) > 1
        other = (
            f"of the same scheduler with cache {comparison.rows[0].cache}" if several else comparison.rows[0].scheduler
        )
        lines.append(f"agree: % of tokens that are the same as those {'' if several else 'of '}{other}.")
    fed = "fed: positions computed per prompt; " if "fed" in shown else ""
    latency = "p50, p95: latency" if "p50 s" in shown else "p95: latency"
    lines.append(
        f"NFE: forward passes per prompt; {fed}TPF: tokens per forward pass, counting tokens up to EOS but every pass; "
        f"{latency} of a prompt within its batch."
    )
    return lines


def remarks(comparison: Comparison) -> list[str]:
    """What the numbers say, and what to know about the run."""
    said = (one.sentence() for one in comparison.differences)
    areas = (
        f"AUP of {one.family}{'' if one.cache == 'none' else f', {one.cache}'} over "
        f"{counted(len(one.schedulers), 'setting')}: {one.aup:.0f} "
        "(area under accuracy in % against tokens per forward pass)."
        for one in comparison.aup
    )
    return [*filter(None, said), *areas, *comparison.notes]


def table(comparison: Comparison, *, heading: Style = str, note: Style = str, rule: str = "-") -> str:
    """Aligned columns, at most 100 wide, with the breakdown by task and what it all means below."""
    columns = columns_of(comparison)
    names = [row.scheduler for row in comparison.rows]
    cells = [[show(row) for _, show in columns] for row in comparison.rows]
    lines = [*wrap(title(comparison)), ""]
    lines += grid("scheduler", names, [title for title, _ in columns], cells, heading=heading, rule=rule)
    for part in _by_task(comparison):
        lines += ["", *grid(*part, heading=heading, rule=rule)]
    lines.append("")
    for text in remarks(comparison):
        lines += wrap(text)
    for text in definitions(comparison):
        lines += [note(line) for line in wrap(text)]
    return "\n".join(lines)


def wrap(text: str) -> list[str]:
    """A sentence in lines of the page's width."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _by_task(comparison: Comparison) -> list[tuple[str, list[str], list[str], list[list[str]]]]:
    """Accuracy (or agreement) and NFE of every task, a few tasks per grid; nothing for one task."""
    tasks = list(comparison.tasks.items())
    if len(tasks) < 2:
        return []
    scored = any(row.accuracy is not None for row in comparison.rows)
    corner = "accuracy, NFE" if scored else "agree, NFE"
    parts = []
    for at in range(0, len(tasks), 5):
        chunk = tasks[at : at + 5]
        cells = [[_cell(rows[i], scored) for _, rows in chunk] for i in range(len(comparison.rows))]
        titles = [_short(name) for name, _ in chunk]
        parts.append((corner, [row.scheduler for row in comparison.rows], titles, cells))
    return parts


def _short(task: str) -> str:
    """A task's name or the last part of its path, in the width of a cell."""
    name = task.rpartition("/")[2] or task
    return name if len(name) <= 12 else f"{name[:5]}..{name[-5:]}"


def _cell(row: Row, scored: bool) -> str:
    quality = row.accuracy if scored else row.agreement
    return f"{percent(quality):>5} {row.nfe:6.1f}"


def grid(
    corner: str,
    names: Sequence[str],
    titles: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    heading: Style,
    rule: str,
) -> list[str]:
    """Names to the left, numbers to the right; a name too long for the page goes over several lines."""
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    room = max(_NARROWEST_NAME, WIDTH - sum(widths) - len(_GAP) * len(widths))
    wrapped = [_break(name, room) for name in names]
    width = max(len(corner), *(len(part) for parts in wrapped for part in parts))

    def line(first: str, rest: Sequence[str]) -> str:
        return _GAP.join([f"{first:<{width}}", *(f"{cell:>{w}}" for cell, w in zip(rest, widths, strict=True))])

    head = line(corner, titles)
    lines = [heading(head), rule * len(head)]
    for parts, row in zip(wrapped, cells, strict=True):
        lines += [line(parts[0], row), *parts[1:]]
    return lines


def _break(name: str, width: int) -> list[str]:
    """A spec in pieces of at most `width`, cut behind its separators where that works."""
    lines = [""]
    for piece in re.findall(r"[^:,+/]*[:,+/]?", name):
        if len(lines[-1]) + len(piece) > width and lines[-1].strip():
            lines.append("  ")
        lines[-1] += piece
        while len(lines[-1]) > width:  # one piece alone is too long
            lines[-1:] = [lines[-1][:width], "  " + lines[-1][width:]]
    return lines


def md(comparison: Comparison) -> str:
    """A pipe table with its notes below, as it goes into an issue or a notebook."""
    columns = columns_of(comparison)
    rows = [[code(row.scheduler), *(show(row) for _, show in columns)] for row in comparison.rows]
    lines = [f"{title(comparison)}\n", *pipe_table(["scheduler", *(title for title, _ in columns)], rows), ""]
    return "\n".join([*lines, *(f"- {text}" for text in [*remarks(comparison), *definitions(comparison)])])


def pipe_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, the first column to the left and numbers to the right."""
    rule = ["---", *("---:" for _ in titles[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (titles, rule, *rows)]


def code(name: str) -> str:
    """A name in a cell of a pipe table."""
    plain = name.replace("|", "\\|").replace("`", "'")
    return f"`{plain}`"


def jsonl(comparison: Comparison) -> str:
    """One pooled row per line."""
    return json_lines(asdict(row) for row in comparison.rows)


def csv(comparison: Comparison) -> str:
    """One pooled row per line; the scheduler's fields as JSON in one cell."""
    names = [item.name for item in fields(Row)]  # they stand there even if a sweep has no row
    return csv_lines([asdict(row) for row in comparison.rows], names)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON object per row and line."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def csv_lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """A head and a line per row; columns: `names`, then all that a row has, as they appear.

    A dict or list is JSON in one cell; what a row does not have is empty.
    """
    columns = dict.fromkeys([*names, *(name for row in rows for name in row)])
    out = io.StringIO()
    writer = csv_module.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
