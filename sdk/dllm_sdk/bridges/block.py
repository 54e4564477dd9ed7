"""One step of a scheduler in a block that somebody else owns, for hosts that hand out one block of logits at a time.

The block is the whole canvas that the scheduler sees; apart from that it is asked as by the loop, and its decisions are
cut to what is allowed by the same code. Knows no host, no model and no cache. Shapes: B rows, n positions of the block.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dllm_sdk.binding import S, look_up, on_device
from dllm_sdk.contract import Applied, allowed, check_pair, check_state, merge_state
from dllm_sdk.lanes import lanes, placed
from dllm_sdk.model import Model
from dllm_sdk.rules import hash_with, top_k
from dllm_sdk.sampling import Sampler, row_seed
from dllm_sdk.scheduler import Scheduler, View
from dllm_sdk.trees import alike, map_tensors


class Block(NamedTuple):
    """What is known of some rows' blocks between two steps; the tokens are the host's."""

    given: Tensor  # bool [B, n]  of the prompt
    masked: Tensor  # bool [B, n]  undecided; never inferred from the mask id
    seed: Tensor  # int64 [B]  where its random numbers come from
    step: Tensor  # int64 [B]
    low: Tensor  # int64 [B]  fewest masks so far
    idle: Tensor  # int64 [B]  steps since then
    closed: Tensor  # bool [B]  nothing more will be written
    state: Any  # the scheduler's


class Stepped(NamedTuple):
    """What a step did."""

    tokens: Tensor  # int64 [B, n]
    commit: Tensor  # bool [B, n]  masks that took a token
    revise: Tensor  # bool [B, n]  tokens that were replaced or masked again
    draft: Tensor  # int64 [B, n]  what each computed position would have taken
    confidence: Tensor  # float32 [B, n]
    settled: Tensor  # bool [B]  closed, and the logits of this step were computed from the block's last tokens
    block: Block


class Terms(NamedTuple):
    """On which a host's blocks are decided: all that a decision depends on besides tensors."""

    scheduler: Scheduler[Any]
    mask_id: int
    eos_ids: tuple[int, ...] = ()
    sampler: Sampler = Sampler()


def bound(scheduler: S, eos_ids: Sequence[int]) -> S:
    """The scheduler with the host's EOS ids in its fields. Raises ConfigError for a text where ids are needed."""
    unknown = SimpleNamespace(eos_ids=tuple(eos_ids), tokenizer=None, vocab_size=sys.maxsize)
    return look_up(scheduler, cast(Model, unknown))


def open_block(scheduler: Scheduler[Any], tokens: Tensor, given: Tensor, seed: Tensor | int = 0) -> Block:
    """Blocks before their first step. tokens int64 [B, n]; given bool [B, n], what is not to be generated.

    seed int64 [B] or one for all: another one for every block of a row, or they draw the same numbers.
    """
    masked, scheduler = ~given, on_device(scheduler, tokens.device)
    state = scheduler.init(tokens.clone(), masked.clone())
    check_state(scheduler, state, len(tokens))
    left = masked.sum(1)
    zeros = torch.zeros_like(left)
    return Block(given, masked, zeros + seed, zeros, left, zeros.clone(), left == 0, state)


def step(terms: Terms, block: Block, tokens: Tensor, logits: Tensor) -> Stepped:
    """Decide from the logits, [B, n, V], of the block's tokens, int64 [B, n]."""
    terms = terms._replace(scheduler=on_device(terms.scheduler, tokens.device))
    view = _look(terms, block, tokens, logits)
    if bool((block.step == 0).any()):
        block = block._replace(state=_planned(terms.scheduler, block, view))
    returned = terms.scheduler.select(view, block.state)
    check_pair(terms.scheduler, "select", returned)
    decision = allowed(terms.scheduler, returned[0], view, terms.mask_id)
    decision = _moved_on(terms.scheduler, block, view, _stopped(terms.eos_ids, view.open, decision))
    block = block._replace(state=merge_state(terms.scheduler, "select's state", block.state, returned[1]))
    return _apply(terms, block, view, decision)


def _look(terms: Terms, block: Block, tokens: Tensor, logits: Tensor) -> View:
    """What `select` sees: drafts where the loop would compute some, tokens elsewhere."""
    size = tokens.shape[1]
    active = ~block.closed[:, None]
    committed = ~block.given & ~block.masked & active & terms.scheduler.revises
    open = block.masked & active
    window = lanes(open | committed, size)
    near = window.clamp(max=size - 1)[..., None].expand(*window.shape, logits.shape[-1])
    key = hash_with(row_seed(block.seed, tokens, torch.full_like(block.seed, size)), block.step)
    drafts = terms.sampler(logits.gather(1, near), key, tokens, window, terms.mask_id)
    draft = placed(tokens, window, drafts.draft)
    confidence = placed(torch.zeros_like(tokens, dtype=torch.float32), window, drafts.confidence)
    masks = (~block.given).sum(1)
    return View(tokens.clone(), open, committed, draft, confidence, block.step, masks, key, drafts.logits, window)


def _planned(scheduler: Scheduler[Any], block: Block, view: View) -> Any:
    """The state of the rows whose block begins. The plan itself is the host's: `hosts` has seen that they agree."""
    unseen = view._replace(
        draft=view.tokens,
        confidence=torch.zeros_like(view.confidence),
        logits=view.logits[:, :0],
        window=view.window[:, :0],
    )
    returned = scheduler.plan(unseen, block.state)
    check_pair(scheduler, "plan", returned)
    return merge_state(scheduler, "plan's state", block.state, returned[1], block.step == 0)


def _stopped(eos_ids: tuple[int, ...], open: Tensor, decision: Applied) -> Applied:
    """What is still masked in a row that stops becomes EOS, as in the loop; what follows the block is the host's."""
    if not eos_ids:
        return decision
    stop = decision.stop[:, None]
    return decision._replace(
        commit=decision.commit | (open & stop),
        tokens=decision.tokens.masked_fill(open & stop & ~decision.commit, eos_ids[0]),
        remask=decision.remask & ~stop,
        hold=decision.hold & ~decision.stop,
    )


def _moved_on(scheduler: Scheduler[Any], block: Block, view: View, decision: Applied) -> Applied:
    """The decision; the best mask instead where it would leave a row idle for too long, which the loop reports.

    A host serves others at the same time: it must neither hang nor fall because of one scheduler.
    """
    left = ((block.masked & ~decision.commit) | decision.remask).sum(1)
    over = (left == 0) & ~decision.hold
    idle = ~block.closed & (left >= block.low) & ~over
    stuck = idle & (block.idle + 1 >= (scheduler.patience if scheduler.revises else 1))
    if bool(stuck.any()):
        warnings.warn(f"{scheduler!r} brought no fewer masks: the best one is committed", RuntimeWarning, stacklevel=4)
    rows = stuck[:, None]
    return decision._replace(
        commit=torch.where(rows, top_k(view.open, view.confidence, 1), decision.commit),
        remask=decision.remask & ~rows,
        edit=decision.edit & ~rows,
        hold=decision.hold & ~stuck,
    )


def _apply(terms: Terms, block: Block, view: View, decision: Applied) -> Stepped:
    commit, written, remask, edit, hold, _ = decision
    written = torch.where(commit | edit, written, view.tokens)
    tokens = written.masked_fill(remask, terms.mask_id)
    masked = (block.masked & ~commit) | remask
    left = masked.sum(1)
    closed = block.closed | ((left == 0) & ~hold)
    lower = left < block.low
    after = block._replace(
        masked=masked,
        step=block.step + 1,
        low=torch.minimum(block.low, left),
        idle=torch.where(lower, 0, block.idle + 1),
        closed=closed,
    )
    revise = edit | remask
    quiet = ~(commit | revise).any(1)
    draft = torch.where(commit | edit, written, view.draft)
    return Stepped(tokens, commit, revise, draft, view.confidence, closed & quiet, after)


def split(block: Block) -> list[Block]:
    """One block per row, B = 1 each."""
    return [map_tensors(lambda leaf: leaf[i : i + 1], block) for i in range(len(block.step))]  # noqa: B023


def join(blocks: Sequence[Any]) -> Any:
    """Rows that may come from different requests, as one batch; blocks, or states of equal structure."""
    if isinstance(blocks[0], Tensor):
        return torch.cat(list(blocks))
    return alike(blocks[0], [join(part) for part in zip(*blocks, strict=True)])
