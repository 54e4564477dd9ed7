"""Files that a user names, read whole, or one sentence why not. Knows no format but JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dllm_sdk.errors import ConfigError


def read_bytes(path: str | Path, what: str, hint: str = "") -> bytes:
    """All of a file; `what` it is, and what to do if there is none, for the sentence of a ConfigError."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}{hint}") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from None


def read_text(path: str | Path, what: str) -> str:
    """The text of a file in UTF-8."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8 text: {error}") from None


def json_object(where: str, text: str | bytes, like: str) -> dict[str, Any]:
    """What a line holds; `where` it stands and what it should look `like`, for the sentence of a ConfigError."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must be an object such as {like}, got {brief(entry)}")
    return entry


def brief(value: Any) -> str:
    """A value as JSON, or the beginning of it."""
    return json.dumps(value)[:60]
