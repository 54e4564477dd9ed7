"""What a grid is, for `calibrate` and `sweep`: fields of a scheduler, and the values to try. Knows no scheduler."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from dllm_sdk.errors import ConfigError


def axis(text: str) -> tuple[str, list[Any]]:
    """`field=value,value,...`, the values in TOML, as `--grid` has it."""
    field, equals, values = text.partition("=")
    if not equals or not field.strip():
        raise ConfigError(f"grid {text!r} must be field=value,value,... such as threshold=0.7,0.8,0.9")
    try:
        found = tomllib.loads(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError as error:
        allowed = "numbers as 0.5, texts and SPECs in quotes, lists as [1, 2]"
        raise ConfigError(f"grid {text!r}: {values!r} are not TOML values ({allowed})") from error
    return field.strip().replace("-", "_"), found


def axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Several of them; each field once."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        field, values = axis(text)
        if field in found:
            raise ConfigError(f"grid: {field} is given twice: give all its values at once, {field}=value,value,...")
        found[field] = values
    return found


def lists_of(grid: object) -> dict[str, list[Any]]:
    """Fields with their values, numbers of numpy or torch as Python's. Raises ConfigError where that is no grid."""
    if not isinstance(grid, Mapping):
        raise ConfigError(f"grid must map fields to lists of values, got {grid!r}")
    plain = {field: values.tolist() if hasattr(values, "tolist") else values for field, values in grid.items()}
    for field, values in plain.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"grid: {field} must be a list of at least one value, got {grid[field]!r}")
    return {
        field: [one.item() if getattr(one, "ndim", None) == 0 else one for one in values]
        for field, values in plain.items()
    }
