"""What follows an end of text is its end. The EOS fill of dInfer (arXiv:2510.08666) and DCD (arXiv:2601.02076)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm_sdk import Decision, EosIds, Scheduler, View, Wrapper
from dllm_sdk.rules import one_of
from dllm_strategies.threshold import Threshold


@dataclass(frozen=True)
class EarlyEOS(Wrapper):
    """Another scheduler; every mask of the block that lies behind a committed EOS becomes EOS at once.

    That saves the passes which would be spent on positions nobody reads, and changes the text before them a little: the
    model sees an ended answer where masks were. (The loop's `stop_at_eos` saves what comes after the last position that
    counts, and changes nothing.) `eos` empty: the model's. State: the inner one's, and one bool per position.
    """

    inner: Scheduler[Any] = field(default_factory=Threshold)
    eos: EosIds = ()

    def init(self, tokens: Tensor, open: Tensor) -> Any:
        """The inner state, and what is generated: an EOS in the prompt ends nothing."""
        return self.inner.init(tokens, open), open

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        """As the inner one."""
        block, moved = self.inner.plan(view, state[0])
        return block, (moved, state[1])

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        """What the inner one says, and EOS behind the first EOS."""
        decision, moved = self.inner.select(view, state[0])
        if not self.eos:
            return decision, (moved, state[1])
        written = view.draft if decision.tokens is None else decision.tokens
        changed = decision.commit if decision.edit is None else decision.commit | decision.edit
        after = torch.where(changed, written, view.tokens)
        ends = one_of(after, self.eos) & state[1]
        if decision.remask is not None:  # an end that is taken back ends nothing
            ends = ends & ~(view.committed & decision.remask)
        fill = view.open & (ends.cumsum(1) - ends.long() > 0)
        tokens = written.masked_fill(fill, self.eos[0])
        return decision._replace(commit=decision.commit | fill, tokens=tokens), (moved, state[1])
