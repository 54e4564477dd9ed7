"""`speed`: every measurement in order of importance, until the budget is used up. Knows models by name only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch

from dllm_bench.environment import dtype_of, machine, model_name, parameters, weights_of
from dllm_bench.inputs import check_whole, load_any_model, load_schedulers
from dllm_bench.timing.ceilings import measure_ceilings
from dllm_bench.timing.clocks import Deadline
from dllm_bench.timing.plan import Plan, RuleName, usable
from dllm_bench.timing.races import race
from dllm_bench.timing.research import CACHES, PUBLIC_FIGURES, ResearchModel
from dllm_bench.timing.results import Speed
from dllm_bench.timing.steps import decision_costs, rates, rounds, step_costs, with_counts
from dllm_bench.timing.work import Job
from dllm_sdk import ConfigError, Model, Scheduler, execution
from dllm_sdk.binding import bind
from dllm_sdk.compiling import line_of
from dllm_sdk.execution import Backend

Report: TypeAlias = Callable[[Speed, str], None]
"""Called before every part: what was measured so far, and what comes next ("" at the end)."""


class Part(NamedTuple):
    """One thing to measure, within a share of the budget."""

    name: str
    measure: Callable[[Speed, Callable[[], bool]], Speed]  # adds to what was found; asks whether its share is used up


def speed(  # noqa: PLR0913  one per option of the command
    model: str | Model = "tiny",
    *,
    backends: Sequence[Backend] = ("eager",),
    caches: Sequence[str] = CACHES,
    batch_sizes: Sequence[int] = (1, 8),
    prompt_length: int = 64,
    gen_length: int = 128,
    block: int = 32,
    steps: int = 8,
    rounds: int = 10,
    rule: RuleName = "threshold",
    schedulers: Sequence[str | Scheduler[Any]] = (),
    budget: float = 120.0,
    threads: int | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    report: Report | None = None,
) -> Speed:
    """Measure what steps cost, how many tokens per second that gives, and against a research-style loop.

    `model` as for `compare`; `random:SHAPE` has random weights of a known shape. The race decodes `rounds` random
    prompts with each of the `caches` that the model can use, with `rule` "threshold" 0.9 or with a forced number of
    `steps` per block, which is also how steps are measured, for each of the batch sizes. Of `schedulers`, SPECs or
    objects, the decisions are measured, with a model that costs nothing. Everything is decoded with
    every backend in turn, round by round, so that a machine that slows down slows all of them. No part begins after
    `budget` seconds, and each has an equal share of what is left, to which compiling does not count; what was left out
    is in the notes. `threads`: of the CPU; None: as torch has it.

    Raises ConfigError and RegistryError before anything is measured. The error of a part is raised at the end, when
    `report` has had what the others found.
    """
    if not isinstance(budget, int | float) or not budget > 0:
        raise ConfigError(f"budget must be a number of seconds above 0, got {budget!r}")
    with _threads(threads):
        loaded = load_any_model(model, device, dtype)
        plan = Plan(
            loaded,
            backends=tuple(backends),
            caches=usable(loaded, caches),
            batch_sizes=tuple(batch_sizes),
            prompt_length=prompt_length,
            gen_length=gen_length,
            block=block,
            steps=steps,
            rounds=rounds,
            rule=rule,
            schedulers={name: bind(one, loaded) for name, one in (load_schedulers(schedulers) if schedulers else ())},
        )
        return _measure(plan, model_name(model), budget, report or (lambda found, name: None))


def _measure(plan: Plan, model: str, budget: float, report: Report) -> Speed:
    """What could be measured; raises the first error when all the rest is."""
    parts, notes = _parts(plan)
    deadline = Deadline(budget, len(parts))
    ceilings = measure_ceilings(torch.device(plan.model.device), dtype_of(plan.model))
    found = Speed(ceilings, (), (), (), _environment(plan, model, budget), notes)
    late: list[str] = []
    errors: list[BaseException] = []
    for number, part in enumerate(parts):
        if deadline.over:
            late.append(part.name)
            continue
        report(found, part.name)
        try:
            found = part.measure(found, deadline.share(lambda: execution.compiler.seconds))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            found = _noted(found, f"{part.name}: left out, the device's memory is too small.")
        except KeyboardInterrupt as error:
            errors.insert(0, error)
            missing = "; ".join(one.name for one in parts[number:])
            found = _noted(found, f"Interrupted, and not measured: {missing}.")
            break
        except Exception as error:  # what a device, its compiler, its profiler or a model can raise: the others go on
            errors.append(error)
            found = _noted(found, f"{part.name}: failed, {_first_line(error)}, {line_of(error)}")
    if late:
        found = _noted(found, f"Left out, the budget of {budget:g} s was used up: {'; '.join(late)}.")
    as_written = sorted(set(execution.compiler.obstacles.values())) if {*plan.backends} - {"eager"} else []
    found = _noted(found, *(f"Not compiled, but run as it is: {why}." for why in as_written))
    report(found, "")
    if errors:
        raise errors[0]
    return found


def _environment(plan: Plan, model: str, budget: float) -> dict[str, Any]:
    return {
        **machine(torch.device(plan.model.device)),
        "model": model,
        "dtype": str(dtype_of(plan.model)).removeprefix("torch."),
        "budget_s": budget if budget < float("inf") else None,  # JSON has no number for it
        "parameters": parameters(weights_of(plan.model)),
        **{name: value for name, value in vars(plan).items() if name != "model"},
        "schedulers": list(plan.schedulers),
    }


def _noted(found: Speed, *notes: str) -> Speed:
    return replace(found, notes=[*found.notes, *notes])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[:1])}"


def _parts(plan: Plan) -> tuple[list[Part], list[str]]:
    """What to measure, the important first, and what cannot be: what shares compiled code stands together."""
    parts, notes = [], [PUBLIC_FIGURES]
    try:
        ResearchModel(plan.model, 1)
        racing = True
    except ConfigError as error:
        racing, notes = False, [f"No race: {error}."]
    trained = plan.model.tokenizer is not None
    try:
        jobs = {size: plan.adaptive(size) for size in plan.batch_sizes if trained}
    except ConfigError as error:  # prompts that its tokenizer cannot read
        jobs = {}
        notes.append(f"No adaptive rate: {error}.")
    for size in plan.batch_sizes:
        if plan.schedulers:  # what was asked for by name
            parts.append(Part(f"decisions, batch {size}", partial(_decisions, plan, size)))
        for cache in plan.caches:
            if racing and size == plan.batch_sizes[0]:
                parts.append(Part(f"race, cache {cache}", partial(_race, plan, cache)))
            parts.append(Part(f"steps, cache {cache}, batch {size}", partial(_steps, plan, cache, size)))
        if size in jobs:
            parts.append(Part(f"adaptive, batch {size}", partial(_adaptive, plan, jobs[size])))
        parts.append(Part(f"counts of steps, batch {size}", partial(_counts, plan, size)))
    if not trained:
        notes.append("No adaptive rate: a model without a tokenizer reads no prompt, and random ids would say nothing.")
    return parts, notes


def _race(plan: Plan, cache: str, found: Speed, enough: Callable[[], bool]) -> Speed:
    return replace(found, races=[*found.races, *race(plan.track(cache), plan.backends, enough)])


def _steps(plan: Plan, cache: str, batch_size: int, found: Speed, enough: Callable[[], bool]) -> Speed:
    job = plan.forced(cache, batch_size)
    seen = rounds([job], plan.backends, most=plan.rounds, enough=enough)
    steps = [*found.steps, *step_costs(job, seen, found.ceilings)]
    return replace(found, steps=steps, rates=[*found.rates, *rates("forced", job, seen)])


def _counts(plan: Plan, batch_size: int, found: Speed, enough: Callable[[], bool]) -> Speed:
    jobs = {cache: plan.forced(cache, batch_size) for cache in plan.caches}
    return replace(found, steps=with_counts(found.steps, jobs))


def _adaptive(plan: Plan, jobs: Sequence[Job], found: Speed, enough: Callable[[], bool]) -> Speed:
    seen = rounds(jobs, plan.backends, most=plan.rounds, enough=enough)
    return replace(found, rates=[*found.rates, *rates("adaptive", jobs[0], seen)])


def _decisions(plan: Plan, batch_size: int, found: Speed, enough: Callable[[], bool]) -> Speed:
    seen = decision_costs(plan.decided(batch_size), plan.backends, most=plan.rounds, enough=enough)
    return replace(found, decisions=[*found.decisions, *seen])


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run with this many threads."""
    check_whole("threads", count, 1, optional=True)
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
