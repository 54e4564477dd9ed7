"""Fixed blocks, as many positions as a budget of entropy allows. EB-Sampler, arXiv:2505.24857."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import entropy, first, rank, sum_before


@dataclass(frozen=True)
class EBSampler(Scheduler):
    """The k positions of lowest entropy H commit, for the largest k with H_1 + ... + H_k - max H <= `budget` nats.

    The sum less its largest term bounds what the k positions can tell about each other. The first costs nothing, so
    at least one commits; so does every further one whose entropy is zero, whatever the budget.
    """

    block: int = 32
    budget: float = 0.1

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "budget", 0)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """In this order the largest entropy is the last one, and the sum before it is what counts."""
        doubt = entropy(view)
        place = rank(view.open, -doubt)
        return Decision(commit=view.open & (sum_before(place, doubt) <= self.budget)), state
