"""Fixed blocks, a fixed number of steps, positions in random order. LLaDA, arXiv:2502.09992 (`remasking="random"`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, share, top_k, uniform


@dataclass(frozen=True)
class RandomOrder(Scheduler):
    """Each of a block's `steps` commits an equal share of its masks, drawn uniformly: what a score has to beat."""

    block: int = 32
    steps: int = 32

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "steps", 1, whole=True)

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """This step's share, the highest random numbers."""
        return Decision(commit=top_k(view.open, uniform(view), share(view, self.steps))), state
