"""What the loop needs of a model, and how any callable becomes one. Knows no architecture.

A model is anything with these attributes; it need not inherit. What the loop reads through `shift`: logits of lane w
predict the position of the lane itself (0, LLaDA) or the one after it (1, Dream).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from copy import copy, deepcopy
from dataclasses import field
from functools import partial
from itertools import chain
from operator import index
from typing import Any, Protocol, SupportsIndex, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from dllm_sdk.errors import ConfigError, ModelError
from dllm_sdk.scheduler import EosIds, Scheduler, TokenIds, field_types, values_of


class Tokenizer(Protocol):
    """Text to ids and back. transformers' tokenizers fit; `tokenizers.Tokenizer` needs two one-line methods."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""


class Store(Protocol):
    """Keys, already rotated, and values of a batch: per row one slot for each canvas position, and one for padding.

    If the model has `code`, it consists of tuples and tensors: what is compiled for it knows it by their shapes.
    """

    def keep(self, rows: Tensor) -> Store:
        """Some rows, int64 [n] ascending, moved to the front; the store itself is not used any more."""

    def put(self, rows: Tensor, part: Store) -> None:
        """Overwrite these rows, int64 [n], with those of a part."""


class Model(Protocol):
    """What `decode` needs.

    A model whose forward pass can be compiled also has `code`, a hashable that is equal for models of its class that
    run the same code; without it the forward pass runs as it is written, whatever the backend. One that can leave out
    what nobody reads also has `forward_at(tokens, positions, store, key_mask, lanes)`: as `forward`, but hidden states
    [B, W, D] of the fed lanes int64 [B, W] alone. One that takes lane i for position i, whatever it is told, says
    `reads_positions = False`.
    """

    @property
    def mask_id(self) -> int:
        """The mask token."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first one fills. Empty: no early stop."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def shift(self) -> int:
        """0: the hidden state at i predicts token i. 1: it predicts token i + 1."""

    @property
    def block_causal(self) -> bool:
        """Whether a position may only attend to its own block and those before it."""

    @property
    def max_length(self) -> int | None:
        """The longest canvas the model takes; None: no limit."""

    @property
    def device(self) -> torch.device:
        """Where the canvas lives."""

    @property
    def tokenizer(self) -> Any:
        """A `Tokenizer`, or None."""

    def forward(self, tokens: Tensor, positions: Tensor, store: Any, key_mask: Tensor | None) -> Tensor:
        """Hidden states [B, Q, D] of tokens int64 [B, Q] at positions int64 [B, Q].

        Without a store the keys are the Q fed lanes (S = Q). With one, the lanes' keys and values are written to its
        slots `positions` and every lane attends to its S canvas positions; padding lanes have position S, and nobody
        sees what they write. key_mask bool [B, Q or 1, S]: the keys a query may see; None: all.
        """

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [B, W, V] of hidden states [B, W, D]: a new tensor, into which the loop may write."""

    def new_store(self, rows: int, length: int) -> Any:
        """An empty `Store` for canvases of `length` positions."""


@dataclasses.dataclass(frozen=True)
class CallableModel:
    """A function `tokens int64 [n, length] -> logits [n, length, V]` as a model; made by `wrap`."""

    function: Callable[[Tensor], Tensor]
    mask_id: int
    vocab_size: int
    eos_ids: tuple[int, ...] = ()
    shift: int = 0
    max_length: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tokenizer: Any = None
    block_causal: bool = field(default=False, init=False)
    reads_positions: bool = field(default=False, init=False)

    def forward(self, tokens: Tensor, positions: Tensor, store: Any, key_mask: Tensor | None) -> Tensor:
        """The function's logits. It sees no key mask: rows of equal length run together, others one after another."""
        rows, width = tokens.shape
        lengths = [width] * rows if key_mask is None else key_mask[:, 0].sum(1).tolist()
        logits: Tensor | None = None
        for length in sorted(set(lengths)):
            group = torch.tensor([row for row in range(rows) if lengths[row] == length], device=tokens.device)
            given = tokens[group, :length]
            part = checked_logits("the wrapped callable", self.function(given), given, self.vocab_size)
            if logits is None:
                logits = part.new_zeros(rows, width, self.vocab_size)
            logits[group, :length] = part
        if logits is None:
            raise ModelError("the model was called with an empty batch")
        return logits

    def head(self, hidden: Tensor) -> Tensor:
        """The function already gave logits."""
        return hidden

    def new_store(self, rows: int, length: int) -> Any:
        """A callable has no keys to store."""
        raise ConfigError("a wrapped callable has no keys and values to cache: take cache none, that is NoCache()")


def checked_logits(who: str, found: object, tokens: Tensor, vocab_size: int) -> Tensor:
    """What `who` returned for tokens int64 [B, Q], if it is logits [B, Q, V]. Raises ModelError."""
    expected = (*tokens.shape, vocab_size)
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"{who} must return logits of shape {expected}, got {got}")
    return found


def check_ids(mask_id: int, eos_ids: Sequence[int], vocab_size: int, shift: int) -> None:
    """Raise ConfigError unless they are tokens, the mask none of those that end an answer, and `shift` is 0 or 1."""
    if not isinstance(eos_ids, Sequence):
        raise ConfigError(f"eos_ids must be a tuple of token ids, got {eos_ids!r}")
    for token in (mask_id, *eos_ids):
        if not (isinstance(token, SupportsIndex) and 0 <= index(token) < vocab_size):
            raise ConfigError(f"mask_id and eos_ids must be token ids in 0..{vocab_size - 1}, got {token!r}")
    if mask_id in eos_ids:
        raise ConfigError(f"mask_id must not be one of eos_ids, got {mask_id}")
    if shift not in (0, 1):
        raise ConfigError(f"shift must be 0 or 1, got {shift!r}")


def check_eval(function: object) -> None:
    """Raise ConfigError for a module in training mode: with dropout a row's tokens would depend on the call."""
    inner = function.modules() if isinstance(function, nn.Module) else ()
    if any(one.training for one in inner if next(one.children(), None) is None):
        raise ConfigError(
            f"{type(function).__name__} is in training mode, where dropout would change tokens from call to call: "
            "call its eval() first, or give a function that calls it"
        )


def wrap(
    function: Callable[[Tensor], Tensor],
    *,
    mask_id: int,
    vocab_size: int,
    eos_ids: tuple[int, ...] = (),
    shift: int = 0,
    max_length: int | None = None,
    device: str | torch.device = "cpu",
    tokenizer: Tokenizer | None = None,
) -> CallableModel:
    """Make a model of any callable `tokens int64 [n, length] -> logits [n, length, V]`. It cannot use a cache.

    Raises ConfigError where an argument is out of its range, and for a module in training mode.
    """
    if not callable(function):
        raise ConfigError(f"wrap takes a callable, tokens -> logits, got {function!r}")
    check_eval(function)
    check_ids(mask_id, eos_ids, vocab_size, shift)
    ids = index(mask_id), vocab_size, tuple(map(index, eos_ids))  # numpy's numbers could not be told in a trace
    return CallableModel(function, *ids, shift, max_length, torch.device(device), tokenizer)


_found: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tokenizer -> what was looked for in it -> ids


def tokens_containing(tokenizer: Tokenizer, text: str, vocab_size: int) -> tuple[int, ...]:
    """All ids whose own text contains `text`: one newline id for LLaDA, a family of them for Dream.

    Looked up once per tokenizer, as long as its number of tokens stays: a large vocabulary takes a tenth of a second.
    """
    try:
        known = _found.setdefault(tokenizer, {})  # type: ignore[no-untyped-call]
    except TypeError:  # no weak reference to it can be had
        known = {}
    key = text, vocab_size, len(tokenizer) if isinstance(tokenizer, Sized) else None
    if key not in known:
        known[key] = tuple(i for i in range(vocab_size) if text in tokenizer.decode([i]))
    ids: tuple[int, ...] = known[key]
    return ids


S = TypeVar("S", bound="Scheduler[Any]")


def bind(scheduler: S, model: Model) -> S:
    """The scheduler as a model needs it: its ids looked up, and what it holds on the model's device."""
    return on_device(look_up(scheduler, model), model.device)


def look_up(scheduler: S, model: Model) -> S:
    """The scheduler with the `TokenIds` and `EosIds` of its fields looked up in the model, parts included."""
    return with_ids(scheduler, model.eos_ids, partial(_resolve, model=model))


def with_ids(scheduler: S, eos_ids: tuple[int, ...], resolve: Callable[..., tuple[int, ...]]) -> S:
    """The scheduler with `resolve(field, value)` in place of the `TokenIds` and `EosIds` of its fields.

    Those `EosIds` that are empty become `eos_ids`; its parts are treated likewise.
    """
    fields = values_of(scheduler)
    hints = field_types(type(scheduler)) if fields else {}
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Scheduler):
            changes[name] = with_ids(value, eos_ids, resolve)
        elif hints.get(name) == EosIds and (value is None or (isinstance(value, Sized) and not len(value))):
            changes[name] = eos_ids
        elif hints.get(name) in (TokenIds, EosIds):
            changes[name] = resolve(f"{type(scheduler).__name__}.{name}", value)
    changed = any(new != getattr(scheduler, name) for name, new in changes.items())
    return dataclasses.replace(scheduler, **changes) if changed else scheduler  # type: ignore[type-var]


Held: TypeAlias = Tensor | nn.Module

_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of what schedulers hold: once per device, until it changes


def on_device(scheduler: S, device: torch.device) -> S:
    """The scheduler with the tensors and modules among its fields on a device, those of its parts included."""
    if device.index is None and device.type not in ("cpu", "meta"):
        device = torch.empty(0, device=device).device  # a tensor is on cuda:0, not on cuda
    fields = values_of(scheduler)
    moved = {name: _placed(value, device) for name, value in fields.items()}
    if all(moved[name] is value for name, value in fields.items()):
        return scheduler
    scheduler = copy(scheduler)
    for name, value in moved.items():
        object.__setattr__(scheduler, name, value)  # not every field is one of `__init__`
    return scheduler


def held_by(scheduler: Scheduler[Any]) -> Iterator[Held]:
    """The tensors and modules among its fields, and those of its parts."""
    for value in values_of(scheduler).values():
        if isinstance(value, Held):
            yield value
        elif isinstance(value, Scheduler):
            yield from held_by(value)


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Scheduler):
        return on_device(value, device)
    if not isinstance(value, Held) or all(tensor.device == device for tensor in _tensors(value)):
        return value
    copies, now = _copies.setdefault(value, {}), stamp(value)  # type: ignore[no-untyped-call]
    if device not in copies or copies[device][0] != now:
        copies[device] = now, (deepcopy(value) if isinstance(value, nn.Module) else value.detach()).to(device)
    return copies[device][1]


def stamp(held: Held) -> Hashable:
    """Equal as long as it holds the same tensors and nothing is written into them."""
    # Tensors of inference mode do not count what is written.
    return tuple((id(one), object() if one.is_inference() else one._version) for one in _tensors(held))


def _tensors(held: Held) -> Iterable[Tensor]:
    return named(held).values()


def named(held: Held) -> dict[str, Tensor]:
    """The tensors it holds, by name."""
    return {"": held} if isinstance(held, Tensor) else dict(chain(held.named_parameters(), held.named_buffers()))


def told(held: Held) -> str:
    """Its type and a digest of what it holds."""
    try:
        return f"{type(held).__name__} {digest(named(held))[:16]}"
    except Exception:  # sparse, packed by a library, on no device: without bytes that could be read
        return repr(held)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of names: of weights as loaded, not of a file."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().to("cpu").contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy().data)
    return total.hexdigest()


def ids_in(field: str, value: Any) -> list[int | str]:
    """The ids and texts of a field of `TokenIds`. Raises ConfigError."""
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if not all(isinstance(item, int | str) and item != "" for item in items):
        raise ConfigError(f"{field} must be token ids, or texts that tokens contain, got {value!r}")
    return items


def _resolve(field: str, value: Any, model: Model) -> tuple[int, ...]:
    ids: list[int] = []
    for item in ids_in(field, value):
        if isinstance(item, int):
            found: tuple[int, ...] = (item,)
        elif model.tokenizer is None:
            raise ConfigError(f"{field} holds the text {item!r}, but the model has no tokenizer: give token ids")
        else:
            found = tokens_containing(model.tokenizer, item, model.vocab_size)
            if not found:
                raise ConfigError(f"{field}: no token of the model's tokenizer contains {item!r}")
        ids.extend(found)
    # Some may lie outside: published lists are used with models of a smaller vocabulary.
    if ids and not any(0 <= one < model.vocab_size for one in ids):
        raise ConfigError(f"{field} must hold token ids in 0..{model.vocab_size - 1}, got {value!r}")
    return tuple(ids)
