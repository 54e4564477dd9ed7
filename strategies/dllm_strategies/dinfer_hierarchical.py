"""Fixed blocks, the best of every run of masks. dInfer, arXiv:2510.08666 (hierarchical decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import at_least_one, first, rank


@dataclass(frozen=True)
class DInferHierarchical(Scheduler):
    """Every position above `threshold` commits, and of every run of adjacent masks the best one, if above `low`.

    Committing inside a run splits it, so n masks can be done in log2(n + 1) steps. Always the best one of all commits.
    Comparisons are strict, as in the code; of equally good positions of a run the first commits, where it takes all.
    """

    block: int = 32
    threshold: float = 0.9
    low: float = 0.4

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "low", 0)

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """The sure ones, the best of each run, and the best of all."""
        starts = view.open.clone()
        starts[:, 1:] &= ~view.open[:, :-1]
        run = starts.cumsum(1)  # which run a mask is in; what lies between two runs ranks behind both
        place = rank(view.open, view.confidence)
        best = place.new_full((len(place), place.shape[1] + 1), place.shape[1]).scatter_reduce(1, run, place, "amin")
        lead = (place == best.gather(1, run)) & (view.confidence > self.low)
        commit = view.open & (lead | (view.confidence > self.threshold))
        return Decision(commit=at_least_one(view.open, view.confidence, commit)), state
