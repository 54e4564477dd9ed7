"""A scheduler as a model needs it: ids looked up in its fields, and what they hold on the model's device.

Also how the fields are written down: tensors and modules go by a digest. Knows the two protocols, no loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sized
from copy import copy, deepcopy
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from dllm_sdk.errors import ConfigError
from dllm_sdk.model import Model, Tokenizer
from dllm_sdk.scheduler import EosIds, Scheduler, TokenIds, field_types, values_of

S = TypeVar("S", bound=Scheduler[Any])


def bind(scheduler: S, model: Model) -> S:
    """The scheduler as a model needs it: its ids looked up, and what it holds on the model's device."""
    return on_device(look_up(scheduler, model), model.device)


def look_up(scheduler: S, model: Model) -> S:
    """The scheduler with the `TokenIds` and `EosIds` of its fields looked up in the model, parts included."""
    return with_ids(scheduler, model.eos_ids, partial(_resolve, model=model))


def with_ids(scheduler: S, eos_ids: tuple[int, ...], resolve: Callable[..., tuple[int, ...]]) -> S:
    """The scheduler with `resolve(field, value)` in place of the `TokenIds` and `EosIds` of its fields.

    Those `EosIds` that are empty become `eos_ids`; its parts are treated likewise.
    """
    fields = values_of(scheduler)
    hints = field_types(type(scheduler)) if fields else {}
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Scheduler):
            changes[name] = with_ids(value, eos_ids, resolve)
        elif hints.get(name) == EosIds and (value is None or (isinstance(value, Sized) and not len(value))):
            changes[name] = eos_ids
        elif hints.get(name) in (TokenIds, EosIds):
            changes[name] = resolve(f"{type(scheduler).__name__}.{name}", value)
    changed = any(new != getattr(scheduler, name) for name, new in changes.items())
    return dataclasses.replace(scheduler, **changes) if changed else scheduler  # type: ignore[type-var]


def ids_in(field: str, value: Any) -> list[int | str]:
    """The ids and texts of a field of `TokenIds`. Raises ConfigError."""
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if not all(isinstance(item, int | str) and item != "" for item in items):
        raise ConfigError(f"{field} must be token ids, or texts that tokens contain, got {value!r}")
    return items


def _resolve(field: str, value: Any, model: Model) -> tuple[int, ...]:
    ids: list[int] = []
    for item in ids_in(field, value):
        if isinstance(item, int):
            found: tuple[int, ...] = (item,)
        elif model.tokenizer is None:
            raise ConfigError(f"{field} holds the text {item!r}, but the model has no tokenizer: give token ids")
        else:
            found = tokens_containing(model.tokenizer, item, model.vocab_size)
            if not found:
                raise ConfigError(f"{field}: no token of the model's tokenizer contains {item!r}")
        ids.extend(found)
    # Some may lie outside: published lists are used with models of a smaller vocabulary.
    if ids and not any(0 <= one < model.vocab_size for one in ids):
        raise ConfigError(f"{field} must hold token ids in 0..{model.vocab_size - 1}, got {value!r}")
    return tuple(ids)


_found: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tokenizer -> what was looked for in it -> ids


def tokens_containing(tokenizer: Tokenizer, text: str, vocab_size: int) -> tuple[int, ...]:
    """All ids whose own text contains `text`: one newline id for LLaDA, a family of them for Dream.

    Looked up once per tokenizer, as long as its number of tokens stays: a large vocabulary takes a tenth of a second.
    """
    try:
        known = _found.setdefault(tokenizer, {})  # type: ignore[no-untyped-call]
    except TypeError:  # no weak reference to it can be had
        known = {}
    key = text, vocab_size, len(tokenizer) if isinstance(tokenizer, Sized) else None
    if key not in known:
        known[key] = tuple(i for i in range(vocab_size) if text in tokenizer.decode([i]))
    ids: tuple[int, ...] = known[key]
    return ids


Held: TypeAlias = Tensor | nn.Module

_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of what schedulers hold: once per device, until it changes


def on_device(scheduler: S, device: torch.device) -> S:
    """The scheduler with the tensors and modules among its fields on a device, those of its parts included."""
    if device.index is None and device.type not in ("cpu", "meta"):
        device = torch.empty(0, device=device).device  # a tensor is on cuda:0, not on cuda
    fields = values_of(scheduler)
    moved = {name: _placed(value, device) for name, value in fields.items()}
    if all(moved[name] is value for name, value in fields.items()):
        return scheduler
    scheduler = copy(scheduler)
    for name, value in moved.items():
        object.__setattr__(scheduler, name, value)  # not every field is one of `__init__`
    return scheduler


def holdings(scheduler: Scheduler[Any]) -> Hashable:
    """Equal as long as its fields hold the same, also those that a comparison of schedulers leaves out."""
    return tuple(map(_holding, values_of(scheduler).values()))


def _holding(value: Any) -> Hashable:
    if isinstance(value, Held):
        return stamp(value)
    if isinstance(value, Scheduler):
        return holdings(value)
    if isinstance(value, list | tuple):
        return tuple(map(_holding, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Scheduler):
        return on_device(value, device)
    if not isinstance(value, Held) or all(tensor.device == device for tensor in named(value).values()):
        return value
    copies, now = _copies.setdefault(value, {}), stamp(value)  # type: ignore[no-untyped-call]
    if device not in copies or copies[device][0] != now:
        copies[device] = now, (deepcopy(value) if isinstance(value, nn.Module) else value.detach()).to(device)
    return copies[device][1]


def stamp(held: Held) -> Hashable:
    """Equal as long as it holds the same tensors, nothing is written into them, and a module stays in its mode."""
    modes = tuple(one.training for one in held.modules()) if isinstance(held, nn.Module) else ()
    # Tensors of inference mode do not count what is written, and parameters not that they are of another type now.
    tensors = named(held).values()
    return modes, *((id(one), one.dtype, object() if one.is_inference() else one._version) for one in tensors)


def named(held: Held) -> dict[str, Tensor]:
    """The tensors it holds, by name."""
    return {"": held} if isinstance(held, Tensor) else dict(chain(held.named_parameters(), held.named_buffers()))


def describe(scheduler: Scheduler[Any]) -> dict[str, Any]:
    """A scheduler's fields as JSON can hold them; parts of a combined one become objects with their class.

    Tensors and modules go by a digest of what they hold.
    """
    return {name: _plain(value) for name, value in values_of(scheduler, given=True).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Held):
        return summary(value)
    if isinstance(value, Scheduler):
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **describe(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)  # JSON has no infinity and no functions


def summary(held: Held) -> str:
    """Its type and a digest of what it holds."""
    try:
        return f"{type(held).__name__} {digest(named(held))[:16]}"
    except Exception:  # sparse, packed by a library, on no device: without bytes that could be read
        return repr(held)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of names: of weights as loaded, not of a file."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().to("cpu").contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy().data)
    return total.hexdigest()
