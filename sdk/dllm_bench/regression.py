"""`diff`: two results files of one model on the same prompts, row by row; is the second one worse than allowed?

Knows what was measured, not how. Reads no model and no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any, TypeAlias

from dllm_bench.metrics import difference, summarise
from dllm_bench.reading import read_results
from dllm_bench.results import Comparison, Difference, Entrant, Outcome, Result, Row
from dllm_bench.sheet import counted
from dllm_sdk.errors import ConfigError
from dllm_sdk.registry import available

Prompt: TypeAlias = tuple[str, int]  # task, number

_MUST_AGREE = ("gen_length", "temperature")
_MACHINE = ("dllm_sdk", "torch", "python", "platform", "device", "device_name", "threads")
_MAY_DIFFER = (*_MACHINE, "dtype", "backend", "batch_size", "seed")
_TOLD = re.compile(r"^(\w+) [0-9a-f]{16}$")  # a tensor or module, as `describe` writes it
_EXACT = 1e-9  # a loss of just what is allowed is allowed


@dataclass(frozen=True)
class Change:
    """A row of A and the row of B with the same configuration, over the prompts of both files.

    Speed and padding are those of all their prompts, since a batch is decoded as a whole.
    """

    a: Row
    b: Row
    difference: Difference  # B minus A
    worse: Sequence[str]  # what went beyond its bound, in words


@dataclass(frozen=True)
class Diff(Result):
    """What changed from A to B."""

    forms = "dllm_bench.render_diff"
    changes: Sequence[Change]
    settings: Mapping[str, tuple[Any, Any]] = field(repr=False)  # what else differs: name -> (A's, B's)
    notes: Sequence[str] = field(repr=False)
    title: str = field(repr=False)

    @property
    def worse(self) -> list[str]:
        """Everything that went beyond its bound, in words; empty: B passes."""
        return [what for change in self.changes for what in change.worse]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"worse": self.worse}


def diff(
    a: str | Path | Comparison,
    b: str | Path | Comparison,
    *,
    max_accuracy_loss: float = 0.0,
    max_nfe_increase: float = 0.0,
) -> Diff:
    """What changed from A to B, each a results.jsonl, a folder with one, or a comparison.

    Rows are matched by scheduler class, its fields and cache, whatever they were called, and compared on the prompts of
    both files, paired. A row is worse if its accuracy fell by more than `max_accuracy_loss` percentage points or its
    forward passes per prompt rose by more than `max_nfe_increase` percent, as measured on these prompts; the intervals
    say what other prompts might show. Machine, versions, dtype, backend, batch size and seed may differ, and are
    listed.

    Raises ConfigError if a file cannot be read, if model, tasks, gen_length or temperature differ, if the files share
    no prompt, or if a row of A is missing from B.
    """
    bounds = {"max_accuracy_loss": max_accuracy_loss, "max_nfe_increase": max_nfe_increase}
    for name, value in bounds.items():
        if not isinstance(value, int | float) or isnan(value) or value < 0:
            raise ConfigError(f"{name} must be a number >= 0, got {value!r}")
    before, after = (one if isinstance(one, Comparison) else read_results(one) for one in (a, b))
    _check_comparable(before, after)
    shared = _shared(before, after)
    pairs = _matched(before, after)
    changes = [_change(_only(before, x, shared), _only(after, y, shared), bounds) for x, y in pairs]
    notes = [*_notes(before, after, pairs, len(shared)), *dict.fromkeys(filter(None, map(_unknown, changes)))]
    return Diff(
        changes=changes,
        settings={
            name: (before.environment.get(name), after.environment.get(name))
            for name in _MAY_DIFFER
            if before.environment.get(name) != after.environment.get(name)
        },
        notes=notes,
        title=f"{after.environment.get('model')} on {counted(len(shared), 'prompt')} of {', '.join(after.tasks)}",
    )


def _notes(before: Comparison, after: Comparison, pairs: Sequence[tuple[Row, Row]], n: int) -> list[str]:
    """What a reader should know of the two runs, which share n prompts."""
    matched = {id(row) for _, row in pairs}
    new = [row.scheduler for row in after.rows if id(row) not in matched]
    notes = [f"A: {note}" for note in before.notes] + [f"B: {note}" for note in after.notes]
    if _known_by_name(before, after):
        notes.append("Weights of another dtype have another digest: here the model goes by its name.")
    if any(row.n != n for row in (*before.rows, *after.rows)):
        sizes = f"A has {before.rows[0].n}, B {after.rows[0].n}"
        notes.append(f"Compared on {counted(n, 'prompt')} that both files have: {sizes}.")
    if new:
        notes.append(f"Only in B: {', '.join(new)}.")
    if other := [y.scheduler for x, y in pairs if not _same(x, y)]:
        notes.append(f"With other numbers in their tables or heads: {', '.join(other)}.")
    return notes


def _check_comparable(a: Comparison, b: Comparison) -> None:
    """Refuse two runs whose numbers are about different things."""
    if set(a.tasks) != set(b.tasks):
        tasks = f"{', '.join(sorted(a.tasks))} in A, {', '.join(sorted(b.tasks))} in B"
        raise ConfigError(f"A and B cannot be compared, they ran other tasks: {tasks}")
    if _known_by_name(a, b):
        identity: tuple[str, ...] = ("model",)
    else:
        identity = ("model_sha256",) if a.environment.get("model_sha256") else ("model_sha256", "model")
    for name in (*identity, *_MUST_AGREE):
        one, two = a.environment.get(name), b.environment.get(name)
        if one != two:
            raise ConfigError(f"A and B cannot be compared, {name} differs: {_short(one)} in A, {_short(two)} in B")


def _known_by_name(a: Comparison, b: Comparison) -> bool:
    """Whether a name must do: in another dtype the same weights have another digest. A class's name would not."""
    name = str(a.environment.get("model"))
    return a.environment.get("dtype") != b.environment.get("dtype") and (":" in name or name in available("model"))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:17]}..."


def _shared(a: Comparison, b: Comparison) -> set[Prompt]:
    """The prompts that have the same number and text in both."""
    shared = {
        (task, number)
        for task, prompts in a.prompts.items()
        for number, text in prompts.items()
        if b.prompts.get(task, {}).get(number) == text
    }
    shared &= {(one.task, one.prompt) for one in a.outcomes} & {(one.task, one.prompt) for one in b.outcomes}
    if not shared:
        raise ConfigError("A and B share no prompt: run both with the same --seed")
    return shared


def _matched(a: Comparison, b: Comparison) -> list[tuple[Row, Row]]:
    """Rows with the same configuration, equal ones in their order; then those whose heads were trained anew."""
    left, found = list(b.rows), dict[int, Row]()
    for same in (_same, _same_but_for_numbers):
        for i, row in enumerate(a.rows):
            matches = [one for one in left if i not in found and same(row, one)]
            if matches:
                found[i] = matches[0]
                left.remove(matches[0])
    for i, row in enumerate(a.rows):
        if i not in found:
            names = ", ".join(one.scheduler + _others(row, one) for one in b.rows)
            raise ConfigError(
                f"B has no row with the class, fields and cache of {row.scheduler} in A, only {names}: "
                "run B with the schedulers of A"
            )
    return [(row, found[i]) for i, row in enumerate(a.rows)]


def _others(a: Row, b: Row) -> str:
    """The fields of b that are others than those of a, in brackets, if only these and few are."""
    names = [name for name in {**a.fields, **b.fields} if a.fields.get(name) != b.fields.get(name)]
    if not names or len(names) > 3 or not _same(replace(a, fields=b.fields), b):
        return ""
    told = (f"{name} {_short(a.fields.get(name))} in A, {_short(b.fields.get(name))} in B" for name in names)
    return f" ({'; '.join(told)})"


def _same(a: Row, b: Row) -> bool:
    return (a.family, a.fields, a.cache) == (b.family, b.fields, b.cache)


def _same_but_for_numbers(a: Row, b: Row) -> bool:
    """Whether they differ in what tensors and modules hold alone."""
    return _same(replace(a, fields=_without_numbers(a.fields)), replace(b, fields=_without_numbers(b.fields)))


def _without_numbers(value: Any) -> Any:
    """Fields with the type in place of a digest."""
    if isinstance(value, Mapping):
        return {name: _without_numbers(one) for name, one in value.items()}
    return _TOLD.sub(r"\1", value) if isinstance(value, str) else value


def _only(comparison: Comparison, row: Row, shared: set[Prompt]) -> tuple[Row, list[Outcome]]:
    """A row over some prompts, and their outcomes."""
    mine = [one for one in comparison.outcomes if one.scheduler == row.scheduler]
    outcomes = [one for one in mine if (one.task, one.prompt) in shared]
    entrant = Entrant(row.scheduler, row.family, row.fields, row.cache, row.scheduler)
    whole = {name: getattr(row, name) for name in ("tokens_per_second", "padding_efficiency")}
    return replace(summarise(entrant, outcomes), **whole), outcomes


def _change(a: tuple[Row, list[Outcome]], b: tuple[Row, list[Outcome]], bounds: Mapping[str, float]) -> Change:
    name = b[0].scheduler
    found = replace(difference(a[1], b[1]), scheduler=f"{name} in B", baseline="A")
    worse = []
    loss, allowed = -100 * (found.accuracy or 0.0), bounds["max_accuracy_loss"]
    if loss > allowed + _EXACT:
        worse.append(f"{name}: accuracy fell by {_beyond(loss, allowed)} points, {allowed:.12g} allowed")
    rise, allowed = 100 * found.nfe / a[0].nfe, bounds["max_nfe_increase"]
    if rise > allowed + _EXACT:
        worse.append(f"{name}: forward passes rose by {_beyond(rise, allowed)} %, {allowed:.12g} % allowed")
    return Change(a[0], b[0], found, worse)


def _unknown(change: Change) -> str:
    """What to say where a file knows answers that the other one does not."""
    known, a, b = change.difference.n_scored, change.a.n_scored, change.b.n_scored
    if known == a == b:
        return ""
    return f"Accuracies are compared where both files know the answer: A knows {a}, B {b}, both {known}."


def _beyond(value: float, allowed: float) -> str:
    """A number above what is allowed, with as few digits behind the point as show that it is."""
    return next(f"{value:.{digits}f}" for digits in range(1, 11) if round(value, digits) > allowed)
