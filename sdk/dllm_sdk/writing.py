"""Files that are written whole or not at all. Knows no format."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from dllm_sdk.errors import ConfigError


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a text or bytes, all of it or nothing: no reader ever sees half a file. Raises OSError that names it."""
    data = content.encode(errors="replace") if isinstance(content, str) else content
    if _is_stream(path):
        Path(path).write_bytes(data)
        return
    part = _part(path)
    try:
        part.write_bytes(data)
        part.replace(os.path.realpath(path))
    except OSError as error:
        error.filename = str(path)  # a full disk names none, and the part is none of the reader's business
        raise
    finally:
        with suppress(OSError):
            part.unlink()


def try_to_write(path: str | Path) -> None:
    """Raise ConfigError if that will not be possible: before a run, so that its result is not lost."""
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder: give a file")
    part = _part(path)
    try:
        if not _is_stream(path):
            part.touch()
            part.unlink()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _is_stream(path: str | Path) -> bool:
    """/dev/null, /dev/stdout, a pipe: what a file must not take the place of."""
    return os.path.exists(path) and not os.path.isfile(path)


def _part(path: str | Path) -> Path:
    """Beside what is written: that is what a link points to, and the link stays. Another name for every writer."""
    return Path(f"{os.path.realpath(path)}.{token_hex(4)}.part")
