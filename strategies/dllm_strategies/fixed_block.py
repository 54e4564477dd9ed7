"""Fixed blocks and a fixed number of steps. LLaDA, arXiv:2502.09992 (semi-autoregressive low-confidence remasking)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, top_k


@dataclass(frozen=True)
class FixedBlock(Scheduler):
    """Equal blocks, left to right; `steps` forward passes per block, an equal share each, the most confident first.

    With `steps >= block`, the default, one token per step.
    """

    block: int = 32
    steps: int = 32

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number(self, "block", 1, whole=True)
        check_number(self, "steps", 1, whole=True)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """This step's share, rounded up: it can neither stall nor overrun."""
        steps_left = (self.steps - view.step).clamp(min=1)
        share = (view.open.sum(1) + steps_left - 1) // steps_left
        return Decision(commit=top_k(view.open, view.confidence, share)), state
