"""Blocks as long as the model is sure. Commits as Fast-dLLM, arXiv:2505.22618 (confidence-aware parallel decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import above, above_or_best, first


@dataclass(frozen=True)
class ConfidenceAdaptive(Scheduler):
    """The block is the run of drafts at or above `threshold`, from `min_block` to `max_block` positions long.

    A sure passage is decoded at once, a doubtful one in small pieces. Inside the block every position at or above
    `commit_threshold` commits, and always the best one. With `min_block == max_block` this is Fast-dLLM's threshold
    decoding; a `commit_threshold` above 1 commits one token per step.
    """

    threshold: float = 0.7
    min_block: int = 4
    max_block: int = 32
    commit_threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "threshold", 0)
        check_number(self, "min_block", 1, whole=True)
        check_number(self, "max_block", 1, whole=True)
        check_number(self, "commit_threshold", 0)
        if self.min_block > self.max_block:
            raise ConfigError(
                f"ConfidenceAdaptive: min_block must be <= max_block, got {self.min_block} and {self.max_block}"
            )

    def horizon(self, gen_length: int) -> int:
        """No block is longer than this."""
        return self.max_block

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The open positions before the first doubtful draft."""
        doubtful = view.open & ~above(view.open, view.confidence, self.threshold)
        run = (view.open & (doubtful.cumsum(1) == 0)).sum(1)
        return first(view.open, run.clamp(self.min_block, self.max_block)), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.commit_threshold)), state
