"""`evaluate`: tasks of lm-evaluation-harness with a scheduler, and what it found. Needs the extra `lm-eval`.

The harness owns tasks, prompts, filters and metrics; forward passes are added to what it reports. Knows no strategy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dllm_bench.calibration.scheduler_file import warn_elsewhere
from dllm_bench.inputs import check_whole
from dllm_bench.results import Result
from dllm_bench.sheet import Sheet, Table, counted
from dllm_sdk import Cache, ConfigError, DllmError, Model, Scheduler

_MEANING = (
    "value, ±: the harness' metric and its standard error; NFE: forward passes per answer; TPF: tokens per forward "
    "pass, counting tokens up to EOS, those behind a stop string included."
)
_TITLES = ["filter", "metric", "n", "value", "±", "NFE", "TPF"]


@dataclass(frozen=True)
class Metric:
    """A metric of a task."""

    task: str
    filter: str
    metric: str
    n: int  # documents
    value: float
    stderr: float | None  # standard error as the harness has it
    nfe: float  # forward passes, mean over the task's answers
    tpf: float  # tokens per forward pass: all generated tokens / all forward passes


@dataclass(frozen=True)
class Evaluation(Result):
    """What the harness found."""

    forms = "dllm_bench.evaluation"
    model: str
    scheduler: str
    rows: Sequence[Metric]
    results: Mapping[str, Any] = field(repr=False)  # all that the harness reports; samples have `nfe` and `generated`
    notes: Sequence[str] = field(default=(), repr=False)

    def to_json(self) -> str:
        """All that the harness reports, with NFE and TPF among the results of every task."""
        return json.dumps(self.results, indent=2, ensure_ascii=False, default=_plain)


def sheet(found: Evaluation) -> Sheet:
    """A row per metric."""
    table = Table("task", _TITLES, [(one.task, _cells(one)) for one in found.rows])
    return Sheet(f"{found.scheduler} on {found.model}", [table], found.notes, [_MEANING])


def records(found: Evaluation, *, flat: bool) -> list[dict[str, Any]]:
    """The metrics."""
    return [asdict(one) for one in found.rows]


def _cells(one: Metric) -> list[str]:
    stderr = "-" if one.stderr is None else f"{one.stderr:.4f}"
    return [one.filter, one.metric, f"{one.n}", f"{one.value:.4f}", stderr, f"{one.nfe:.1f}", f"{one.tpf:.2f}"]


def _plain(value: Any) -> Any:
    """What JSON does not know: numbers of numpy as numbers, anything else by its repr."""
    return value.item() if hasattr(value, "item") else str(value)


def evaluate(
    model: str | Model = "tiny",
    scheduler: str | Scheduler[Any] = "adablock",
    tasks: Sequence[str] = (),
    *,
    cache: str | Cache = "none",
    limit: int | None = None,
    num_fewshot: int | None = None,
    gen_length: int | None = None,
    chat: Any = None,
    seed: int = 0,
    batch_size: int = 32,
    confirm_run_unsafe_code: bool = False,
    device: str = "cpu",
    dtype: str | None = None,
) -> Evaluation:
    """Run tasks of lm-evaluation-harness 0.4.13, by name or as FILE.yaml, with a scheduler.

    A file's data_files are looked for beside it. `limit`: documents per task; `num_fewshot`: examples in the prompt
    (None: as the task says); `gen_length` and `chat` as in `lm_eval.DLLM`. Only tasks that generate text run.

    Raises ConfigError and RegistryError before anything runs; errors of the run are those of `generate`.
    """
    check_whole("limit", limit, 1, optional=True)
    check_whole("num_fewshot", num_fewshot, 0, optional=True)
    check_whole("seed", seed, 0)
    if not tasks:
        raise ConfigError("there is no task to run: give names of lm-evaluation-harness, or FILE.yaml")
    from dllm_bench.lm_eval import DLLM

    options = {"gen_length": gen_length, "chat": chat, "seed": seed, "batch_size": batch_size}
    lm = DLLM(model, scheduler, cache=cache, device=device, dtype=dtype, **options)
    found = _load_all(tasks)
    warn_elsewhere([scheduler], model, lm.model, [], foreign=[str(one.task_name) for one in _single(found)])
    from lm_eval import simple_evaluate

    results = simple_evaluate(
        lm,
        tasks=found,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        device=device,
        apply_chat_template=chat is not None,
        fewshot_as_multiturn=chat is not None,
        random_seed=seed,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
    )
    _add_passes(results, lm)
    truncated = sum(bool(one.truncated) for answers in lm.answers.values() for one in answers)
    cut = f"{counted(truncated, 'prompt')} did not fit into the model's context: cut off at the left."
    notes = [cut] if truncated else []
    return Evaluation(lm.model_name, lm.name, _rows(results), results, notes)


def _load_all(tasks: Sequence[str]) -> list[Any]:
    """The harness' tasks and groups behind names and files. Raises ConfigError, also for what asks for likelihoods."""
    from dllm_bench.lm_eval import refusal

    found = [item for task in tasks for item in _load(task)]
    other = {str(one.task_name) for one in _single(found) if str(one.get_config("output_type")) != "generate_until"}
    if other:
        raise ConfigError(refusal(other))
    return found


def _single(found: Sequence[Any]) -> list[Any]:
    """The tasks among tasks and groups."""
    return [one for item in found for one in (item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item])]


def _load(task: str) -> list[Any]:
    """The harness' tasks and groups behind a name or a file. Raises ConfigError."""
    from lm_eval.tasks import TaskManager

    path = Path(task).resolve()
    is_file = path.suffix in (".yaml", ".yml")
    if is_file and not os.path.isfile(path):
        raise ConfigError(f"there is no task file {task}")
    manager = TaskManager(include_defaults=not is_file)
    if not is_file and task not in manager.all_tasks:
        near = get_close_matches(task, manager.all_tasks, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks lists them;"
        raise ConfigError(f"lm-evaluation-harness has no task {task!r}; {hint} a task of your own is a FILE.yaml")
    try:
        if is_file:
            with chdir(path.parent):  # so that data_files are found beside it
                loaded = manager.load([str(path)])
        else:
            loaded = manager.load([task])
    except DllmError:
        raise
    except Exception as error:  # whatever a task file, its code or its data can raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"task {task} cannot be loaded: {type(error).__name__}: {reason}") from error
    inner = {child for children in loaded["group_map"].values() for child in children}
    tops = [group for name, group in loaded["groups"].items() if name not in inner]
    held = {one.task_name for group in tops for one in group.get_all_tasks()}
    return [*tops, *(one for name, one in loaded["tasks"].items() if name not in held)]


def _add_passes(results: dict[str, Any], lm: Any) -> None:
    """NFE and TPF beside the metrics of every task, NFE and tokens beside every sample."""
    for task, metrics in results["results"].items():
        metrics.update({f"{name},none": value for name, value in lm.numbers(task).items()})
    for task, samples in results.get("samples", {}).items():
        for sample in samples:
            answers = lm.answers.get((task, sample["doc_id"]), ())
            sample.update(nfe=[one.nfe for one in answers], generated=[one.generated for one in answers])


def _rows(results: Mapping[str, Any]) -> list[Metric]:
    found = []
    for task, metrics in results["results"].items():
        n = results.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in metrics.items():
            metric, _, filter = key.partition(",")
            own = metric in ("nfe", "tpf", "generated_tokens") or metric.endswith("_stderr")
            if own or not filter or "nfe,none" not in metrics or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{filter}")
            error = float(stderr) if isinstance(stderr, int | float) else None
            numbers = metrics["nfe,none"], metrics["tpf,none"]
            found.append(Metric(task, filter, metric, int(n), float(value), error, *numbers))
    return found
