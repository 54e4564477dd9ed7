"""Every mask commits at a random time. Dream 7B, arXiv:2508.15487 (`alg="origin"`), the sampler of masked diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, uniform

Times: TypeAlias = tuple[Tensor]  # float32 [B, L]


@dataclass(frozen=True)
class DreamOrigin(Scheduler[Times]):
    """With t = linspace(1, 0.001, steps + 1), a mask commits in interval i with probability 1 - t[i+1] / t[i].

    The last interval commits all that is left. That is a time drawn uniformly from (0, 1) per mask, once, which is how
    it is done here: intervals in which nothing would commit cost no forward pass. `block` 0 is the whole canvas, else
    `steps` are per block.
    """

    steps: int = 512
    block: int = 0

    def __post_init__(self) -> None:
        check_number(self, "steps", 1, whole=True)
        check_number(self, "block", 0, whole=True)

    def init(self, tokens: Tensor, open: Tensor) -> Times:
        """When each mask commits, drawn with its block."""
        return (torch.zeros_like(tokens, dtype=torch.float32),)

    def plan(self, view: View, state: Times) -> tuple[Tensor, Times]:
        """The whole canvas, or the first `block` masks; their times."""
        return first(view.open, self.block or view.open.shape[1]), (uniform(view),)

    def select(self, view: View, state: Times) -> tuple[Decision, Times]:
        """The masks whose time lies in the next interval that has any."""
        interval = ((1 - state[0]) / (1 - 1e-3) * self.steps).long().clamp(max=self.steps - 1)
        now = interval.masked_fill(~view.open, self.steps).amin(1, keepdim=True)
        return Decision(commit=view.open & (interval == now)), state
