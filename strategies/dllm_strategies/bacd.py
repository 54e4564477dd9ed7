"""Blocks with a threshold that follows what was committed. BACD of TDAR, arXiv:2602.09555."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first

Mean: TypeAlias = tuple[Tensor, Tensor]  # float64 [B], int64 [B]


@dataclass(frozen=True)
class BACD(Scheduler[Mean]):
    """Every position at or above the mean confidence of the block's commits commits; the mean kept in [low, high].

    Always the best one commits. In a block's first step, which has no mean, the threshold is `high`.
    """

    block: int = 32
    low: float = 0.6
    high: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "low", 0)
        check_number(self, "high", 0)
        if self.low > self.high:
            raise ConfigError(f"BACD: low must be <= high, got {self.low} and {self.high}")

    def init(self, tokens: Tensor, open: Tensor) -> Mean:
        """Sum and number of the block's committed confidences."""
        return torch.zeros_like(tokens[:, 0], dtype=torch.float64), torch.zeros_like(tokens[:, 0])

    def plan(self, view: View, state: Mean) -> tuple[Tensor, Mean]:
        """The first `block` masks; the mean starts anew."""
        return first(view.open, self.block), (torch.zeros_like(state[0]), torch.zeros_like(state[1]))

    def select(self, view: View, state: Mean) -> tuple[Decision, Mean]:
        """Everything above the bounded mean, and always the best position."""
        total, count = state
        mean = torch.where(count > 0, total / count, self.high).clamp(self.low, self.high)
        commit = above_or_best(view.open, view.confidence, mean)
        added = view.confidence.double().masked_fill(~commit, 0).sum(1)
        return Decision(commit=commit), (total + added, count + commit.sum(1))
