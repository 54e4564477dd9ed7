"""The protocol: what a decoding strategy sees, what it decides, and the class to subclass.

Knows no model, no loop and no strategy. Shapes, here and everywhere: B rows, L canvas positions, W computed positions
(lanes), V tokens. A block is a set of positions, so intervals, sliding windows and scattered blocks are one concept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeAlias, cast, get_type_hints

import torch
from torch import Tensor
from typing_extensions import TypeVar

from dllm_sdk.errors import ConfigError

TokenIds: TypeAlias = Annotated[int | str | tuple[int | str, ...], "token ids"]
"""A field of this type holds token ids; a string in it means every token whose text contains the string. Once decoding
starts it is a tuple of ids, looked up with the model's tokenizer."""

EosIds: TypeAlias = Annotated[tuple[int, ...], "the model's EOS ids"]
"""A field of this type that is left empty holds the model's EOS ids once decoding starts."""

State = TypeVar("State", default=tuple[()])
MOST_PATIENCE = 10_000  # steps
_LARGEST = 2**63 - 1  # the largest int64


class View(NamedTuple):
    """What a scheduler sees of one step. Read only.

    It is a copy, and what is written into it is lost, but for `logits`, where a write would show in the `Step`.
    L is the length of the longest row: behind a shorter one `tokens` hold anything. How far a row goes, `init` is told.
    """

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
    def patience(self) -> int:
        """Steps within which a row must have fewer masks than ever, if the scheduler `revises`; others have one.

        The loop ends a row that takes longer with SchedulerStalled, so that none runs for ever. At most
        MOST_PATIENCE, which is 10,000.
        """
        return 32

    @property
    def replan(self) -> Literal["block", "step"]:
        """When `plan` is asked: at the start of a block, or at every step (sliding windows).

        With "step" a row opens a block anew, so that caches refresh and `view.step` is 0 again, once all that its
        block held when it opened is committed.
        """
        return "block"

    @property
    def fits(self) -> Literal["any", "lasting", "own"]:
        """Whose blocks `select` can work in; `combine` asks.

        "any": whoever planned them. "lasting", the default with a state: those that stay as planned until they are
        done, since `select` counts their steps or keeps state from their start. "own": those of its own `plan` only.
        """
        return "any" if type(self).init is Scheduler.init else "lasting"

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
        """The next block, bool [B, L], out of `view.open`; what lies outside of that is cut off.

        Without a horizon nothing is computed yet: `view.open` is every mask of the row, `draft` is `tokens`,
        `confidence` 0 and W 0. With one it is the first `horizon` masks, seen as `select` will see them in this step.
        The state is kept only for the rows that open a block: reset here what belongs to one block.
        """

    @abstractmethod
    def select(self, view: View, state: State) -> tuple[Decision, State]:
        """What commits now, out of `view.open`, the block's masks. The window may be wider than the block."""


def values_of(scheduler: Scheduler[Any], *, given: bool = False) -> dict[str, Any]:
    """A scheduler's fields by name; with `given` only those that `__init__` takes. Empty if it is no dataclass."""
    found: tuple[Field[Any], ...] = fields(scheduler) if is_dataclass(scheduler) else ()
    return {item.name: getattr(scheduler, item.name) for item in found if item.init or not given}


def parts_of(scheduler: Scheduler[Any]) -> list[Scheduler[Any]]:
    """The schedulers that a scheduler holds, in fields and other attributes."""
    held = values_of(scheduler) | vars(scheduler)  # fields may be slots
    return [value for value in held.values() if isinstance(value, Scheduler)]


def field_types(cls: type[Scheduler[Any]]) -> dict[str, Any]:
    """The types of a scheduler's fields as they are written. Raises ConfigError for a name that cannot be found."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"{cls.__name__}: the type of a field names {error.name!r}, which its file does not import when it runs: "
            "import it outside `if TYPE_CHECKING`"
        ) from None


def check_number(owner: object, name: str, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """For `__post_init__`: raise ConfigError unless the field `name` of `owner` is a number from `low` to `high`.

    A bool is no number and NaN lies in no range. `whole` asks for an int.
    """
    check_value(f"{type(owner).__name__}: {name}", getattr(owner, name), low, high, whole=whole)


def check_value(name: str, value: object, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """As `check_number`, for a value that is no field."""
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    beyond = isinstance(value, int) and value > _LARGEST
    if not (number and low <= value <= high) or beyond:  # type: ignore[operator]
        kind = "a whole number" if whole else "a number"
        top = f"{high:g}" if high < float("inf") else "2**63 - 1" if beyond and whole else None
        allowed = f"{kind} from {low:g} to {top}" if top else f"{kind} >= {low:g}"
        if beyond and not top:
            allowed += ", with a point if it has more than 63 bits"
        raise ConfigError(f"{name} must be {allowed}, got {value!r}")
