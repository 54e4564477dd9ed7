"""Aligned blocks with a quota, a threshold or a budget of entropy. SDAR, arXiv:2510.06303, a block-causal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import aligned, entropy, first, rank, sum_before, top_k


@dataclass(frozen=True)
class SDAR(Scheduler):
    """Blocks lie on multiples of `block` positions; a step's quota is its share of `block` over `steps`, at least one.

    `rule` "sequential" commits the quota from the left, "low_confidence_static" the best; "low_confidence_dynamic"
    every position above `threshold`, if they reach the quota, else its best (strict, as in the code). "entropy_bounded"
    commits the lowest entropies while their sum is at most `budget` nats, and at least one: the formula, since the
    public code of this rule does not follow it.
    """

    block: int = 4
    steps: int = 4
    rule: Literal["sequential", "low_confidence_static", "low_confidence_dynamic", "entropy_bounded"] = (
        "low_confidence_dynamic"
    )
    threshold: float = 0.85
    budget: float = 0.35

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "steps", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "budget", 0)
        rules = ("sequential", "low_confidence_static", "low_confidence_dynamic", "entropy_bounded")
        if self.rule not in rules:
            raise ConfigError(f"SDAR: rule must be one of {', '.join(rules)}, got {self.rule!r}")

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The masks of the aligned block that holds the first one."""
        return aligned(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """By the rule."""
        quota = (self.block // self.steps + (view.step < self.block % self.steps).long()).clamp(min=1)
        if self.rule == "sequential":
            return Decision(commit=first(view.open, quota)), state
        if self.rule == "entropy_bounded":
            doubt = entropy(view)
            place = rank(view.open, -doubt)
            return Decision(
                commit=view.open & ((place == 0) | (sum_before(place, doubt) + doubt <= self.budget))
            ), state
        best = top_k(view.open, view.confidence, quota)
        if self.rule == "low_confidence_static":
            return Decision(commit=best), state
        sure = view.open & (view.confidence > self.threshold)
        return Decision(commit=torch.where((sure.sum(1) >= quota)[:, None], sure, best)), state
