"""Threshold with a quota, then edits. LLaDA2.0, arXiv:2512.15745; token editing of LLaDA2.1, arXiv:2602.08676."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import aligned, top_k

Counter: TypeAlias = tuple[Tensor]  # int64 [B]


@dataclass(frozen=True)
class BlockRefinement(Scheduler[Counter]):
    """Commit every position above `threshold` if they reach the step's quota, else the quota's best; then edit.

    Blocks lie on multiples of `block` positions of the canvas, so a prompt may end inside one. The quota is the even
    schedule of `block` positions over `steps`. With `edit_threshold` > 0 a committed token of the block is replaced by
    a different draft above it; once no mask is left the block stays open while edits happen, for at most `post_steps`
    steps, unless the schedule is over. Comparisons are strict, as in diffusers' BlockRefinementScheduler.
    """

    block: int = 32
    steps: int = 32
    threshold: float = 0.95
    edit_threshold: float = 0.0
    post_steps: int = 16

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "steps", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "edit_threshold", 0)
        check_number(self, "post_steps", 1, 31, whole=True)

    @property
    def revises(self) -> bool:
        """Only if it may edit."""
        return self.edit_threshold > 0

    @property
    def fits(self) -> Literal["lasting", "own"]:
        """With edits and more steps than positions some steps commit nothing: longer blocks would stall."""
        return "own" if self.revises and self.steps > self.block else "lasting"

    def init(self, tokens: Tensor, open: Tensor) -> Counter:
        """Steps spent since the block's last mask was committed."""
        return (torch.zeros_like(tokens[:, 0]),)

    def plan(self, view: View, state: Counter) -> tuple[Tensor, Counter]:
        """The masks of the aligned block that holds the first one."""
        return aligned(view.open, self.block), (torch.zeros_like(state[0]),)

    def select(self, view: View, state: Counter) -> tuple[Decision, Counter]:
        """Commit, edit, and hold the block open while there is something to edit."""
        quota = self.block // self.steps + (view.step < self.block % self.steps).long()
        if not self.revises:
            quota = quota.clamp(min=1)  # without edits a step that commits nothing is wasted
        sure = view.open & (view.confidence > self.threshold)
        commit = torch.where((sure.sum(1) >= quota)[:, None], sure, top_k(view.open, view.confidence, quota))
        if not self.revises:
            return Decision(commit=commit), state
        edit = view.committed & (view.draft != view.tokens) & (view.confidence > self.edit_threshold)
        full = ~view.open.any(1)
        after = state[0] + full
        hold = torch.where(full, edit.any(1) & (after < self.post_steps), view.step + 1 < self.steps)
        return Decision(commit=commit, edit=edit, hold=hold), (after,)
