"""What a scheduler may hand back to the loop: shapes, dtypes, devices, and state that joins and leaves a batch.

State is a tuple (of tuples) of tensors that lead with B, so rows can be taken and merged without knowing what it means.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk.errors import ConfigError, SchedulerError
from dllm_sdk.scheduler import MOST_PATIENCE, Decision, Scheduler, View, check_value
from dllm_sdk.trees import alike

_PROPERTIES = {"revises": (False, True), "replan": ("block", "step"), "fits": ("any", "lasting", "own")}
_METHODS = ("horizon", "init", "plan", "select")


def check_members(scheduler: Scheduler[Any]) -> None:
    """Raise ConfigError unless the protocol's properties have one of their values, and its methods can be called."""
    kind = type(scheduler).__name__
    if callable(scheduler.patience):
        raise ConfigError(f"{kind}.patience must be a number, got a method: put @property above its def")
    for name, words in _PROPERTIES.items():
        found = getattr(scheduler, name)
        if found not in words:
            cure = ": put @property above its def" if callable(found) else ""
            raise ConfigError(f"{kind}.{name} must be one of {', '.join(map(str, words))}, got {found!r}{cure}")
    check_value(f"{kind}.patience", scheduler.patience, 1, MOST_PATIENCE, whole=True)
    for name in _METHODS:
        if not callable(found := getattr(scheduler, name)):
            raise ConfigError(f"{kind}.{name} must be a method, got {found!r}")


def check_tensor(scheduler: Scheduler[Any], name: str, value: object, like: Tensor) -> None:
    """Raise SchedulerError unless `value` is a tensor of the shape, dtype and device of `like`."""
    if not isinstance(value, Tensor):
        raise SchedulerError(f"{scheduler!r}: {name} must be a tensor, got {type(value).__name__}")
    if value.shape != like.shape or value.dtype != like.dtype or value.device != like.device:
        raise SchedulerError(
            f"{scheduler!r}: {name} must be {like.dtype} {list(like.shape)} on {like.device}, "
            f"got {value.dtype} {list(value.shape)} on {value.device}"
        )


def check_pair(scheduler: Scheduler[Any], name: str, value: object) -> None:
    """Raise SchedulerError unless a method returned (what, state)."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise SchedulerError(f"{scheduler!r}: {name} must return a pair (result, state), got {type(value).__name__}")


def check_state(scheduler: Scheduler[Any], state: object, rows: int, where: str = "state") -> None:
    """Raise SchedulerError unless every leaf of a fresh state is a tensor that leads with `rows`."""
    if isinstance(state, tuple):
        for i, leaf in enumerate(state):
            check_state(scheduler, leaf, rows, f"{where}[{i}]")
    elif not isinstance(state, Tensor):
        raise SchedulerError(f"{scheduler!r}: {where} must be a tuple of tensors, got {type(state).__name__}")
    elif state.dim() == 0 or state.shape[0] != rows:
        raise SchedulerError(f"{scheduler!r}: {where} must lead with the {rows} rows, got shape {list(state.shape)}")


def merge_state(scheduler: Scheduler[Any], name: str, old: Any, new: Any, who: Tensor | None = None) -> Any:
    """The new state for the rows in `who` (bool [B]; None: all), the old one for the others; both of one structure."""
    if isinstance(old, tuple):
        if not isinstance(new, tuple) or len(new) != len(old):
            got = f"one of {len(new)}" if isinstance(new, tuple) else type(new).__name__
            raise SchedulerError(f"{scheduler!r}: {name} must be a tuple of {len(old)}, as init made it, got {got}")
        pairs = zip(old, new, strict=True)
        parts = [merge_state(scheduler, f"{name}[{i}]", a, b, who) for i, (a, b) in enumerate(pairs)]
        return alike(old, parts)
    check_tensor(scheduler, name, new, old)
    merged = new if who is None else torch.where(who.view(-1, *[1] * (old.dim() - 1)), new, old)
    # Compiled code is made for strides too, and `contiguous` leaves those of a single row as they are.
    return merged if merged.stride() == old.stride() else merged.clone(memory_format=torch.contiguous_format)


class Applied(NamedTuple):
    """A `Decision` cut to what the protocol allows, with every field filled in."""

    commit: Tensor  # bool [B, L]
    tokens: Tensor  # int64 [B, L]  what commit and edit write
    remask: Tensor  # bool [B, L]
    edit: Tensor  # bool [B, L]
    hold: Tensor  # bool [B]
    stop: Tensor  # bool [B]


def allowed(scheduler: Scheduler[Any], wish: Decision, view: View, mask_id: int) -> Applied:
    """What a scheduler wishes, cut to what the protocol allows it after it saw this view, without a host read.

    The draft is written wherever `wish.tokens` is absent, the mask id or no token at all.
    """
    if not isinstance(wish, Decision):
        raise SchedulerError(f"{scheduler!r}: select must return (Decision, state), got {type(wish).__name__}")
    per_row = view.open[:, 0]
    likes = (view.open, view.draft, view.open, view.open, per_row, per_row)
    for name, like in zip(Decision._fields, likes, strict=True):
        value = getattr(wish, name)
        if value is not None or name == "commit":
            check_tensor(scheduler, f"Decision.{name}", value, like)
    nowhere, nobody = torch.zeros_like(view.open), torch.zeros_like(per_row)
    remask = wish.remask & view.committed if wish.remask is not None else nowhere
    tokens = view.draft
    if wish.tokens is not None:
        sound = (wish.tokens >= 0) & (wish.tokens < view.logits.shape[-1]) & (wish.tokens != mask_id)
        tokens = torch.where(sound, wish.tokens, view.draft)
    return Applied(
        commit=wish.commit & view.open,
        tokens=tokens,
        remask=remask,
        edit=wish.edit & view.committed & ~remask if wish.edit is not None else nowhere,
        hold=wish.hold if scheduler.revises and wish.hold is not None else nobody,
        stop=wish.stop if wish.stop is not None else nobody,
    )
