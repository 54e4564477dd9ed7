"""`compare`: schedulers side by side on tasks. Checks everything first, then measures, then sums up.

Knows schedulers, models and tasks only through the registry or as objects that the caller made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dllm_bench.calibration.scheduler_file import warn_elsewhere
from dllm_bench.environment import family, fingerprint, peak_rss
from dllm_bench.inputs import check_whole, encode, load_any_model, load_schedulers
from dllm_bench.journal import Journal
from dllm_bench.measure import WARM_UP_STEPS, Batch, Contender, Report, Run, cut
from dllm_bench.metrics import sum_up
from dllm_bench.pages.report import free_path, save
from dllm_bench.questions import Questions, collect
from dllm_bench.recording import record
from dllm_bench.results import Comparison, Entrant
from dllm_sdk import Cache, ConfigError, Model, Sampler, Scheduler, load_cache
from dllm_sdk.execution import Backend, check_runs
from dllm_sdk.model import bind
from dllm_sdk.registry import describe

DEFAULT_SCHEDULERS = ("fixed-block", "confidence-adaptive", "adablock")


def compare(
    model: str | Model = "tiny",
    schedulers: Sequence[str | Scheduler[Any]] = DEFAULT_SCHEDULERS,
    tasks: Sequence[Any] | None = None,
    *,
    limit: int = 200,
    batch_size: int = 32,
    caches: Sequence[str | Cache] = ("none",),
    seed: int = 0,
    gen_length: int | None = None,
    temperature: float = 0.0,
    device: str = "cpu",
    dtype: str | None = None,
    backend: Backend = "eager",
    output: str | Path | None = None,
    progress: Report | None = None,
) -> Comparison:
    """Decode the same prompts with every scheduler and compare accuracy, forward passes and speed.

    With several `caches` every scheduler runs with every cache, and is measured against itself with the first one.

    `model` is NAME, NAME:PATH, MODULE:FUNCTION or a model; `schedulers` are SPECs or objects, the first one is what the
    others are measured against; `tasks` are names, FILE.jsonl or objects (None: all that are registered). `limit` is
    the number of prompts in all tasks together, `seed` that of the prompts and of sampling, `gen_length` the positions
    to generate per prompt (None: the task's own), `backend` how a step is run, `output` a folder for results.jsonl,
    written as the run goes, and report.html, which needs the first prompts once more, step by step.

    Everything is checked before anything runs: ConfigError and RegistryError say what was wrong. SchedulerError and
    ModelError come from the run itself.
    """
    for name, value, low in (("limit", limit, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        check_whole(name, value, low)
    check_whole("gen_length", gen_length, 1, optional=True)
    sampler = Sampler(temperature=temperature)
    named = load_schedulers(schedulers)
    contenders = with_caches(named, caches)
    questions = collect(tasks, limit=limit, seed=seed, gen_length=gen_length)
    loaded = load_any_model(model, device, dtype)
    check_runs(backend, loaded)
    warn_elsewhere(schedulers, model, loaded, tasks)
    run = Run(loaded, contenders, batches_of(loaded, questions, batch_size), sampler, seed, backend)
    entrants = entrants_of(contenders, loaded)
    settings = {"seed": seed, "batch_size": batch_size, "temperature": temperature, "limit": limit, "backend": backend}
    lengths = {one.name: one.gen_length for one in questions}
    notes = [note for asked in questions for note in asked.notes]
    page = free_path(output)
    with Journal(output) as journal:
        environment = fingerprint(loaded, model if isinstance(model, str) else type(model).__name__)
        environment = {**environment, **settings, "gen_length": lengths, "warm_up_steps": WARM_UP_STEPS}
        journal.begin(environment, entrants, notes)
        run.warm_up()
        outcomes = list(run.outcomes(journal, progress))
        journal.end(ending := {"peak_rss_bytes": peak_rss(), "preparation_s": sum(run.preparation)})
    prompts = {one.name: dict(enumerate(one.prompts)) for one in questions}
    found = sum_up(entrants, outcomes, {**environment, **ending}, notes, prompts)
    if page is not None:
        found = replace(found, recordings=record(loaded, contenders, questions, sampler, seed))
        save(found, page)
    return found


def entrants_of(contenders: Sequence[Contender], model: Model) -> list[Entrant]:
    """What the rows are about; what does not fit the model is found now."""
    for one in contenders:
        bind(one.scheduler, model)
        one.cache.check(model, one.scheduler.replan)
    return [
        Entrant(one.name, family(one.scheduler), describe(one.scheduler), one.cache_name, one.baseline)
        for one in contenders
    ]


def with_caches(schedulers: list[tuple[str, Scheduler[Any]]], caches: Sequence[str | Cache]) -> list[Contender]:
    """Every scheduler with every cache, in this order."""
    if isinstance(caches, str | Cache) or not caches:
        raise ConfigError(f"caches must be a list of at least one, got {caches!r}")
    loaded: dict[str, Cache] = {}
    for one in caches:
        name = one if isinstance(one, str) else repr(one)
        if name in loaded:
            raise ConfigError(f"cache {name} is given twice: give each once")
        loaded[name] = load_cache(one) if isinstance(one, str) else one
    if len(loaded) == 1:
        ((name, cache),) = loaded.items()
        return [Contender(spec, scheduler, name, cache, schedulers[0][0]) for spec, scheduler in schedulers]
    first = next(iter(loaded))
    return [
        Contender(f"{spec}, {name}", scheduler, name, cache, f"{spec}, {first}")
        for spec, scheduler in schedulers
        for name, cache in loaded.items()
    ]


def batches_of(model: Model, questions: Sequence[Questions], batch_size: int) -> list[Batch]:
    """Every prompt as tokens, checked to fit, in batches."""
    batches: list[Batch] = []
    for one in questions:
        ids = [encode(model, one, number) for number in range(len(one.prompts))]
        for numbers, part in cut(one, ids, batch_size):
            batches.append(Batch(len(batches), one, numbers, part))
    return batches
