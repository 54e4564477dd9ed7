"""Is the model as often right as it is sure, and what would make it so: isotonic regression of a column of numbers.

Pure functions of confidences and outcomes; knows no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllm_bench.significance import Floats

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Drafts whose confidence lies in one tenth of 0..1."""

    count: int
    confidence: float  # mean
    stays: float  # share that was right


@dataclass(frozen=True)
class Reliability:
    """How often a draft stays, by how sure the model was of it: before and after isotonic recalibration."""

    before: Sequence[Bin]
    after: Sequence[Bin]
    error_before: float  # expected calibration error
    error_after: float
    curve: Sequence[tuple[float, float]]  # confidence -> how often such a draft stays: the steps of the regression


def reliability(fit: tuple[Floats, Floats], check: tuple[Floats, Floats]) -> Reliability:
    """Fit on some drafts, look at others; each is confidences [N] in 0..1 and whether they stayed, 0 or 1, [N].

    Where there are none to fit on, confidence stays as it is and the curve is empty.
    """
    steps, levels = isotonic(*fit)
    confidence, stays = check
    again = apply(steps, levels, confidence)
    before, after = bins(confidence, stays), bins(again, stays)
    curve = [(float(x), float(y)) for x, y in zip(steps, levels, strict=True)]
    return Reliability(before, after, expected_error(before), expected_error(after), curve)


def isotonic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The rising step function nearest to y in squares: where each step starts [K], and its level [K].

    Pool adjacent violators (M. Ayer et al., Ann. Math. Statist. 26 (1955) 641-647). Equal x have one level.
    """
    values, place = np.unique(x, return_inverse=True)
    weights = np.bincount(place)
    means = np.bincount(place, weights=y) / weights
    pools: list[list[float]] = []  # start, weight, mean
    for start, weight, mean in zip(values, weights, means, strict=True):
        pools.append([start, weight, mean])
        while len(pools) > 1 and pools[-2][2] >= pools[-1][2]:
            (first, a, p), (_, b, q) = pools[-2:]
            pools[-2:] = [[first, a + b, (a * p + b * q) / (a + b)]]
    table = np.array(pools).reshape(-1, 3)  # of no points, too
    return table[:, 0], table[:, 2]


def apply(steps: Floats, levels: Floats, x: Floats) -> Floats:
    """The step function at x [N]; below its first step the first level; x itself where there is no step."""
    if not len(steps):
        return x
    found: Floats = levels[np.searchsorted(steps, x, side="right").clip(min=1) - 1]
    return found


def bins(confidence: Floats, stays: Floats) -> list[Bin]:
    """The `BINS` tenths of 0..1; an empty one has means of 0."""
    number: NDArray[np.intp] = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    sums = (
        np.bincount(number, weights=column, minlength=BINS) / np.maximum(counts, 1) for column in (confidence, stays)
    )
    return [Bin(int(n), float(mean), float(share)) for n, mean, share in zip(counts, *sums, strict=True)]


def expected_error(found: Sequence[Bin]) -> float:
    """Expected calibration error: the mean gap, weighted by count (C. Guo et al., arXiv:1706.04599, eq. 5)."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.confidence - one.stays) for one in found) / max(1, total)
