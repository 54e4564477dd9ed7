"""Dream's threshold rule for the whole canvas. Dream 7B, arXiv:2508.15487."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above, top_k

LeftOver: TypeAlias = tuple[Tensor]  # int64 [B]


@dataclass(frozen=True)
class DreamThreshold(Scheduler[LeftOver]):
    """Dream's `confidence_threshold` without blocks: a step's share of gen_length / steps candidates, the best first.

    The best candidate commits, the others only at or above `threshold`; those left over are candidates again in the
    next step, and after `steps` steps the only ones.
    """

    steps: int = 512
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "steps", 1, whole=True)
        check_number(self, "threshold", 0)

    def init(self, tokens: Tensor, open: Tensor) -> LeftOver:
        """Candidates left over."""
        return (torch.zeros_like(tokens[:, 0]),)

    def plan(self, view: View, state: LeftOver) -> tuple[Tensor, LeftOver]:
        """The whole canvas."""
        return view.open, state

    def select(self, view: View, state: LeftOver) -> tuple[Decision, LeftOver]:
        """The best candidate, and those that are sure."""
        share = torch.where(view.step < self.steps, view.gen_length // self.steps, 0)
        candidates = (share + state[0]).clamp(min=1)
        chosen = top_k(view.open, view.confidence, candidates)
        commit = above(chosen, view.confidence, self.threshold) | top_k(view.open, view.confidence, 1)
        return Decision(commit=commit), (candidates - commit.sum(1),)
