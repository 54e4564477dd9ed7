"""From a sweep.jsonl to a table: the numbers of `compare`, computed anew. Knows no model and no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dllm_bench.metrics import agreement, sum_up
from dllm_bench.reading import make, make_outcome
from dllm_bench.results import Comparison, Entrant, Format, Outcome
from dllm_bench.sheet import counted
from dllm_bench.sweeps.journal import NAME, Configuration, Kept, read
from dllm_sdk.errors import ConfigError


@dataclass(frozen=True)
class Sweep(Comparison):
    """A comparison with a row for every configuration that is done, and what became of the others."""

    failed: Mapping[str, str] = field(default_factory=dict)  # configuration -> why
    waiting: Sequence[str] = ()  # configurations that are still to be measured

    def to_dict(self) -> dict[str, Any]:
        """As a comparison's, with what became of the others."""
        return {**super().to_dict(), "failed": dict(self.failed), "waiting": list(self.waiting)}

    def to(self, format: Format, **style: Any) -> str:
        """As a comparison's; in tables without a sentence for each difference, of which there would be too many."""
        if format not in ("table", "md"):
            return super().to(format, **style)
        if not self.rows:
            return "\n".join(["No configuration is done.", *self.notes])
        return Comparison.to(replace(self, differences=()), format, **style)

    def to_html(self) -> str:
        """As a comparison's. Raises ConfigError if no configuration is done."""
        if not self.rows:
            raise ConfigError("no configuration of the sweep is done: there is nothing to show")
        return super().to_html()


@dataclass(frozen=True)
class _Answer:
    task: str
    prompt: int
    tokens: Sequence[int]


def read_sweep(path: str | Path) -> Sweep:
    """The sweep in a sweep.jsonl or its folder, finished or not.

    Agreement and differences are, as in `compare`, to the first configuration, or with several caches to the same
    scheduler with the first cache. ConfigError for a file that cannot be read or is damaged before its last line.
    """
    file = Path(path) / NAME if os.path.isdir(path) else Path(path)
    if not os.path.exists(file):
        raise ConfigError(f"there is no sweep in {path}: dllm-bench sweep --output FOLDER makes one")
    kept = read(file)
    named = _named(kept)
    done = {name: one for name, one in named.items() if one.key in kept.done}
    measured = [_entrant(name, one, named) for name, one in done.items()]
    orphans = [one for one in measured if one.baseline not in done]
    measured = [replace(one, baseline=one.scheduler) if one in orphans else one for one in measured]
    places = {name: kept.done[one.key] for name, one in done.items()}
    answers = {name: _answers(*place) for name, place in places.items()}
    outcomes = [
        outcome for one in measured for outcome in _outcomes(one, *places[one.scheduler], answers[one.baseline])
    ]
    failed = {name: kept.failed[one.key] for name, one in named.items() if one.key in kept.failed}
    waiting = [name for name in named if name not in done and name not in failed]
    prompts = {task: dict(enumerate(texts)) for task, texts in kept.head["prompts"].items()}
    notes = [*kept.notes, *_notes(kept, named, failed, waiting, orphans)]
    found = sum_up(measured, outcomes, kept.head["environment"], notes, prompts)
    return Sweep(**{one.name: getattr(found, one.name) for one in fields(found)}, failed=failed, waiting=waiting)


def _named(kept: Kept) -> dict[str, Configuration]:
    """The configurations that a table shows, by what it calls them."""
    newest = kept.newest
    several = len({cache for _, cache in newest}) > 1
    return {f"{spec}, {cache}" if several else spec: one for (spec, cache), one in newest.items()}


def _entrant(name: str, one: Configuration, named: Mapping[str, Configuration]) -> Entrant:
    first_name, first = next(iter(named.items()))
    several = name != one.spec
    baseline = f"{one.spec}, {first.cache}" if several else first_name
    return Entrant(name, one.family, one.fields, one.cache, baseline)


def _answers(where: str, entry: Mapping[str, Any]) -> dict[tuple[str, int], Sequence[int]]:
    """The tokens of every answer of a configuration."""
    found = [make(_Answer, where, one) for one in entry.get("outcomes", [])]
    return {(one.task, one.prompt): one.tokens for one in found}


def _outcomes(
    entrant: Entrant, where: str, entry: Mapping[str, Any], reference: Mapping[tuple[str, int], Sequence[int]]
) -> list[Outcome]:
    names = {"scheduler": entrant.scheduler, "cache": entrant.cache}
    return [
        make_outcome(
            where, {**one, **names, "agreement": agreement(one["tokens"], reference[one["task"], one["prompt"]])}
        )
        for one in entry["outcomes"]
    ]


def _notes(
    kept: Kept,
    named: Mapping[str, Configuration],
    failed: Mapping[str, str],
    waiting: Sequence[str],
    orphans: Sequence[Entrant],
) -> list[str]:
    """What a reader should know."""
    notes = [f"{name} failed: {sentence}." for name, sentence in failed.items()]
    if waiting:
        notes.append(f"Still to be measured: {len(waiting)} of {counted(len(named), 'configuration')}.")
    if outdated := kept.configurations.keys() - {one.key for one in named.values()}:
        what = counted(len(outdated), "configuration")
        notes.append(f"Left out: {what} from before the scheduler's fields or code changed.")
    if orphans:
        missing = ", ".join(dict.fromkeys(one.baseline for one in orphans))
        notes.append(f"{missing} is not there to agree with: rows that are measured against it agree with themselves.")
    workers = [entry["worker"] for _, entry in kept.done.values()]
    together = max((one.get("together", 1) for one in workers), default=1)
    if together > 1:
        notes.append(
            f"Up to {together} configurations ran at the same time: tokens per second and latencies say how the sweep "
            "ran, not how fast a configuration is alone."
        )
    hosts = sorted({str(one.get("host")) for one in workers})
    if len(hosts) > 1:
        notes.append(f"Measured on {len(hosts)} machines: {', '.join(hosts)}.")
    return notes
