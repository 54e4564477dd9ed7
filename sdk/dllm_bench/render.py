"""What a comparison says, and its forms. Knows numbers, not how they arose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from dllm_bench.results import Comparison, Row
from dllm_bench.sheet import Sheet, Table, counted, percent


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


def sheet(comparison: Comparison) -> Sheet:
    """A table of all tasks, and for a terminal the breakdown by task."""
    columns = columns_of(comparison)
    rows = [(row.scheduler, [show(row) for _, show in columns]) for row in comparison.rows]
    pooled = Table("scheduler", [title for title, _ in columns], rows, of_specs=True)
    return Sheet(
        title(comparison), [pooled], remarks(comparison), definitions(comparison), details=_by_task(comparison)
    )


def _by_task(comparison: Comparison) -> list[Table]:
    """Accuracy (or agreement) and NFE of every task, a few tasks per table; nothing for one task."""
    tasks = list(comparison.tasks.items())
    if len(tasks) < 2:
        return []
    scored = any(row.accuracy is not None for row in comparison.rows)
    parts = []
    for at in range(0, len(tasks), 5):
        chunk = tasks[at : at + 5]
        rows = [
            (row.scheduler, [_cell(of_task[i], scored) for _, of_task in chunk])
            for i, row in enumerate(comparison.rows)
        ]
        parts.append(Table("accuracy, NFE" if scored else "agree, NFE", [_short(name) for name, _ in chunk], rows))
    return parts


def _short(task: str) -> str:
    """A task's name or the last part of its path, in the width of a cell."""
    name = task.rpartition("/")[2] or task
    return name if len(name) <= 12 else f"{name[:5]}..{name[-5:]}"


def _cell(row: Row, scored: bool) -> str:
    quality = row.accuracy if scored else row.agreement
    return f"{percent(quality):>5} {row.nfe:6.1f}"


def records(comparison: Comparison, *, flat: bool) -> list[dict[str, Any]]:
    """The pooled rows."""
    return [asdict(row) for row in comparison.rows]
