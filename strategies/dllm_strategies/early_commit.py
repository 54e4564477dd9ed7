"""Commit all that is left once the model is sure of it: what Prophet and SchED share. Each says how sure that is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, Wrapper
from dllm_strategies.fixed_block import FixedBlock


@dataclass(frozen=True)
class EarlyCommit(Wrapper):
    """Another scheduler, until the mean logit gap of the row's masks reaches `limit`; then all of them commit.

    The gap is the largest logit minus the second largest, before temperature. Every step therefore wants the
    logits of all masks, and a cache that feeds the block alone feeds them all. State: the inner one's, and the inner
    block, one bool per position.
    """

    inner: Scheduler[Any] = field(default_factory=FixedBlock)
    revises = Scheduler.revises  # never, since no inner one does

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner.revises:
            name = type(self).__name__
            raise ConfigError(f"{name}: inner must be a scheduler that does not revise, got {self.inner!r}")

    @abstractmethod
    def limit(self, progress: Tensor) -> Tensor:
        """The mean gap from which everything commits, float64 [B], where this share of the row is decided."""

    @property
    def replan(self) -> Literal["step"]:
        """The block may become everything at any step."""
        return "step"

    @property
    def fits(self) -> Literal["own"]:
        """`select` needs the logits of all masks, whatever the block."""
        return "own"

    def horizon(self, gen_length: int) -> int:
        """All of them."""
        return gen_length

    def init(self, tokens: Tensor, open: Tensor) -> Any:
        """The inner state, and the inner block."""
        return self.inner.init(tokens, open), torch.zeros_like(open)

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        """The inner block, which may last, or everything."""
        block, moved = self.inner.plan(view, state[0])
        lasts = (view.step > 0) & (self.inner.replan == "block")
        block = torch.where(lasts[:, None], state[1] & view.open, block)
        return torch.where(self.sure(view)[:, None], view.open, block), (moved, block)

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        """What the inner one says, or everything."""
        decision, moved = self.inner.select(view, state[0])
        commit = torch.where(self.sure(view)[:, None], view.open, decision.commit)
        return decision._replace(commit=commit), (moved, state[1])

    def sure(self, view: View) -> Tensor:
        """Whether the mean gap reaches its limit, bool [B]. Every mask of the row has a lane, and nothing else has."""
        best = view.logits.topk(2, dim=-1).values.double()
        gap = view.to_canvas(best[..., 0] - best[..., 1]).sum(1)
        masks = view.to_canvas(torch.ones_like(best[..., 0])).sum(1)
        return gap / masks >= self.limit((view.gen_length - masks) / view.gen_length)
