"""Blocks that end where entropy jumps. The boundary of Swordsman, arXiv:2602.04399, as its abstract describes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import above, above_or_best, entropy, first, top_k


@dataclass(frozen=True)
class Swordsman(Scheduler):
    """The block ends before the largest rise H[i] - H[i - 1] of entropy between neighbouring masks, if >= `shift` nats.

    Entropy is low inside a constituent and rises where the next one starts. The rise is looked for behind the first
    `min_block` of `max_block` masks; where none is large enough, all of them are the block. Commits: every position at
    or above `threshold`, and always the best one. No state. Written from the abstract: `shift` and the two lengths are
    ours, and the paper's thresholds that follow a block's progress are left out.
    """

    shift: float = 0.5
    min_block: int = 4
    max_block: int = 32
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "shift", 0)
        check_number(self, "min_block", 1, whole=True)
        check_number(self, "max_block", 1, whole=True)
        check_number(self, "threshold", 0)
        if self.min_block > self.max_block:
            raise ConfigError(f"Swordsman: min_block must be <= max_block, got {self.min_block} and {self.max_block}")

    def horizon(self, gen_length: int) -> int:
        """No block is longer than this."""
        return self.max_block

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Up to the largest rise, or `max_block` positions."""
        ahead, profile = first(view.open, self.max_block), entropy(view)
        positions = torch.arange(ahead.shape[1], device=ahead.device)
        last = torch.where(ahead, positions, 0).cummax(1).values.roll(1, 1)  # the mask before this one
        rise = profile - profile.gather(1, last)
        starts = ahead & ~first(ahead, self.min_block)
        start = above(top_k(starts, rise, 1), rise, self.shift)
        return ahead & (start.cumsum(1) == 0), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.threshold)), state
