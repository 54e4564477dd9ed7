"""Schedulers made of schedulers: one of which a single thing is changed, and one's blocks with another one's commits.

Knows the protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from dllm_sdk.errors import ConfigError
from dllm_sdk.scheduler import Decision, Scheduler, View, parts_of


@dataclass(frozen=True)
class Wrapper(Scheduler[Any]):
    """Another scheduler, to change one thing of it: a subclass overrides what it changes, all else goes through.

    A subclass that keeps a state of its own nests the inner one's in it, in `init`, `plan` and `select` alike; one that
    has a `__post_init__` calls `super().__post_init__()`. Raises ConfigError unless `inner` is a scheduler.
    """

    inner: Scheduler[Any]  # what is wrapped

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Scheduler):
            raise ConfigError(f"{type(self).__name__}: inner must be a scheduler, got {self.inner!r}")

    @property
    def revises(self) -> bool:
        """As the inner one."""
        return self.inner.revises

    @property
    def patience(self) -> int:
        """As the inner one."""
        return self.inner.patience

    @property
    def replan(self) -> Literal["block", "step"]:
        """As the inner one."""
        return self.inner.replan

    @property
    def fits(self) -> Literal["any", "lasting", "own"]:
        """As the inner one."""
        return self.inner.fits

    def horizon(self, gen_length: int) -> int:
        """As the inner one."""
        return self.inner.horizon(gen_length)

    def init(self, tokens: Tensor, open: Tensor) -> Any:
        """The inner state. tokens int64 [B, L]; open bool [B, L], what is to be generated."""
        return self.inner.init(tokens, open)

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        """The inner block, bool [B, L]."""
        return self.inner.plan(view, state)

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        """What the inner one decides."""
        return self.inner.select(view, state)


SelectFunction: TypeAlias = Callable[[View], Tensor]


@dataclass(frozen=True)
class FromFunction(Scheduler):
    """A commit rule written as a function `f(view) -> bool [B, L]`; the select part of `combine`."""

    function: SelectFunction

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Everything: `combine` never uses it."""
        return view.open, state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Commit what the function says."""
        return Decision(commit=self.function(view)), state


@dataclass(frozen=True)
class Combined(Scheduler[tuple[Any, Any]]):
    """One scheduler's block with another one's commits; made by `combine`."""

    plan_part: Scheduler[Any]
    select_part: Scheduler[Any]

    def __post_init__(self) -> None:
        """Refuse parts that contradict each other."""
        for part in (self.plan_part, self.select_part):
            if not isinstance(part, Scheduler):
                raise ConfigError(f"combine takes instances of Scheduler subclasses, got {part!r}")
            if part.fits == "own":
                other = ", or combine what it wraps" if parts_of(part) else ""
                raise ConfigError(f"combine: {part!r} plans and selects as one: give it alone{other}")
        if self.plan_part.replan == "step" and self.select_part.fits == "lasting":
            raise ConfigError(
                f"combine: {self.plan_part!r} replans at every step, but {self.select_part!r} needs blocks that last "
                "until they are done: take a plan that lasts, or a rule without steps and state, such as a threshold"
            )

    @property
    def revises(self) -> bool:
        """As the part that selects."""
        return self.select_part.revises

    @property
    def patience(self) -> int:
        """As the part that selects."""
        return self.select_part.patience

    @property
    def replan(self) -> Literal["block", "step"]:
        """As the part that plans."""
        return self.plan_part.replan

    @property
    def fits(self) -> Literal["any", "lasting", "own"]:
        """As the part that selects."""
        return self.select_part.fits

    def horizon(self, gen_length: int) -> int:
        """The plan's; the larger one where the other part plans too. No plan sees fewer positions than alone."""
        mine = self.plan_part.horizon(gen_length)
        other = self.select_part.horizon(gen_length) if _has_state(self.select_part) else 0
        return gen_length if mine == 0 < other else max(mine, other)

    def init(self, tokens: Tensor, open: Tensor) -> tuple[Any, Any]:
        """Both states."""
        return self.plan_part.init(tokens, open), self.select_part.init(tokens, open)

    def plan(self, view: View, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        """The first part's block; a second part with a state plans too, since that is where it resets it."""
        block, plan_state = self.plan_part.plan(view, state[0])
        select_state = self.select_part.plan(view, state[1])[1] if _has_state(self.select_part) else state[1]
        return block, (plan_state, select_state)

    def select(self, view: View, state: tuple[Any, Any]) -> tuple[Decision, tuple[Any, Any]]:
        """The second part's decision."""
        decision, select_state = self.select_part.select(view, state[1])
        return decision, (state[0], select_state)


def _has_state(scheduler: Scheduler[Any]) -> bool:
    """Whether it has one of its own, or wraps one that has."""
    while isinstance(scheduler, Wrapper) and type(scheduler).init is Wrapper.init:
        scheduler = scheduler.inner
    return type(scheduler).init is not Scheduler.init


def combine(*, plan: Scheduler[Any], select: Scheduler[Any] | SelectFunction) -> Combined:
    """Blocks of one scheduler with the commits of another, or of a function `f(view) -> bool [B, L]`.

    Raises ConfigError where the two contradict each other: see `Scheduler.fits`.

    >>> combine(plan=AdaBlock(), select=lambda view: top_k(view.open, view.confidence, 2))     # doctest: +SKIP
    """
    is_function = callable(select) and not isinstance(select, type | Scheduler)
    return Combined(plan, FromFunction(select) if is_function else select)  # type: ignore[arg-type]


def telling(view: View, note: Callable[[str], object]) -> View:
    """The view, for a wrapper that watches: `note` is called with the name of every field that is asked for."""

    class Telling(View):
        def __getattribute__(self, name: str) -> Any:
            if name in View._fields:
                note(name)
            return super().__getattribute__(name)

    return Telling(*view)
