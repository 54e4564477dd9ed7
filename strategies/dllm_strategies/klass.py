"""Fixed blocks, positions that are sure and whose prediction has settled. KLASS, arXiv:2511.05664 (NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, share, top_k

History: TypeAlias = tuple[Tensor, Tensor, Tensor]  # int64 [B, L, kept], float32 [B, L, kept + 1], int64 [B, L]
_NO_TOKEN = 2**62


@dataclass(frozen=True)
class KLASS(Scheduler[History]):
    """Positions above `threshold` with KL(p_t || p_{t-1}) < `divergence` in the last `history` steps commit.

    Where there is none, the best of the step's quota do, an equal share of the block over `steps`. Comparisons are
    strict, as in the code for LLaDA. The paper keeps the whole last distribution, 4 V bytes per position; here it is
    its `kept` likeliest tokens and the rest as one, 12 `kept` bytes. That divergence is never above the full one, and
    equal to it where `kept` >= V. A block's first step has nothing to compare with. The public code, whose every
    pass is of the whole canvas, compares it with the last step of the block before, and so can commit sooner.
    """

    block: int = 32
    steps: int = 32
    threshold: float = 0.9
    divergence: float = 0.01
    history: int = 2
    kept: int = 64

    def __post_init__(self) -> None:
        for name in ("block", "steps", "kept"):
            check_number(self, name, 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "divergence", 0)
        check_number(self, "history", 0, whole=True)

    def init(self, tokens: Tensor, open: Tensor) -> History:
        """The likeliest tokens of the last step, their probabilities and the rest's, and for how long all has held."""
        ids = tokens.new_full((*tokens.shape, self.kept), _NO_TOKEN)
        old = torch.zeros(*tokens.shape, self.kept + 1, dtype=torch.float32, device=tokens.device)
        return ids, old, torch.zeros_like(tokens)

    def plan(self, view: View, state: History) -> tuple[Tensor, History]:
        """The first `block` masks; the history starts anew."""
        return first(view.open, self.block), self.init(view.tokens, view.open)

    def select(self, view: View, state: History) -> tuple[Decision, History]:
        """What is sure and settled, else the quota."""
        ids, old, runs = (view.to_window(part) for part in state)
        log_p = view.logits.log_softmax(-1)
        now = _coarse(log_p, ids)
        moved = (now * (now.clamp(min=1e-12) / old.clamp(min=1e-12)).log()).sum(-1)
        runs = view.to_canvas(torch.where(moved < self.divergence, runs + 1, 0))
        ready = view.open & (view.confidence > self.threshold) & (runs >= self.history)
        best = top_k(view.open, view.confidence, share(view, self.steps))
        commit = torch.where(ready.any(1, keepdim=True), ready, best)
        size = log_p.shape[-1]
        ids = pad(log_p.topk(min(self.kept, size)).indices, (0, max(self.kept - size, 0)), value=_NO_TOKEN)
        return Decision(commit=commit), (view.to_canvas(ids), view.to_canvas(_coarse(log_p, ids)), runs)


def _coarse(log_p: Tensor, ids: Tensor) -> Tensor:
    """The probabilities of the ids and of all other tokens together: [B, W, V] -> [B, W, kept + 1]."""
    size = log_p.shape[-1]
    p = log_p.gather(-1, ids.clamp(max=size - 1)).exp().masked_fill(ids >= size, 0)
    return torch.cat([p, (1 - p.sum(-1, keepdim=True)).clamp(min=0)], -1)
