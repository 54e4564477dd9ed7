"""The loop: it owns every invariant, so that no scheduler, not even a hostile one, can break them.

    plan blocks -> forward -> head on the window -> draft -> select -> apply -> who is done?

Knows the protocols of schedulers and models, no strategy and no architecture. Tensors stay on the device; between two
steps the host reads one small table (two where a block was planned before its first forward pass).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.caching import NoCache, compute
from dllm_sdk.canvas import Canvas, OpenMask, Prompts, build_canvas
from dllm_sdk.contract import Applied, allowed, check_pair, check_state, check_tensor, map_tensors, merge_state
from dllm_sdk.errors import ConfigError, ModelError, SchedulerError, SchedulerStalled
from dllm_sdk.model import Model, bind
from dllm_sdk.rules import first, one_of
from dllm_sdk.sampling import Sampler, row_key
from dllm_sdk.scheduler import Scheduler, View


class Step(NamedTuple):
    """One step of the rows that are still being decoded. A row that is done is in no later step."""

    rows: Tensor  # int64 [B]  which row of the call this is
    tokens: Tensor  # int64 [B, L]  the canvas after the step
    view: View  # what `select` saw
    decision: Applied  # what was applied: the scheduler's wishes, cut to what is allowed
    settled: Tensor  # int64 [B]  positions from the left that are final: how far the row can be shown
    done: Tensor  # bool [B]  rows that end with this step
    nfe: Tensor  # int64 [B]  the row's decisions so far, each from one forward pass
    refreshes: Tensor  # int64 [B]  those that recomputed a cache; 0 without one
    fed: Tensor  # int64 [B]  positions computed so far


def decode(
    model: Model,
    prompt: Prompts,
    scheduler: Scheduler[Any],
    *,
    gen_length: int | Sequence[int],
    open: OpenMask | Sequence[OpenMask] | None = None,
    samples: int = 1,
    cache: NoCache = NoCache(),  # noqa: B008  frozen
    sampler: Sampler = Sampler(),  # noqa: B008  frozen
    seed: int = 0,
    stop_at_eos: bool = True,
    max_idle: int = 32,
) -> Iterator[Step]:
    """Decode step by step.

    `prompt` is a text, token ids, or a list of either; each row gets `gen_length` masks after its prompt (a number, or
    one per prompt), and `open` marks prompt positions to fill in as well. Each prompt is repeated for `samples` seeds.
    With `stop_at_eos` a row ends once everything before its first generated EOS is final; tokens up to it are those of
    a run without. A scheduler that revises may take `max_idle` steps without bringing the masks to a new low.

    Raises ConfigError for arguments, SchedulerError and SchedulerStalled for the scheduler, ModelError for the model.
    """
    canvas = build_canvas(model, prompt, gen_length=gen_length, open=open, samples=samples, seed=seed)
    return run(model, canvas, scheduler, cache=cache, sampler=sampler, stop_at_eos=stop_at_eos, max_idle=max_idle)


def run(
    model: Model,
    canvas: Canvas,
    scheduler: Scheduler[Any],
    *,
    cache: NoCache,
    sampler: Sampler,
    stop_at_eos: bool,
    max_idle: int,
) -> Iterator[Step]:
    """`decode` for a canvas that is already built."""
    if not isinstance(scheduler, Scheduler):
        raise ConfigError(f"scheduler must be an instance of a Scheduler subclass, got {scheduler!r}")
    if max_idle < 1:
        raise ConfigError(f"max_idle must be >= 1, got {max_idle}")
    if model.block_causal:
        raise ConfigError("a block-causal model needs a cache that knows its blocks, which is not there yet")
    loop = _Loop(model, bind(scheduler, model), cache, sampler, stop_at_eos=stop_at_eos, max_idle=max_idle)
    return loop.run(canvas)


class _Rows(NamedTuple):
    """All that is known of the rows in work. Nothing here is ever written in place."""

    row: Tensor  # int64 [B]  number in the call
    seed: Tensor  # int64 [B]
    length: Tensor  # int64 [B]
    gen_length: Tensor  # int64 [B]
    horizon: Tensor  # int64 [B]
    tokens: Tensor  # int64 [B, L]
    masked: Tensor  # bool [B, L]  undecided; never inferred from the mask id
    generated: Tensor  # bool [B, L]  masked at the start
    block: Tensor  # bool [B, L]  the current block, committed positions included
    opened: Tensor  # bool [B, L]  what it was when it opened (differs where `replan` is "step")
    opening: Tensor  # bool [B]  the row needs a new block
    step: Tensor  # int64 [B]
    nfe: Tensor  # int64 [B]
    refreshes: Tensor  # int64 [B]
    fed: Tensor  # int64 [B]
    low: Tensor  # int64 [B]  fewest masks so far
    idle: Tensor  # int64 [B]  steps since then
    trouble: Tensor  # int64 [B]  0, or one of the numbers below
    state: Any  # the scheduler's


_NOT_FINITE, _EMPTY_BLOCK, _NO_PROGRESS, _NO_EOS = 1, 2, 3, 4


class _Table(NamedTuple):
    """What the host reads between two steps, one of these per row."""

    row: int
    done: int
    opening: int
    trouble: int
    width: int
    length: int
    nfe: int


class _Seen(NamedTuple):
    """What a forward pass showed, before it is cut for `plan` or `select`."""

    draft: Tensor  # int64 [B, L]
    confidence: Tensor  # float32 [B, L]
    logits: Tensor  # float32 [B, W, V]
    window: Tensor  # int64 [B, W]
    key: Tensor  # int64 [B]


@dataclass(frozen=True)
class _Loop:
    """The parts of a run, and one method per stage of a step."""

    model: Model
    scheduler: Scheduler[Any]
    cache: NoCache
    sampler: Sampler
    stop_at_eos: bool
    max_idle: int
    horizons: dict[int, int] = field(default_factory=dict)  # gen_length -> horizon, asked once each

    @torch.no_grad()
    def run(self, canvas: Canvas) -> Iterator[Step]:
        """The steps, until every row is done."""
        rows = self.start(canvas)
        table = self.read(rows, torch.zeros_like(rows.opening))
        while table:
            planning = self.scheduler.replan == "step" or any(row.opening for row in table)
            if planning and 0 in self.horizons.values():
                rows = self.plan(rows, rows.masked, self.blank(rows), rows.horizon == 0)
                table = self.read(rows, torch.zeros_like(rows.opening))
            rows, step = self.step(rows, table, planning=planning)
            table = self.read(rows, step.done)
            yield step
            alive = [i for i, row in enumerate(table) if not row.done]
            if len(alive) < len(table):  # a finished row leaves the batch and costs nothing more
                index = torch.tensor(alive, dtype=torch.int64, device=rows.row.device)
                rows = _take(rows, index)
                table = [table[i] for i in alive]

    def start(self, canvas: Canvas) -> _Rows:
        """The rows before their first step: all of them open a block."""
        masks = canvas.open.sum(1)
        for count in set(masks.tolist()):
            horizon = self.scheduler.horizon(count)
            if not isinstance(horizon, int) or horizon < 0:
                raise SchedulerError(f"{self.scheduler!r}: horizon({count}) must be an int >= 0, got {horizon!r}")
            self.horizons[count] = horizon
        state = self.scheduler.init(canvas.tokens.clone(), canvas.open.clone())
        check_state(self.scheduler, state, len(masks))

        def zeros() -> Tensor:  # one tensor object per field: fields that share one would cost a recompilation
            return torch.zeros_like(masks)

        return _Rows(
            row=torch.arange(len(masks), device=masks.device),
            seed=canvas.seed,
            length=canvas.length,
            gen_length=masks,
            horizon=torch.tensor([self.horizons[count] for count in masks.tolist()], device=masks.device),
            tokens=canvas.tokens,
            masked=canvas.open,
            generated=canvas.open.clone(),
            block=torch.zeros_like(canvas.open),
            opened=torch.zeros_like(canvas.open),
            opening=torch.ones_like(masks, dtype=torch.bool),
            step=zeros(),
            nfe=zeros(),
            refreshes=zeros(),
            fed=zeros(),
            low=masks.clone(),
            idle=zeros(),
            trouble=zeros(),
            state=state,
        )

    def window(self, rows: _Rows) -> Tensor:
        """bool [B, L]: what the next step predicts. A revising scheduler also sees its block's committed positions."""
        seen = rows.block if self.scheduler.revises else rows.block & rows.masked
        ahead = first(rows.masked, rows.horizon)  # nothing where the horizon is 0
        if self.scheduler.replan == "step":
            return seen | ahead
        return torch.where((rows.opening & (rows.horizon > 0))[:, None], ahead, seen)

    def read(self, rows: _Rows, done: Tensor) -> list[_Table]:
        """The host read between two steps; raises what went wrong."""
        width = self.window(rows).sum(1)
        columns = (rows.row, done, rows.opening, rows.trouble, width, rows.length, rows.nfe)
        table = [_Table(*row) for row in torch.stack([column.long() for column in columns], dim=1).tolist()]
        for row in table:
            if row.trouble:
                raise self.error(row)
        return table

    def error(self, row: _Table) -> Exception:
        """The error of a row in trouble, with the scheduler, row and step it happened at."""
        where = f"row {row.row} at step {row.nfe}"
        if row.trouble == _NOT_FINITE:
            return ModelError(f"the model's logits are not finite (NaN or infinite) in {where}")
        if row.trouble == _EMPTY_BLOCK:
            return SchedulerStalled(f"{self.scheduler!r} planned an empty block for {where}")
        if row.trouble == _NO_EOS:
            return SchedulerError(f"{self.scheduler!r} stopped {where}, but the model has no EOS to fill the rest with")
        limit = f" for {self.max_idle} steps" if self.scheduler.revises else ""
        return SchedulerStalled(f"{self.scheduler!r} brought no fewer masks{limit} in {where}: commit at least one")

    def blank(self, rows: _Rows) -> _Seen:
        """What a plan sees before the forward pass: nothing computed."""
        confidence = torch.zeros_like(rows.masked, dtype=torch.float32)
        logits = confidence.new_zeros(len(confidence), 0, self.model.vocab_size)
        key = row_key(rows.seed, rows.tokens, rows.length, rows.nfe)
        return _Seen(rows.tokens, confidence, logits, rows.tokens[:, :0], key)

    def look(self, rows: _Rows, table: list[_Table]) -> tuple[_Seen, Tensor, Tensor]:
        """Forward, head and draft: what was seen, whose logits are finite, bool [B], and positions fed, int64 [B]."""
        length = rows.tokens.shape[1]
        positions = torch.arange(length, device=rows.tokens.device)
        width = max(row.width for row in table)
        window = torch.where(self.window(rows), positions, length).sort(1).values[:, :width]
        extent = (min(row.length for row in table), max(row.length for row in table))
        computed = compute(self.model, rows.tokens, rows.length, window, extent)
        key = row_key(rows.seed, rows.tokens, rows.length, rows.nfe)
        drafts = self.sampler(self.model.head(computed.hidden), key, rows.tokens, window, self.model.mask_id)
        if drafts.logits.shape[-1] != self.model.vocab_size:
            raise ModelError(f"head must return {self.model.vocab_size} logits, got {drafts.logits.shape[-1]}")
        extra = torch.zeros_like(rows.tokens[:, :1])  # a column that takes the padding lanes
        draft = torch.cat([rows.tokens, extra], 1).scatter(1, window, drafts.draft)[:, :length]
        confidence = torch.cat([torch.zeros_like(draft), extra], 1).float().scatter(1, window, drafts.confidence)
        finite = ~(drafts.confidence.isnan() & (window < length)).any(1)
        return _Seen(draft, confidence[:, :length], drafts.logits, window, key), finite, computed.fed

    def view(self, rows: _Rows, seen: _Seen, open: Tensor) -> View:
        """A view of copies, so that what a scheduler writes into it is lost."""
        return View(
            tokens=rows.tokens.clone(),
            open=open.clone(),
            committed=rows.block & ~rows.masked & self.scheduler.revises,
            draft=seen.draft.clone(),
            confidence=seen.confidence.clone(),
            step=rows.step.clone(),
            gen_length=rows.gen_length.clone(),
            key=seen.key.clone(),
            logits=seen.logits,
            window=seen.window.clone(),
        )

    def plan(self, rows: _Rows, open: Tensor, seen: _Seen, who: Tensor) -> _Rows:
        """Ask for blocks out of `open` (bool [B, L]); rows in `who` (bool [B]) that open one, or replan, get theirs."""
        scheduler = self.scheduler
        returned = scheduler.plan(self.view(rows, seen, open), rows.state)
        check_pair(scheduler, "plan", returned)
        planned, state = returned
        check_tensor(scheduler, "plan's block", planned, open)
        opening = who & rows.opening
        asked = who if scheduler.replan == "step" else opening
        planned = planned & open
        kept = rows.block & ~rows.masked & scheduler.revises  # still revisable until the row opens anew
        empty = asked & rows.masked.any(1) & ~planned.any(1)
        return rows._replace(
            block=torch.where(asked[:, None], planned | kept, rows.block),
            opened=torch.where(opening[:, None], planned, rows.opened),
            trouble=torch.where(empty & (rows.trouble == 0), _EMPTY_BLOCK, rows.trouble),
            state=merge_state(scheduler, "plan's state", rows.state, state, opening),
        )

    def step(self, rows: _Rows, table: list[_Table], *, planning: bool) -> tuple[_Rows, Step]:
        """One forward pass and the decision taken from it."""
        scheduler = self.scheduler
        seen, finite, fed = self.look(rows, table)
        rows = rows._replace(trouble=torch.where(finite, rows.trouble, _NOT_FINITE))
        if planning and any(self.horizons.values()):
            rows = self.plan(rows, first(rows.masked, rows.horizon), seen, rows.horizon > 0)
        open = rows.block & rows.masked
        view = self.view(rows, seen, open)
        returned = scheduler.select(view, rows.state)
        check_pair(scheduler, "select", returned)
        decision = allowed(
            scheduler,
            returned[0],
            open=open,
            committed=rows.block & ~rows.masked,
            draft=seen.draft,
            vocab_size=self.model.vocab_size,
            mask_id=self.model.mask_id,
        )
        state = merge_state(scheduler, "select's state", rows.state, returned[1])
        rows, settled, done = self.apply(rows._replace(state=state, nfe=rows.nfe + 1, fed=rows.fed + fed), decision)
        return rows, Step(rows.row, rows.tokens, view, decision, settled, done, rows.nfe, rows.refreshes, rows.fed)

    def apply(self, rows: _Rows, decision: Applied) -> tuple[_Rows, Tensor, Tensor]:
        """Write the decision; say how far each row is settled, int64 [B], and whether it is done, bool [B]."""
        commit, written, remask, edit, hold, stop = decision
        tokens = torch.where(commit | edit, written, rows.tokens).masked_fill(remask, self.model.mask_id)
        masked = (rows.masked & ~commit) | remask
        closed = ~((rows.opened & masked).any(1) | hold)
        final = ~masked & ~(rows.block & ~closed[:, None] & self.scheduler.revises)
        settled = torch.minimum(_first_true(~final), rows.length)
        ended = torch.zeros_like(stop)
        if self.stop_at_eos and self.model.eos_ids:
            ended = _first_true(one_of(tokens, self.model.eos_ids) & rows.generated & ~masked) < settled
        left = masked.sum(1)
        done = stop | ended | (closed & (left == 0))
        lower = left < rows.low
        idle = torch.where(lower, 0, rows.idle + 1)
        stuck = ~done & ~lower & (idle >= (self.max_idle if self.scheduler.revises else 1))
        unfilled = done & (left > 0)
        trouble = torch.where(stuck, _NO_PROGRESS, 0 if self.model.eos_ids else unfilled * _NO_EOS)
        if self.model.eos_ids:
            tokens = torch.where(masked & done[:, None], self.model.eos_ids[0], tokens)
        rows = rows._replace(
            tokens=tokens,
            masked=masked & ~done[:, None],
            block=rows.block & ~closed[:, None],
            opened=rows.opened & ~closed[:, None],
            opening=closed,
            step=torch.where(closed, 0, rows.step + 1),
            low=torch.minimum(rows.low, left),
            idle=idle,
            trouble=torch.where(rows.trouble > 0, rows.trouble, trouble),
        )
        return rows, torch.where(done, rows.length, settled), done


def _take(rows: _Rows, index: Tensor) -> _Rows:
    taken: _Rows = map_tensors(lambda tensor: tensor[index], rows)
    return taken


def _first_true(mask: Tensor) -> Tensor:
    """The first true position of each row, int64 [B]; L where there is none."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, mask.shape[1]).amin(1)
