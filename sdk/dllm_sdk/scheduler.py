"""The protocol: what a decoding strategy sees, what it decides, and the class to subclass.

Knows no model, no loop and no strategy. Shapes, here and everywhere: B rows, L canvas positions, W computed positions
(lanes), V tokens. A block is a set of positions, so intervals, sliding windows and scattered blocks are one concept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from typing_extensions import TypeVar

from dllm_sdk.errors import ConfigError

TokenIds: TypeAlias = Annotated[str | tuple[int | str, ...], "token ids"]
"""A field of this type holds token ids; a string in it means every token whose text contains the string, and is
resolved with the model's tokenizer when decoding starts."""

EosIds: TypeAlias = Annotated[tuple[int, ...], "the model's EOS ids"]
"""A field of this type that is left empty holds the model's EOS ids once decoding starts."""

State = TypeVar("State", default=tuple[()])


class View(NamedTuple):
    """What a scheduler sees of one step. Read only: what is written into it is lost."""

    tokens: Tensor  # int64 [B, L]  canvas; the mask id where undecided
    open: Tensor  # bool [B, L]  masked positions this call may choose among
    committed: Tensor  # bool [B, L]  committed in the row's current block; empty unless the scheduler `revises`
    draft: Tensor  # int64 [B, L]  token a computed position would take now; `tokens` elsewhere
    confidence: Tensor  # float32 [B, L]  probability of the draft; 0 where nothing was computed
    step: Tensor  # int64 [B]  steps the row has spent in its current block
    gen_length: Tensor  # int64 [B]  masks the row started with
    key: Tensor  # int64 [B]  the row's random key of this step, spent by rules.uniform(view)
    logits: Tensor  # float32 [B, W, V]  lane w predicts canvas position window[b, w]
    window: Tensor  # int64 [B, W]  L on padding lanes; W may change from step to step

    def to_canvas(self, lanes: Tensor, fill: float = 0) -> Tensor:
        """[B, W, ...] -> [B, L, ...]: what lanes hold, at their canvas positions; `fill` where nothing was computed."""
        rows, length = self.tokens.shape
        canvas = lanes.new_full((rows, length + 1, *lanes.shape[2:]), fill)  # the extra column takes the padding lanes
        return canvas.scatter(1, self._slots(lanes), lanes)[:, :length]

    def to_window(self, canvas: Tensor) -> Tensor:
        """[B, L, ...] -> [B, W, ...]: what a canvas position holds read at each lane, 0 on padding lanes."""
        return torch.cat([canvas, torch.zeros_like(canvas[:, :1])], dim=1).gather(1, self._slots(canvas))

    def _slots(self, like: Tensor) -> Tensor:
        """The window with the trailing dimensions of `like`."""
        window = self.window[(..., *[None] * (like.dim() - 2))]
        return window.expand(*self.window.shape, *like.shape[2:])


class Decision(NamedTuple):
    """What to do with the canvas. Only `commit` is needed; the rest widen what can be expressed."""

    commit: Tensor  # bool [B, L]  open positions that take a token now
    tokens: Tensor | None = None  # int64 [B, L]  what commit and edit write, if not the draft
    remask: Tensor | None = None  # bool [B, L]  committed positions that go back to mask
    edit: Tensor | None = None  # bool [B, L]  committed positions that take a token now
    hold: Tensor | None = None  # bool [B]  read only if this leaves no mask in the block: keep the block open
    stop: Tensor | None = None  # bool [B]  the row ends with this step; what is still masked becomes EOS


class Scheduler(ABC, Generic[State]):
    """Which positions form the next block, and which of them commit now.

    Subclass it as a frozen dataclass: the fields are the hyperparameters, checked in `__post_init__`. Methods are pure:
    what must survive a step is returned as state, a tuple (of tuples, named or not) of tensors that lead with B and may
    have L. Fields that are tensors or modules are on the model's device.
    """

    @property
    def revises(self) -> bool:
        """Whether it may remask or edit what it committed, or hold a block open."""
        return False

    @property
    def replan(self) -> Literal["block", "step"]:
        """When `plan` is asked: at the start of a block, or at every step (sliding windows)."""
        return "block"

    @property
    def fits(self) -> Literal["any", "lasting", "own"]:
        """Whose blocks `select` can work in, read by `combine`.

        Any; those that last as planned until they are done, since it counts their steps or keeps state from their
        start; its own alone, since `plan` and `select` belong together. With a state the default is "lasting".
        """
        return "lasting" if _keeps_state(self) else "any"

    def horizon(self, gen_length: int) -> int:
        """How many undecided positions `plan` wants the logits of; 0: it is asked before the forward pass.

        Asked once per row, with the number of masks that the row started with.
        """
        return 0

    def init(self, tokens: Tensor, open: Tensor) -> State:
        """The state that rows start with. tokens int64 [B, L]; open bool [B, L], what is to be generated."""
        return cast(State, ())

    @abstractmethod
    def plan(self, view: View, state: State) -> tuple[Tensor, State]:
        """The next block, bool [B, L], out of `view.open`. Its state is taken for the rows that open a block only."""

    @abstractmethod
    def select(self, view: View, state: State) -> tuple[Decision, State]:
        """What commits now, out of `view.open`, the block's masks."""


@dataclass(frozen=True)
class Wrapper(Scheduler[Any]):
    """Another scheduler, to change one thing of it: a subclass overrides what it changes, all else goes through.

    A subclass that keeps a state of its own nests the inner one's in it, in `init`, `plan` and `select` alike. Raises
    ConfigError unless `inner` is a scheduler.
    """

    inner: Scheduler[Any]  # what is wrapped

    def __post_init__(self) -> None:
        """Check the field."""
        if not isinstance(self.inner, Scheduler):
            raise ConfigError(f"{type(self).__name__}: inner must be a scheduler, got {self.inner!r}")

    @property
    def revises(self) -> bool:
        """As the inner one."""
        return self.inner.revises

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


def check_number(owner: object, name: str, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """For `__post_init__`: raise ConfigError unless the field `name` of `owner` is a number from `low` to `high`.

    A bool is no number and NaN lies in no range. `whole` asks for an int.
    """
    value = getattr(owner, name)
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits:
        kind = "a whole number" if whole else "a number"
        allowed = f"{kind} >= {low:g}" if high == float("inf") else f"{kind} from {low:g} to {high:g}"
        raise ConfigError(f"{type(owner).__name__}: {name} must be {allowed}, got {value!r}")


def _keeps_state(scheduler: Scheduler[Any]) -> bool:
    return type(scheduler).init is not Scheduler.init


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
                raise ConfigError(
                    f"combine: {part!r} plans and selects as one: give it alone, or combine what it wraps"
                )
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
        other = self.select_part.horizon(gen_length) if _keeps_state(self.select_part) else 0
        return gen_length if mine == 0 < other else max(mine, other)

    def init(self, tokens: Tensor, open: Tensor) -> tuple[Any, Any]:
        """Both states."""
        return self.plan_part.init(tokens, open), self.select_part.init(tokens, open)

    def plan(self, view: View, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        """The first part's block; a second part with a state plans too, since that is where it resets it."""
        block, plan_state = self.plan_part.plan(view, state[0])
        select_state = self.select_part.plan(view, state[1])[1] if _keeps_state(self.select_part) else state[1]
        return block, (plan_state, select_state)

    def select(self, view: View, state: tuple[Any, Any]) -> tuple[Decision, tuple[Any, Any]]:
        """The second part's decision."""
        decision, select_state = self.select_part.select(view, state[1])
        return decision, (state[0], select_state)


def combine(*, plan: Scheduler[Any], select: Scheduler[Any] | SelectFunction) -> Combined:
    """Blocks of one scheduler with the commits of another, or of a function `f(view) -> bool [B, L]`.

    Raises ConfigError where the two contradict each other: see `Scheduler.fits`.

    >>> combine(plan=AdaBlock(), select=lambda view: top_k(view.open, view.confidence, 2))     # doctest: +SKIP
    """
    is_function = callable(select) and not isinstance(select, type | Scheduler)
    return Combined(plan, FromFunction(select) if is_function else select)  # type: ignore[arg-type]
