"""Files that are written whole or not at all. Knows no format."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dllm_sdk.errors import ConfigError


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a text or bytes, all of it or nothing: no reader ever sees half a file. Raises OSError."""
    part = _part(path)
    try:
        part.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def try_to_write(path: str | Path) -> None:
    """Raise ConfigError if that will not be possible: before a run, so that its result is not lost."""
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: give a file")
    part = _part(path)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _part(path: str | Path) -> Path:
    return Path(f"{path}.part")
