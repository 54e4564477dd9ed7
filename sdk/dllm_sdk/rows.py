"""What is known of the rows in work, and what the host reads of it. Knows the canvas, not how a step is made."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.canvas import Canvas
from dllm_sdk.errors import DllmError, ModelError, SchedulerError, SchedulerStalled
from dllm_sdk.sampling import row_seed
from dllm_sdk.scheduler import Scheduler
from dllm_sdk.trees import map_tensors


class Rows(NamedTuple):
    """All that is known of the rows in work. Nothing here is ever written in place."""

    row: Tensor  # int64 [B]  number in the call
    seed: Tensor  # int64 [B]  a hash of the row's seed and its first canvas
    length: Tensor  # int64 [B]
    gen_length: Tensor  # int64 [B]
    horizon: Tensor  # int64 [B]
    tokens: Tensor  # int64 [B, L]
    masked: Tensor  # bool [B, L]  undecided; never inferred from the mask id
    generated: Tensor  # bool [B, L]  masked at the start
    block: Tensor  # bool [B, L]  the current block, committed positions included
    opened: Tensor  # bool [B, L]  the block as it was when it opened (differs where `replan` is "step")
    opening: Tensor  # bool [B]  the row needs a new block
    ordinal: Tensor  # int64 [B]  number of the current block, from 1
    order: Tensor  # int64 [B, L]  number of the block a position was planned into; 0 for given ones
    step: Tensor  # int64 [B]
    nfe: Tensor  # int64 [B]
    refreshes: Tensor  # int64 [B]
    fed: Tensor  # int64 [B]
    low: Tensor  # int64 [B]  fewest masks so far
    idle: Tensor  # int64 [B]  steps since then
    trouble: Tensor  # int64 [B]  0, or one of the numbers below
    done: Tensor  # bool [B]  finished: it only keeps its place until the batch is made smaller
    window: Tensor  # bool [B, L]  what the next step predicts
    feed: Tensor  # bool [B, L]  what it computes
    visible: Tensor  # bool [B, L]  whose keys it may see
    refresh: Tensor  # bool [B]  whether it computes everything that it may see
    state: Any  # the scheduler's


NOT_FINITE, EMPTY_BLOCK, NO_PROGRESS, NO_EOS = 1, 2, 3, 4
LATER = 2**62  # the order of a position that is in no block yet


class Line(NamedTuple):
    """What the host reads of a row between two steps: a line of its table."""

    row: int
    done: int
    opening: int
    trouble: int
    refresh: int
    width: int
    feed: int
    visible: int
    nfe: int


def first_rows(canvas: Canvas, horizons: dict[int, int], state: Any) -> Rows:
    """The rows before their first step: all of them open a block. horizons: gen_length -> horizon."""
    masks, real = canvas.open.sum(1), canvas.real[:, None]

    # Each field is a contiguous tensor of its own: one that is shared or strided would cost a recompilation.
    def numbers(value: int = 0) -> Tensor:
        return torch.full_like(masks, value)

    def nowhere() -> Tensor:
        return torch.zeros_like(canvas.open)

    return Rows(
        row=torch.arange(len(masks), device=masks.device),
        seed=row_seed(canvas.seed, canvas.tokens, canvas.length),
        length=canvas.length,
        gen_length=masks,
        horizon=torch.tensor([horizons[count] for count in masks.tolist()], device=masks.device),
        tokens=canvas.tokens,
        masked=canvas.open & real,
        generated=canvas.open.clone(),
        block=nowhere(),
        opened=nowhere(),
        opening=torch.ones_like(masks, dtype=torch.bool),
        ordinal=numbers(1),
        order=torch.where(canvas.open, LATER, 0),
        step=numbers(),
        nfe=numbers(),
        refreshes=numbers(),
        fed=numbers(),
        low=masks.clone(),
        idle=numbers(),
        trouble=numbers(),
        done=~canvas.real,
        window=nowhere(),
        feed=nowhere(),
        visible=nowhere(),
        refresh=torch.zeros_like(masks, dtype=torch.bool),
        state=map_tensors(lambda part: part.clone(memory_format=torch.contiguous_format), state),
    )


def columns(rows: Rows) -> Tensor:
    """What the host reads between two steps, int64 [B, fields of `Line`]: the only tensor that it reads."""
    found = (rows.row, rows.done, rows.opening, rows.trouble, rows.refresh)
    sums = (rows.window.sum(1), rows.feed.sum(1), rows.visible.sum(1))
    return torch.stack([column.long() for column in (*found, *sums, rows.nfe)], dim=1)


def trouble(scheduler: Scheduler[Any], row: Line) -> DllmError:
    """The error of a row in trouble."""
    where = f"row {row.row} at step {row.nfe}"
    if row.trouble == NOT_FINITE:
        return ModelError(f"the model's logits are not finite (NaN or infinite) in {where}")
    if row.trouble == EMPTY_BLOCK:
        return SchedulerStalled(f"{scheduler!r} planned an empty block for {where}")
    if row.trouble == NO_EOS:
        return SchedulerError(f"{scheduler!r} stopped {where}, but the model has no EOS to fill the rest with")
    if not scheduler.revises:
        return SchedulerStalled(f"{scheduler!r} brought no fewer masks in {where}: commit at least one")
    return SchedulerStalled(
        f"{scheduler!r} brought no fewer masks for {scheduler.patience} steps in {where}: commit more than it takes "
        "back, hold its block for fewer steps, or override `patience`"
    )
