"""The forms of a diff: one function per format, each `Diff -> text`. Knows numbers, not how they arose."""

from __future__ import annotations

from typing import Any

from dllm_bench.regression import Change, Diff
from dllm_bench.render import Style, code, csv_lines, grid, json_lines, percent, pipe_table, wrap

_TITLES = ["n", "accuracy A", "B", "B - A [95 %]", "NFE A", "B", "B - A [95 %]"]
_MEANING = (
    "accuracy: % of prompts with every line right; NFE: forward passes per prompt; "
    "B - A: on the same prompts, with its 95 % paired bootstrap interval."
)


def _cells(change: Change) -> list[str]:
    found = change.difference
    accuracy = "-"
    if found.accuracy is not None and found.accuracy_low is not None and found.accuracy_high is not None:
        accuracy = _interval(*(100 * value for value in (found.accuracy, found.accuracy_low, found.accuracy_high)))
    return [
        str(found.n),
        percent(change.a.accuracy),
        percent(change.b.accuracy),
        accuracy,
        f"{change.a.nfe:.1f}",
        f"{change.b.nfe:.1f}",
        _interval(found.nfe, found.nfe_low, found.nfe_high),
    ]


def _interval(value: float, low: float, high: float) -> str:
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no -0.0


def remarks(diff: Diff) -> list[str]:
    """What the numbers say, what else differs, and the verdict."""
    found = [change.difference for change in diff.changes]
    said = [one.sentence() for one in found if one.only_scheduler or one.only_baseline]
    differs = [f"{name}: {a} in A, {b} in B." for name, (a, b) in diff.settings.items()]
    verdict = [f"Worse than allowed: {what}." for what in diff.worse] or ["No row is worse than allowed."]
    return [*said, *differs, *diff.notes, *verdict]


def table(diff: Diff, *, heading: Style = str, note: Style = str, rule: str = "-") -> str:
    """Aligned columns, at most 100 wide, with what it all means below."""
    names = [change.b.scheduler for change in diff.changes]
    cells = [_cells(change) for change in diff.changes]
    lines = [*wrap(diff.title), "", *grid("scheduler", names, _TITLES, cells, heading=heading, rule=rule), ""]
    for text in remarks(diff):
        lines += wrap(text)
    return "\n".join([*lines, *(note(line) for line in wrap(_MEANING))])


def md(diff: Diff) -> str:
    """A pipe table with its notes below, as it goes into a pull request."""
    rows = [[code(change.b.scheduler), *_cells(change)] for change in diff.changes]
    lines = [f"{diff.title}\n", *pipe_table(["scheduler", *_TITLES], rows), ""]
    return "\n".join([*lines, *(f"- {text}" for text in [*remarks(diff), _MEANING])])


def jsonl(diff: Diff) -> str:
    """One row per line."""
    return json_lines(map(_flat, diff.changes))


def csv(diff: Diff) -> str:
    """One row per line; the scheduler's fields and what is worse as JSON in one cell."""
    return csv_lines([_flat(change) for change in diff.changes])


def _flat(change: Change) -> dict[str, Any]:
    """A change in one level: A's value, B's, and B minus A with its interval."""
    row: dict[str, Any] = {name: getattr(change.b, name) for name in ("scheduler", "family", "cache", "fields")}
    row |= {name: getattr(change.difference, name) for name in ("n", "n_scored", "p_value", "prompts_needed")}
    for name in ("accuracy", "nfe", "tpf"):
        row |= {f"{name}_a": getattr(change.a, name), f"{name}_b": getattr(change.b, name)}
        ends = {"difference": "", "low": "_low", "high": "_high"}
        row |= {f"{name}_{end}": getattr(change.difference, name + suffix) for end, suffix in ends.items()}
    return row | {"worse": list(change.worse)}
