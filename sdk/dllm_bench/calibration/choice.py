"""Which setting to take: pure functions of what every setting lost and cost, prompt by prompt. Knows no scheduler.

A `loss` is the reference's quality minus the setting's on the same prompt, from -1 to 1; its mean is the accuracy lost.
A `cost` is forward passes. Both are [S, n]: S settings, n prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from dllm_bench.metrics import front
from dllm_bench.sheet import counted
from dllm_bench.significance import Floats
from dllm_sdk.errors import ConfigError

_ROUNDING = 1e-9  # a mean of just what is allowed is allowed


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a calibration looks for: the fewest passes within a loss of accuracy, or the best accuracy within a budget.

    `guarantee` is the probability, over the draw of the prompts, with which the loss stays within its bound on all
    prompts of this kind; None asks for the bound on the calibration prompts only.
    """

    max_accuracy_loss: float | None = None  # percentage points; 1 if there is no budget either
    max_nfe: float | None = None  # forward passes per prompt
    guarantee: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.max_nfe is not None:
            for name in ("max_accuracy_loss", "guarantee"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"max_nfe looks for the best accuracy within a budget: give it without {name}")
        _check("max_accuracy_loss", self.max_accuracy_loss, 0, 100)
        _check("max_nfe", self.max_nfe, 1, inf)
        if self.guarantee is not None and not 0 < self.guarantee < 1:
            raise ConfigError(f"guarantee must be a probability between 0 and 1, such as 0.9, got {self.guarantee!r}")

    @property
    def bound(self) -> float:
        """The loss that is allowed, as a share."""
        return 0.01 if self.max_accuracy_loss is None else self.max_accuracy_loss / 100

    def __str__(self) -> str:
        if self.max_nfe is not None:
            return f"the best accuracy within {counted(self.max_nfe, 'forward pass', 'forward passes')} per prompt"
        sure = "" if self.guarantee is None else f" with probability {self.guarantee:g}"
        return f"the fewest forward passes with at most {counted(100 * self.bound, 'point')} of accuracy lost{sure}"

    def choose(self, loss: Floats, cost: Floats) -> int | None:
        """The setting that reaches the target on these prompts, or None."""
        losses, costs = loss.mean(1), cost.mean(1)
        if self.max_nfe is not None:
            return _least(losses, costs, costs <= self.max_nfe + _ROUNDING)
        if self.guarantee is not None:
            return guaranteed(loss, cost, self.bound, self.guarantee)
        return _least(costs, losses, losses <= self.bound + _ROUNDING)


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        allowed = f">= {low:g}" if high == inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} must be a number {allowed}, got {value!r}")


def _least(first: Floats, then: Floats, among: NDArray[np.bool_]) -> int | None:
    """The index with the smallest `first`, ties by `then`, then by order; None where there is none."""
    return min((int(i) for i in np.flatnonzero(among)), key=lambda i: (first[i], then[i]), default=None)


def guaranteed(loss: Floats, cost: Floats, bound: float, probability: float) -> int | None:
    """The cheapest setting whose expected loss is at most `bound` with `probability`; None if none can be shown.

    Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candes et al., arXiv:2110.01052) with fixed-sequence testing:
    the first half of the prompts says which settings lie on the front within the bound, and orders them, least loss
    first; on the second half each is tested in that order at level 1 - probability, and the first that fails ends it.
    So the chance that the answer's loss is above the bound is at most 1 - probability, for any number of prompts and
    settings, and without a loss that must grow from setting to setting. The prompts must be in random order.
    """
    half = loss.shape[1] // 2
    losses = loss[:, :half].mean(1)
    found = None
    for i in front(losses, cost[:, :half].mean(1)):
        if losses[i] > bound + _ROUNDING or p_value(loss[i, half:], bound, 1 - probability) > 1 - probability:
            break
        found = i
    return found


def p_value(loss: Floats, bound: float, level: float) -> float:
    """Evidence against "the expected loss is above the bound", from n losses in [-1, 1] in random order; 1: none.

    A bet against the hypothesis, whose capital can hardly grow while it is true (Ville's inequality): with
    x = (1 - loss) / 2 and m = (1 - bound) / 2,

        K_t = product over i <= t of (1 + b_i (x_i - m)),  p = min(1, 1 / max K_t)

    I. Waudby-Smith and A. Ramdas, arXiv:2010.09686. The bets b_i are their predictable plug-in ones, from the variance
    of what came before, made for `level`. Valid for every n; it needs about 2 variance log(1 / level) / gap^2
    prompts, with gap how far the loss lies below the bound.
    """
    x, m = (1 - loss) / 2, (1 - bound) / 2
    n = len(x)
    count = np.arange(1, n + 1)
    mean = (0.5 + x.cumsum()) / (count + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum()) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.minimum(np.sqrt(2 * log(1 / level) / (n * before)), 0.75 / m)
    capital = np.cumprod(1 + bets * (x - m))
    return float(min(1.0, 1 / capital.max(initial=1.0)))
