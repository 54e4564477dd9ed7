"""What a worker does: load model and prompts once, then measure one configuration after another.

Requests and replies are JSON, so a worker may be this process, another one or another machine. Knows no journal and no
engine.
"""

from __future__ import annotations

import json
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dllm_bench.calibration.scheduler_file import warn_elsewhere
from dllm_bench.environment import family
from dllm_bench.explain import exit_code, explain
from dllm_bench.inputs import entrants_of, load_schedulers, with_caches
from dllm_bench.measure import Contender, Run
from dllm_bench.questions import Questions, is_file
from dllm_bench.results import DEFINITIONS, Entrant, Outcome
from dllm_bench.setups import Prepared, Setup, prepare
from dllm_bench.sweeps.sources import code_of, short_digest, source_of
from dllm_sdk import ConfigError, DllmError
from dllm_sdk.binding import describe
from dllm_sdk.errors import CalibrationWarning
from dllm_sdk.registry import available, module_of

_SETTINGS = ("dllm_sdk", "torch", "dtype", "seed", "temperature", "batch_size", "limit", "backend", "warm_up_steps")
_NAMED_AGAIN = ("scheduler", "cache", "agreement")  # what an outcome owes to the other configurations


class Loaded(NamedTuple):
    """What a worker measures on."""

    prepared: Prepared
    settings: dict[str, Any]  # what a number depends on besides the configuration
    environment: dict[str, Any]  # what a report shows


def set_up(setup: Setup) -> Loaded:
    """Load a setup. Raises DllmError."""
    prepared = prepare(setup)
    about = prepared.environment()
    given = available("task") if setup.tasks is None else setup.tasks
    settings = {
        "definitions": DEFINITIONS,
        **{name: about[name] for name in _SETTINGS},
        "model": about["model_sha256"] or setup.model,
        "device": torch.device(prepared.run.model.device).type,
        "tasks": {one.name: _asked(one, task) for one, task in zip(prepared.questions, given, strict=True)},
    }
    return Loaded(prepared, settings, about)


def measure_one(run: Run, contender: Contender) -> list[tuple[Outcome, list[int]]]:
    """Every prompt of a run under one contender, after its warm-up: the outcome and the answer's tokens."""
    replace(run, contenders=[contender]).warm_up()
    found: list[tuple[Outcome, list[int]]] = []
    for batch in run.batches:
        found += zip(*run.measured(batch, contender), strict=True)
    return found


def key_of(settings: dict[str, Any], contender: Contender) -> str:
    """What a configuration is known by: digests of all that its numbers depend on, the cache's behind the rest's."""
    scheduler = contender.scheduler
    about = {
        **settings,
        "scheduler": family(scheduler),
        "fields": describe(scheduler),
        "code": code_of(scheduler),
    }
    parts = json.dumps(about, sort_keys=True, ensure_ascii=False), repr(contender.cache)
    return "-".join(short_digest(part.encode()) for part in parts)


class Worker:
    """Answers requests about one setup, text to text."""

    def __init__(self, setup: str) -> None:
        """`setup`: the fields of a Setup as JSON; it is loaded when the first request comes."""
        self._setup = setup
        self._bench: Loaded | None = None

    def answer(self, request: str) -> str:
        """`{"describe": ...}` or `{"measure": ...}` -> what it gave, or `error`, a sentence, and its exit `code`."""
        try:
            if self._bench is None:
                self._bench = set_up(Setup(**json.loads(self._setup)))
            ((what, asked),) = json.loads(request).items()
            acts: dict[str, Callable[..., dict[str, Any]]] = {"describe": _describe, "measure": _measure}
            reply = acts[what](self._bench, **asked)
        except Exception as error:  # whatever a user's code raises: the other configurations go on
            reply = {"error": _sentence(error), "code": exit_code(error)}
        return json.dumps(reply, ensure_ascii=False)


def _sentence(error: Exception) -> str:
    """What the journal says of a failure; where it arose is lost with the worker, so it says that too."""
    said = explain(error).splitlines()[-1].removeprefix("Error: ")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return said.replace("; run again with --traceback to see where", f" ({place.filename}, line {place.lineno})")


def _describe(bench: Loaded, schedulers: Sequence[str], caches: Sequence[str]) -> dict[str, Any]:
    """What the journal says of a sweep before it runs; what does not fit the model is found now."""
    loaded = load_schedulers(schedulers)
    for (spec, one), (_, again) in zip(loaded, load_schedulers(schedulers), strict=True):
        if describe(one) != describe(again):
            raise ConfigError(f"scheduler {spec} has other tensors each time it is loaded: read them from a file")
    contenders = with_caches(loaded, caches)
    model = bench.prepared.run.model
    entrants = entrants_of(contenders, model)
    if any(one.cache.stores for one in contenders):
        model.new_store(1, 1)  # a model without one says so now
    configurations = [
        {"key": key_of(bench.settings, contender), "spec": spec, "cache": cache, **_about(entrant)}
        for (spec, cache), contender, entrant in zip(product(schedulers, caches), contenders, entrants, strict=True)
    ]
    return {
        "settings": bench.settings,
        "environment": bench.environment,
        "prompts": {one.name: list(one.prompts) for one in bench.prepared.questions},
        "notes": bench.prepared.notes + _warnings(bench.prepared, schedulers),
        "configurations": configurations,
    }


def _warnings(bench: Prepared, schedulers: Sequence[str]) -> list[str]:
    """Which @FILE.toml was calibrated for something else; a worker's own stderr would be a worse place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_elsewhere(schedulers, bench.setup.model, bench.run.model, bench.setup.tasks)
    return [f"{one.message}." for one in caught if issubclass(one.category, CalibrationWarning)]


def _about(entrant: Entrant) -> dict[str, Any]:
    return {"family": entrant.family, "fields": dict(entrant.fields)}


def _measure(bench: Loaded, spec: str, cache: str, key: str) -> dict[str, Any]:
    (contender,) = with_caches(load_schedulers([spec]), [cache])
    if key_of(bench.settings, contender) != key:
        raise DllmError(
            f"{platform.node()} has other weights, prompts, versions or code for {spec} than where the sweep began: "
            "make them the same on every machine"
        )
    start = time.perf_counter()
    found = measure_one(bench.prepared.run, contender)
    seconds = time.perf_counter() - start
    return {
        "outcomes": [_plain(outcome, tokens) for outcome, tokens in found],
        "worker": {"seconds": seconds, "host": platform.node(), "threads": torch.get_num_threads()},
    }


def _plain(outcome: Outcome, tokens: list[int]) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(outcome).items() if name not in _NAMED_AGAIN}
    return {**kept, "tokens": tokens}


def _asked(one: Questions, task: str) -> str:
    """A digest of a task's prompts and lengths, and of what says which answers are right: its file, or its code."""
    rule = Path(task).read_bytes() if is_file(task) else source_of(module_of("task", task))
    return short_digest(json.dumps([one.gen_length, *one.prompts]).encode() + rule)
