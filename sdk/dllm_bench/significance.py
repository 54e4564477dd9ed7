"""The formulas behind "is this difference real": intervals, a paired test, a sample size.

Knows no schedulers, only counts and columns of numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, comb, sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]

_AT_ONCE = 1_000_000  # lines drawn at once, for the sake of memory
_Z_95, _Z_POWER = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)  # of 95 % intervals; of 80 % power


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share, (low, high) from 0 to 1; n must be >= 1.

    With p = successes / n and z = 1.96, the normal quantile of 0.975:

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    E. B. Wilson, JASA 22 (1927) 209-212. Unlike p -+ z s it stays inside 0..1 and has a width at 0 and n successes.
    """
    z, p = _Z_95, successes / n
    middle = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # the two ends are exact where rounding would leave 2e-17
    return (middle - half) / scale if successes else 0.0, (middle + half) / scale if successes < n else 1.0


def bootstrap(values: Floats, statistic: Callable[[Floats], Floats], *, resamples: int = 2_000) -> tuple[float, float]:
    """95 % bootstrap interval, (low, high), of a statistic of column means; the same for the same values.

    `values` [n, k] has one line per prompt: a line is drawn as a whole, so what is in it stays paired. `statistic` maps
    means [r, k] to [r]. n lines are drawn with replacement, `resamples` times, and the interval goes between two
    quantiles of the statistics: a and 1 - a with, for Student's t,

        a = Phi(-t sqrt(n / (n - 1))),  t = z + (z^3 + z) / (4 (n - 1)),  z = 1.96, the normal quantile of 0.975

    which is the expanded percentile interval of T. C. Hesterberg, The American Statistician 69 (2015) 371-386: plain
    percentiles are too narrow. No BCa: means and ratios of means over 100 prompts and more have too little skew for it
    to matter, and it is undefined where all lines are equal. There the interval is a point.
    """
    rng, n, z = np.random.default_rng(0), len(values), _Z_95
    chunk = max(1, _AT_ONCE // n)
    found = [statistic(_drawn(values, min(chunk, resamples - start), rng)) for start in range(0, resamples, chunk)]
    freedom = max(1, n - 1)
    tail = NormalDist().cdf(-(z + (z**3 + z) / (4 * freedom)) * sqrt(n / freedom))
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def _drawn(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means [resamples, k] of n lines drawn with replacement: how often each was drawn, times its values."""
    n = len(values)
    which = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    times = np.bincount(which.ravel(), minlength=resamples * n).reshape(resamples, n)
    return np.asarray(times.astype(float) @ values / n)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: prompts that only the first, or only the second, answered rightly.

    Under "no difference" each of the d = only_first + only_second discordant prompts falls on either side like a coin:

        p = min(1, 2 * sum over k <= min(only_first, only_second) of C(d, k) / 2^d)

    Q. McNemar, Psychometrika 12 (1947) 153-157, in its exact binomial form.
    """
    discordant = only_first + only_second
    tail = sum(comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def prompts_needed(difference: float, discordance: float) -> int | None:
    """How many prompts a paired comparison needs to show `difference` (a share) at 5 %, two-sided, with 80 % power.

    `discordance` is the share of prompts on which the two disagree; None where there is no difference to show. With
    z_a, z_b the normal quantiles of 0.975 and of 0.8:

        n = (z_a sqrt(discordance) + z_b sqrt(discordance - difference^2))^2 / difference^2 + 1 / |difference|

    R. J. Connor, Biometrics 43 (1987) 207-211, but for the last term: the exact test asks for a little more than the
    normal approximation, and without it the power is 77 % in simulations. At least 6: fewer never give it p < 0.05.
    """
    if difference == 0:
        return None
    spread = _Z_95 * sqrt(discordance) + _Z_POWER * sqrt(max(0.0, discordance - difference**2))
    return max(6, ceil((spread / difference) ** 2 + 1 / abs(difference)))
