"""The file that a calibration leaves, and the warning where it is used for something else.

    scheduler = "adablock"
    [fields]        every hyperparameter
    [calibration]   the model and the tasks with their digests, how it was decoded, and the numbers found there

The registry reads it: `--scheduler @FILE.toml`. Knows no calibration, only what goes into the file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dllm_bench.environment import model_identity
from dllm_bench.questions import is_file
from dllm_bench.toml import as_toml, fields_of, left_out
from dllm_sdk import Model, Scheduler
from dllm_sdk.errors import CalibrationWarning
from dllm_sdk.registry import available, load_task
from dllm_sdk.specs import read_spec, split

_PROBE = 8  # prompts that stand for a task


def scheduler_file(name: str, scheduler: Scheduler[Any], calibration: Mapping[str, Any], comment: str) -> str:
    """The text of the file."""
    tables = {"fields": fields_of(scheduler), "calibration": calibration}
    absent = left_out(scheduler)
    lines = [f"# {comment}", *(f"# Not here, since TOML cannot hold it: {one}." for one in absent)]
    lines.append(f"scheduler = {as_toml(name)}")
    for title, table in tables.items():
        lines += ["", f"[{title}]", *(f"{key} = {as_toml(value)}" for key, value in table.items() if value is not None)]
    return "\n".join(lines) + "\n"


def digests_of(tasks: Sequence[Any] | None) -> dict[str, str]:
    """Tasks (None: all that are registered) by name, with their sha256."""
    return dict(map(_task, list(available("task")) if tasks is None else tasks))


def _task(task: Any) -> tuple[str, str]:
    """A task's name and the digest of its file, or of its first prompts."""
    if is_file(task):
        return str(task), hashlib.sha256(Path(task).read_bytes()).hexdigest()
    found = load_task(task) if isinstance(task, str) else task
    prompts: list[str] = []
    with suppress(ValueError):  # a task without such a split, or with fewer prompts, goes by its name
        prompts = found.prompts("validation", _PROBE, 0)
    return str(found.name), hashlib.sha256(json.dumps([str(found.name), *prompts]).encode()).hexdigest()


def warn_elsewhere(
    schedulers: Sequence[str | Scheduler[Any]],
    given: str | Model,
    model: Model,
    tasks: Sequence[Any] | None,
    *,
    foreign: Sequence[str] = (),
) -> None:
    """Warn, in one sentence per file, where a @FILE.toml was calibrated for another model or task.

    `given` is the model as the user named it; no tasks: only the model is looked at. `foreign`: names of tasks that
    `calibrate` does not know, so that no file was calibrated for them.
    """
    specs = [part for spec in schedulers if isinstance(spec, str) for part in split(spec, "+") if part.startswith("@")]
    written = {spec: read_spec(spec)[2] for spec in specs}
    if not any(written.values()):
        return
    here = model_identity(model, given) | {"tasks": digests_of(tasks) | dict.fromkeys(foreign)}
    for spec, there in written.items():
        what = _differs(there, here) if there else ""
        if what:
            warnings.warn(f"{spec} was calibrated for {what}: its thresholds may not fit", CalibrationWarning, 3)


def _differs(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what, in words; empty: in nothing."""
    found = []
    known = there.get("model_sha256"), here["model_sha256"]
    if known[0] != known[1] or (known == (None, None) and there.get("model") != here["model"]):
        same_name = " with other weights" if there.get("model") == here["model"] else f", not {here['model']}"
        found.append(f"the model {there.get('model')}{same_name}")
    tasks = there.get("tasks", {})
    tasks = tasks if isinstance(tasks, Mapping) else {}
    if new := [task for task, known in here["tasks"].items() if known not in tasks.values()]:
        what = f"the task{'s' * (len(tasks) > 1)} {', '.join(tasks)}, not {', '.join(new)}"
        found.append(what if tasks else "tasks that it does not name")
    return ", and for ".join(found)


def name_of(scheduler: str | Scheduler[Any]) -> str:
    """What stands behind `scheduler = ` in the file: the head of a SPEC, or the class of an object."""
    if isinstance(scheduler, str):
        return read_spec(scheduler)[0]
    return f"{type(scheduler).__module__}:{type(scheduler).__qualname__}"
