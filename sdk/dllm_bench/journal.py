"""results.jsonl: what was measured, written as the run goes, so that an interrupted run keeps it.

First a line with the environment and what each row is about (`"kind": "run"`), then one line per prompt and scheduler
(`"kind": "result"`), and, if the run came to its end, a last one with what only the end knows (`"kind": "end"`).
`reading` reads it. Knows no model and no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dllm_bench.results import DEFINITIONS, Entrant, Outcome
from dllm_bench.sheet import counted
from dllm_sdk.errors import ConfigError, DllmError

NAME = "results.jsonl"
HEAD = {"kind": "run", "schema": "dllm-bench/2", "definitions": DEFINITIONS}
"""What its first line begins with: a file with another schema or other definitions is never read as one of these."""


class Unwritable(DllmError):
    """Results could not be written: a full disk, a folder that went away."""


class Journal:
    """An open results.jsonl in a folder; None: nothing is kept."""

    name, mode = NAME, "xb"

    def __init__(self, folder: str | Path | None) -> None:
        """Make the folder and open the file; ConfigError if that cannot be, or if it holds results already."""
        self.path = None if folder is None else Path(folder) / self.name
        self._file = None
        self._size = 0  # bytes of whole lines
        self._results = 0
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, self.mode, buffering=0)  # noqa: SIM115  closed by __exit__
        except FileExistsError:
            if self.path.parent.is_dir():
                raise ConfigError(f"output {self.path} exists: give another folder, or remove it first") from None
            raise ConfigError(f"output {folder} must be a folder, but there is a file of that name") from None
        except OSError as error:
            raise ConfigError(f"output {folder} cannot be written: {error.strerror}") from None

    def begin(self, environment: Mapping[str, Any], entrants: Sequence[Entrant], notes: Sequence[str]) -> None:
        """The first line."""
        rows = [asdict(one) for one in entrants]
        self._write([{**HEAD, "environment": environment, "schedulers": rows, "notes": notes}])

    def add(self, outcomes: Sequence[Outcome], prompts: Sequence[str]) -> None:
        """One line per outcome; prompts: its prompt's text."""
        self._write(
            {
                "kind": "result",
                **asdict(outcome),
                "prompt_text": text,
                "prompt_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
            for outcome, text in zip(outcomes, prompts, strict=True)
        )
        self._results += len(outcomes)

    def end(self, facts: Mapping[str, Any]) -> None:
        """The last line: nothing is missing."""
        self._write([{"kind": "end", **facts}])

    def _write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        if self._file is None:
            return
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
        try:
            written = self._file.write(lines)  # unbuffered, in one call: an interrupt leaves no line half written
            if written != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise Unwritable(
                f"{self.path} cannot be written any more: {error.strerror}; it keeps the "
                f"{counted(self._results, 'generation')} measured until then"
            ) from error
        self._size += len(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is None or self.path is None:
            return
        self._file.close()
        if kind is not None and not self._results:  # so that the same command can be run again
            with suppress(OSError):
                self.path.unlink()
