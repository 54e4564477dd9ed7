"""Doubtful positions wait in a window that slides. Deferred commitment decoding (DCD), arXiv:2601.02076."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first, leftmost


@dataclass(frozen=True)
class DCD(Scheduler):
    """At every step the window starts at the first mask and takes in `window` masks, over at most `reach` positions.

    In it every position at or above `threshold` commits, and always the best one; what waits never holds the window
    up before `reach`. No state. The code also writes EOS behind a committed EOS: that is `EarlyEOS(DCD())`.
    """

    window: int = 32
    reach: float = float("inf")
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "window", 1, whole=True)
        check_number(self, "reach", 1)
        check_number(self, "threshold", 0)

    @property
    def replan(self) -> Literal["step"]:
        """The window slides at every step."""
        return "step"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The masks near the first one."""
        positions = torch.arange(view.open.shape[1], device=view.open.device)
        return first(view.open, self.window) & (positions - leftmost(view.open)[:, None] < self.reach), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Everything the model is sure of, and always the best position."""
        return Decision(commit=above_or_best(view.open, view.confidence, self.threshold)), state
