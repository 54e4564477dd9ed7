"""What to tell about a scheduler that keeps the protocol: what keeps it from being compiled, what is hardly intended.

Asks it for one step and looks at its class. Knows the loop and the protocol, no strategy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from inspect import get_annotations
from typing import Any

import torch
from torch import Tensor

from dllm_sdk.binding import bind
from dllm_sdk.combining import Wrapper, telling
from dllm_sdk.compiling import line_of, obstacle
from dllm_sdk.decoding import decode
from dllm_sdk.elsewhere import DeviceError, Uncrossed, elsewhere
from dllm_sdk.scheduler import Decision, Scheduler, View
from dllm_sdk.toys import ToyModel, with_toy_ids
from dllm_sdk.trees import map_tensors
from dllm_sdk.watching import sent


@torch.inference_mode()  # as in the loop, whose views cannot be written into elsewhere
def oversights(scheduler: Scheduler[Any]) -> list[str]:
    """What breaks no property but is hardly intended, from the first views of a decoding."""
    scheduler = with_toy_ids(scheduler)
    bound, first = _first_views(scheduler)
    looked_at = set[str]()
    view, state = first["plan"]
    bound.plan(telling(view, looked_at.add), state)
    decision, _ = bound.select(*first["select"])
    found = []
    looks = " and ".join(f"view.{name}" for name in ("draft", "confidence", "logits") if name in looked_at)
    if looks and type(scheduler).horizon is Scheduler.horizon:
        found.append(f"plan looks at {looks}, and there is nothing to see before a forward pass: override `horizon`")
    wishes = " and ".join(f"`{name}`" for name in ("remask", "edit", "hold") if getattr(decision, name) is not None)
    if wishes and type(scheduler).revises is Scheduler.revises:
        found.append(f"select returns {wishes}, which has no effect before `revises` is overridden")
    if not (is_dataclass(scheduler) and type(scheduler).__dataclass_params__.frozen):
        lost = "two that are equal are not known to be" if is_dataclass(scheduler) else "no result says what it holds"
        found.append(f"it is no frozen dataclass, so {lost}: @dataclass(frozen=True)")
    declared = [name for name, hint in get_annotations(type(scheduler)).items() if "ClassVar" not in str(hint)]
    if declared and is_dataclass(scheduler) and "__dataclass_fields__" not in vars(type(scheduler)):
        found.append(f"{', '.join(declared)} is no field, as what it inherits: @dataclass(frozen=True) above it, too")
    return found


def compile_obstacle(scheduler: Scheduler[Any]) -> str | None:
    """What keeps `plan` or `select` from being compiled, from the first views of a decoding; None: nothing."""
    scheduler = with_toy_ids(scheduler)
    bound, first = _first_views(scheduler)
    found = (
        obstacle(getattr(bound, method), *given) or _crossing(scheduler, method, given)
        for method, given in first.items()
    )
    return next(filter(None, found), None)


def _first_views(scheduler: Scheduler[Any]) -> tuple[Scheduler[Any], dict[str, tuple[View, Any]]]:
    """The scheduler bound to a model, and what its `plan` and `select` are asked first."""
    model = ToyModel(5).build()
    bound = bind(scheduler, model)
    asked = _Asked(bound)
    next(decode(model, [[1, 2], [3]], asked, gen_length=[40, 36]))
    return bound, asked.first


def _crossing(scheduler: Scheduler[Any], method: str, given: Any) -> str | None:
    """Where a method copies between a device and the CPU, which a captured one cannot."""
    with elsewhere():
        ask = sent(scheduler, ToyModel(5), method, given)
        try:
            with Uncrossed():
                ask()
        except DeviceError as error:
            return f"{line_of(error)} copies between the device and the CPU"
        except Exception:
            return None  # it asks for something that only a real device has
    return None


@dataclass(frozen=True)
class _Asked(Wrapper):
    """Notes what `plan` and `select` were asked first."""

    first: dict[str, tuple[View, Any]] = field(default_factory=dict)

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        self.first.setdefault("plan", map_tensors(torch.clone, (view, state)))
        return self.inner.plan(view, state)

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        self.first.setdefault("select", map_tensors(torch.clone, (view, state)))
        return self.inner.select(view, state)
