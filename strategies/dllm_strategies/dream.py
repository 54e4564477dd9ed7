"""Dream's own decoding: a schedule of quotas over time. Dream 7B, arXiv:2508.15487."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import entropy, first, margin, top_k

Counter: TypeAlias = tuple[Tensor]  # int64 [B]


@dataclass(frozen=True)
class Dream(Scheduler[Counter]):
    """With t = linspace(1, 0.001, steps + 1), interval i commits int(masks (1 - t[i+1] / t[i])) positions, best first.

    The last interval commits all that is left; one that would commit nothing is passed over, where the public code
    spends a forward pass on it. `rule` scores by probability ("maskgit_plus"), by the lead over the second token
    ("topk_margin") or by negative entropy ("entropy"). `block` 0 is the whole canvas, else `steps` are per block.
    `start` is the first interval (Fast-dLLM's copies for blocks start at 1).
    """

    steps: int = 512
    rule: Literal["maskgit_plus", "topk_margin", "entropy"] = "entropy"
    block: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        check_number(self, "steps", 1, whole=True)
        check_number(self, "block", 0, whole=True)
        check_number(self, "start", 0, self.steps - 1, whole=True)
        if self.rule not in ("maskgit_plus", "topk_margin", "entropy"):
            raise ConfigError(f"Dream: rule must be maskgit_plus, topk_margin or entropy, got {self.rule!r}")

    def init(self, tokens: Tensor, open: Tensor) -> Counter:
        """The next interval."""
        return (torch.full_like(tokens[:, 0], self.start),)

    def plan(self, view: View, state: Counter) -> tuple[Tensor, Counter]:
        """The whole canvas, or the first `block` masks; the schedule starts anew."""
        return first(view.open, self.block or view.open.shape[1]), (torch.full_like(state[0], self.start),)

    def select(self, view: View, state: Counter) -> tuple[Decision, Counter]:
        """The quota of the next interval that has one."""
        (interval,) = state
        masks = view.open.sum(1)
        time = torch.linspace(1, 1e-3, self.steps + 1, dtype=torch.float32, device=masks.device)
        quotas = (masks[:, None].float() * (1 - time[1:] / time[:-1])).long()
        index = torch.arange(self.steps, device=masks.device)
        quotas = torch.where(index == self.steps - 1, masks[:, None], quotas)
        useful = (index >= interval[:, None]) & (quotas > 0)
        now = torch.where(useful, index, self.steps - 1).amin(1)
        quota = quotas.gather(1, now[:, None])[:, 0]
        return Decision(commit=top_k(view.open, self.score(view), quota)), (now + 1,)

    def score(self, view: View) -> Tensor:
        """What positions are ranked by, float32 [B, L]."""
        if self.rule == "maskgit_plus":
            return view.confidence
        return margin(view) if self.rule == "topk_margin" else -entropy(view)
