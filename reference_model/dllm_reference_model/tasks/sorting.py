"""Task `sort`: take the smallest number out again and again; every line shows what is left. Lines shrink steadily.

sort:34,7,92
7|34,92
34|92
92|
#### 7,34,92
"""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm_reference_model.tasks.base import FINAL, Task

_COUNTS = ((4, 5), (5, 7), (6, 9))  # how many numbers, by level


@dataclass(frozen=True)
class Sort(Task):
    """Selection sort of different numbers below 100."""

    name: ClassVar[str] = "sort"
    LENGTHS: ClassVar[tuple[int, int, int]] = (48, 80, 128)

    def draw(self, rng: Random) -> str:
        numbers = rng.sample(range(100), rng.randint(*_COUNTS[self.level - 1]))
        return f"sort:{_join(numbers)}\n"

    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        try:
            left = [int(word) for word in self._body(prompt).split(",")]
        except ValueError:
            raise self._foreign(prompt) from None
        ordered = sorted(left)
        answer = []
        for smallest in ordered:
            left.remove(smallest)
            answer.append((f"{smallest}|{_join(left)}",))
        return [*answer, (FINAL + _join(ordered),)]


def _join(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
