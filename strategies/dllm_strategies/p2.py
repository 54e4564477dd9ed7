"""Every step plans which positions are decided, committed ones included. P2 (path planning), arXiv:2502.03540."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import top_k
from dllm_sdk.scheduler import MOST_PATIENCE


@dataclass(frozen=True)
class P2(Scheduler):
    """Step i = 1 ... steps leaves int(n (1 - i / steps)) of the n positions masked: those of the lowest score.

    The score is the log probability of the draft at a mask, and `eta` times that of the token at a committed position:
    eta = 0 never masks again, eta > 1 distrusts what is written. The planner is the model itself (P2-Self), kappa is
    linear. No state. At temperature 0 more steps than positions gain nothing.
    """

    steps: int = 32
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "steps", 1, whole=True)
        check_number(self, "eta", 0, 1e6)

    @property
    def revises(self) -> bool:
        """It masks committed tokens."""
        return True

    @property
    def patience(self) -> int:
        """With fewer positions than steps most steps bring no new low."""
        return min(max(32, self.steps), MOST_PATIENCE)

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The whole canvas."""
        return view.open, state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Decide the best positions of the block, and nothing else."""
        everything = view.open | view.committed
        n = everything.sum(1)
        masked = n * (self.steps - 1 - view.step).clamp(min=0) // self.steps
        decided = top_k(everything, self.score(view), n - masked)
        return Decision(commit=view.open & decided, remask=view.committed & ~decided), state

    def score(self, view: View) -> Tensor:
        """What positions are ranked by, float32 [B, L]."""
        tokens = view.to_window(torch.where(view.committed, view.tokens, view.draft))[..., None]
        log_p = (view.logits.gather(-1, tokens)[..., 0] - view.logits.logsumexp(-1)).clamp(min=-1e4)  # 0 * inf is NaN
        log_p = view.to_canvas(log_p)
        # With eta = 0 a mask that is certain must not take the place of a token.
        committed = self.eta * log_p if self.eta else torch.full_like(log_p, torch.inf)
        return torch.where(view.committed, committed, log_p)
