"""From the steps of a run to one trace per row. Knows the loop's `Step`, and what a trace is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.canvas import Canvas
from dllm_sdk.decoding import Step
from dllm_sdk.model import Tokenizer
from dllm_sdk.rules import margin
from dllm_sdk.trace import COMMIT, ENDS, OPEN, REMASK, WRITES, Trace, to_flags


class Recorder:
    """Makes one trace per row of a canvas: `add` every step of the run, then ask for `traces`."""

    def __init__(self, canvas: Canvas) -> None:
        """Start from the canvas that the run starts from."""
        self.canvas = canvas
        self.rows: list[list[_Entry]] = [[] for _ in range(len(canvas.length))]

    def add(self, step: Step) -> None:
        """Keep what a step computed and decided, on the host."""
        view, decision = step.view, step.decision
        flags = to_flags(view.open, view.committed, decision.commit, decision.remask, decision.edit)
        whole = torch.stack([view.window, *map(view.to_window, (view.draft, decision.tokens, flags))]).cpu()
        parts = torch.stack([view.to_window(view.confidence), view.to_window(margin(view))]).half().cpu()
        counts = (step.rows, step.closed, decision.hold, decision.stop, step.done, step.refreshes, step.fed)
        table = torch.stack([column.long() for column in counts], dim=1).tolist()
        for i, (row, *rest) in enumerate(table):
            real = whole[0, i] < view.tokens.shape[1]
            self.rows[row].append(_Entry(whole[:, i, real], parts[:, i, real], *rest))

    def traces(self, about: dict[str, Any], tokenizer: Tokenizer | None = None) -> list[Trace]:
        """One per row, with `about`, the row's own seed and, with a tokenizer, the text of every token in it."""
        with torch.device("cpu"), torch.autocast("cpu", enabled=False):  # whatever torch's defaults are
            traces = [self._trace(row, {**about, "seed": int(self.canvas.seed[row])}) for row in range(len(self.rows))]
        if tokenizer is not None:
            for trace in traces:
                ids = torch.cat([trace.tokens, trace.draft, trace.written]).unique().tolist()  # type: ignore[no-untyped-call]
                trace.about["texts"] = {str(token): tokenizer.decode([token]) for token in ids}
        return traces

    def _trace(self, row: int, about: dict[str, Any]) -> Trace:
        entries, length = self.rows[row], int(self.canvas.length[row])
        position, draft, written, flags = torch.cat([entry.whole for entry in entries], dim=1)
        confidence, near = torch.cat([entry.parts for entry in entries], dim=1)
        wrote = (flags & WRITES) > 0
        totals = torch.tensor([[0, 0], *([entry.refreshes, entry.fed] for entry in entries)])
        refresh, fed = totals.diff(dim=0).unbind(1)
        return Trace(
            tokens=self.canvas.tokens[row, :length].cpu(),
            open=self.canvas.open[row, :length].cpu(),
            offsets=torch.tensor([0, *(entry.whole.shape[1] for entry in entries)]).cumsum(0),
            position=position,
            draft=draft,
            confidence=confidence,
            flags=flags.to(torch.uint8),
            written=written[wrote],
            margin=near[wrote],
            end=torch.tensor([_end(entry) for entry in entries], dtype=torch.uint8),
            refresh=refresh > 0,
            fed=fed,
            about=about,
        )


class _Entry(NamedTuple):
    """A step of a row, as it is kept while the run goes on."""

    whole: Tensor  # int64 [4, W]  position, draft, what would be written, flags
    parts: Tensor  # float16 [2, W]  confidence, margin
    closed: int
    hold: int
    stop: int
    done: int
    refreshes: int  # so far
    fed: int  # so far


def _end(entry: _Entry) -> int:
    flags = entry.whole[3]
    left = bool((((flags & OPEN) > 0) & ((flags & COMMIT) == 0)).any() or ((flags & REMASK) > 0).any())
    if entry.stop:
        return ENDS.index("stop")
    if entry.closed:
        return ENDS.index("full")
    if entry.done:
        return ENDS.index("eos")
    return ENDS.index("held" if entry.hold and not left else "open")
