"""Fixed blocks and a fixed number of steps. LLaDA, arXiv:2502.09992 (semi-autoregressive low-confidence remasking)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, TokenIds, View, check_number
from dllm_sdk.rules import first, one_of, share, top_k


@dataclass(frozen=True)
class FixedBlock(Scheduler):
    """Equal blocks, left to right; `steps` forward passes per block, an equal share each, the most confident first.

    With `steps >= block`, the default, one token per step. Positions that draft a token in `defer` come last, and the
    others are ranked as if it could not be (LLaDA's `confidence_eos_eot_inf`, with EOS and EoT).
    """

    block: int = 32
    steps: int = 32
    defer: TokenIds = ()

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
        """This step's share, the best of them."""
        return Decision(commit=top_k(view.open, self.score(view), share(view, self.steps))), state

    def score(self, view: View) -> Tensor:
        """What positions are ranked by, float32 [B, L]."""
        if not self.defer:
            return view.confidence
        tokens = torch.arange(view.logits.shape[-1], device=view.logits.device)
        logits = view.logits.masked_fill(one_of(tokens, self.defer), -torch.inf)
        draft = view.to_window(view.draft)[..., None]
        return view.to_canvas((logits.gather(-1, draft)[..., 0] - logits.logsumexp(-1)).exp())
