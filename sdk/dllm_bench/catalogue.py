"""What is installed: schedulers, models, tasks and caches, from metadata alone or, on request, imported one by one.

A broken plug-in is an entry with an error, never a failure of the list. The short form imports no torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any

import dllm_sdk
from dllm_bench.explain import explain
from dllm_bench.protocol_use import Use, protocol_use
from dllm_sdk import registry
from dllm_sdk.errors import DllmError

_PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}")


@dataclass(frozen=True)
class Plugin:
    """One entry; what follows `version` is filled in by the long form only."""

    kind: registry.Kind
    name: str
    target: str  # MODULE:OBJECT
    distribution: str
    version: str
    summary: str | None = None  # first sentence of its docstring
    papers: tuple[str, ...] = ()  # arXiv numbers that its docstrings name
    fields: dict[str, str] | None = None  # defaults as they would be written; None: it has no fields
    needs: tuple[str, ...] | None = None  # of the protocol: horizon, logits, revises, replan; None: no scheduler
    may_need: tuple[str, ...] | None = None  # with other fields than the defaults
    state: str | None = None  # what a scheduler keeps of a row: its tensors, and what they mean
    error: str | None = None  # why it cannot be loaded


def available(*, long: bool = False) -> list[Plugin]:
    """Every plug-in, by kind and name. `long` imports each one, which takes as long as importing torch."""
    found = []
    for kind in ("scheduler", "model", "task"):
        claimed = registry.clashes(kind)
        for name, point in registry.available(kind).items():
            owner = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
            plugin = Plugin(kind, name, point.value, *owner, error=claimed.get(name))
            found.append(_imported(plugin, name) if long else plugin)
    for name, target in registry.CACHES.items():  # part of the loop, so no plug-ins
        plugin = Plugin("cache", name, target, "dllm-sdk", dllm_sdk.__version__)
        found.append(_imported(plugin, target) if long else plugin)
    return found


def _imported(plugin: Plugin, name: str) -> Plugin:
    try:
        target = registry.load(plugin.kind, name)
    except DllmError as error:
        return dataclasses.replace(plugin, error=explain(error).removeprefix("Error: "))
    owner: Any = target if inspect.isclass(target) or inspect.isroutine(target) else type(target)
    own = inspect.cleandoc(owner.__doc__ or "")
    module = getattr(sys.modules.get(owner.__module__), "__doc__", None) or ""
    try:
        asks = protocol_use(owner) if plugin.kind == "scheduler" else Use()
        fields = _fields(owner)
    except Exception as error:  # a user's own init, properties or defaults
        return dataclasses.replace(plugin, error=f"{owner.__name__} raised {type(error).__name__}: {error}")
    return dataclasses.replace(
        plugin,
        summary=_first_sentence(own or module),
        papers=tuple(dict.fromkeys(_PAPER.findall(f"{own} {module}"))),
        fields=fields,
        **asks._asdict(),
    )


def _first_sentence(text: str) -> str | None:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.) ", paragraph, maxsplit=1)[0] or None


def _fields(owner: Any) -> dict[str, str] | None:
    if not (inspect.isclass(owner) and dataclasses.is_dataclass(owner)):
        return None
    return {item.name: _default(item) for item in dataclasses.fields(owner) if item.init}


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default is item.default_factory is dataclasses.MISSING:
        return "required"
    value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    text = repr(value)
    return text if "\n" not in text else type(value).__name__  # a module with parts writes a page
