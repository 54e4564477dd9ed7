"""Fixed blocks in rounds of positions that lie far apart. Dilated unmasking (DUS), arXiv:2506.19037."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import first

Rounds: TypeAlias = tuple[Tensor]  # int64 [B, L]


@dataclass(frozen=True)
class Dilated(Scheduler[Rounds]):
    """Round t = 1, 2, ... of a block of n commits every s-th position that is left, s = max(1, n // `base` ** t).

    So a block takes at most log_base(n) rounds, rounded up, and the order does not depend on the model: positions of a
    round are as far apart as they can be. The paper's skipping of doubtful positions is left out.
    """

    block: int = 32
    base: int = 2

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "base", 2, whole=True)

    def init(self, tokens: Tensor, open: Tensor) -> Rounds:
        """In which round each position commits; -1 until the block was seen."""
        return (torch.full_like(tokens, -1),)

    def plan(self, view: View, state: Rounds) -> tuple[Tensor, Rounds]:
        """The first `block` masks."""
        return first(view.open, self.block), (torch.full_like(state[0], -1),)

    def select(self, view: View, state: Rounds) -> tuple[Decision, Rounds]:
        """The earliest round that has masks left."""
        length, masks, index = view.open.shape[1], view.open.sum(1, keepdim=True), view.open.cumsum(1) - 1
        powers = [min(self.base**t, length) for t in range(1, length.bit_length() + 1)]
        due = [index % (masks // power).clamp(min=1) == 0 for power in powers]  # one per round
        rounds = torch.stack(due, -1).int().argmax(-1)
        fresh = (state[0] < 0).all(1)  # not the first step alone: a wrapper may have dropped its state
        rounds = torch.where(fresh[:, None], rounds, state[0])
        now = rounds.masked_fill(~view.open, len(powers)).amin(1, keepdim=True)
        return Decision(commit=view.open & (rounds == now)), (rounds,)
