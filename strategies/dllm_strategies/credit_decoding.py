"""Fixed blocks, tokens that keep leading are trusted sooner. CreditDecoding, arXiv:2510.06133 (ACL 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, check_number
from dllm_sdk.rules import above_or_best, first

Credit: TypeAlias = tuple[Tensor, Tensor]  # int64 [B, L, kept], float32 [B, L, kept]


@dataclass(frozen=True)
class CreditDecoding(Scheduler[Credit]):
    """Threshold decoding on logits + `weight` log(1 + C), C the credit that a token has earned at its position.

    At every step of the block C <- `decay` C, and the likeliest token of a position earns p ** `power`. C is V numbers
    per position, nearly all of them 0; here the `kept` largest, which is all of them while no more tokens have led.
    A draft that is the likeliest token becomes the likeliest with credit; a sampled one stays and is re-scored.
    """

    block: int = 32
    threshold: float = 0.9
    weight: float = 0.7
    power: float = 0.2
    decay: float = 0.8
    kept: int = 4

    def __post_init__(self) -> None:
        check_number(self, "block", 1, whole=True)
        check_number(self, "threshold", 0)
        check_number(self, "weight", 0)
        check_number(self, "power", 0)
        check_number(self, "decay", 0, 1)
        check_number(self, "kept", 1, whole=True)

    def init(self, tokens: Tensor, open: Tensor) -> Credit:
        """Tokens that have led at a position, and their credit."""
        ids = tokens.new_zeros(*tokens.shape, self.kept)
        return ids, torch.zeros_like(ids, dtype=torch.float32)

    def plan(self, view: View, state: Credit) -> tuple[Tensor, Credit]:
        """The first `block` masks; nothing has earned credit."""
        return first(view.open, self.block), self.init(view.tokens, view.open)

    def select(self, view: View, state: Credit) -> tuple[Decision, Credit]:
        """Everything that is sure with its credit, and always the best position."""
        leader = view.logits.argmax(-1, keepdim=True)  # of equals the first, as the sampler
        log_p = view.logits.gather(-1, leader) - view.logits.logsumexp(-1, keepdim=True)
        earned = (self.power * log_p).exp()
        ids, credit = _earn(view.to_window(state[0]), view.to_window(state[1]) * self.decay, leader, earned)
        scored = view.logits.scatter_add(-1, ids, self.weight * credit.log1p())
        draft = view.to_window(view.draft)[..., None]
        draft = torch.where(draft == leader, scored.argmax(-1, keepdim=True), draft)
        confidence = view.to_canvas((scored.gather(-1, draft)[..., 0] - scored.logsumexp(-1)).exp())
        commit = above_or_best(view.open, confidence, self.threshold)
        decision = Decision(commit=commit, tokens=view.to_canvas(draft[..., 0]))
        return decision, (view.to_canvas(ids), view.to_canvas(credit))


def _earn(ids: Tensor, credit: Tensor, leader: Tensor, earned: Tensor) -> Credit:
    """Add to the leader's credit, in the place of the smallest if it has none. [B, W, kept] and [B, W, 1]."""
    known = (ids == leader) & (credit > 0)
    slot = torch.where(known.any(-1), known.int().argmax(-1), credit.argmin(-1))[..., None]
    before = torch.where(known.any(-1, keepdim=True), credit.gather(-1, slot), 0)
    return ids.scatter(-1, slot, leader), credit.scatter(-1, slot, before + earned)
