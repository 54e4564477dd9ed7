"""Values as TOML, as files, SPECs and the names of settings hold them. Imports no torch for plain ones."""

from __future__ import annotations

import json
import re
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
        return "{" + ", ".join(f"{_key(str(key))} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(as_toml, value)) + "]"
    if isinstance(value, int | float):
        return repr(float(value) if isinstance(value, float) else value)  # numpy writes its own as no TOML
    from dllm_sdk import Scheduler

    if not isinstance(value, Scheduler):
        return repr(value)
    fields = ",".join(f"{name}={as_toml(item)}" for name, item in fields_of(value).items())
    return as_toml(f"{type(value).__module__}:{type(value).__qualname__}" + f":{fields}" * bool(fields))


def _key(name: str) -> str:
    """Bare where TOML allows it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else as_toml(name)


def fields_of(scheduler: Scheduler[Any]) -> dict[str, Any]:
    """Its hyperparameters, without what TOML cannot hold, such as None, tables and heads: these the class makes."""
    from dllm_sdk.scheduler import values_of

    return {name: value for name, value in values_of(scheduler, given=True).items() if has_form(value)}


def left_out(scheduler: Scheduler[Any]) -> list[str]:
    """The fields that TOML cannot hold, those of its parts as `part.field`; not what is None, as most defaults are."""
    from dllm_sdk.scheduler import Scheduler, values_of

    found = []
    for name, value in values_of(scheduler, given=True).items():
        if isinstance(value, Scheduler):
            found += [f"{name}.{inner}" for inner in left_out(value)]
        elif value is not None and not has_form(value):
            found.append(name)
    return found


def has_form(value: Any) -> bool:
    """Whether TOML, or a SPEC, can hold it."""
    from dllm_sdk import Scheduler

    if isinstance(value, Mapping):
        return all(map(has_form, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(has_form, value))
    return isinstance(value, str | int | float | Scheduler)
