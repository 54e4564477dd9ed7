"""What a host that owns the block cannot do, found out before it is asked to: by what a scheduler declares, and by a
rehearsal, in which it decodes two blocks of random logits while somebody watches what it reads.

Knows the protocol and no host's code; `HOSTS` says in words what each one is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm_sdk.bridges.block import Stepped, Terms, bound, open_block, step
from dllm_sdk.combining import Wrapper, telling
from dllm_sdk.contract import check_members
from dllm_sdk.errors import ConfigError
from dllm_sdk.registry import load_scheduler
from dllm_sdk.rules import hash_with, to_unit
from dllm_sdk.scheduler import Decision, Scheduler, View

_VOCABULARY, _MASK = 16, 15
_ANSWER = 65  # blocks in an answer: no usual block length takes it all
HOSTS = {
    "SGLang": "its server fixes the block when it starts and shows an algorithm one block at a time",
    "diffusers": "LLaDA2Pipeline fixes the block for a call and shows its scheduler one block at a time",
}
"""Hosts that own the block, and what that means there. transformers runs our own loop, so it misses nothing."""


def listed(value: Any) -> tuple[Any, ...]:
    """What a config file has for a list of ids: a list, or one of them."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def scheduler_for(host: str, spec: str, size: int, *, eos_ids: tuple[int, ...] = (), seed: int = 0) -> Scheduler[Any]:
    """The scheduler of a SPEC, for blocks of `size` positions. Raises ConfigError, in one sentence, if `host` cannot.

    Its fields of EOS ids are filled from `eos_ids`.
    """
    if not isinstance(spec, str):
        raise ConfigError(f"{host}: scheduler must be a SPEC such as 'threshold:block={size}', got {spec!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"{host}: the block must be a whole number >= 1, got {size!r}")
    for token in (*eos_ids, seed):
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ConfigError(f"{host}: eos_ids and seed must be whole numbers >= 0, got {token!r}")
    scheduler = load_scheduler(spec)
    check_members(scheduler)
    why = obstacle(scheduler, size, eos_ids=eos_ids)
    if why is not None:
        raise ConfigError(f"{host} cannot run {spec!r}: {HOSTS[host]}, but {why}")
    return bound(scheduler, eos_ids)


def obstacle(scheduler: Scheduler[Any], size: int, *, eos_ids: tuple[int, ...] = ()) -> str | None:
    """Why a host whose blocks have `size` positions cannot run the scheduler, and what would be needed; None: it can.

    Raises ConfigError for a field that holds text where only ids can be known.
    """
    if scheduler.replan == "step":
        return "it moves its block at every step; that needs a host that asks for the block, such as generate()"
    if scheduler.horizon(_ANSWER * size) > 0:
        return (
            "it chooses its block by looking ahead, at logits of positions outside it; that needs a host that shows "
            "them and asks for the block, such as generate()"
        )
    scheduler = bound(scheduler, eos_ids)
    cure = f"that needs blocks of {size} like the host's: by a field such as `block`, or by PLAN+SELECT, as in "
    cure += f"threshold:block={size}+p2"
    planned = [_planned(scheduler, size, start) for start in (0, size)]
    if len(planned[0]) == _ANSWER * size:
        return f"it takes the whole answer as one block; {cure}"
    if planned != [list(range(start, start + size)) for start in (0, size)]:
        return f"its blocks are others ({len(planned[0])} long at first); {cure}"
    seen = rehearse(scheduler, size)
    if "block" in seen.read:
        return f"its blocks change with its state; {cure}"
    if "gen_length" in seen.read:
        return "it reads how long the whole answer is; that needs a host that says so, such as generate()"
    if "stop" in seen.read and not eos_ids:
        return "it ends a row before its masks are filled; that needs eos_ids, to fill them with"
    if seen.remembers:
        return "it remembers earlier blocks of the row; that needs a host that keeps its state, such as generate()"
    return None


@dataclass(frozen=True)
class Rehearsal:
    """What was seen."""

    # The fields of a view that it asked for; "stop" where it stopped rows, "block" where it planned less than that.
    read: frozenset[str]
    remembers: bool  # whether the second block would be decided otherwise without the state of the first


def rehearse(scheduler: Scheduler[Any], size: int) -> Rehearsal:
    """Decode two blocks of random logits, the second one with the state of the first and with a fresh one."""
    watched = _Watched(scheduler)
    seeds = torch.arange(4)
    end = _run(watched, size, seeds, None)[-1].block.state
    fresh, kept = (_run(watched, size, seeds + len(seeds), state) for state in (None, end))
    same = len(fresh) == len(kept) and all(torch.equal(a.tokens, b.tokens) for a, b in zip(fresh, kept, strict=True))
    return Rehearsal(frozenset(watched.read), not same)


def _planned(scheduler: Scheduler[Any], size: int, start: int) -> list[int]:
    """The block it would choose itself in an answer of many of the host's, decided up to `start`."""
    length = _ANSWER * size
    open = torch.arange(length)[None] >= start
    tokens = torch.where(open, _MASK, 1)
    number = torch.zeros(1, dtype=torch.int64)
    unseen = torch.zeros(1, length)
    view = View(
        tokens, open, open & False, tokens, unseen, number, number + length, number, unseen[:, :0, None], tokens[:, :0]
    )
    block: Tensor = scheduler.plan(view, scheduler.init(tokens, open))[0]
    return (block & open)[0].nonzero()[:, 0].tolist()


def _run(scheduler: Scheduler[Any], size: int, seeds: Tensor, state: Any) -> list[Stepped]:
    """One block of masks per seed, int64 [B], to its end, from a state or the scheduler's own."""
    terms = Terms(scheduler, _MASK, eos_ids=(1,))
    tokens = torch.full((len(seeds), size), _MASK)
    block = open_block(scheduler, tokens, torch.zeros_like(tokens, dtype=torch.bool))
    if state is not None:
        block = block._replace(state=state)
    steps: list[Stepped] = []
    while not bool(block.closed.all()):
        steps.append(step(terms, block, tokens, _logits(tokens, seeds)))
        tokens, block = steps[-1].tokens, steps[-1].block
    return steps


def _logits(tokens: Tensor, seeds: Tensor) -> Tensor:
    """float32 [B, n, V]: random, peaked to different degrees, and other ones for other tokens."""
    positions = torch.arange(tokens.shape[1])
    key = hash_with((hash_with(positions, tokens).sum(1) + seeds)[:, None], positions)
    peak = 30 ** (2 * to_unit(hash_with(key, 0)) - 1)
    return peak[..., None] * (2 * to_unit(hash_with(key[..., None], torch.arange(1, _VOCABULARY + 1))) - 1)


@dataclass(frozen=True)
class _Watched(Wrapper):
    """Another scheduler, and what it reads of a view."""

    read: set[str] = field(default_factory=set)

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        block, moved = self.inner.plan(telling(view, self.read.add), state)
        if not torch.equal(block & view.open, view.open):
            self.read.add("block")
        return block, moved

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        decision, moved = self.inner.select(telling(view, self.read.add), state)
        if decision.stop is not None:
            self.read.add("stop")
        return decision, moved
