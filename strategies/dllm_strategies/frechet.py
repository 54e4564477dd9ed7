"""Fixed blocks, as many positions as a bound on their joint probability allows. Fast-dLLM++, arXiv:2606.02955."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, rank, sum_before


@dataclass(frozen=True)
class Frechet(Scheduler):
    """The n surest positions commit, for the largest n with c_1 + ... + c_n - (n - 1) - (1 - c_n) > `bound`.

    The sum less n - 1 is Fréchet's lower bound on the probability that all n are right, whatever their dependence.
    At least one commits. `Factor(factor=1 - bound)` puts the n-th doubt in place of all n, and commits no more, except
    at its bound: there it commits, as Fast-dLLM's code does, and this, with the paper's `>`, does not.
    """

    block: int = 32
    bound: float = 0.25

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "bound", 0, 1)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """The left side falls with n, so every position can be tested on its own."""
        place = rank(view.open, view.confidence)
        doubt = 1 - view.confidence
        within = sum_before(place, doubt) + 2 * doubt < 1 - self.bound
        return Decision(commit=view.open & ((place == 0) | within)), state
