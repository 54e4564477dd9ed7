"""What a user asks for, loaded and checked before anything runs: numbers, schedulers, caches, a model, prompts.

Raises ConfigError and RegistryError with a sentence. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dllm_bench.environment import families
from dllm_bench.measure import Batch, Contender, cut
from dllm_bench.questions import Questions
from dllm_bench.results import Entrant
from dllm_bench.sheet import counted
from dllm_sdk import Cache, ConfigError, DllmError, Model, Scheduler, load_cache, load_model, load_scheduler
from dllm_sdk.binding import bind, describe
from dllm_sdk.scheduler import check_value

TOKENIZER_CURE = ": put a tokenizer.json into the checkpoint's folder, or write a loader that sets `tokenizer`"
_MODEL_NEEDS = ("mask_id", "eos_ids", "vocab_size", "shift", "block_causal", "max_length", "device", "tokenizer")


def check_whole(name: str, value: object, low: int, *, optional: bool = False) -> None:
    """Raise ConfigError unless it is a whole number that is not below `low`, or None where that is a choice."""
    if not (value is None and optional):
        check_value(name, value, low, whole=True)


def load_schedulers(schedulers: Sequence[str | Scheduler[Any]]) -> list[tuple[str, Scheduler[Any]]]:
    """By name, in the order given; SPECs are loaded, objects go by their repr."""
    if isinstance(schedulers, str | Scheduler):
        raise ConfigError(f"schedulers must be a list, got {schedulers!r}: put it in brackets")
    if not schedulers:
        raise ConfigError("there is no scheduler to compare: give at least one")
    named: dict[str, Scheduler[Any]] = {}
    for one in schedulers:
        loaded = load_scheduler(one) if isinstance(one, str) else one
        if not isinstance(loaded, Scheduler):
            raise ConfigError(f"a scheduler must be a SPEC or an instance of a Scheduler subclass, got {one!r}")
        name = as_given(one)
        alike = [other for known, other in named.items() if known == name or known.startswith(f"{name} #")]
        if any(describe(other) == describe(loaded) for other in alike):
            raise ConfigError(f"scheduler {name} is given twice: give each once")
        # One with another table or head, of which a repr may say nothing, gets a number.
        named[f"{name} #{len(alike) + 1}" if alike else name] = loaded
    return list(named.items())


def with_caches(schedulers: list[tuple[str, Scheduler[Any]]], caches: Sequence[str | Cache]) -> list[Contender]:
    """Every scheduler with every cache, in this order."""
    if isinstance(caches, str | Cache) or not caches:
        raise ConfigError(f"caches must be a list of at least one, got {caches!r}")
    loaded: dict[str, Cache] = {}
    for one in caches:
        name = as_given(one)
        if name in loaded:
            raise ConfigError(f"cache {name} is given twice: give each once")
        loaded[name] = load_any_cache(one)
    first, several = next(iter(loaded)), len(loaded) > 1
    return [
        Contender(f"{spec}, {name}", scheduler, name, cache, f"{spec}, {first}")
        if several
        else Contender(spec, scheduler, name, cache, schedulers[0][0])
        for spec, scheduler in schedulers
        for name, cache in loaded.items()
    ]


def load_any_cache(cache: str | Cache) -> Cache:
    """A cache by its SPEC, or an object, checked to be one."""
    loaded = load_cache(cache) if isinstance(cache, str) else cache
    if not isinstance(loaded, Cache):
        raise ConfigError(f"a cache must be a SPEC or a Cache, such as 'dual' or DualCache(), got {cache!r}")
    return loaded


def as_given(given: object) -> str:
    """What a table calls it: a SPEC as it was written, an object by its repr."""
    return given if isinstance(given, str) else repr(given)


def load_any_model(model: str | Model, device: str, dtype: str | None) -> Model:
    """A model by its name, or an object, checked to have what the loop needs."""
    name, loaded = repr(model), model
    if isinstance(model, str):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch raises either for a device that it does not have
            reason = str(error).split("\n")[0]
            raise ConfigError(f"device {device!r} cannot be used, give one such as cpu or cuda:0: {reason}") from error
        try:
            loaded = load_model(model, device=device, dtype=dtype)
        except DllmError:
            raise
        except (ValueError, OSError) as error:  # how a model says that its checkpoint cannot be used
            raise ConfigError(f"model {name} cannot be loaded: {error}") from error
        if loaded is None:
            raise ConfigError(f"model {name}: its loader returned nothing")
    missing = [need for need in (*_MODEL_NEEDS, "forward", "head") if not hasattr(loaded, need)]
    if missing or isinstance(loaded, str):
        cure = ": wrap() makes a model of a callable, wrap_hf() of a Hugging Face module" if callable(loaded) else ""
        cure = ": the model comes before the schedulers" if isinstance(loaded, list | tuple | Scheduler) else cure
        raise ConfigError(f"model {name} is of type {type(loaded).__name__}, without {', '.join(missing)}{cure}")
    return loaded


def encode(model: Model, questions: Questions, number: int) -> list[int]:
    """A prompt's tokens, checked to fit into the model with what is to be generated."""
    where = questions.where(number)
    if model.tokenizer is None:
        raise ConfigError(
            f"the model has no tokenizer to read the prompts of task {questions.name} with{TOKENIZER_CURE}"
        )
    try:
        questions.prompts[number].encode()  # half a surrogate pair is in no file and known to no tokenizer
        found = model.tokenizer.encode(questions.prompts[number])
    except ValueError as error:  # a character that the tokenizer does not know
        raise ConfigError(f"{where}: {error}") from error
    if isinstance(found, Mapping):
        raise ConfigError(f"the model's tokenizer must encode a text as a list of ids, got {type(found).__name__}")
    ids = list(found)
    total = len(ids) + questions.gen_length
    if model.max_length is not None and total > model.max_length:
        raise ConfigError(
            f"{where} has {counted(len(ids), 'token')} and asks for {questions.gen_length} more, but the model's "
            f"context holds {model.max_length}: shorten the prompt or lower gen_length"
        )
    return ids


def batches_of(model: Model, questions: Sequence[Questions], batch_size: int) -> list[Batch]:
    """Every prompt as tokens, checked to fit, in batches."""
    batches: list[Batch] = []
    for one in questions:
        ids = [encode(model, one, number) for number in range(len(one.prompts))]
        for numbers in cut(ids, batch_size):
            batches.append(Batch(len(batches), one, numbers, [ids[number] for number in numbers]))
    return batches


def check_fits(model: Model, scheduler: Scheduler[Any], cache: Cache) -> None:
    """Raise ConfigError unless the model has what the scheduler asks for, and can use the cache with it."""
    cache.check(model, bind(scheduler, model).replan)


def entrants_of(contenders: Sequence[Contender], model: Model) -> list[Entrant]:
    """What the rows are about; what does not fit the model is found now."""
    for one in contenders:
        check_fits(model, one.scheduler, one.cache)
    known = families([one.scheduler for one in contenders])
    return [
        Entrant(one.name, family, describe(one.scheduler), one.cache_name, one.baseline)
        for one, family in zip(contenders, known, strict=True)
    ]
