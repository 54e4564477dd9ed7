"""Fixed blocks, a lower threshold beside sure positions. LocalLeap, arXiv:2510.07081."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import max_pool1d

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above, at_least_one, first


@dataclass(frozen=True)
class LocalLeap(Scheduler):
    """Every position at or above `threshold` is an anchor and commits; up to `radius` away `relaxed` is enough.

    Anchors are masks of this step, not tokens committed before. Always the best one commits.
    """

    block: int = 32
    threshold: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "relaxed", 0)
        check_number(self, "radius", 0, whole=True)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Anchors, and what is sure enough in their neighbourhood."""
        anchors = above(view.open, view.confidence, self.threshold)
        radius = min(self.radius, anchors.shape[1])  # the pool takes as long as it is wide
        near = max_pool1d(anchors.float(), 2 * radius + 1, 1, radius) > 0
        commit = anchors | (near & above(view.open, view.confidence, self.relaxed))
        return Decision(commit=at_least_one(view.open, view.confidence, commit)), state
