"""Which settings of a scheduler are tried: a grid over some of its fields. Knows fields and values, and no strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from dllm_bench.toml import as_toml
from dllm_sdk import ConfigError, Scheduler
from dllm_sdk.registry import field_values
from dllm_sdk.scheduler import TokenIds, field_types, values_of

_SURE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # for a threshold of a confidence
_TIMES = (0.25, 0.5, 1.0, 2.0)  # for a small number, such as a bound on a divergence
_MOST_AXES = 2  # that are chosen unasked: more would make hundreds of settings


def default_axes(scheduler: Scheduler[Any]) -> dict[str, list[Any]]:
    """The threshold-like fields with values around their own; ConfigError if there is none.

    Threshold-like is a number between 0 and 1 with `threshold` in its name; without one, any number between 0 and 1.
    """
    values = values_of(scheduler, given=True)
    shares = {name: value for name, value in values.items() if isinstance(value, float) and 0 < value < 1}
    named = {name: value for name, value in shares.items() if "threshold" in name} or shares
    if not named:
        raise ConfigError(
            f"{type(scheduler).__name__} has no threshold between 0 and 1 to calibrate: say what to try with "
            f"--grid FIELD=a,b,c; its fields: {', '.join(values) or 'none'}"
        )
    return {name: _around(value) for name, value in list(named.items())[:_MOST_AXES]}


def _around(value: float) -> list[float]:
    if value >= min(_SURE):
        return sorted({*_SURE, value})
    return [round(value * times, 6) for times in _TIMES]


def settings(scheduler: Scheduler[Any], axes: Mapping[str, Sequence[Any]]) -> dict[str, Scheduler[Any]]:
    """Every combination of the axes that the scheduler accepts, by the fields that differ; the given one comes first.

    Raises ConfigError for a field that it does not have, and for a value that no combination accepts.
    """
    known = list(values_of(scheduler, given=True))
    for name in axes:
        if name not in known:
            raise ConfigError(f"{type(scheduler).__name__} has no field {name!r} to try; it has {', '.join(known)}")
    found = {_label({name: getattr(scheduler, name) for name in axes}): scheduler}
    refused: dict[str, str] = {}
    accepted: set[str] = set()
    for values in product(*axes.values()):
        changes = field_values(type(scheduler), dict(zip(axes, values, strict=True)))
        parts = [_label({name: value}) for name, value in changes.items()]
        try:
            found.setdefault(_label(changes), dataclasses.replace(scheduler, **changes))  # type: ignore[type-var]
            accepted.update(parts)
        except (TypeError, ValueError) as error:  # ConfigError, or a check of the scheduler's own
            refused.update(dict.fromkeys(parts, str(error)))
    for part, why in refused.items():
        if part not in accepted:
            raise ConfigError(f"{part} cannot be tried: {why}")
    return found


def token_field(scheduler: Scheduler[Any]) -> str:
    """The field that holds token ids; ConfigError if there is none."""
    hints = field_types(type(scheduler))
    for name in values_of(scheduler, given=True):
        if hints.get(name) == TokenIds:
            return name
    raise ConfigError(
        f"{type(scheduler).__name__} has no field of token ids, so it has no use for delimiters: take adablock, "
        "or leave them out"
    )


def _label(changes: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={as_toml(value)}" for name, value in changes.items())
