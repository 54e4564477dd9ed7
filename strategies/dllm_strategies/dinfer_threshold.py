"""Fixed blocks, every sure position and every near-tie of the best. dInfer, arXiv:2510.08666 (threshold decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above, first


@dataclass(frozen=True)
class DInferThreshold(Scheduler):
    """In each block every position at or above min(`threshold`, best - 1e-5) commits.

    It is Fast-dLLM's threshold decoding, except that where nothing is sure, near-ties of the best commit with it.
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
        """Everything the model is sure of, or all that is as good as the best."""
        best = view.confidence.masked_fill(~view.open, 0).amax(1)
        return Decision(commit=above(view.open, view.confidence, (best - 1e-5).clamp(max=self.threshold))), state
