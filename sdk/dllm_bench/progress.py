"""How far a run is, on stderr: a line that renews itself on a terminal, else a line now and then. Never on stdout."""

from __future__ import annotations

import io
import shutil
import time
from typing import TYPE_CHECKING, TextIO

from dllm_bench.sheet import counted

if TYPE_CHECKING:
    from dllm_bench.measure import Progress

_BAR = 24
_SILENCE = 30.0  # seconds without a line, off a terminal


class Meter:
    """A callable for `compare(progress=...)`; remembers how much is done."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` decides: a terminal gets a bar, anything else plain lines, and None, a closed stderr, nothing."""
        self.stream = io.StringIO() if stream is None else stream
        self.live = self.stream.isatty()
        self.done = self.total = 0
        self._start: float | None = None
        self._task, self._said = "", 0.0

    def __call__(self, at: Progress) -> None:
        """Show a step forward."""
        self.done, self.total = at.done, at.total
        now = time.monotonic()
        if self._start is None or not at.done:  # what came before says nothing of how long the rest takes
            self._start = now
        if self.live:
            self._draw(at)
        elif at.task and (at.task != self._task or now - self._said >= _SILENCE):
            left = self._left() if at.task == self._task else ""
            print(f"{at.task}: {at.done} of {counted(at.total, 'generation')} done{left}", file=self.stream, flush=True)
            self._said = now
        self._task = at.task

    def _draw(self, at: Progress) -> None:
        if at.done == at.total:
            return self.clear()
        filled = _BAR * at.done // at.total
        bar = "#" * filled + "." * (_BAR - filled)
        line = f"[{bar}] {100 * at.done // at.total:3d} %  {at.task}  {at.scheduler}{self._left()}"
        self._renew(line)
        return None

    def _renew(self, line: str) -> None:
        """In place of the line before, cut to the terminal."""
        self.stream.write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
        self.stream.flush()

    def _left(self) -> str:
        if not self.done or self._start is None:
            return ""
        seconds = (time.monotonic() - self._start) * (self.total - self.done) / self.done
        return f", {int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def clear(self) -> None:
        """Take the bar away."""
        if self.live and self._start is not None:
            self._renew("")
