"""What a step costs by what it computes, and the tokens per second that follow; all backends of a batch in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from statistics import fmean
from typing import Any, NamedTuple

from dllm_bench.timing.ceilings import Ceilings
from dllm_bench.timing.clocks import Spread, clock_of, spread
from dllm_bench.timing.counting import Work, count
from dllm_bench.timing.results import DecisionCost, Rate, StepCost
from dllm_bench.timing.work import Job, Laps, Timed, hollow, model_shares, model_work, of_kind, timed
from dllm_sdk.execution import Backend

_KINDS = {"none": {"full": False}, "prefix": {"prefix": False}, "dual": {"block": False, "refresh": True}}
_FEW = 3  # generations for what is not the main figure
_ROW = 8  # steps in a row that are counted at most: a profiler is slow
_LONGEST = 8  # kernels that are named


class Rounds(NamedTuple):
    """What one backend did, round by round: the generations of all jobs."""

    runs: list[list[Timed]]
    preparation_s: float


def rounds(
    jobs: Sequence[Job], backends: Sequence[Backend], *, most: int, enough: Callable[[], bool]
) -> dict[Backend, Rounds]:
    """All jobs with every backend in turn, up to `most` times, once at least; one round before that warms up."""
    clock, found = clock_of(jobs[0].model.device), {}
    for backend in backends:
        warm = [timed(job, backend, clock) for job in jobs]
        found[backend] = Rounds([], sum(run.found.preparation for run in warm))
    if "graph" in backends:  # capturing emptied the cache of memory, which this fills again
        for backend in backends:
            for job in jobs:
                timed(job, backend, clock)
    for number in range(most):
        if number and enough():
            break
        for backend in backends:
            found[backend].runs.append([timed(job, backend, clock) for job in jobs])
    return found


def rates(work: str, job: Job, found: dict[Backend, Rounds]) -> list[Rate]:
    """Tokens per second of whole rounds. `job`: the first of them; the only one where EOS ends no row."""
    results = []
    for backend, (runs, preparation_s) in found.items():
        # An EOS that a forced step writes is a token like any other: those behind it cost as much.
        tokens = sum(sum(run.found.generated) for run in runs[0]) if job.stop_at_eos else sum(job.gen_length)
        passes = [nfe for run in runs[0] for nfe in run.found.nfe]
        results.append(
            Rate(
                work=work,
                cache=job.cache,
                backend=backend,
                batch_size=len(job.prompts),
                nfe=fmean(passes),
                tpf=tokens / sum(passes),
                tokens_per_second=spread([tokens / sum(run.took.wall for run in one) for one in runs]),
                preparation_s=preparation_s,
            )
        )
    return results


def step_costs(job: Job, found: dict[Backend, Rounds], ceilings: Ceilings) -> list[StepCost]:
    """What the steps of these rounds cost, by kind; of a job whose rows all open their blocks together."""
    clock = clock_of(job.model.device)
    empty, work = hollow(job), model_work(job)
    shares = [model_shares(job) for _ in range(_FEW)] if "eager" in found else []
    costs = []
    for backend, (runs, _) in found.items():
        timed(empty, backend, clock)
        decided = [timed(empty, backend, clock) for _ in range(_FEW)]
        for kind, refreshed in _KINDS[job.cache].items():
            laps = [of_kind(one[0].laps, refreshed) for one in runs]
            if not laps[0]:  # all is one block, which has no second step of this kind
                continue
            ms, parts = _ms([lap.wall for lap in one] for one in laps), of_kind(work, refreshed)
            floor_s, bound = ceilings.floor(sum(parts, Work(0, 0)))
            costs.append(
                StepCost(
                    kind=kind,
                    backend=backend,
                    batch_size=len(job.prompts),
                    fed=_fed(job, runs[0][0], refreshed=refreshed),
                    ms=ms,
                    cpu_ms=_ms([lap.cpu for lap in one] for one in laps),
                    forward_ms=_part(ms, shares, refreshed) if backend == "eager" else None,
                    decision_ms=_ms([lap.wall for lap in of_kind(one.laps, refreshed)] for one in decided),
                    ceiling_share=1000 * floor_s / len(parts) / ms.median,
                    bound=bound,
                )
            )
    return costs


def decision_costs(
    jobs: Mapping[str, Job], backends: Sequence[Backend], *, most: int, enough: Callable[[], bool]
) -> list[DecisionCost]:
    """What the decisions of several schedulers cost, all of them in turn: steps with a model that costs nothing."""
    found = rounds([hollow(job) for job in jobs.values()], backends, most=most, enough=enough)
    costs = []
    for place, (name, job) in enumerate(jobs.items()):
        for backend, (runs, _) in found.items():
            seen = [one[place] for one in runs]
            costs.append(
                DecisionCost(
                    scheduler=name,
                    backend=backend,
                    batch_size=len(job.prompts),
                    nfe=fmean(seen[0].found.nfe),
                    ms=_ms([took.wall for _, took in one.laps] for one in seen),
                    cpu_ms=_ms([took.cpu for _, took in one.laps] for one in seen),
                )
            )
    return costs


def with_counts(costs: Sequence[StepCost], jobs: Mapping[str, Job]) -> list[StepCost]:
    """The costs, those of these jobs with what is counted of a step. `jobs`: by their caches.

    After whatever is timed and compared: once the profiler has looked at a device, all it starts may take longer.
    """
    found = []
    for cost in costs:
        ((cache, refreshed),) = [(name, kinds[cost.kind]) for name, kinds in _KINDS.items() if cost.kind in kinds]
        job = jobs[cache]
        countable = job.model.device.type == "cuda" or cost.backend == "eager"
        mine = countable and cost.batch_size == len(job.prompts)
        found.append(replace(cost, **_counts(job, cost.backend, refreshed=refreshed)) if mine else cost)
    return found


def _counts(job: Job, backend: Backend, *, refreshed: bool) -> dict[str, Any]:
    """The mean over steps of a kind that follow each other."""
    kinds = [is_refresh for is_refresh, _ in timed(job, backend, clock_of(job.model.device)).laps]
    first = kinds.index(refreshed, 1)  # what is read and started before the first step belongs to none
    number = len([*takewhile(lambda kind: kind == refreshed, kinds[first : first + _ROW])])
    steps = job.steps(backend)
    deque(islice(steps, first), maxlen=0)
    seen = count(lambda: deque(islice(steps, number), maxlen=0), job.model.device)
    busy = {name: sum(took) / 1000 / number for name, took in seen.busy_us.items()}
    longest = sorted(busy, key=lambda name: -busy[name])[:_LONGEST]
    said = [f"{busy[name]:.4f} ms, {len(seen.busy_us[name]) / number:g} {name[:80]}" for name in longest]
    return {
        "kernels": seen.kernels / number,
        "host_reads": seen.host_reads / number,
        "busy_ms": sum(busy.values()) or None,
        "longest": "; ".join(said) or None,
    }


def _ms(generations: Iterable[Sequence[float]]) -> Spread:
    """Of the mean step of each generation, given in seconds."""
    return spread([1000 * fmean(seconds) for seconds in generations])


def _part(ms: Spread, shares: Sequence[Laps[float]], refreshed: bool) -> Spread:
    """The model's part of steps that took `ms`: its share was measured step by step, perhaps while all was slower."""
    of_steps = [of_kind(one, refreshed) for one in shares]
    return spread([ms.median * fmean(one) for one in of_steps])


def _fed(job: Job, run: Timed, *, refreshed: bool) -> float:
    """Positions computed per row in a step of this kind; a refresh computes all."""
    length = len(job.prompts[0]) + job.gen_length[0]
    fed, nfe, refreshes = run.found.fed[0], run.found.nfe[0], run.found.refreshes[0]
    return length if refreshed else (fed - refreshes * length) / (nfe - refreshes)
