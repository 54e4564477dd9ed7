"""Faster as the answer grows surer, with a way back. Saber, arXiv:2510.18165 (adaptive acceleration, backtracking)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, top_k

Confidences: TypeAlias = tuple[Tensor, Tensor]  # float32 [B, L] twice


@dataclass(frozen=True)
class Saber(Scheduler[Confidences]):
    """Chosen are the masks above the mean confidence with which tokens were committed so far, and at least `least`.

    Then those of the block's tokens, the chosen ones included, whose confidence fell the most since the last step are
    masked again: max(least // 2, ceil(k / 8)) of k chosen, at most k - 1; none in the step that fills the block. The
    comparison is strict, the first threshold 1, and a token that was masked again still counts in the mean, as in the
    code. State: two float32 per position, the confidence at commit and that of the last step.
    """

    block: int = 256
    least: int = 2

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "least", 1, whole=True)

    @property
    def revises(self) -> bool:
        """It masks committed tokens."""
        return True

    def init(self, tokens: Tensor, open: Tensor) -> Confidences:
        """The confidence of each position when it was committed, and in the last step; 0 before."""
        return torch.zeros_like(tokens, dtype=torch.float32), torch.zeros_like(tokens, dtype=torch.float32)

    def plan(self, view: View, state: Confidences) -> tuple[Tensor, Confidences]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: Confidences) -> tuple[Decision, Confidences]:
        """Choose, then take back: a chosen position that is taken back does not commit."""
        at_commit, before = state
        known = (at_commit > 0).sum(1)
        mean = torch.where(known > 0, at_commit.double().sum(1) / known, 1.0)
        sure = view.open & (view.confidence > mean[:, None])
        chosen = torch.where((sure.sum(1) >= self.least)[:, None], sure, top_k(view.open, view.confidence, self.least))
        k = chosen.sum(1)
        back = torch.minimum(((k + 7) // 8).clamp(min=self.least // 2), k - 1).clamp(min=0)
        back = torch.where((chosen == view.open).all(1), 0, back)
        fell = top_k(chosen | view.committed, before - view.confidence, back)
        at_commit = torch.where(chosen, view.confidence, at_commit)
        decision = Decision(commit=chosen & ~fell, remask=view.committed & fell)
        return decision, (at_commit, view.confidence)
