"""What a scheduler uses of the protocol, read off the class itself, so that nobody has to declare it.

Knows no strategy. Imports torch when it is called, not before: the short list must not.
"""

from __future__ import annotations

import dataclasses
import inspect
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dllm_sdk import Scheduler

_ROWS, _LENGTH = 13, 17  # sizes that no state has by itself


class Use(NamedTuple):
    """What a scheduler class needs and keeps; None for what is no scheduler."""

    needs: tuple[str, ...] | None = None  # of horizon, revises, replan, with its default fields; of logits, with any
    may_need: tuple[str, ...] | None = None  # with other fields
    state: str | None = None


def protocol_use(cls: type[Scheduler[Any]]) -> Use:
    """Look at the class, at its code and at an instance with the defaults, if it has any."""
    from dllm_sdk import Scheduler

    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    missing = dataclasses.MISSING
    ready = all(f.default is not missing or f.default_factory is not missing for f in fields if f.init)
    scheduler = cls() if ready else None
    found = {
        "horizon": scheduler is not None and scheduler.horizon(1024) > 0,
        "logits": _reads_logits(cls),
        "revises": scheduler is not None and scheduler.revises,
        "replan": scheduler is not None and scheduler.replan == "step",
    }
    overridden = [name for name in found if getattr(cls, name, None) is not getattr(Scheduler, name, None)]
    return Use(
        needs=tuple(name for name, holds in found.items() if holds),
        may_need=tuple(name for name in overridden if not found[name]),
        state=_state(cls, scheduler),
    )


def _state(cls: type[Scheduler[Any]], scheduler: Scheduler[Any] | None) -> str:
    """Its tensors, and what its `init` says of them."""
    from dllm_sdk import Scheduler

    if cls.init is Scheduler.init:
        return "none"
    what = inspect.cleandoc(cls.init.__doc__ or "").partition("\n")[0].rstrip(".")
    tensors = ", ".join(_tensors(scheduler)) if scheduler is not None else ""
    return ": ".join(part for part in (tensors, what[:1].lower() + what[1:]) if part)


def _tensors(scheduler: Scheduler[Any]) -> list[str]:
    """The tensors of a fresh state, as in "int64 [B, L]"."""
    import torch

    masks = torch.ones(_ROWS, _LENGTH, dtype=torch.bool)
    return [_shape(leaf) for leaf in _leaves(scheduler.init(masks.long(), masks))]


def _shape(leaf: Any) -> str:
    names = {0: (_ROWS, "B"), 1: (_LENGTH, "L")}
    sizes = [names[i][1] if i in names and size == names[i][0] else str(size) for i, size in enumerate(leaf.shape)]
    return f"{str(leaf.dtype).removeprefix('torch.')} [{', '.join(sizes)}]"


def _leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]


def _reads_logits(cls: type[Scheduler[Any]]) -> bool:
    """Whether its methods, or functions that they call, read an attribute `logits`."""
    from dllm_sdk import Scheduler

    bases = [base for base in cls.__mro__ if issubclass(base, Scheduler) and base is not Scheduler]
    found = [value for base in bases for value in vars(base).values() if isinstance(value, FunctionType)]
    seen: set[CodeType] = set()
    while found:
        function = found.pop()
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            if "logits" in code.co_names:
                return True
            codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
            called = [function.__globals__.get(name) for name in code.co_names] if code not in seen else []
            found += [other for other in called if isinstance(other, FunctionType)]
            seen.add(code)
    return False
