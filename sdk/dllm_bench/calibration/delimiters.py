"""Which tokens a block might end at: punctuation and white space behind which the model gets less sure.

AdaBlock (arXiv:2509.26432) ends a block at a delimiter because confidence falls there; this looks where it does. Knows
tokens and numbers, no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_DROP = 0.05  # on average, against all drafts
_LEAST_COUNT = 30
_SPREADS = 3.0  # standard errors that the drop must be away from that of all drafts


@dataclass(frozen=True)
class Delimiter:
    """A token of punctuation or white space, drafted before another open position."""

    id: int
    text: str
    count: int  # drafts
    drop: float  # mean fall of confidence to the next position
    proposed: bool


def delimiters(tokenizer: Any, drops: NDArray[np.float64]) -> list[Delimiter]:
    """Those seen at least 30 times, the largest drop first. `drops` [3, V]: count, sum and sum of squares by token."""
    count, total, squares = drops
    usual = total.sum() / max(1, count.sum())
    found = []
    for token in np.flatnonzero(count >= _LEAST_COUNT).tolist():
        text = tokenizer.decode([token])
        if text and not any(letter.isalnum() for letter in text):
            n, mean = int(count[token]), float(total[token] / count[token])
            error = sqrt(max(0.0, squares[token] / n - mean**2) / n)
            drop = float(mean - usual)
            found.append(Delimiter(token, text, n, mean, drop >= _LEAST_DROP and drop > _SPREADS * error))
    return sorted(found, key=lambda one: -one.drop)


def proposed(found: Sequence[Delimiter]) -> tuple[int, ...]:
    """The ids to end blocks at."""
    return tuple(sorted(one.id for one in found if one.proposed))
