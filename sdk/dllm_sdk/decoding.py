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

from dllm_sdk.caching import Cache, Feed, NoCache, Positions, compute, lanes
from dllm_sdk.canvas import Canvas, OpenMask, Prompts, build_canvas
from dllm_sdk.contract import Applied, allowed, check_pair, check_state, check_tensor, merge_state
from dllm_sdk.errors import ConfigError, ModelError, SchedulerError
from dllm_sdk.execution import Backend, check_backend
from dllm_sdk.model import Model, Store, bind
from dllm_sdk.rows import (
    EMPTY_BLOCK,
    NO_EOS,
    NO_PROGRESS,
    NOT_FINITE,
    Rows,
    Seen,
    Table,
    first_rows,
    read,
    take,
    trouble,
)
from dllm_sdk.rules import first, one_of
from dllm_sdk.sampling import Sampler, row_key
from dllm_sdk.scheduler import Scheduler, View, check_number


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
    extra: Tensor  # int64 [B]  further forward passes, for guidance
    closed: Tensor  # bool [B]  no mask is left in the row's block, and it ends with this step


def decode(
    model: Model,
    prompt: Prompts,
    scheduler: Scheduler[Any],
    *,
    gen_length: int | Sequence[int],
    open: OpenMask | Sequence[OpenMask] | None = None,
    samples: int = 1,
    cache: Cache = NoCache(),  # noqa: B008  frozen
    sampler: Sampler = Sampler(),  # noqa: B008  frozen
    seed: int = 0,
    stop_at_eos: bool = True,
    max_idle: int = 32,
    guidance: float = 0.0,
    backend: Backend = "eager",
) -> Iterator[Step]:
    """Decode step by step.

    `prompt` is a text, token ids, or a list of either; each row gets `gen_length` masks after its prompt (a number, or
    one per prompt), and `open` marks prompt positions to fill in as well. Each prompt is repeated for `samples` seeds.
    With `stop_at_eos` a row ends once everything before its first generated EOS is final; tokens up to it are those of
    a run without. A scheduler that revises may take `max_idle` steps without bringing the masks to a new low.
    `guidance` g > 0 is classifier-free guidance (LLaDA): a second pass with the given positions masked gives logits u,
    and u + (g + 1) (l - u) replaces l. `backend` says how a step is run (`dllm_sdk.execution`): the tokens are the same.

    Raises ConfigError for arguments, SchedulerError and SchedulerStalled for the scheduler, ModelError for the model.
    """
    canvas = build_canvas(model, prompt, gen_length=gen_length, open=open, samples=samples, seed=seed)
    options = Options(cache, sampler, stop_at_eos, max_idle, guidance, backend)
    return run(model, canvas, scheduler, options)


@dataclass(frozen=True)
class Options:
    """How to run, apart from what is run: the keyword arguments of `decode` of the same names."""

    cache: Cache
    sampler: Sampler
    stop_at_eos: bool
    max_idle: int
    guidance: float
    backend: Backend

    def __post_init__(self) -> None:
        """Check the fields."""
        check_backend(self.backend)
        check_number(self, "max_idle", 1, whole=True)
        check_number(self, "guidance", 0)


def run(model: Model, canvas: Canvas, scheduler: Scheduler[Any], options: Options) -> Iterator[Step]:
    """`decode` for a canvas that is already built."""
    if not isinstance(scheduler, Scheduler):
        raise ConfigError(f"scheduler must be an instance of a Scheduler subclass, got {scheduler!r}")
    options.cache.check(model, scheduler.replan)
    return _Loop(model, bind(scheduler, model), options).run(canvas)


@dataclass(frozen=True)
class _Loop:
    """The parts of a run, and one method per stage of a step."""

    model: Model
    scheduler: Scheduler[Any]
    options: Options
    horizons: dict[int, int] = field(default_factory=dict)  # gen_length -> horizon, asked once each

    @torch.no_grad()
    def run(self, canvas: Canvas) -> Iterator[Step]:
        """The steps, until every row is done."""
        rows = self.prepare(self.start(canvas))
        stores = self.stores(rows)
        table = self.read(rows, torch.zeros_like(rows.opening))
        while table:
            planning = self.scheduler.replan == "step" or any(row.opening for row in table)
            if planning and 0 in self.horizons.values():
                rows = self.prepare(self.plan(rows, rows.masked, self.blank(rows), rows.horizon == 0))
                table = self.read(rows, torch.zeros_like(rows.opening))
            rows, step = self.step(rows, table, stores, planning=planning)
            table = self.read(rows, step.done)
            yield step
            alive = [i for i, row in enumerate(table) if not row.done]
            if len(alive) < len(table):  # a finished row leaves the batch and costs nothing more
                index = torch.tensor(alive, dtype=torch.int64, device=rows.row.device)
                rows, table = take(rows, index), [table[i] for i in alive]
                stores = [store and store.keep(index) for store in stores]

    def stores(self, rows: Rows) -> list[Store | None]:
        """One store for the canvas, and one for what guidance is measured against."""
        slots = rows.tokens.shape[1] + 1  # the last one takes the padding lanes
        none = isinstance(self.options.cache, NoCache)
        return [None if none else self.model.new_store(len(rows.tokens), slots) for _ in range(self.passes)]

    @property
    def passes(self) -> int:
        """Forward passes per step."""
        return 2 if self.options.guidance else 1

    def start(self, canvas: Canvas) -> Rows:
        """The rows before their first step, with what the scheduler says of them."""
        counts = canvas.open.sum(1).tolist()
        for count in set(counts):
            horizon = self.scheduler.horizon(count)
            if not isinstance(horizon, int) or horizon < 0:
                raise SchedulerError(f"{self.scheduler!r}: horizon({count}) must be an int >= 0, got {horizon!r}")
            self.horizons[count] = horizon
        state = self.scheduler.init(canvas.tokens.clone(), canvas.open.clone())
        check_state(self.scheduler, state, len(counts))
        return first_rows(canvas, self.horizons, state)

    def prepare(self, rows: Rows) -> Rows:
        """What the next step predicts and computes. A revising scheduler also sees its block's committed positions."""
        block = rows.block if self.scheduler.revises else rows.block & rows.masked
        ahead = first(rows.masked, rows.horizon)  # nothing where the horizon is 0
        looking = (rows.opening & (rows.horizon > 0))[:, None]
        window = block | ahead if self.scheduler.replan == "step" else torch.where(looking, ahead, block)
        current = rows.block | window
        columns = torch.arange(rows.tokens.shape[1], device=rows.tokens.device)
        visible = columns < rows.length[:, None]
        if not self.options.cache.suffix:
            up_to_block = current.flip(1).cumsum(1).flip(1) > 0
            visible = visible & (up_to_block | (rows.order == 0))
        refresh = self.options.cache.refresh(rows.opening, rows.step)
        finished = rows.order == (rows.ordinal - 1)[:, None]
        feed = self.options.cache.feed(Positions(visible, current, finished & visible, rows.step == 0))
        if self.model.shift:  # an open position is predicted from the one before it
            feed = feed | torch.cat([window[:, 1:], torch.zeros_like(window[:, :1])], dim=1)
        return rows._replace(
            window=window, feed=torch.where(refresh[:, None], visible, feed), visible=visible, refresh=refresh
        )

    def read(self, rows: Rows, done: Tensor) -> list[Table]:
        """The host read between two steps; raises what went wrong."""
        table = read(rows, done)
        for row in table:
            if row.trouble:
                raise trouble(repr(self.scheduler), row, self.options.max_idle if self.scheduler.revises else None)
        return table

    def blank(self, rows: Rows) -> Seen:
        """What a plan sees before the forward pass: nothing computed."""
        confidence = torch.zeros_like(rows.masked, dtype=torch.float32)
        logits = confidence.new_zeros(len(confidence), 0, self.model.vocab_size)
        key = row_key(rows.seed, rows.tokens, rows.length, rows.nfe)
        return Seen(rows.tokens, confidence, logits, rows.tokens[:, :0], key)

    def look(self, rows: Rows, table: list[Table], stores: list[Store | None]) -> tuple[Seen, Tensor]:
        """Forward, head and draft: what was seen, and whose logits are finite, bool [B]."""
        length = rows.tokens.shape[1]
        window = lanes(rows.window, max(row.width for row in table))
        logits = self.model.head(self.hidden(rows, table, window, stores[0]))
        if self.options.guidance:
            blind = rows._replace(tokens=torch.where(rows.generated, rows.tokens, self.model.mask_id))
            plain = self.model.head(self.hidden(blind, table, window, stores[1]))
            logits = plain + (self.options.guidance + 1) * (logits - plain)
        key = row_key(rows.seed, rows.tokens, rows.length, rows.nfe)
        drafts = self.options.sampler(logits, key, rows.tokens, window, self.model.mask_id)
        if drafts.logits.shape[-1] != self.model.vocab_size:
            raise ModelError(f"head must return {self.model.vocab_size} logits, got {drafts.logits.shape[-1]}")
        extra = torch.zeros_like(rows.tokens[:, :1])  # a column that takes the padding lanes
        draft = torch.cat([rows.tokens, extra], 1).scatter(1, window, drafts.draft)[:, :length]
        confidence = torch.cat([torch.zeros_like(draft), extra], 1).float().scatter(1, window, drafts.confidence)
        finite = ~(drafts.confidence.isnan() & (window < length)).any(1)
        return Seen(draft, confidence[:, :length], drafts.logits, window, key), finite

    def hidden(self, rows: Rows, table: list[Table], window: Tensor, store: Store | None) -> Tensor:
        """[B, W, D]: refreshing rows as a batch of their own, the others from the store; joined for one head."""
        order = torch.where(rows.window, rows.ordinal[:, None], rows.order) if self.model.block_causal else None
        work = Feed(rows.tokens, rows.feed, rows.visible, order, window)
        fresh = [i for i, row in enumerate(table) if row.refresh]
        feeds = [row.feed for row in table]
        if store is None or len(fresh) in (0, len(table)):
            even = order is None and min(feeds) == max(feeds)
            return compute(self.model, work, max(feeds), store, all_visible=even)
        index = torch.tensor(fresh, dtype=torch.int64, device=window.device)
        part = self.model.new_store(len(fresh), rows.tokens.shape[1] + 1)
        renewed = compute(self.model, work.rows(index), max(feeds[i] for i in fresh), part, all_visible=False)
        store.put(index, part)
        del part
        # The refreshing rows feed padding lanes here: so a block step copies nothing of the store.
        rest = work._replace(feed=work.feed & ~rows.refresh[:, None])
        width = max(row.feed for row in table if not row.refresh)
        return compute(self.model, rest, width, store, all_visible=False).index_copy(0, index, renewed)

    def view(self, rows: Rows, seen: Seen, open: Tensor) -> View:
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

    def plan(self, rows: Rows, open: Tensor, seen: Seen, who: Tensor) -> Rows:
        """Ask for blocks out of `open` (bool [B, L]); rows in `who` (bool [B]) that open one, or replan, get theirs."""
        scheduler = self.scheduler
        returned = scheduler.plan(self.view(rows, seen, open), rows.state)
        check_pair(scheduler, "plan", returned)
        planned, state = returned
        check_tensor(scheduler, "plan's block", planned, open)
        opening = who & rows.opening
        asked = who if scheduler.replan == "step" else opening
        planned = planned & open
        kept = rows.block & ~rows.masked  # fed, and revisable, until the row opens anew
        empty = asked & rows.masked.any(1) & ~planned.any(1)
        return rows._replace(
            block=torch.where(asked[:, None], planned | kept, rows.block),
            opened=torch.where(opening[:, None], planned, rows.opened),
            order=torch.where(planned & asked[:, None], rows.ordinal[:, None], rows.order),
            trouble=torch.where(empty & (rows.trouble == 0), EMPTY_BLOCK, rows.trouble),
            state=merge_state(scheduler, "plan's state", rows.state, state, opening),
        )

    def step(self, rows: Rows, table: list[Table], stores: list[Store | None], *, planning: bool) -> tuple[Rows, Step]:
        """One forward pass and the decision taken from it."""
        scheduler = self.scheduler
        seen, finite = self.look(rows, table, stores)
        rows = rows._replace(
            trouble=torch.where(finite, rows.trouble, NOT_FINITE),
            nfe=rows.nfe + 1,
            refreshes=rows.refreshes + (0 if stores[0] is None else rows.refresh.long()),
            fed=rows.fed + rows.feed.sum(1) * self.passes,
        )
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
        rows, settled, done = self.apply(rows._replace(state=state), decision)
        counts = (rows.nfe, rows.refreshes, rows.fed, rows.nfe * (self.passes - 1))
        return rows, Step(rows.row, rows.tokens, view, decision, settled, done, *counts, closed=rows.opening)

    def apply(self, rows: Rows, decision: Applied) -> tuple[Rows, Tensor, Tensor]:
        """Write the decision; say how far each row is settled, int64 [B], and whether it is done, bool [B]."""
        commit, written, remask, edit, hold, stop = decision
        tokens = torch.where(commit | edit, written, rows.tokens).masked_fill(remask, self.model.mask_id)
        masked = (rows.masked & ~commit) | remask
        closed = ~((rows.opened & masked).any(1) | hold)
        final = ~masked & ~(rows.block & ~closed[:, None] & self.scheduler.revises)
        settled = torch.minimum(_first_true(~final), rows.length)
        ended = torch.zeros_like(stop)
        if self.options.stop_at_eos and self.model.eos_ids:
            ended = _first_true(one_of(tokens, self.model.eos_ids) & rows.generated & ~masked) < settled
        left = masked.sum(1)
        done = stop | ended | (closed & (left == 0))
        lower = left < rows.low
        idle = torch.where(lower, 0, rows.idle + 1)
        stuck = ~done & ~lower & (idle >= (self.options.max_idle if self.scheduler.revises else 1))
        unfilled = done & (left > 0)
        trouble = torch.where(stuck, NO_PROGRESS, 0 if self.model.eos_ids else unfilled * NO_EOS)
        if self.model.eos_ids:
            tokens = torch.where(masked & done[:, None], self.model.eos_ids[0], tokens)
        rows = rows._replace(
            tokens=tokens,
            masked=masked & ~done[:, None],
            block=rows.block & ~closed[:, None],
            opened=rows.opened & ~closed[:, None],
            opening=closed,
            ordinal=rows.ordinal + closed,
            step=torch.where(closed, 0, rows.step + 1),
            low=torch.minimum(rows.low, left),
            idle=idle,
            trouble=torch.where(rows.trouble > 0, rows.trouble, trouble),
        )
        return self.prepare(rows), torch.where(done, rows.length, settled), done


def _first_true(mask: Tensor) -> Tensor:
    """The first true position of each row, int64 [B]; L where there is none."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, mask.shape[1]).amin(1)
