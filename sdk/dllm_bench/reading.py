"""From a results.jsonl back to the comparison: all its numbers are computed anew from what was measured.

The last line may be torn and the run unfinished; any other damage is refused. Knows no model and no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from dllm_bench.files import brief, json_object, read_bytes
from dllm_bench.journal import HEAD, NAME
from dllm_bench.metrics import sum_up
from dllm_bench.results import Comparison, Entrant, Outcome
from dllm_bench.sheet import counted
from dllm_sdk.errors import ConfigError

_COMMANDS = {"run": "compare", "sweep": "sweep"}  # by the kind of the first line
_Line: TypeAlias = tuple[str, dict[str, Any]]  # where it stands, what it says


def read_results(path: str | Path) -> Comparison:
    """The comparison in a results.jsonl, or in the one of a folder.

    A run that did not come to its end is summed up over the prompts that every scheduler has decoded, and a note says
    so. Raises ConfigError for a file that cannot be read, is damaged before its last line, holds several runs or no
    such prompt, or was written in another format or with other definitions of the numbers.
    """
    file = Path(path) / NAME if os.path.isdir(path) else Path(path)
    (where, head), *lines = lines_of(file)
    check_head(where, head, HEAD, {"environment": dict, "schedulers": list, "notes": list})
    entrants = [make(Entrant, where, one) for one in head["schedulers"]]
    missing = {one.baseline for one in entrants} - {one.scheduler for one in entrants}
    if missing or not entrants:
        raise ConfigError(f"{where} is damaged: schedulers lacks {', '.join(sorted(missing)) or 'all rows'}")
    for at, entry in lines:
        if entry.get("kind") == "run":
            raise ConfigError(f"{at} begins another run: a results file holds one, whose prompts count once")
    results = [(at, entry) for at, entry in lines if entry.get("kind") == "result"]
    outcomes = [make_outcome(at, entry) for at, entry in results]
    kept = _complete(outcomes, [one.scheduler for one in entrants])
    if not kept:
        raise ConfigError(f"results file {file} holds no prompt that all of its schedulers have decoded: run it again")
    notes, environment = list(head["notes"]), dict(head["environment"])
    if lines[-1][1].get("kind") == "end":
        environment |= {key: value for key, value in lines[-1][1].items() if key != "kind"}
    else:
        n = counted(len({(one.task, one.prompt) for one in kept}), "prompt")
        notes.append(f"{file}: the run did not come to its end; it is summed up over {n} that all schedulers decoded.")
    prompts: dict[str, dict[int, str]] = {}
    for outcome, (_, entry) in zip(outcomes, results, strict=True):
        prompts.setdefault(outcome.task, {})[outcome.prompt] = str(entry.get("prompt_text", ""))
    return sum_up(entrants, kept, environment, notes, prompts)


def lines_of(file: Path) -> list[_Line]:
    """Every line of a file but a last one without its end, torn when the power failed."""
    content = read_bytes(file, "results file", ": dllm-bench compare --output FOLDER writes one")
    *whole, torn = content.split(b"\n")
    places = ((f"{file}, line {number}", line) for number, line in enumerate(whole, 1) if line.strip())
    lines = [(where, json_object(where, line, '{"kind": ...}')) for where, line in places]
    if not lines:
        raise ConfigError(f"results file {file} is {'torn in its first line' if torn else 'empty'}: run it again")
    return lines


def check_head(where: str, head: Mapping[str, Any], expected: Mapping[str, Any], parts: Mapping[str, type]) -> None:
    """Refuse what this version would read wrongly: a head that is not as `expected`, or lacks one of the `parts`."""
    kind, command = expected["kind"], _COMMANDS[expected["kind"]]
    if head.get("kind") != kind:
        raise ConfigError(f"{where} is not the first line of a file that dllm-bench {command} --output wrote")
    environment = head.get("environment")
    version = environment.get("dllm_sdk", "unknown") if isinstance(environment, dict) else "unknown"
    for name, ours in expected.items():
        if head.get(name) != ours:
            raise ConfigError(
                f"{where} has the {name} {head.get(name)} (version {version} wrote it), but this version reads {ours}: "
                "run it again"
            )
    for name, form in parts.items():
        if not isinstance(head.get(name), form):
            raise ConfigError(f"{where} is damaged: {name} must be {'an object' if form is dict else 'a list'}")


def make(kind: Any, where: str, entry: Any) -> Any:
    """A dataclass from an object that has its fields; others in it are ignored."""
    for name, hint in get_type_hints(kind).items():
        if not isinstance(entry, dict) or name not in entry:
            raise ConfigError(f"{where} is damaged: {name} is missing")
        if not _fits(entry[name], hint):
            raise ConfigError(f"{where} is damaged: {name} cannot be {brief(entry[name])}")
    return kind(**{item.name: entry[item.name] for item in fields(kind)})


def make_outcome(where: str, entry: Any) -> Outcome:
    """An outcome whose numbers can be divided by."""
    outcome: Outcome = make(Outcome, where, entry)
    for name in ("nfe", "batch_lanes", "seconds"):
        if not getattr(outcome, name) > 0:
            raise ConfigError(f"{where} is damaged: {name} cannot be {brief(getattr(outcome, name))}")
    return outcome


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON may stand in a field of this type."""
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(hint) is Sequence:
        return isinstance(value, list) and all(_fits(one, get_args(hint)[0]) for one in value)
    return isinstance(value, get_origin(hint) or hint)


def _complete(outcomes: Sequence[Outcome], schedulers: Sequence[str]) -> list[Outcome]:
    """The outcomes of the prompts that every scheduler has decoded."""
    seen: dict[tuple[str, int], set[str]] = {}
    for one in outcomes:
        seen.setdefault((one.task, one.prompt), set()).add(one.scheduler)
    return [one for one in outcomes if seen[one.task, one.prompt] >= set(schedulers)]
