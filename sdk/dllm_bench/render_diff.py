"""What a diff says, and its forms. Knows numbers, not how they arose."""

from __future__ import annotations

from typing import Any

from dllm_bench.regression import Change, Diff
from dllm_bench.sheet import Sheet, Table, percent

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


def sheet(diff: Diff) -> Sheet:
    """What the numbers say, what else differs, and the verdict."""
    rows = [(change.b.scheduler, _cells(change)) for change in diff.changes]
    found = [change.difference for change in diff.changes]
    said = [one.sentence() for one in found if one.only_scheduler or one.only_baseline]
    differs = [f"{name}: {a} in A, {b} in B." for name, (a, b) in diff.settings.items()]
    verdict = [f"Worse than allowed: {what}." for what in diff.worse] or ["No row is worse than allowed."]
    table = Table("scheduler", _TITLES, rows, of_specs=True)
    return Sheet(diff.title, [table], [*said, *differs, *diff.notes, *verdict], [_MEANING])


def records(diff: Diff, *, flat: bool) -> list[dict[str, Any]]:
    """The rows of B; the scheduler's fields and what is worse are not flat."""
    return [_flat(change) for change in diff.changes]


def _flat(change: Change) -> dict[str, Any]:
    """A change in one level: A's value, B's, and B minus A with its interval."""
    row: dict[str, Any] = {name: getattr(change.b, name) for name in ("scheduler", "family", "cache", "fields")}
    row |= {name: getattr(change.difference, name) for name in ("n", "n_scored", "p_value", "prompts_needed")}
    for name in ("accuracy", "nfe", "tpf"):
        row |= {f"{name}_a": getattr(change.a, name), f"{name}_b": getattr(change.b, name)}
        ends = {"difference": "", "low": "_low", "high": "_high"}
        row |= {f"{name}_{end}": getattr(change.difference, name + suffix) for end, suffix in ends.items()}
    return row | {"worse": list(change.worse)}
