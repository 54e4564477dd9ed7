"""Which positions a step computes. Knows positions and the model's forward pass, no scheduler.

A step has two sets of positions per row: the window (what is predicted) and the feed (what is computed). A cache policy
only says what is fed; keys and values of everything else are read from the store, where they may be out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.errors import ConfigError, ModelError
from dllm_sdk.model import Model, Store
from dllm_sdk.scheduler import check_number


@dataclass(frozen=True)
class Cache:
    """A policy. `suffix=False` hides what follows the block; `refresh_every=n` refreshes when `step % n == 0`."""

    suffix: bool = True
    stores: ClassVar[bool] = True  # whether keys and values are kept from step to step

    def __post_init__(self) -> None:
        """Check the fields."""
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
        """Check the fields."""
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
        """Where a block opens, and every `refresh_every` steps of it."""
        return opening if self.refresh_every is None else opening | (step % self.refresh_every == 0)


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
        return at.block | (at.finished & at.fresh[:, None])


class Positions(NamedTuple):
    """Where a row stands, as a cache policy sees it."""

    visible: Tensor  # bool [B, L]  positions whose keys may be seen
    block: Tensor  # bool [B, L]  the block, or what the plan looks at where there is none yet
    finished: Tensor  # bool [B, L]  the block before it; for the first block the given positions
    fresh: Tensor  # bool [B]  the block's first step


class Feed(NamedTuple):
    """A forward pass of some rows."""

    tokens: Tensor  # int64 [B, L]
    feed: Tensor  # bool [B, L]  what is computed
    visible: Tensor  # bool [B, L]  keys that may be seen
    order: Tensor | None  # int64 [B, L]  block-causal: a key is seen by queries of its own and of later blocks
    window: Tensor  # int64 [B, W]  what is predicted; L on padding lanes

    def rows(self, index: Tensor) -> Feed:
        """Some rows of it, int64 [n]."""
        order = None if self.order is None else self.order[index]
        return Feed(self.tokens[index], self.feed[index], self.visible[index], order, self.window[index])


def before(mask: Tensor) -> Tensor:
    """The positions one to the left of those of a mask, bool [B, L]: a shifted model predicts these from there."""
    return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)


def lanes(mask: Tensor, width: int) -> Tensor:
    """The positions of a mask, ascending, L on padding: bool [B, L] -> int64 [B, width]."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    ascending = torch.where(mask, positions, mask.shape[1]).sort(1).values[:, :width]
    # Compiled code is made for strides, and a slice has others.
    return ascending.clone(memory_format=torch.contiguous_format)


def placed(canvas: Tensor, window: Tensor, values: Tensor) -> Tensor:
    """The canvas [B, L] with what lanes hold, [B, W], at their positions, int64 [B, W]; padding lanes write nothing."""
    return _pad(canvas, 0).scatter(1, window, values)[:, :-1]


def compute(model: Model, work: Feed, store: Store | None, *, width: int, all_visible: bool) -> Tensor:
    """One forward pass: the hidden states that predict the window, [B, W, D].

    width: the most positions any row feeds; all_visible: the host knows that every key is seen by every query.
    """
    rows, length = work.tokens.shape
    fed = lanes(work.feed, width)
    tokens = _pad(work.tokens, 0).gather(1, fed)
    key_mask = None if all_visible else _key_mask(work, fed, stored=store is not None)
    lane_of = fed.new_zeros(rows, length + 1).scatter(1, fed, torch.arange(width, device=fed.device).expand_as(fed))
    # A shifted model predicts a position from the one before it; position 0 has none and takes its own.
    lane = lane_of.gather(1, (work.window - model.shift).clamp(min=0))
    at = getattr(model, "forward_at", None)
    if at is not None:
        some: Tensor = at(tokens, fed, store, key_mask, lane)
        return some
    hidden = model.forward(tokens, fed, store, key_mask)
    if hidden.shape[:2] != fed.shape:
        raise ModelError(f"forward must return hidden states [{rows}, {width}, D], got {list(hidden.shape)}")
    return hidden.gather(1, lane[..., None].expand(-1, -1, hidden.shape[-1]))


def _key_mask(work: Feed, fed: Tensor, *, stored: bool) -> Tensor:
    """bool [B, Q or 1, S]: the canvas positions in the store, or the fed lanes, that a query may see."""
    visible = work.visible if stored else _pad(work.visible, False).gather(1, fed)
    if work.order is None:
        return visible[:, None]
    query = _pad(work.order, 0).gather(1, fed)
    key = work.order if stored else query
    padding = fed == work.tokens.shape[1]  # these lanes see every real key: a row of the mask is never empty
    return visible[:, None] & ((key[:, None] <= query[..., None]) | padding[..., None])


def _pad(canvas: Tensor, value: Any) -> Tensor:
    """One more column, for the padding lanes."""
    return torch.cat([canvas, torch.full_like(canvas[:, :1], value)], dim=1)
