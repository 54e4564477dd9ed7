"""Values as TOML, as files, SPECs and the names of settings hold them. Imports no torch for plain ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_sdk import Scheduler


def as_toml(value: Any) -> str:
    """A field's value as TOML: numbers, texts, lists, tables; a scheduler as its SPEC."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_toml(str(key))} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(as_toml, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    from dllm_sdk import Scheduler

    if not isinstance(value, Scheduler):
        return repr(value)
    fields = ",".join(f"{name}={as_toml(item)}" for name, item in fields_of(value).items())
    return as_toml(f"{type(value).__module__}:{type(value).__qualname__}" + f":{fields}" * bool(fields))


def fields_of(scheduler: Scheduler[Any]) -> dict[str, Any]:
    """Its hyperparameters; those that are None are left to their default, since TOML has no such value."""
    if not dataclasses.is_dataclass(scheduler):
        return {}
    values = {item.name: getattr(scheduler, item.name) for item in dataclasses.fields(scheduler) if item.init}
    return {name: value for name, value in values.items() if value is not None}
