"""`generate` against the research-style loop, in turn on the same prompts: the ratio of each round is what counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from dllm_bench.timing.clocks import Took, clock_of, clocked, spread
from dllm_bench.timing.research import Rule, decode_research
from dllm_bench.timing.results import Race
from dllm_bench.timing.work import Job
from dllm_sdk import Model
from dllm_sdk.execution import Backend


@dataclass(frozen=True)
class Track:
    """What is decoded, by both."""

    jobs: Sequence[Job]  # one prompt each; the first warms up, the others are the rounds
    rule: Rule  # what `scheduler` of the jobs commits
    rule_name: str
    block: int

    @property
    def model(self) -> Model:
        """Of all jobs."""
        return self.jobs[0].model


class Finish(NamedTuple):
    """One generation."""

    took: Took
    tokens: list[int]
    nfe: int
    preparation: float = 0.0


def race(track: Track, backends: Sequence[Backend], enough: Callable[[], bool]) -> list[Race]:
    """One round per job but the first, each loop in turn: research, ours with every backend, research, ...

    `enough` is asked before every round but the first.
    """
    warm, *jobs = track.jobs
    _research(track, warm)
    preparation = {backend: _ours(warm, backend).preparation for backend in backends}
    if "graph" in backends:  # capturing emptied the cache of memory, which this fills again
        _research(track, warm)
        for backend in backends:
            _ours(warm, backend)
    research: list[Finish] = []
    ours: dict[Backend, list[Finish]] = {backend: [] for backend in backends}
    for job in jobs:
        if research and enough():
            break
        research.append(_research(track, job))
        for backend in backends:
            ours[backend].append(_ours(job, backend))
    return [_result(track, backend, found, research, preparation[backend]) for backend, found in ours.items()]


def _research(track: Track, job: Job) -> Finish:
    research = partial(decode_research, track.model, job.prompts[0], track.rule, gen_length=job.gen_length[0])
    action = partial(research, block=track.block, cache=job.cache)
    found, took = clocked(action, clock_of(track.model.device))
    return Finish(took, found.tokens.tolist(), found.nfe)


def _ours(job: Job, backend: Backend) -> Finish:
    found, took = clocked(lambda: job.run(backend), clock_of(job.model.device))
    return Finish(took, found.tokens[0].tolist(), found.nfe[0], found.preparation)


def _result(
    track: Track, backend: Backend, ours: Sequence[Finish], research: Sequence[Finish], preparation_s: float
) -> Race:
    pairs = list(zip(ours, research, strict=True))
    return Race(
        cache=track.jobs[0].cache,
        backend=backend,
        rule=track.rule_name,
        equal=sum(a[1:3] == b[1:3] for a, b in pairs) / len(pairs),
        nfe=sum(one.nfe for one in ours) / len(ours),
        research_nfe=sum(one.nfe for one in research) / len(research),
        step_ms=spread([1000 * one.took.wall / one.nfe for one in ours]),
        step_cpu_ms=spread([1000 * one.took.cpu / one.nfe for one in ours]),
        research_step_ms=spread([1000 * one.took.wall / one.nfe for one in research]),
        research_step_cpu_ms=spread([1000 * one.took.cpu / one.nfe for one in research]),
        speedup=spread([b.took.wall / a.took.wall for a, b in pairs]),
        cpu_speedup=spread([b.took.cpu / a.took.cpu for a, b in pairs]),
        preparation_s=preparation_s,
    )
