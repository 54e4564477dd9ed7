"""How far a sweep is, on stderr: a line that renews itself on a terminal, else one line per configuration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dllm_bench.progress import Meter
from dllm_bench.sheet import counted

if TYPE_CHECKING:
    from dllm_bench.sweeps.run import Standing


class Board(Meter):
    """A callable for `sweep(progress=...)`; remembers how much is done."""

    def __call__(self, at: Standing) -> None:  # type: ignore[override]
        """Show a step forward."""
        self.done, self.total = at.done, at.total
        self._start = time.monotonic() if self._start is None else self._start
        failed = f", {at.failed} failed" if at.failed else ""
        earlier = f", {at.before} before" if at.before else ""
        left = self._left() if at.done < at.total else ""
        line = f"{at.done} of {counted(at.total, 'configuration')}{failed}{earlier}{left}"
        if not self.live:
            print(f"{line}  {at.last}".rstrip(), file=self.stream, flush=True)
        elif at.done == at.total:
            self.clear()
        else:
            self._renew(f"{line}  {at.last}")
