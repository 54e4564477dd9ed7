"""`calibrate`: find the settings of a scheduler that reach a target on some prompts, and check them on others.

Registered tasks are asked for prompts of their validation split, so that `compare`, which takes the test split, shows
prompts that nothing was calibrated on. Knows schedulers, models and tasks only through the registry or as objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import dllm_sdk
from dllm_bench.calibration.choice import Target
from dllm_bench.calibration.deciding import REFERENCE, Decided, decide
from dllm_bench.calibration.delimiters import delimiters, proposed
from dllm_bench.calibration.found import Calibration
from dllm_bench.calibration.grid import default_axes, settings, token_field
from dllm_bench.calibration.observing import Drafts, observe, together
from dllm_bench.calibration.reliability import reliability
from dllm_bench.calibration.scheduler_file import digests_of, name_of, scheduler_file
from dllm_bench.grids import lists_of
from dllm_bench.inputs import as_given, batches_of, check_fits, encode, load_schedulers, with_caches
from dllm_bench.measure import Batch, Contender, Progress, Report, Run
from dllm_bench.questions import Questions, Verdict
from dllm_bench.setups import Setup
from dllm_bench.sheet import counted
from dllm_sdk import Cache, ConfigError, Model, Scheduler
from dllm_sdk.execution import Backend
from dllm_sdk.specs import split

_OBSERVED = 64  # prompts of each half whose drafts are looked at one by one: tens of thousands of drafts
_IN_THE_FILE = ("target", "cache", "temperature", "model", "model_sha256", "tasks")


def calibrate(  # noqa: PLR0913  one per option of the command
    model: str | Model = "tiny",
    scheduler: str | Scheduler[Any] = "adablock",
    tasks: Sequence[Any] | None = None,
    *,
    target: Target = Target(),  # noqa: B008  frozen
    grid: Mapping[str, Iterable[Any]] | None = None,
    reference: str | Scheduler[Any] = "fixed-block",
    propose_delimiters: bool = False,
    limit: int = 200,
    batch_size: int = 32,
    cache: str | Cache = "none",
    seed: int = 0,
    gen_length: int | None = None,
    temperature: float = 0.0,
    device: str = "cpu",
    dtype: str | None = None,
    backend: Backend = "eager",
    progress: Report | None = None,
) -> Calibration:
    """Find the settings of a scheduler that reach a target on the prompts of some tasks.

    `grid` maps fields to lists or arrays of the values to try (None: the threshold-like ones, see
    `grid.default_axes`); the scheduler as given is always tried too. Accuracy is lost against `reference`, by default
    one token per step. Half of the `limit` prompts choose, the other half validate. `propose_delimiters` also tries
    the tokens behind which confidence drops. Everything is decoded with `cache`, the reference too. The other
    arguments, and the errors, are those of `compare`.
    """
    setup = Setup(model, tasks, limit, batch_size, gen_length, seed, temperature, device, dtype, backend)
    if not isinstance(target, Target):
        raise ConfigError(f"target must be a Target, such as Target(max_accuracy_loss=1), got {target!r}")
    given, compared = _single(scheduler), load_schedulers([reference])[0][1]
    axes = default_axes(given) if grid is None else lists_of(grid)
    trial = _trial(compared, given, axes, cache)
    field = token_field(given) if propose_delimiters else ""
    questions, loaded = setup.questions("validation"), setup.load_model()
    for one in trial:
        check_fits(loaded, one.scheduler, one.cache)
    halves = [batches_of(loaded, half, batch_size) for half in _halves(loaded, questions, target, seed)]
    run = Run(loaded, trial, (), setup.sampler, seed, backend)
    drafts = [_drafts(run, batches, progress) for batches in halves]
    found = delimiters(loaded.tokenizer, drafts[0].drops) if propose_delimiters else []
    if proposed(found):
        axes[field] = [getattr(given, field), proposed(found)]
        run = replace(run, contenders=_trial(compared, given, axes, cache))
    decided = decide(run, halves, target, progress)
    environment = setup.environment(loaded, questions) | {"cache": as_given(cache)}
    about = {**environment, "target": f"{target} against {as_given(reference)}", "tasks": digests_of(tasks)}
    return Calibration(
        scheduler=as_given(scheduler),
        reference=as_given(reference),
        target=str(target),
        axes=list(axes),
        **decided._asdict(),
        reliability=reliability(*((one.confidence, one.stays) for one in drafts)),
        delimiters=found,
        file=_file(scheduler, run, decided, about),
        environment=environment,
        notes=[note for asked in questions for note in asked.notes],
    )


def _single(scheduler: str | Scheduler[Any]) -> Scheduler[Any]:
    """The scheduler to calibrate; ConfigError for a combination."""
    if isinstance(scheduler, str) and len(split(scheduler, "+")) > 1:
        raise ConfigError(
            f"one scheduler is calibrated, got {scheduler!r}: calibrate each part, then combine the files"
        )
    return load_schedulers([scheduler])[0][1]


def _trial(
    reference: Scheduler[Any], given: Scheduler[Any], axes: Mapping[str, Sequence[Any]], cache: str | Cache
) -> list[Contender]:
    """The reference, the given setting, then the others."""
    return with_caches([(REFERENCE, reference), *settings(given, axes).items()], [cache])


def _halves(
    model: Model, questions: Sequence[Questions], target: Target, seed: int
) -> tuple[list[Questions], list[Questions]]:
    """Every task's prompts in random order, half of them to calibrate on and the rest to validate."""
    needed = 2 if target.guarantee is None else 4
    halves: tuple[list[Questions], list[Questions]] = ([], [])
    for one in questions:
        n = len(one.prompts)
        if n < needed:
            raise ConfigError(
                f"task {one.name} has {counted(n, 'prompt')} here, but calibration needs {needed} of each task at "
                "least, to choose on some and to validate on others: raise limit"
            )
        for number in range(n):
            encode(model, one, number)  # an error names the prompt by its number in the task
        order = np.random.default_rng(seed).permutation(n).tolist()
        for half, numbers in zip(halves, (order[: n // 2], order[n // 2 :]), strict=True):
            half.append(_part(one, numbers))
    return halves


def _part(questions: Questions, numbers: Sequence[int]) -> Questions:
    """Some prompts of a task."""

    def score(number: int, text: str) -> Verdict:
        return questions.score(numbers[number], text)

    return replace(questions, prompts=[questions.prompts[number] for number in numbers], score=score)


def _drafts(run: Run, batches: Sequence[Batch], report: Report | None) -> Drafts:
    """The drafts of the reference, on the first prompts of every batch."""
    share = -(-_OBSERVED // len(batches))
    total, done, seen = sum(min(share, len(one.ids)) for one in batches), 0, []
    for batch in batches:
        if report is not None:
            report(Progress(done, total, "drafts", REFERENCE))
        part = replace(batch, prompts=batch.prompts[:share], ids=batch.ids[:share])
        seen.append(observe(run, part))
        done += len(part.ids)
    return together(seen)


def _file(scheduler: str | Scheduler[Any], run: Run, decided: Decided, about: dict[str, Any]) -> str | None:
    """The scheduler file; None where nothing was chosen."""
    if decided.chosen is None:
        return None
    (chosen,) = [one for one in decided.settings if one.name == decided.chosen]
    (contender,) = [one for one in run.contenders if one.name == decided.chosen]
    kept = {name: about[name] for name in _IN_THE_FILE}
    numbers = {half: asdict(score) for half in ("calibration", "validation") if (score := getattr(chosen, half))}
    comment = f"{about['target']}; written by dllm-bench calibrate {dllm_sdk.__version__}"
    return scheduler_file(name_of(scheduler), contender.scheduler, {**kept, **numbers}, comment)
