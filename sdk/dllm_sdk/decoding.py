"""The loop: it owns every invariant, so that no scheduler, not even a hostile one, can break them.

    plan blocks -> look -> decide -> who is done?

Between two steps the host reads one small table (two where a block is planned before its first forward pass) and
settles the sizes of the next step; inside a step it reads nothing. Knows the protocols of schedulers and models, no
strategy and no architecture. `looking` is the forward pass, `deciding` the decision; a step is run by `execution`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from dllm_sdk.binding import bind, holdings
from dllm_sdk.caching import Cache, NoCache
from dllm_sdk.canvas import Canvas, OpenMask, Prompts, build_canvas, padded
from dllm_sdk.contract import Applied, check_members, check_state
from dllm_sdk.deciding import Decided, Decider
from dllm_sdk.errors import ConfigError, SchedulerError
from dllm_sdk.execution import Backend, Runner, check_backend, runner
from dllm_sdk.looking import Looker, Shape
from dllm_sdk.model import Model, Store
from dllm_sdk.rows import Line, Rows, columns, first_rows, trouble
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Scheduler, View, check_value
from dllm_sdk.trees import take

_STRONGEST = 1e6  # more guidance would make logits infinite


class Step(NamedTuple):
    """One step of the rows that are still being decoded. A row that is done is in no later step.

    Its tensors are made in torch's inference mode: clone one before writing into it or using it in a loss.
    """

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
    ends: tuple[int, ...]  # where `done` is true, for a caller who would rather not ask the device
    lanes: int  # positions that the model was asked to compute for all rows together, padding included
    preparation: float  # seconds of this step that were spent on compiling or capturing it


class Made(NamedTuple):
    """A step that was made, and what the host knows of it without looking at its tensors."""

    step: Callable[[], Step]  # copies the tensors; to be called before the next step is made, which overwrites them
    ends: bool  # a row is done
    refreshed: bool  # a row recomputed a cache
    preparation: float  # as in `Step`


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
    guidance: float = 0.0,
    backend: Backend = "eager",
) -> Iterator[Step]:
    """Decode step by step.

    `prompt` is a text, token ids, or a list of either; each row gets `gen_length` masks after its prompt (a number, or
    one per prompt), and `open` marks prompt positions to fill in as well. Each prompt is repeated for `samples` seeds.
    With `stop_at_eos` a row ends once everything before its first generated EOS is final; tokens up to it are those of
    a run without.
    `guidance` g > 0 is classifier-free guidance (LLaDA): a second pass with the given positions masked gives logits u,
    and u + (g + 1) (l - u) replaces l. `backend` says how a step is run (`execution`): the tokens are the same.

    Raises ConfigError for arguments, SchedulerError and SchedulerStalled for the scheduler, ModelError for the model.
    """
    canvas = build_canvas(model, prompt, gen_length=gen_length, open=open, samples=samples, seed=seed)
    options = Options(cache, sampler, stop_at_eos, guidance, backend)
    return (made.step() for made in run(model, canvas, scheduler, options))


@dataclass(frozen=True)
class Options:
    """How to run, apart from what is run: the keyword arguments of `decode` of the same names."""

    cache: Cache
    sampler: Sampler
    stop_at_eos: bool
    guidance: float
    backend: Backend

    def __post_init__(self) -> None:
        check_backend(self.backend)
        if not isinstance(self.cache, Cache):
            raise ConfigError(f"cache must be a Cache, such as DualCache() or load_cache('dual'), got {self.cache!r}")
        if not isinstance(self.sampler, Sampler):
            raise ConfigError(f"sampler must be a Sampler, such as Sampler(temperature=0.7), got {self.sampler!r}")
        if not isinstance(self.stop_at_eos, bool):
            raise ConfigError(f"stop_at_eos must be true or false, got {self.stop_at_eos!r}")
        check_value("guidance", self.guidance, 0, _STRONGEST)


def run(model: Model, canvas: Canvas, scheduler: Scheduler[Any], options: Options) -> Iterator[Made]:
    """`decode` for a canvas that is already built, without a copy of what nobody looks at."""
    if not isinstance(scheduler, Scheduler):
        raise ConfigError(
            "scheduler must be an instance of a Scheduler subclass, such as load_scheduler('threshold') gives, "
            f"got {scheduler!r}"
        )
    check_members(scheduler)
    options.cache.check(model, scheduler.replan)
    if not (options.cache.suffix or getattr(model, "reads_positions", True)) and canvas.has_holes:
        raise ConfigError(
            f"{options.cache} hides masks that lie before given tokens, and this model would take these to lie further "
            "left: it reads no positions; take NoCache()"
        )
    decider = Decider(
        scheduler=bind(scheduler, model),
        sampler=options.sampler,
        cache=options.cache,
        stop_at_eos=options.stop_at_eos,
        passes=2 if options.guidance else 1,
        vocab_size=model.vocab_size,
        mask_id=model.mask_id,
        eos_ids=tuple(model.eos_ids),
        shift=model.shift,
    )
    running = runner(options.backend, model)
    looker = Looker(model, running, options.guidance)
    return _Loop(looker, decider, running, _key(decider, options.backend)).run(canvas)


def _key(decider: Decider, backend: Backend) -> Hashable:
    """Equal for equal deciders; `repr` tells 1 from 1.0. One that cannot be hashed equals itself alone.

    A graph has in it what a scheduler's fields held when it was captured, of tensors their addresses, so for it the key
    says what that is: comparing schedulers need not compare all of it.
    """
    try:
        hash(decider)
    except TypeError:
        return object()
    return repr(decider), decider, holdings(decider.scheduler) if backend == "graph" else ()


_Batch: TypeAlias = tuple[Rows, list[Line], list[Store]]


@dataclass(frozen=True)
class _Loop:
    """What the host does between two steps, each of which is a look and a decision."""

    looker: Looker
    decider: Decider
    runner: Runner
    key: Hashable  # equal where the code of a step is the same
    horizons: dict[int, int] = field(default_factory=dict)  # gen_length -> horizon, asked once each

    @torch.inference_mode()
    def run(self, canvas: Canvas) -> Iterator[Made]:
        """The steps, until every row is done."""
        width = self.runner.lanes(canvas.tokens.shape[1])
        rows = self.start(padded(canvas, self.runner.rows(len(canvas.tokens)), width))
        stores = [self.runner.store(*rows.tokens.shape) for _ in range(self.decider.passes) if self.stored]
        try:
            yield from self.steps(rows, stores)
        finally:
            self.runner.give_back()

    def steps(self, rows: Rows, stores: list[Store]) -> Iterator[Made]:
        """As `run`, with its rows and stores made."""
        table = self.read(columns(rows))
        alive = [i for i, row in enumerate(table) if not row.done]
        while alive:
            planning = self.decider.scheduler.replan == "step" or any(table[i].opening for i in alive)
            # The functions are unbound and the decider is an argument, so code made for one decider serves its equals.
            if planning and 0 in self.horizons.values():
                rows, found = self.runner.call(("ahead", self.key), partial(Decider.plan_ahead, self.decider), rows)
                table = self.read(found)
            shape = self.shape(table, rows.tokens.shape[1], planning and any(self.horizons.values()))
            look = partial(Looker.look, self.looker, stores=stores, shape=shape)
            decide = partial(Decider.decide, self.decider, planning=shape.planning)
            keys = (("look", self.key, self.looker.guidance, shape), ("decide", self.key, shape.planning))
            refreshed = self.stored and any(table[i].refresh for i in alive)
            decided = self.runner.step(keys, look, decide, rows)
            rows, table = decided.rows, self.read(decided.columns)
            left, spent = [i for i in alive if not table[i].done], self.runner.spent()
            step = cache(partial(self.shown, decided, alive, table, shape, spent))  # who looks twice copies once
            yield Made(step, len(left) < len(alive), refreshed, spent)
            alive = left
            if 0 < self.runner.rows(len(alive)) < len(table):
                rows, table, stores = self.smaller(alive, rows, table, stores)
                alive = [i for i, row in enumerate(table) if not row.done]

    @property
    def stored(self) -> bool:
        """Whether keys and values are kept from step to step."""
        return self.decider.cache.stores

    def start(self, canvas: Canvas) -> Rows:
        """The rows before their first step, with what the scheduler says of them."""
        scheduler, counts = self.decider.scheduler, canvas.open.sum(1).tolist()
        for count in set(counts):
            horizon = scheduler.horizon(count)
            if not isinstance(horizon, int) or horizon < 0:
                raise SchedulerError(f"{scheduler!r}: horizon({count}) must be an int >= 0, got {horizon!r}")
            self.horizons[count] = horizon
        state = scheduler.init(canvas.tokens.clone(), canvas.open.clone())
        check_state(scheduler, state, len(counts))
        return self.decider.prepare(first_rows(canvas, self.horizons, state))

    def read(self, found: Tensor) -> list[Line]:
        """The host read between two steps; raises what went wrong."""
        table = [Line(*row) for row in found.tolist()]
        scheduler = self.decider.scheduler
        for row in table:
            if row.trouble:
                raise trouble(scheduler, row)
        return table

    def shape(self, table: list[Line], width: int, planning: bool) -> Shape:
        """The sizes of the next step on a canvas of `width` columns, each of them one that the runner has."""
        alive = [row for row in table if not row.done]
        fresh = [row for row in alive if row.refresh] if self.stored else []
        apart = fresh if len(fresh) < len(alive) else []
        feeds = [row.feed for row in alive if not (apart and row.refresh)]

        def size(counts: list[int]) -> int:
            return min(self.runner.lanes(max(counts)), width) if counts else 0

        keys = width if self.stored else size(feeds)  # per row: the slots of the store, or else the fed lanes
        return Shape(
            window=size([row.width for row in alive]),
            feed=size(feeds),
            apart=min(self.runner.rows(len(apart)), len(table)),
            apart_feed=size([row.feed for row in apart]),
            all_visible=not self.looker.model.block_causal and all(row.visible == keys for row in alive),
            planning=planning,
        )

    @torch.inference_mode()
    def shown(self, decided: Decided, alive: list[int], table: list[Line], shape: Shape, preparation: float) -> Step:
        """The step as the caller sees it: of the rows that were in it, and in tensors that stay as they are."""
        rows, passes = decided.rows, self.decider.passes
        counts = (rows.nfe, rows.refreshes, rows.fed, rows.nfe * (passes - 1))
        outcome = (decided.view, decided.decision, decided.settled, rows.done, *counts, decided.closed)
        parts = self.runner.own((rows.row, rows.tokens, *outcome))
        if len(alive) < len(table):
            index = torch.tensor(alive, device=rows.row.device)
            parts = take(parts, index)
        ends = tuple(place for place, i in enumerate(alive) if table[i].done)
        computed = (len(table) * shape.feed + shape.apart * shape.apart_feed) * passes
        return Step._make((*parts, ends, computed, preparation))

    def smaller(self, alive: list[int], rows: Rows, table: list[Line], stores: list[Store]) -> _Batch:
        """The batch without rows that are done: they cost nothing more. Some may stay, to fill its places."""
        done = [i for i, row in enumerate(table) if row.done]
        places = sorted([*alive, *done[: self.runner.rows(len(alive)) - len(alive)]])
        index = torch.tensor(places, device=rows.row.device)
        return take(rows, index), [table[i] for i in places], [self.runner.smaller(store, index) for store in stores]
