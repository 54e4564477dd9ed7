"""Fixed blocks, a threshold that falls as they fill. Streaming-dLLM, arXiv:2601.17917 (dynamic confidence)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first

Size: TypeAlias = tuple[Tensor]  # int64 [B]


@dataclass(frozen=True)
class StreamingDLLM(Scheduler[Size]):
    """Every position at or above `threshold` (1 - `relax` (1 - r)) commits, r the share of the block still masked.

    Always the best one commits. `relax` 0 is threshold decoding. The public code counts the masks that it keeps behind
    the block as well, so that its r stays larger and its threshold higher.
    """

    block: int = 32
    threshold: float = 0.9
    relax: float = 0.3

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "relax", 0, 1)

    def init(self, tokens: Tensor, open: Tensor) -> Size:
        """Masks that the block opened with; 0 until they were seen."""
        return (tokens.new_zeros(len(tokens)),)

    def plan(self, view: View, state: Size) -> tuple[Tensor, Size]:
        """The first `block` masks."""
        return first(view.open, self.block), (torch.zeros_like(state[0]),)

    def select(self, view: View, state: Size) -> tuple[Decision, Size]:
        """Everything above the threshold of the step, and always the best position."""
        left = view.open.sum(1)
        # Counted here, since another scheduler may have planned; not in the first step alone, since a wrapper may have
        # dropped its state.
        size = torch.where(state[0] == 0, left, state[0])
        threshold = self.threshold * (1 - self.relax * (1 - left / size))
        return Decision(commit=above_or_best(view.open, view.confidence, threshold)), (size,)
