"""`check`: the conformance kit of the SDK on a scheduler given by name, file or object. Knows no property itself."""

from __future__ import annotations

from typing import Any

from dllm_bench.inputs import check_whole
from dllm_sdk import Scheduler, load_scheduler, testing


def check(scheduler: str | Scheduler[Any], *, examples: int = 50, seed: int = 0) -> testing.Report:
    """Check a scheduler (a SPEC or an object) on `examples` random cases; the same seed gives the same cases.

    Returns what was checked. Raises dllm_sdk.testing.CheckFailed with the property and the smallest example that
    breaks it, ConfigError or RegistryError for arguments.
    """
    check_whole("examples", examples, 1)
    check_whole("seed", seed, 0)
    loaded = load_scheduler(scheduler) if isinstance(scheduler, str) else scheduler
    return testing.check_scheduler(loaded, examples=examples, seed=seed)
