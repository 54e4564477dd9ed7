"""From logits to a draft and its confidence. Knows no scheduler and no cache; works lane by lane.

Random numbers come from a key per row, never from a generator: the same row draws the same numbers alone or in any
batch, and there is no state to capture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from dllm_sdk.errors import ConfigError
from dllm_sdk.rules import hash_with, one_of, to_unit
from dllm_sdk.scheduler import check_number

Processor: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`f(logits [B, W, V], tokens [B, L], window [B, W]) -> logits`, stateless and row by row.

Code that is compiled for one serves those that equal it: make it a function of a module, or a frozen dataclass with
`__call__`."""

_SAMPLER_STREAM = -1  # a strategy's streams start at 0
_HOTTEST = 1e6  # beyond this, or below its inverse, tempered logits leave the range of float32
_GROUP = 64  # neighbours whose largest is found at once


class Drafts(NamedTuple):
    """What the sampler says of every lane."""

    logits: Tensor  # float32 [B, W, V]  after processors and mask suppression, before temperature
    draft: Tensor  # int64 [B, W]  the token the position would take now
    confidence: Tensor  # float32 [B, W]  its probability; NaN where the logits are not finite


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn from the logits of a position.

    `temperature` 0 takes the likeliest token (ties: the lowest id); from 1e-6 to 1e6 it draws by Gumbel noise, which is
    equivalent to sampling from softmax(logits / temperature) (LLaDA, arXiv:2502.09992). `top_p` keeps the smallest set
    of tokens that holds this share of the tempered probability. `confidence` is the draft's probability under the
    model's own distribution ("model", as LLaDA) or under the tempered and cut one ("tempered", as Dream).
    `processors` change the logits before anything else.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    confidence: Literal["model", "tempered"] = "model"
    processors: tuple[Processor, ...] = ()

    def __post_init__(self) -> None:
        check_number(self, "temperature", 0.0)
        check_number(self, "top_p", 0.0, 1.0)
        if self.temperature and not 1 / _HOTTEST <= self.temperature <= _HOTTEST:
            allowed = f"0, for the likeliest token, or from {1 / _HOTTEST:g} to {_HOTTEST:g}"
            raise ConfigError(f"Sampler: temperature must be {allowed}, got {self.temperature!r}")
        if self.top_p == 0:
            raise ConfigError("Sampler: top_p must be above 0 (use temperature=0 for the likeliest token), got 0")
        if self.confidence not in ("model", "tempered"):
            raise ConfigError(f"Sampler: confidence must be 'model' or 'tempered', got {self.confidence!r}")
        if not (isinstance(self.processors, tuple) and all(map(callable, self.processors))):
            raise ConfigError(f"Sampler: processors must be a tuple of functions, got {self.processors!r}")

    def __call__(self, logits: Tensor, key: Tensor, tokens: Tensor, window: Tensor, mask_id: int) -> Drafts:
        """Draft every lane. logits [B, W, V]; key int64 [B]; tokens int64 [B, L]; window int64 [B, W]."""
        logits = logits.float()
        for process in self.processors:
            found = process(logits, tokens, window)
            if not isinstance(found, Tensor) or found.shape != logits.shape:
                got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
                raise ConfigError(f"processor {process!r} must return logits {tuple(logits.shape)}, got {got}")
            logits = found.float().clone()  # it may be the processor's own, and is written into
        logits[..., mask_id] = -torch.inf
        shaped = logits / self.temperature if self.temperature > 0 else logits
        if self.top_p < 1:
            shaped = _cut_to_top_p(shaped, self.top_p)
        noisy = shaped + _gumbel(key, window, shaped.shape[-1]) if self.temperature > 0 else shaped
        best, draft = _first_max(noisy)
        basis = shaped if self.confidence == "tempered" else logits
        # Without noise, temperature and cut the three are one tensor, and the best is found already.
        chosen = best if basis is noisy else basis.gather(-1, draft[..., None])[..., 0]
        # max + logsumexp instead of a softmax: no [B, W, V] tensor of probabilities is ever made
        confidence = (chosen - basis.logsumexp(-1)).exp()
        return Drafts(logits, draft, confidence)


@dataclass(frozen=True)
class Suppress:
    """The processor that `suppress` makes."""

    ids: tuple[int, ...]

    def __call__(self, logits: Tensor, tokens: Tensor, window: Tensor) -> Tensor:
        """The logits, those of the ids at minus infinity."""
        return logits.masked_fill(one_of(torch.arange(logits.shape[-1], device=logits.device), self.ids), -torch.inf)


def suppress(*ids: int) -> Processor:
    """A processor that forbids tokens, for instance EOS (LLaDA's `logits_eos_inf`). Raises ConfigError."""
    if not all(isinstance(one, int) for one in ids):
        raise ConfigError(f"suppress takes token ids, as in suppress(2, 5), got {', '.join(map(repr, ids))}")
    return Suppress(ids)


def row_seed(seed: Tensor, tokens: Tensor, length: Tensor) -> Tensor:
    """What all random numbers of a row come from, int64 [B]: a hash of its seed and its own canvas.

    seed, length int64 [B]; tokens int64 [B, L]. Columns past the row's length do not count. Folded with the number of
    its forward passes it is the key of a step.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    digest = hash_with(positions, tokens).masked_fill(positions >= length[:, None], 0).sum(1)
    return hash_with(seed, digest)


def _first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of [.., V] and its first position, [..] each: `x.max(-1)`, which is slow because of the position.

    The maxima of groups of neighbours are found quickly; the position is looked for among these, then in one group.
    """
    if x.shape[-1] % _GROUP:
        largest, position = x.max(-1)  # documented to return the first of equal maxima
        return largest, position
    groups = torch.unflatten(x, -1, (-1, _GROUP))
    largest, place = groups.amax(-1).max(-1)
    within = groups.take_along_dim(place[..., None, None], -2)[..., 0, :]
    return largest, place * _GROUP + within.max(-1).indices


def _gumbel(key: Tensor, window: Tensor, vocabulary: int) -> Tensor:
    """Gumbel noise, float32 [B, W, V], hashed from key, canvas position and token id."""
    lane_key = hash_with(hash_with(key, _SAMPLER_STREAM)[:, None], window)
    token = torch.arange(vocabulary, device=key.device)
    return -(-to_unit(hash_with(lane_key[..., None], token)).log()).log()


def _cut_to_top_p(logits: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probability reaches top_p; the others get -inf."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(-1)
    beyond = probability.cumsum(-1) - probability >= top_p  # what lies before a token already suffices
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
