"""What the loop needs of a model, and how any callable becomes one. Knows no architecture.

A model is anything with these attributes; it need not inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor, nn

from dllm_sdk.errors import ConfigError, ModelError


class Tokenizer(Protocol):
    """Text to ids and back. transformers' tokenizers fit; `tokenizers.Tokenizer` needs two one-line methods."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""


class Store(Protocol):
    """Keys, already rotated, and values of a batch: per row one slot for each canvas position, and one for padding.

    That of a model with `code` consists of tuples and tensors: compiled code is made for their shapes.
    """

    def keep(self, rows: Tensor) -> Store:
        """Some rows, int64 [n] ascending, moved to the front; the store itself is not used any more."""

    def put(self, rows: Tensor, part: Store) -> None:
        """Overwrite these rows, int64 [n], with those of a part."""


class Model(Protocol):
    """What `decode` needs. A model may also have:

    `code`, if its forward pass can be compiled: a hashable, equal for models of its class that run the same code.
    Without it the forward pass runs as it is written, whatever the backend.

    `forward_at(tokens, positions, store, key_mask, lanes)`: as `forward`, but only the hidden states [B, W, D] of the
    fed lanes int64 [B, W], so that nothing is computed that nobody reads.

    `reads_positions = False`, if it takes lane i for position i, whatever `positions` says.
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
        """0: the hidden state at position i predicts token i (LLaDA). 1: it predicts token i + 1 (Dream)."""

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


@dataclass(frozen=True)
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


def whole(name: str, value: object) -> int:
    """Python's whole numbers and numpy's. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    return index(value)


def check_ids(mask_id: int, eos_ids: Sequence[int], vocab_size: int, shift: int) -> None:
    """Raise ConfigError unless they are tokens, the mask none of those that end an answer, and `shift` is 0 or 1."""
    if not isinstance(eos_ids, Sequence):
        raise ConfigError(f"eos_ids must be a tuple of token ids, got {eos_ids!r}")
    for token in (mask_id, *eos_ids):
        if not (isinstance(token, SupportsIndex) and 0 <= index(token) < vocab_size):
            raise ConfigError(f"mask_id and eos_ids must be token ids in 0..{vocab_size - 1}, got {token!r}")
    if mask_id in eos_ids:
        raise ConfigError(f"mask_id must not be one of eos_ids, got {mask_id}")
    if whole("shift", shift) not in (0, 1):
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
    vocab_size = whole("vocab_size", vocab_size)
    max_length = None if max_length is None else whole("max_length", max_length)
    check_ids(mask_id, eos_ids, vocab_size, shift)
    ids = index(mask_id), vocab_size, tuple(map(index, eos_ids))  # numpy's numbers could not be told in a trace
    return CallableModel(function, *ids, shift, max_length, torch.device(device), tokenizer)
