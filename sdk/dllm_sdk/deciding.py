"""One decision: from the logits of a step to what the next step computes. The invariants are kept here.

    draft -> plan -> select -> what is allowed -> write -> who is done -> what is computed next

Every method is a pure function of tensors and reads nothing back to the host, so that a decision can be compiled or
captured as it is. Knows the protocol of schedulers, no strategy, no model and no loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.caching import Cache, Positions
from dllm_sdk.contract import Applied, allowed, check_pair, check_tensor, merge_state
from dllm_sdk.lanes import before, placed
from dllm_sdk.rows import EMPTY_BLOCK, LATER, NO_EOS, NO_PROGRESS, NOT_FINITE, Rows, columns
from dllm_sdk.rules import first, hash_with, leftmost, one_of
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Scheduler, View


class Seen(NamedTuple):
    """What a forward pass showed, before it is cut for `plan` or `select`."""

    draft: Tensor  # int64 [B, L]
    confidence: Tensor  # float32 [B, L]
    logits: Tensor  # float32 [B, W, V]
    window: Tensor  # int64 [B, W]
    key: Tensor  # int64 [B]


class Decided(NamedTuple):
    """What a decision was, and what it led to."""

    rows: Rows  # before the next step
    columns: Tensor  # int64 [B, ...]  what the host reads of them
    view: View  # what `select` saw
    decision: Applied
    settled: Tensor  # int64 [B]
    closed: Tensor  # bool [B]


@dataclass(frozen=True)
class Decider:
    """All that a decision depends on besides tensors."""

    scheduler: Scheduler[Any]
    sampler: Sampler
    cache: Cache
    stop_at_eos: bool
    passes: int  # forward passes per step: 2 with guidance
    vocab_size: int
    mask_id: int
    eos_ids: tuple[int, ...]
    shift: int

    def prepare(self, rows: Rows) -> Rows:
        """What the next step predicts and computes. A revising scheduler also sees its block's committed positions."""
        block = rows.block if self.scheduler.revises else rows.block & rows.masked
        ahead = first(rows.masked, rows.horizon)  # nothing where the horizon is 0
        looking = (rows.opening & (rows.horizon > 0))[:, None]
        window = block | ahead if self.scheduler.replan == "step" else torch.where(looking, ahead, block)
        current = rows.block | window
        # The keys it may see: all of its row, or what was given and what lies up to the end of the block.
        positions = torch.arange(rows.tokens.shape[1], device=rows.tokens.device)
        visible = positions < rows.length[:, None]
        if not self.cache.suffix:
            visible = visible & (_up_to(current) | ~rows.generated)
        # What it computes: everything, or what the cache asks for and whose keys are not there yet.
        refresh = self.cache.refresh(rows.opening, rows.step) & ~rows.done
        finished = rows.order == (rows.ordinal - 1)[:, None]
        feed = self.cache.feed(Positions(visible, current, finished & visible, rows.step == 0))
        if not self.cache.suffix and self.scheduler.replan == "step":
            # Hidden behind the block at its refresh, in sight now.
            feed = feed | (visible & rows.generated & ~_up_to(rows.opened))
        if self.shift:  # an open position is predicted from the one before it
            feed = feed | before(window)
        feed = torch.where(refresh[:, None], visible, feed)
        return rows._replace(window=window, feed=feed, visible=visible, refresh=refresh)

    def plan_ahead(self, rows: Rows) -> tuple[Rows, Tensor]:
        """Plan blocks before their first forward pass, for rows without a horizon: nothing is computed yet."""
        confidence = torch.zeros_like(rows.masked, dtype=torch.float32)
        logits = confidence.new_zeros(len(confidence), 0, self.vocab_size)
        key = hash_with(rows.seed, rows.nfe)
        seen = Seen(rows.tokens, confidence, logits, rows.tokens[:, :0], key)
        rows = self.prepare(self.plan(rows, rows.masked, seen, rows.horizon == 0))
        return rows, columns(rows)

    def decide(self, rows: Rows, logits: Tensor, window: Tensor, *, planning: bool) -> Decided:
        """The decision taken from one forward pass. logits [B, W, V] as the head gave them; window int64 [B, W]."""
        scheduler = self.scheduler
        seen, finite = self.draft(rows, logits, window)
        rows = self.count(rows, finite)
        if planning:
            rows = self.plan(rows, first(rows.masked, rows.horizon), seen, rows.horizon > 0)
        view = self.view(rows, seen, rows.block & rows.masked)
        returned = scheduler.select(_copied(view), rows.state)
        check_pair(scheduler, "select", returned)
        decision = allowed(scheduler, returned[0], view, self.mask_id)
        state = merge_state(scheduler, "select's state", rows.state, returned[1])
        rows, settled = self.apply(rows._replace(state=state), decision)
        rows = self.prepare(rows)
        return Decided(rows, columns(rows), view, decision, settled, rows.opening.clone())

    def draft(self, rows: Rows, logits: Tensor, window: Tensor) -> tuple[Seen, Tensor]:
        """What the window shows, at its canvas positions, and whose logits are finite, bool [B]."""
        key = hash_with(rows.seed, rows.nfe)
        drafts = self.sampler(logits, key, rows.tokens, window, self.mask_id)
        draft = placed(rows.tokens, window, drafts.draft)
        confidence = placed(torch.zeros_like(draft, dtype=torch.float32), window, drafts.confidence)
        finite = ~(drafts.confidence.isnan() & (window < rows.tokens.shape[1])).any(1)
        return Seen(draft, confidence, drafts.logits, window, key), finite

    def count(self, rows: Rows, finite: Tensor) -> Rows:
        """One more forward pass for every row that is not done."""
        alive = (~rows.done).long()
        return rows._replace(
            trouble=torch.where(finite, rows.trouble, NOT_FINITE),
            nfe=rows.nfe + alive,
            refreshes=rows.refreshes + (rows.refresh if self.cache.stores else 0),
            fed=rows.fed + rows.feed.sum(1) * alive * self.passes,
        )

    def view(self, rows: Rows, seen: Seen, open: Tensor) -> View:
        """What a step shows. What it takes from the rows is copied, since the next step may write over them."""
        return View(
            tokens=rows.tokens.clone(),
            open=open,
            committed=rows.block & ~rows.masked & self.scheduler.revises,
            draft=seen.draft,
            confidence=seen.confidence,
            step=rows.step.clone(),
            gen_length=rows.gen_length.clone(),
            key=seen.key,
            logits=seen.logits,
            window=seen.window.clone(),
        )

    def plan(self, rows: Rows, open: Tensor, seen: Seen, who: Tensor) -> Rows:
        """Ask for blocks out of `open` (bool [B, L]); rows in `who` (bool [B]) that open one, or replan, get theirs."""
        scheduler = self.scheduler
        seen = seen._replace(logits=seen.logits.clone())  # `select` reads them, too
        returned = scheduler.plan(_copied(self.view(rows, seen, open)), rows.state)
        check_pair(scheduler, "plan", returned)
        planned, state = returned
        check_tensor(scheduler, "plan's block", planned, open)
        opening = who & rows.opening
        asked = who if scheduler.replan == "step" else opening
        planned = planned & open
        kept = rows.block & ~rows.masked  # what is committed is fed, and may be revised, until the row opens anew
        order = torch.where(planned, rows.ordinal[:, None], LATER)  # a window may leave again what it held
        empty = asked & rows.masked.any(1) & ~planned.any(1)
        return rows._replace(
            block=torch.where(asked[:, None], planned | kept, rows.block),
            opened=torch.where(opening[:, None], planned, rows.opened),
            order=torch.where(rows.masked & asked[:, None], order, rows.order),
            trouble=torch.where(empty & (rows.trouble == 0), EMPTY_BLOCK, rows.trouble),
            state=merge_state(scheduler, "plan's state", rows.state, state, opening),
        )

    def apply(self, rows: Rows, decision: Applied) -> tuple[Rows, Tensor]:
        """Write the decision, and say how far each row is settled, int64 [B]."""
        commit, written, remask, edit, hold, stop = decision
        tokens, masked = torch.where(commit, written, rows.tokens), rows.masked & ~commit
        if self.scheduler.revises:
            tokens = torch.where(edit, written, tokens).masked_fill(remask, self.mask_id)
            masked = masked | remask
        held = (rows.opened & masked).any(1)
        held = held | hold if self.scheduler.revises else held
        closed, kept = ~held, held[:, None]
        # What a revising scheduler committed is final when its block closes.
        settled = leftmost(masked | (rows.block & kept) if self.scheduler.revises else masked).minimum(rows.length)
        ended = torch.zeros_like(stop)
        if self.stop_at_eos and self.eos_ids:
            ended = leftmost(one_of(tokens, self.eos_ids) & rows.generated & ~masked) < settled
        left = masked.sum(1)
        done = rows.done | stop | ended | (closed & (left == 0))
        if self.eos_ids:
            tokens = torch.where(masked & done[:, None], self.eos_ids[0], tokens)
        rows = self.progress(rows, left, done)._replace(
            tokens=tokens,
            masked=masked & ~done[:, None],
            block=rows.block & kept & ~done[:, None],
            opened=rows.opened & kept,
            opening=closed,
            ordinal=rows.ordinal + closed,
            step=torch.where(closed, 0, rows.step + 1),
            done=done,
        )
        return rows, torch.where(done, rows.length, settled)

    def progress(self, rows: Rows, left: Tensor, done: Tensor) -> Rows:
        """Whether the rows have fewer masks than ever, and their trouble if not. left int64 [B]; done bool [B]."""
        lower = left < rows.low
        idle = torch.where(lower, 0, rows.idle + 1)
        stuck = ~(done | lower)
        if self.scheduler.revises:
            stuck = stuck & (idle >= self.scheduler.patience)
        trouble = torch.where(stuck, NO_PROGRESS, 0)
        if not self.eos_ids:
            trouble = torch.where(done & (left > 0), NO_EOS, trouble)
        return rows._replace(
            low=torch.minimum(rows.low, left),
            idle=idle,
            trouble=torch.where(rows.trouble > 0, rows.trouble, trouble),
        )


def _up_to(mask: Tensor) -> Tensor:
    """Every position up to the last one of each row's mask, bool [B, L]."""
    return mask.flip(1).cumsum(1).flip(1) > 0


def _copied(view: View) -> View:
    """A copy for a scheduler, so that what it writes is lost; of all but the logits, by far the largest part."""
    parts = zip(View._fields, view, strict=True)
    return View(*[part if name == "logits" else part.clone() for name, part in parts])
