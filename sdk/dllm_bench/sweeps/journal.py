"""sweep.jsonl: what a sweep has measured, one line per configuration, safe against a kill at any moment.

First a line with the settings, the environment and the prompts (`"kind": "sweep"`). Then a line per configuration that
is to be measured (`"kind": "configuration"`), and one when it is (`"done"`, with every prompt) or has failed
(`"failed"`); where more is added later, what a reader should know of that (`"notes"`). Lines are only ever added, by
one process that holds a lock, and are on the disk before it goes on. Knows no model and no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from dllm_bench.journal import Journal
from dllm_bench.reading import check_head, lines_of, make
from dllm_bench.results import DEFINITIONS
from dllm_sdk.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: two sweeps into one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

NAME = "sweep.jsonl"
HEAD = {"kind": "sweep", "schema": "dllm-bench-sweep/1", "definitions": DEFINITIONS}
_PARTS = {"settings": dict, "environment": dict, "prompts": dict, "notes": list}


@dataclass(frozen=True)
class Configuration:
    """A scheduler with a cache, on the model and prompts of the sweep."""

    key: str  # digests of all that its numbers depend on: of the scheduler on this setup, and of the cache
    spec: str
    cache: str
    family: str  # the scheduler's class, with those of its parts
    fields: Mapping[str, Any]  # its hyperparameters

    @property
    def scheduler_key(self) -> str:
        """What it shares with the same scheduler under another cache."""
        return self.key.partition("-")[0]


@dataclass
class Kept:
    """What a sweep.jsonl says; keys are those of the configurations."""

    head: Mapping[str, Any] = field(default_factory=dict)  # empty: nothing has begun
    configurations: dict[str, Configuration] = field(default_factory=dict)
    # Line by line; again under another SPEC, or where a SPEC stands for what it once did.
    asked: list[Configuration] = field(default_factory=list)
    done: dict[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)  # with the place of the line
    failed: dict[str, str] = field(default_factory=dict)  # the sentence
    notes: list[str] = field(default_factory=list)  # what a reader should know of what was given

    @property
    def newest(self) -> dict[tuple[str, str], Configuration]:
        """What SPEC and cache stand for now, in the order in which they were asked for first.

        The last line of a SPEC says so for all its caches: rows of what it stood for before leave the table.
        """
        now = {one.spec: one.scheduler_key for one in self.asked}
        found = {(one.spec, one.cache): one for one in self.asked if one.scheduler_key == now[one.spec]}
        places = dict.fromkeys((one.spec, one.cache) for one in self.asked)
        return {place: found[place] for place in places if place in found}


def read(file: Path) -> Kept:
    """Everything in a file. ConfigError if it is damaged, or of another format or other definitions of the numbers."""
    kept = Kept()
    for where, entry in lines_of(file):
        kind, key = entry.get("kind"), str(entry.get("key"))
        if not kept.head:
            check_head(where, entry, HEAD, _PARTS)
            kept.head, kept.notes = entry, list(entry["notes"])
        elif kind == "notes" and isinstance(entry.get("notes"), list):
            kept.notes += entry["notes"]
        elif kind == "configuration":
            kept.configurations[key] = make(Configuration, where, entry)
            kept.asked.append(kept.configurations[key])
        elif key not in kept.configurations:
            raise ConfigError(f"{where} is damaged: no line before it says what {key} is")
        elif kind == "done":
            if not isinstance(entry.get("outcomes"), list) or not isinstance(entry.get("worker"), dict):
                raise ConfigError(f"{where} is damaged: it has no outcomes, or no worker")
            kept.done[key] = (where, entry)
            kept.failed.pop(key, None)
        elif kind == "failed":
            kept.failed[key] = str(entry.get("error"))
    return kept


class SweepJournal(Journal):
    """An open sweep.jsonl, new or continued."""

    name, mode = NAME, "a+b"

    def __init__(self, folder: str | Path) -> None:
        """Open, lock and mend the file; ConfigError if that cannot be, or if another sweep is writing it."""
        super().__init__(folder)
        file = cast(IO[bytes], self._file)
        try:
            self._lock(file)
            self._mend(file)
            self.kept = read(Path(folder) / NAME) if self._size else Kept()
        except BaseException:
            file.close()
            raise
        self._results = sum(len(entry["outcomes"]) for _, entry in self.kept.done.values())

    def adopt(self, plan: Mapping[str, Any]) -> None:
        """Begin, or check that this goes on with what was begun; note what SPECs stand for where that is new.

        They stood for another configuration before the scheduler's file or code changed: a table shows the newest.
        """
        lines: list[Mapping[str, Any]] = []
        if self.kept.head:
            self._compare(plan["settings"])
        else:
            self.kept.head = HEAD | {name: plan[name] for name in _PARTS}
            self.kept.notes = plan["notes"]
            lines.append(self.kept.head)
        if more := [note for note in plan["notes"] if note not in self.kept.notes]:
            lines.append({"kind": "notes", "notes": more})
        newest = {place: one.key for place, one in self.kept.newest.items()}
        for one in plan["configurations"]:
            if newest.get((one["spec"], one["cache"])) != one["key"]:
                lines.append({"kind": "configuration", **one})
        self._write(lines)

    def note(self, key: str, reply: Mapping[str, Any]) -> None:
        """A worker's reply: what it measured, or why it could not."""
        if "error" in reply:
            self._write([{"kind": "failed", "key": key, "error": reply["error"]}])
        else:
            self._write([{"kind": "done", "key": key, **reply}])
            self._results += len(reply["outcomes"])

    def _lock(self, file: IO[bytes]) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it if we are killed
            except OSError:
                raise ConfigError(f"another sweep is writing {self.path}: wait, or give another folder") from None

    def _mend(self, file: IO[bytes]) -> None:
        """Cut off a last line without its end: what is added would be glued to it."""
        file.seek(0)
        self._size = file.read().rfind(b"\n") + 1
        file.truncate(self._size)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        before = self.kept.head["settings"]
        other = [name for name in settings if settings[name] != before.get(name)]
        if other:
            name = other[0]
            raise ConfigError(
                f"the sweep in {self.path} has {name} {before.get(name)}, this one {settings[name]}: "
                "give another folder, for numbers that differ in this do not belong in one table"
            )

    def _write(self, entries: Any) -> None:
        super()._write(entries)
        if self._file is not None:
            os.fsync(self._file.fileno())
