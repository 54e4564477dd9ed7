"""What strategies are made of: small pure functions over canvas positions. Knows no strategy and no loop.

Every function works row by row, reads nothing back to the host, and breaks ties towards the lowest position. A `mask`
is bool [B, L], a `score` float [B, L]; `k` is an int, or int64 [B] or [].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from dllm_sdk.errors import ConfigError
from dllm_sdk.scheduler import TokenIds, View

_INCREMENT = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed number
_MIX = (-4658895280553007687, -7723592293110705685)  # the two multipliers of splitmix64


def first(mask: Tensor, k: int | Tensor) -> Tensor:
    """The k leftmost positions of the mask."""
    return mask & (mask.cumsum(1) <= _per_row(k))


def rank(mask: Tensor, score: Tensor) -> Tensor:
    """The place of each position of the mask by score, the highest is 0, int64 [B, L]; the rest come after them all."""
    order = score.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    inside = mask.gather(1, order)  # a score may be -inf itself, as those outside are
    place = torch.where(inside, inside.cumsum(1), inside.sum(1, keepdim=True) + (~inside).cumsum(1)) - 1
    return torch.empty_like(order).scatter(1, order, place)


def top_k(mask: Tensor, score: Tensor, k: int | Tensor) -> Tensor:
    """The k positions of the mask with the highest score."""
    if isinstance(k, int) and k == 1 and mask.shape[1]:  # what most rules ask for needs no sorting
        score = score.masked_fill(~mask, -torch.inf)
        return first(mask & ((score == score.amax(1, keepdim=True)) | score.isnan()), 1)
    return mask & (rank(mask, score) < _per_row(k))


def above(mask: Tensor, score: Tensor, threshold: float | Tensor) -> Tensor:
    """The positions of the mask whose score is at or above the threshold, a number or float [B]."""
    return mask & (score >= _per_row(threshold))


def at_least_one(mask: Tensor, score: Tensor, commit: Tensor) -> Tensor:
    """`commit`, and in rows that have positions in the mask always the best of them."""
    return commit | top_k(mask, score, 1)


def above_or_best(mask: Tensor, score: Tensor, threshold: float | Tensor) -> Tensor:
    """The positions of the mask that score at least `threshold`, a number or [B], and always the best one."""
    return at_least_one(mask, score, above(mask, score, threshold))


def leftmost(mask: Tensor) -> Tensor:
    """The lowest position of each row's mask, int64 [B]; L where there is none."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, len(positions)).amin(1)


def aligned(mask: Tensor, size: int) -> Tensor:
    """The positions of the mask in the block that holds its first one; blocks lie on multiples of `size` positions."""
    number = torch.arange(mask.shape[1], device=mask.device) // size
    return mask & (number == leftmost(mask)[:, None] // size)


def share(view: View, steps: int) -> Tensor:
    """An equal share of the block's masks for each of its `steps` steps, int64 [B]: of 10 in four steps 3, 3, 2 and 2.

    Rounded up from what is left at every step, so it can neither stall nor overrun (LLaDA's quota).
    """
    steps_left = (steps - view.step).clamp(min=1)
    return -(-view.open.sum(1) // steps_left)


def sum_before(place: Tensor, value: Tensor) -> Tensor:
    """The sum of `value` over all positions that rank before each, float [B, L]; `place` as `rank` gives it."""
    ordered = value.scatter(1, place, value)
    return pad(ordered, (1, -1)).cumsum(1).gather(1, place)


def one_of(tokens: Tensor, ids: TokenIds) -> Tensor:
    """Where a token is one of the ids: int64 [B, L] -> bool [B, L]. Texts must have been resolved to ids."""
    given = (ids,) if isinstance(ids, int | str) else tuple(ids)
    if any(isinstance(item, str) for item in given):
        raise ConfigError(f"{ids!r} holds text, which only a model with a tokenizer resolves: give token ids")
    numbers = cast(tuple[int, ...], given)
    if len(numbers) > 16:
        return torch.isin(tokens, _constant(numbers, tokens.device))
    # A few comparisons cost less than a tensor that is made on the host and copied to the device.
    found = tokens == numbers[0] if numbers else torch.zeros_like(tokens, dtype=torch.bool)
    for number in numbers[1:]:
        found = found | (tokens == number)
    return found


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constant(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """The ids on the device: copied there at every call, but only once for a caller that is compiled or captured."""
    return torch.tensor(ids, dtype=torch.int64, device=device)


def margin(view: View) -> Tensor:
    """Probability of the likeliest token minus that of the second, float32 [B, L]; 0 where nothing was computed."""
    best = view.logits.topk(2, dim=-1).values
    probability = (best - view.logits.logsumexp(-1, keepdim=True)).exp()
    return view.to_canvas(probability[..., 0] - probability[..., 1])


def entropy(view: View) -> Tensor:
    """Entropy of the predicted distribution in nats, float32 [B, L]; 0 where nothing was computed."""
    log_p = view.logits.log_softmax(-1)
    return view.to_canvas(-(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1))  # a suppressed token adds 0, not NaN


def uniform(view: View, stream: int = 0) -> Tensor:
    """Random numbers in (0, 1), float32 [B, L], the same for a row alone and in any batch.

    Another `stream` (>= 0) gives other numbers; the same stream gives the same ones within a step.
    """
    if stream < 0:
        raise ConfigError(f"uniform: stream must be >= 0, got {stream}")
    positions = torch.arange(view.tokens.shape[1], device=view.tokens.device)
    return to_unit(hash_with(hash_with(view.key, stream)[:, None], positions))


def hash_with(key: Tensor, value: Tensor | int) -> Tensor:
    """Fold a value into a key: int64, broadcast. splitmix64 (Steele et al. 2014) on wrapping 64-bit numbers."""
    # -~v is v + 1: that sum of an `arange` Inductor would fold into 32-bit indices, which overflow on a GPU.
    x = key + (_signed((value + 1) * _INCREMENT) if isinstance(value, int) else -(~value) * _INCREMENT)
    x = (x ^ _shift(x, 30)) * _MIX[0]
    x = (x ^ _shift(x, 27)) * _MIX[1]
    return x ^ _shift(x, 31)


def to_unit(key: Tensor) -> Tensor:
    """int64 -> float32 strictly between 0 and 1, from the top 23 bits."""
    return (_shift(key, 41).float() + 0.5) * 2.0**-23


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63  # a Python int does not wrap by itself


def _shift(x: Tensor, n: int) -> Tensor:
    return (x >> n) & ((1 << (64 - n)) - 1)  # logical, where >> keeps the sign


def _per_row(value: float | Tensor) -> float | Tensor:
    return value[:, None] if isinstance(value, Tensor) and value.dim() else value
