"""Wall and CPU time of a piece of work, and the spread of what was measured. Knows no model.

A device works asynchronously, so a clock waits for it before it is read. CPU time is that of all threads of this
process: beside wall time it says how much of a difference other processes made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `n` measurements."""

    low: float
    median: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high, len(values))


class Took(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


Clock = Callable[[], Took]


def clock_of(device: torch.device) -> Clock:
    """A clock that waits for the device before it is read."""

    def read() -> Took:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Took(time.perf_counter(), time.process_time())

    return read


def between(start: Took, end: Took) -> Took:
    """The time that passed."""
    return Took(end.wall - start.wall, end.cpu - start.cpu)


def clocked(action: Callable[[], T], clock: Clock) -> tuple[T, Took]:
    """What an action gives, and how long it took."""
    start = clock()
    result = action()
    return result, between(start, clock())


def quickest(action: Callable[[], object], clock: Clock, repeats: int) -> float:
    """Seconds of the quickest of some repeats, after one that does not count."""
    action()
    return min(clocked(action, clock)[1].wall for _ in range(repeats))


class Deadline:
    """When to stop, and a fair share of what is left for each of the things still to do."""

    def __init__(self, budget: float, parts: int) -> None:
        """`budget` in seconds from now."""
        self._end, self._parts = time.monotonic() + budget, parts

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return time.monotonic() >= self._end

    def share(self, apart: Callable[[], float]) -> Callable[[], bool]:
        """For the next part: says whether its share is used up, or the budget.

        `apart` counts seconds that are taken from the budget and not from the share.
        """
        now, before = time.monotonic(), apart()
        end = now + (self._end - now) / max(self._parts, 1)
        self._parts -= 1
        return lambda: self.over or time.monotonic() - (apart() - before) >= end
