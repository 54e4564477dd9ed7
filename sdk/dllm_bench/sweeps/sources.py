"""Which code a scheduler or task is: a digest of its file and of those that it imports. Runs none of it.

Installed packages are left out, and so are Python's own modules and dllm_sdk, whose version a sweep knows.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from dllm_sdk import Scheduler
from dllm_sdk.scheduler import parts_of

_KNOWN = sys.stdlib_module_names | {"dllm_sdk"}
_INSTALLED = {"site-packages", "dist-packages"}


def code_of(scheduler: Scheduler[Any]) -> list[str]:
    """A digest for a scheduler and one for each of its parts; empty for a class that was typed in."""
    code = source_of(type(scheduler).__module__)
    return [short_digest(code) if code else "", *(one for part in parts_of(scheduler) for one in code_of(part))]


def source_of(module: str) -> bytes:
    """The file of a module and those that it imports, one after another."""
    return b"".join(file.read_bytes() for file in _files(module))


def short_digest(data: bytes) -> str:
    """Short enough to read."""
    return hashlib.sha256(data).hexdigest()[:16]


def _files(module: str) -> list[Path]:
    """The file of a module, and those of all that it imports, by the names of the modules."""
    found: dict[str, Path] = {}
    names = [module]
    while names:
        name = names.pop()
        file = None if name in found or name.partition(".")[0] in _KNOWN else _file(sys.modules.get(name))
        if file is not None:
            found[name] = file
            names += _imported(file, sys.modules[name].__package__ or "")
    return [found[name] for name in (module, *sorted(found.keys() - {module})) if name in found]


def _file(module: ModuleType | None) -> Path | None:
    path = Path(getattr(module, "__file__", None) or "")
    return path if path.suffix == ".py" and path.is_file() and _INSTALLED.isdisjoint(path.parts) else None


def _imported(file: Path, package: str) -> Iterator[str]:
    """The modules that a file names in its imports; of `from a import b` both a and a.b, which need not be one."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # a file outside of packages may try a relative import
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield from (base, *(f"{base}.{one.name}" for one in node.names))
