"""A sweep as text: axes from `--grid`, words from a FILE.toml, the SPECs that they span. Knows no model and no run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from dllm_bench.files import read_text
from dllm_bench.grids import lists_of
from dllm_bench.toml import as_toml, has_form
from dllm_sdk import load_scheduler
from dllm_sdk.errors import ConfigError
from dllm_sdk.scheduler import values_of
from dllm_sdk.specs import parse_spec, split

_LISTS = {"scheduler": "schedulers", "cache": "caches", "task": "tasks"}  # words of a file that may hold a list
_WORDS = (
    "scheduler", "grid", "cache", "task", "model", "limit", "batch_size", "gen_length", "seed", "temperature", "device",
    "dtype", "backend", "engine", "jobs", "output",
)  # fmt: skip


def from_file(path: Path) -> dict[str, Any]:
    """The words of a FILE.toml as arguments of `sweep`: those of the options, `grid` being a table of lists."""
    try:
        words = tomllib.loads(read_text(path, "sweep file"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"sweep file {path} is not valid TOML: {error}") from None
    found: dict[str, Any] = {}
    for given, value in words.items():
        word = given.replace("-", "_")
        if word not in _WORDS:
            near = get_close_matches(word, _WORDS, 1)
            hint = f" did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"sweep file {path} has no word {given!r};{hint} available: {', '.join(_WORDS)}")
        if word in _LISTS:
            value = texts(word, [value] if isinstance(value, str) else value)
        elif word == "output":
            (value,) = texts(word, [value])
        found[_LISTS.get(word, word)] = value
    return found


def texts(name: str, value: Any) -> Any:
    """The value; ConfigError unless it is a list of texts: a sweep is written down, sent to workers and found again."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return value
    raise ConfigError(f"{name} of a sweep must be given as text, got {value!r}")


def expand(schedulers: Sequence[str], grid: Mapping[str, Iterable[Any]]) -> list[str]:
    """Every SPEC with every point of the grid, as SPECs again: what `compare --scheduler` takes too."""
    texts("schedulers", schedulers)
    grid = lists_of(grid)
    for field, values in grid.items():
        for value in values:
            if not has_form(value):
                allowed = "numbers, texts, true, false or lists of them"
                raise ConfigError(f"grid: {field} cannot be {value!r}: give {allowed}")
    points = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    return [_set(spec, owners, point) for spec in schedulers for owners in [_owners(spec, grid)] for point in points]


def _owners(spec: str, grid: Mapping[str, Any]) -> dict[str, int]:
    """Which part of PLAN+SELECT each field of the grid belongs to."""
    parts = split(spec, "+")
    given = {field for part in parts for field in parse_spec("scheduler", part)[1]}
    for field in grid:
        if field in given:
            raise ConfigError(f"scheduler {spec!r} sets {field}, and the grid too: leave one out")
    if len(parts) < 2:
        return dict.fromkeys(grid, 0)  # the registry says what a field may be
    known = [_fields(part) for part in parts]
    found = {}
    for field in grid:
        having = [i for i, names in enumerate(known) if field in names]
        if len(having) != 1:
            which = "both parts have" if having else "no part has"
            listed = "; ".join(f"{part}: {', '.join(names)}" for part, names in zip(parts, known, strict=True))
            raise ConfigError(
                f"scheduler {spec!r}: {which} the field {field!r} of the grid ({listed}): list the SPECs one by one"
            )
        found[field] = having[0]
    return found


def _fields(spec: str) -> list[str]:
    return list(values_of(load_scheduler(spec), given=True))


def _set(spec: str, owners: Mapping[str, int], point: Mapping[str, Any]) -> str:
    parts = split(spec, "+")
    for field, value in point.items():
        i = owners[field]
        parts[i] += f"{',' if '=' in parts[i] else ':'}{field}={as_toml(value)}"
    return "+".join(parts)
