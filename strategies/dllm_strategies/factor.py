"""Fixed blocks, as many positions as their joint doubt allows. Fast-dLLM, arXiv:2505.22618 (factor-based decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, rank


@dataclass(frozen=True)
class Factor(Scheduler):
    """The n most confident positions commit, for the largest n with (n + 1) (1 - c_n) <= `factor`, and at least one.

    `commit_last` does as the public code: where only the last remaining candidate fails, it commits too.
    """

    block: int = 32
    factor: float = 1.0
    commit_last: bool = False

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "factor", 0)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """The left side grows with n, so every position can be tested on its own."""
        place = rank(view.open, view.confidence)
        commit = view.open & ((place == 0) | (view.confidence >= 1 - self.factor / (place + 2)))
        if self.commit_last:
            left = view.open.sum(1) - commit.sum(1)
            commit = commit | (view.open & (left == 1)[:, None])
        return Decision(commit=commit), state
