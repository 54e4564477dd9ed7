"""One look: a forward pass, from the rows to the logits of their windows. `deciding` does the rest of a step.

The host settles the sizes before; inside nothing is read back to it. Knows the protocol of models, no scheduler and no
loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_sdk.errors import ModelError
from dllm_sdk.execution import Runner
from dllm_sdk.lanes import at_lanes, before, lanes
from dllm_sdk.model import Model, Store
from dllm_sdk.rows import Rows
from dllm_sdk.trees import take


class Shape(NamedTuple):
    """The sizes of a step: all that the host decides. Steps of one shape run the same code."""

    window: int  # lanes that are predicted
    feed: int  # lanes that are computed, of the rows that do not refresh apart
    apart: int  # rows that refresh as a batch of their own; 0: none, or all
    apart_feed: int  # lanes of those
    all_visible: bool  # every key is seen by every query
    planning: bool  # a plan that looks at logits may be asked


class Work(NamedTuple):
    """What a forward pass computes."""

    tokens: Tensor  # int64 [B, L]
    feed: Tensor  # bool [B, L]  what is computed
    visible: Tensor  # bool [B, L]  keys that may be seen
    order: Tensor | None  # int64 [B, L]  block-causal: a key is seen by queries of its own and of later blocks
    window: Tensor  # int64 [B, W]  what is predicted; L on padding lanes


@dataclass(frozen=True)
class Looker:
    """What looks: the model, how it is run, and how strongly it is guided."""

    model: Model
    runner: Runner
    guidance: float

    def look(self, rows: Rows, *, stores: list[Store], shape: Shape) -> tuple[Tensor, Tensor]:
        """Logits [B, W, V] of the window, and the window, int64 [B, W]."""
        window = lanes(rows.window, shape.window)
        logits = self.model.head(self.hidden(rows, window, stores[0] if stores else None, shape))
        if self.guidance:
            blind = rows._replace(tokens=torch.where(rows.generated, rows.tokens, self.model.mask_id))
            plain = self.model.head(self.hidden(blind, window, stores[1] if stores else None, shape))
            push = (logits - plain).masked_fill(logits == plain, 0)  # what both forbid, at minus infinity, stays there
            logits = plain + (self.guidance + 1) * push
        if logits.shape[-1] != self.model.vocab_size:
            raise ModelError(f"head must return {self.model.vocab_size} logits, got {logits.shape[-1]}")
        return logits, window

    def hidden(self, rows: Rows, window: Tensor, store: Store | None, shape: Shape) -> Tensor:
        """[B, W, D]: refreshing rows as a batch of their own, the others from the store; joined for one head."""
        work = Work(rows.tokens, rows.feed, rows.visible, self.order(rows) if self.model.block_causal else None, window)
        if store is None or not shape.apart:
            return self.forward(work, shape.feed, store, shape)
        # Places beyond the rows that refresh repeat the last one: it is computed, and written, twice alike.
        place = torch.arange(shape.apart, device=window.device).minimum(rows.refresh.sum() - 1)
        index = rows.refresh.long().argsort(descending=True, stable=True)[place]
        part = self.model.new_store(shape.apart, rows.tokens.shape[1])
        renewed = self.forward(take(work, index), shape.apart_feed, part, shape)
        store.put(index, part)
        del part
        # Here the refreshing rows feed nothing but padding lanes: to leave them out would copy the others' store.
        rest = work._replace(feed=work.feed & ~rows.refresh[:, None])
        return self.forward(rest, shape.feed, store, shape).index_copy(0, index, renewed)

    def order(self, rows: Rows) -> Tensor:
        """The block that each position is computed in, int64 [B, L]: a query sees keys of its own and earlier ones."""
        current = rows.window
        if self.model.shift:  # what predicts a position of the block sees as it does, unless it is in one already
            current = current | (before(current) & (rows.order > rows.ordinal[:, None]))
        return torch.where(current, rows.ordinal[:, None], rows.order)

    def forward(self, work: Work, width: int, store: Store | None, shape: Shape) -> Tensor:
        """One forward pass of at most `width` lanes per row."""
        function = partial(compute, width=width, all_visible=shape.all_visible)
        one: Tensor = self.runner.forward(function, work, store)
        return one


def compute(model: Model, work: Work, store: Store | None, *, width: int, all_visible: bool) -> Tensor:
    """One forward pass: the hidden states that predict the window, [B, W, D].

    width: the most positions any row feeds; all_visible: the host knows that every key is seen by every query.
    """
    rows, length = work.tokens.shape
    fed = lanes(work.feed, width)
    tokens = at_lanes(work.tokens, fed)
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


def _key_mask(work: Work, fed: Tensor, *, stored: bool) -> Tensor:
    """bool [B, Q or 1, S]: the canvas positions in the store, or the fed lanes, that a query may see."""
    visible = work.visible if stored else at_lanes(work.visible, fed)
    if work.order is None:
        return visible[:, None]
    query = at_lanes(work.order, fed)
    key = work.order if stored else query
    padding = fed == work.tokens.shape[1]  # these lanes see every real key: a row of the mask is never empty
    return visible[:, None] & ((key[:, None] <= query[..., None]) | padding[..., None])
