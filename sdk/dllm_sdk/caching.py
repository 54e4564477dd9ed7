"""Which positions a step computes. Knows positions, no scheduler, and of a model only which policies can serve it.

A step has two sets of positions per row: the window (what is predicted) and the feed (what is computed). A cache policy
only says what is fed; keys and values of everything else are read from the store, where they may be out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.errors import ConfigError
from dllm_sdk.model import Model
from dllm_sdk.scheduler import check_number


@dataclass(frozen=True)
class Cache:
    """A policy. `suffix=False` hides what follows the block; `refresh_every=n` refreshes when `step % n == 0`."""

    suffix: bool = True
    stores: ClassVar[bool] = True  # whether keys and values are kept from step to step

    def __post_init__(self) -> None:
        if not isinstance(self.suffix, bool):
            raise ConfigError(f"{type(self).__name__}: suffix must be true or false, got {self.suffix!r}")

    def check(self, model: Model, replan: Literal["block", "step"]) -> None:
        """Raise ConfigError if this policy cannot serve the model or the scheduler."""
        if not hasattr(model, "new_store"):
            raise ConfigError(
                f"{type(self).__name__} needs a model that has `new_store`: take cache none, that is NoCache()"
            )

    def refresh(self, opening: Tensor, step: Tensor) -> Tensor:
        """bool [B]: rows that compute everything they may see."""
        return torch.ones_like(opening)

    def feed(self, at: Positions) -> Tensor:
        """bool [B, L]: what a row computes that does not refresh."""
        return at.visible


@dataclass(frozen=True)
class NoCache(Cache):
    """Everything, every time: the oracle that the others are compared with."""

    stores = False

    def check(self, model: Model, replan: Literal["block", "step"]) -> None:
        """It serves all: nothing is stored."""


@dataclass(frozen=True)
class _Refreshing(Cache):
    refresh_every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refresh_every is not None:
            check_number(self, "refresh_every", 1, whole=True)

    def check(self, model: Model, replan: Literal["block", "step"]) -> None:
        """Old keys of a block-causal model need no refresh: there is a better policy for it."""
        super().check(model, replan)
        if model.block_causal:
            raise ConfigError(
                f"{type(self).__name__} is for bidirectional models; this one is block-causal: take cache block or none"
            )

    def refresh(self, opening: Tensor, step: Tensor) -> Tensor:
        """Where a block opens, which is its step 0, and every `refresh_every` steps of it."""
        return opening if self.refresh_every is None else step % self.refresh_every == 0


@dataclass(frozen=True)
class PrefixCache(_Refreshing):
    """From the start of the block to the end of the row (Fast-dLLM, arXiv:2505.22618). Old keys before it."""

    def feed(self, at: Positions) -> Tensor:
        """What lies at or behind the first position of the block."""
        return at.visible & (at.block.cumsum(1) > 0)


@dataclass(frozen=True)
class DualCache(_Refreshing):
    """The block alone (Fast-dLLM, arXiv:2505.22618). Old keys on both sides of it."""

    def feed(self, at: Positions) -> Tensor:
        """The block."""
        return at.block


@dataclass(frozen=True)
class BlockCache(Cache):
    """For block-causal models: the block, and once, together with the next one, the block that was finished. Exact."""

    def check(self, model: Model, replan: Literal["block", "step"]) -> None:
        """Blocks must stay as they were planned, and later ones must not be seen."""
        super().check(model, replan)
        if not model.block_causal:
            raise ConfigError(
                "BlockCache is for block-causal models; this one is bidirectional: take cache dual, prefix or none"
            )
        if replan == "step":
            raise ConfigError("BlockCache needs blocks that stay as planned; this scheduler replans at every step")

    def refresh(self, opening: Tensor, step: Tensor) -> Tensor:
        """Never: finished keys stay true."""
        return torch.zeros_like(opening)

    def feed(self, at: Positions) -> Tensor:
        """The block, and on its first step the one before it, whose keys do not know its last tokens yet."""
        return at.block | (at.finished & at.first_step[:, None])


class Positions(NamedTuple):
    """Where a row stands, as a cache policy sees it."""

    visible: Tensor  # bool [B, L]  positions whose keys may be seen
    block: Tensor  # bool [B, L]  the block, or what the plan looks at where there is none yet
    finished: Tensor  # bool [B, L]  the block before it; for the first block the given positions
    first_step: Tensor  # bool [B]  of the block
