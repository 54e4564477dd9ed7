"""Fixed blocks, every sure position at once. Fast-dLLM, arXiv:2505.22618 (confidence-aware parallel decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first


@dataclass(frozen=True)
class Threshold(Scheduler):
    """In each block every position at or above `threshold` commits, and always the best one.

    A threshold above 1 commits one token per step; 1.0 is not enough, since a probability can round to 1.
    """

    block: int = 32
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.threshold)), state
