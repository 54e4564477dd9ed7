"""A block's first pass commits its first position alone. Fast-dLLM's cached Dream decoding, arXiv:2505.22618."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dllm_sdk import Decision, View, Wrapper
from dllm_sdk.contract import merge_state
from dllm_sdk.rules import first


@dataclass(frozen=True)
class FirstAlone(Wrapper):
    """Another scheduler, except that a block's first step commits its first position and nothing else.

    With shifted logits and a cache that feeds the block alone, that position could not be predicted in any later step
    of the public code. Ours feeds the position before it, so this is for parity with published numbers only.
    """

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        """The first position in a first step; what the inner one says, and its state, in all others."""
        decision, moved = self.inner.select(view, state)
        alone = (view.step == 0)[:, None]
        commit = torch.where(alone, first(view.open, 1), decision.commit)
        return decision._replace(commit=commit), merge_state(self, "state", state, moved, view.step > 0)
