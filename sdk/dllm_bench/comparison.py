"""`compare`: schedulers side by side on tasks. Checks everything first, then measures, then sums up.

Knows schedulers, models and tasks only through the registry or as objects that the caller made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dllm_bench.calibration.scheduler_file import warn_elsewhere
from dllm_bench.environment import peak_rss
from dllm_bench.inputs import entrants_of, load_schedulers, with_caches
from dllm_bench.journal import Journal
from dllm_bench.measure import Report
from dllm_bench.metrics import sum_up
from dllm_bench.pages.report import free_path, save
from dllm_bench.recording import record
from dllm_bench.results import Comparison
from dllm_bench.setups import Setup, prepare
from dllm_sdk import Cache, Model, Scheduler
from dllm_sdk.execution import Backend

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
    setup = Setup(model, tasks, limit, batch_size, gen_length, seed, temperature, device, dtype, backend)
    contenders = with_caches(load_schedulers(schedulers), caches)
    prepared = prepare(setup)
    run, notes = replace(prepared.run, contenders=contenders), prepared.notes
    warn_elsewhere(schedulers, model, run.model, tasks)
    entrants = entrants_of(contenders, run.model)
    page = free_path(output)
    with Journal(output) as journal:
        environment = prepared.environment()
        journal.begin(environment, entrants, notes)
        run.warm_up(progress)
        outcomes = list(run.outcomes(journal, progress))
        journal.end(ending := {"peak_rss_bytes": peak_rss(), "preparation_s": sum(run.preparation)})
    prompts = {one.name: dict(enumerate(one.prompts)) for one in prepared.questions}
    found = sum_up(entrants, outcomes, {**environment, **ending}, notes, prompts)
    if page is not None:
        found = replace(found, recordings=record(run, prepared.questions))
        save(found, page)
    return found
