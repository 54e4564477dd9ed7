"""A block that slides with what is committed. DSB (dynamic sliding block), arXiv:2602.05992 (ICML 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first, leftmost


@dataclass(frozen=True)
class DSB(Scheduler):
    """At every step the block is the masks of [s, min(P + block + U, s + size)), s the first mask, P where the answer
    starts and U what is committed of it.

    "const" has size = block: an interval of `block` positions, however many of them are still masks. "greedy" has no
    size: since all but U of the answer are masks, that is the first `block` of them. Commits: every position at or
    above `threshold`, and always the best one. No state. The paper's own cache policy is not part of it.
    """

    block: int = 32
    slide: Literal["const", "greedy"] = "const"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        if self.slide not in ("const", "greedy"):
            raise ConfigError(f"DSB: slide must be const or greedy, got {self.slide!r}")

    @property
    def replan(self) -> Literal["step"]:
        """The block slides at every step."""
        return "step"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The masks near the first one."""
        if self.slide == "greedy":
            return first(view.open, self.block), state
        positions = torch.arange(view.open.shape[1], device=view.open.device)
        return view.open & (positions - leftmost(view.open)[:, None] < self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.threshold)), state
