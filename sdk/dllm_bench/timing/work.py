"""What is decoded while the clock runs, and models around a model: one that is timed and one that costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from dllm_bench.environment import dtype_of
from dllm_bench.timing.clocks import Clock, Took, between, clock_of, clocked
from dllm_bench.timing.counting import Work, weigh
from dllm_sdk import ConfigError, Generation, Model, Sampler, Scheduler, load_cache
from dllm_sdk.canvas import Canvas, build_canvas
from dllm_sdk.decoding import Made, Options, run
from dllm_sdk.execution import Backend
from dllm_sdk.generation import finish, handed

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A batch to decode, apart from how it is run."""

    model: Model
    scheduler: Scheduler[Any]
    prompts: Sequence[list[int]]
    gen_length: Sequence[int]
    cache: str
    stop_at_eos: bool = False

    def run(self, backend: Backend, look: Callable[[Made], None] = lambda made: None) -> Generation:
        """Decode it to the end; `look` is handed every step, of which nothing is copied for it."""
        start = time.perf_counter()
        canvas = build_canvas(self.model, self.prompts, gen_length=self.gen_length)
        return finish(self.model, canvas, handed(self._steps(canvas, backend), look), start)

    def steps(self, backend: Backend) -> Iterator[Made]:
        """Decode it step by step."""
        return self._steps(build_canvas(self.model, self.prompts, gen_length=self.gen_length), backend)

    def _steps(self, canvas: Canvas, backend: Backend) -> Iterator[Made]:
        options = Options(load_cache(self.cache), Sampler(), self.stop_at_eos, 0.0, backend)
        return run(self.model, canvas, self.scheduler, options)


def random_prompts(model: Model, count: int, length: int, seed: int) -> list[list[int]]:
    """Random ids that are neither the mask nor an EOS."""
    special = {model.mask_id, *model.eos_ids}
    allowed = torch.tensor([i for i in range(model.vocab_size) if i not in special])
    if not len(allowed):
        raise ConfigError("the model's vocabulary holds nothing but the mask and EOS: there is nothing to prompt with")
    generator = torch.Generator().manual_seed(seed)
    picked: list[list[int]] = allowed[torch.randint(len(allowed), (count, length), generator=generator)].tolist()
    return picked


Laps: TypeAlias = list[tuple[bool, T]]
"""Something of every step of a generation, and whether the step refreshed."""


def of_kind(laps: Laps[T], refreshed: bool) -> list[T]:
    """That of the steps that refreshed, or of the others; without the first one, which also sets everything up."""
    return [value for is_refresh, value in laps[1:] if is_refresh == refreshed]


class Timed(NamedTuple):
    """A generation with a clock."""

    found: Generation
    laps: Laps[Took]
    took: Took


def timed(job: Job, backend: Backend, clock: Clock) -> Timed:
    """Decode with the clock read after every step."""
    times, refreshed = [clock()], list[bool]()

    def look(made: Made) -> None:
        times.append(clock())
        refreshed.append(made.refreshed)

    found, took = clocked(lambda: job.run(backend, look), clock)
    laps = [between(*pair) for pair in pairwise(times)]
    return Timed(found, list(zip(refreshed, laps, strict=True)), took)


def model_shares(job: Job) -> Laps[float]:
    """The model's share, forward pass and head, of the wall time of every step of an eager run."""
    clock = clock_of(job.model.device)
    times = [clock()]

    def watch(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
        result, took = clocked(call, clock)
        return result, took.wall

    laps = _watched(job, watch, lambda: times.append(clock()))
    whole = [between(*pair).wall for pair in pairwise(times)]
    return [(refreshed, sum(calls) / step) for (refreshed, calls), step in zip(laps, whole, strict=True)]


def model_work(job: Job) -> Laps[Work]:
    """The work of the model, forward pass and head, in every step of an eager run."""
    return [(refreshed, sum(calls, Work(0, 0))) for refreshed, calls in _watched(job, weigh)]


def _watched(
    job: Job, watch: Callable[[Callable[[], Tensor]], tuple[Tensor, T]], after: Callable[[], None] = lambda: None
) -> Laps[list[T]]:
    """An eager run in which `watch` makes the calls of the model: what it says of those of each step."""
    seen: list[list[T]] = [[]]
    refreshed: list[bool] = []

    def call(action: Callable[[], Tensor]) -> Tensor:
        result, about = watch(action)
        seen[-1].append(about)
        return result

    def look(made: Made) -> None:
        refreshed.append(made.refreshed)
        seen.append([])
        after()

    replace(job, model=cast(Model, Watched(job.model, call))).run("eager", look)
    return list(zip(refreshed, seen[:-1], strict=True))


class Watched:
    """A model whose forward pass and head are made by `call`."""

    def __init__(self, model: Model, call: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        self._model, self._call = model, call

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        return found if name != "forward_at" else lambda *given: self._call(lambda: found(*given))

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """As the model's."""
        return self._call(lambda: self._model.forward(*given, **named))

    def head(self, hidden: Tensor) -> Tensor:
        """As the model's."""
        return self._call(lambda: self._model.head(hidden))


def hollow(job: Job) -> Job:
    """The job with a model that costs nothing: what remains of a step is its decision."""
    return replace(job, model=cast(Model, Hollow(job.model)))


class Hollow:
    """Answers in the shapes of another model, with random logits and without work."""

    def __init__(self, model: Model) -> None:
        """As this model, for batches of any size."""
        self.mask_id, self.eos_ids, self.vocab_size = model.mask_id, model.eos_ids, model.vocab_size
        self.shift, self.block_causal, self.max_length = model.shift, model.block_causal, model.max_length
        self.device, self.tokenizer = model.device, None
        self._dtype = dtype_of(model)  # of its logits, so that the decision computes with what it would get
        self._hidden = torch.zeros(1, 1, 1, device=model.device)
        self._logits: dict[torch.Size, Tensor] = {}

    def forward(self, tokens: Tensor, positions: Tensor, store: Any, key_mask: Tensor | None) -> Tensor:
        """Zeros, [B, Q, 1]."""
        return self._hidden.expand(*tokens.shape, 1)

    def head(self, hidden: Tensor) -> Tensor:
        """The same logits for the same shape, [B, W, V]."""
        shape = hidden.shape[:2]
        if shape not in self._logits:
            self._logits[shape] = torch.randn(*shape, self.vocab_size, device=self.device).to(self._dtype)
        return self._logits[shape]

    def new_store(self, rows: int, slots: int) -> HollowStore:
        """Nothing to keep."""
        return HollowStore()


class HollowStore:
    """What a model that computes nothing remembers."""

    def keep(self, rows: Tensor) -> HollowStore:
        """Itself."""
        return self

    def put(self, rows: Tensor, part: Any) -> None:
        """Nothing."""
