"""What `speed` is asked to measure, checked, and the jobs that this makes. Measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from dllm_bench.inputs import check_whole, encode
from dllm_bench.questions import collect
from dllm_bench.timing.races import Track
from dllm_bench.timing.research import CACHES, quota_rule, threshold_rule
from dllm_bench.timing.work import Job, random_prompts
from dllm_sdk import ConfigError, Model, Scheduler, load_scheduler
from dllm_sdk.execution import Backend, check_runs

THRESHOLD = 0.9
ADAPTIVE_PROMPTS = 8  # at least; a smaller batch decodes them in several

RuleName: TypeAlias = Literal["threshold", "forced"]


@dataclass(frozen=True)
class Plan:
    """What to measure, checked."""

    model: Model
    backends: Sequence[Backend]
    caches: Sequence[str]  # those that the model can use
    batch_sizes: Sequence[int]
    prompt_length: int
    gen_length: int
    block: int
    steps: int
    rounds: int
    rule: RuleName
    schedulers: Mapping[str, Scheduler[Any]]  # whose decisions are measured, too; bound to the model

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("prompt_length", "gen_length", "block", "steps", "rounds"):
            check_whole(name, getattr(self, name), 1)
        if not self.backends or not self.batch_sizes or not self.caches:
            raise ConfigError("give at least one backend, one batch size, and one cache that the model can use")
        for size in self.batch_sizes:
            check_whole("batch_sizes", size, 1)
        for name in ("backends", "caches", "batch_sizes"):
            twice = [one for one, times in Counter(getattr(self, name)).items() if times > 1]
            if twice:
                raise ConfigError(f"{name} has {twice[0]} twice: give each once")
        for backend in self.backends:
            check_runs(backend, self.model)
        if self.rule not in ("threshold", "forced"):
            raise ConfigError(f"rule must be threshold or forced, got {self.rule!r}")
        if self.model.max_length is not None and self.prompt_length + self.gen_length > self.model.max_length:
            raise ConfigError(
                f"prompt_length + gen_length is {self.prompt_length + self.gen_length}, but the model's context holds "
                f"{self.model.max_length}: lower one of them"
            )

    @property
    def _by_quota(self) -> str:
        return f"fixed-block:block={self.block},steps={self.steps}"

    @property
    def _by_threshold(self) -> str:
        return f"threshold:block={self.block},threshold={THRESHOLD}"

    def forced(self, cache: str, batch_size: int) -> Job:
        """A fixed number of passes per block, on random ids: the work does not depend on what is written."""
        prompts = random_prompts(self.model, batch_size, self.prompt_length, seed=0)
        return Job(self.model, load_scheduler(self._by_quota), prompts, [self.gen_length] * batch_size, cache)

    def decided(self, batch_size: int) -> dict[str, Job]:
        """The same random ids with each scheduler."""
        job = self.forced("none", batch_size)
        return {name: replace(job, scheduler=scheduler) for name, scheduler in self.schedulers.items()}

    def track(self, cache: str) -> Track:
        """The race on random ids, and one prompt to warm up with."""
        if self.rule == "forced":
            spec, rule = self._by_quota, quota_rule(self.steps)
            name = f"{self.steps} steps per block of {self.block}"
        else:
            spec, rule = self._by_threshold, threshold_rule(THRESHOLD)
            name = f"threshold {THRESHOLD}, block {self.block}"
        scheduler = load_scheduler(spec)
        prompts = random_prompts(self.model, self.rounds + 1, self.prompt_length, seed=1)
        jobs = [Job(self.model, scheduler, [prompt], [self.gen_length], cache) for prompt in prompts]
        return Track(jobs, rule, name, self.block)

    def adaptive(self, batch_size: int) -> list[Job]:
        """Prompts of the registered tasks in turn, with threshold decoding up to EOS."""
        scheduler = load_scheduler(self._by_threshold)
        count = max(batch_size, ADAPTIVE_PROMPTS)
        questions = collect(None, limit=5 * count, seed=0, gen_length=None)
        per_task = [[(encode(self.model, one, i), one.gen_length) for i in range(count)] for one in questions]
        asked = [item for group in zip_longest(*per_task) for item in group if item][:count]
        return [
            Job(self.model, scheduler, [ids for ids, _ in part], [n for _, n in part], self.caches[0], stop_at_eos=True)
            for part in (asked[i : i + batch_size] for i in range(0, count, batch_size))
        ]


def usable(model: Model, caches: Sequence[str]) -> Sequence[str]:
    """The caches that the model can use."""
    for cache in caches:
        if cache not in CACHES:
            raise ConfigError(f"a cache must be one of {', '.join(CACHES)}, got {cache!r}")
    try:
        model.new_store(1, 2)
        only_none = model.block_causal
    except ConfigError:  # a wrapped callable
        only_none = True
    return tuple(cache for cache in caches if cache == "none" or not only_none)
