"""Blocks that end where a line of thought ends. AdaBlock-dLLM, arXiv:2509.26432 (ICLR 2026), algorithms 1 and 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, TokenIds, View, check_number
from dllm_sdk.rules import above, above_or_best, first, one_of, top_k


@dataclass(frozen=True)
class AdaBlock(Scheduler):
    """The block ends at the most confident delimiter drafted in the window, if it is sure enough.

    `window` is a share of gen_length (a float from 0 to 1) or a number of positions (an int). Where no delimiter in it
    reaches `delimiter_threshold` the block is `block` positions long. Commits: every position at or above `threshold`,
    and always the best one. The comparisons are `>=`, as in the paper and its code; the window is a share of the whole
    gen_length, as in the code. `delimiter_threshold=inf` gives fixed blocks.
    """

    delimiters: TokenIds = "\n"
    block: int = 32
    threshold: float = 0.9
    delimiter_threshold: float = 0.3
    window: float = 0.25

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "delimiter_threshold", 0)
        check_number(self, "window", 0, 1.0 if isinstance(self.window, float) else float("inf"))

    def horizon(self, gen_length: int) -> int:
        """The window, or the block where that is longer."""
        return max(self.block, self._window(gen_length))

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Up to the best delimiter, or `block` positions."""
        width = (view.gen_length.double() * self.window).long() if isinstance(self.window, float) else self.window
        ends = first(view.open, width) & one_of(view.draft, self.delimiters)
        best = top_k(ends, view.confidence, 1)
        end = above(best, view.confidence, self.delimiter_threshold)
        up_to_end = view.open & (end.flip(1).cumsum(1).flip(1) > 0)  # where the end is here or to the right
        return torch.where(end.any(1, keepdim=True), up_to_end, first(view.open, self.block)), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.threshold)), state

    def _window(self, gen_length: int) -> int:
        return int(gen_length * self.window) if isinstance(self.window, float) else self.window
