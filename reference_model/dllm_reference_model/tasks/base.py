"""What every task shares: seeded prompts, the split into train, validation and test, and exact scoring.

A task only says how a prompt is drawn and, line by line, what may stand in the answer to it. It knows no model.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

SPLITS = ("train", "validation", "test")
FINAL = "#### "  # opens the last line of every answer
_SPLIT_OF_DIGIT = {0: "validation", 1: "test"}  # of ten; the others train
_TRIES = 200  # draws allowed per prompt asked for, before a split counts as exhausted


class Score(NamedTuple):
    """How good one answer is."""

    answer: bool  # the last line is right
    strict: bool  # every line is right


def split_of(prompt: str) -> str:
    """The one split that a prompt belongs to, by a hash of its text: 80 % train, 10 % validation, 10 % test.

    It depends on nothing else, so a training sample can never be a test prompt, whatever the seeds.
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    return _SPLIT_OF_DIGIT.get(int.from_bytes(digest[:8], "big") % 10, "train")


@dataclass(frozen=True)
class Task(ABC):
    """Prompts and an exact checker. `level` is the difficulty: 1 is what `tiny` was trained on, 2 and 3 are harder."""

    level: int = 1

    name: ClassVar[str]
    LENGTHS: ClassVar[tuple[int, int, int]]  # tokens that the longest answer and its EOS need, by level

    def __post_init__(self) -> None:
        if self.level not in (1, 2, 3):
            raise ValueError(f"level must be 1, 2 or 3, got {self.level!r}")

    @property
    def gen_length(self) -> int:
        """Positions to generate, a multiple of 16: any answer of this level and the EOS behind it fit."""
        return self.LENGTHS[self.level - 1]

    @abstractmethod
    def draw(self, rng: Random) -> str:
        """One prompt. It ends with a line break; the answer starts on the next line."""

    @abstractmethod
    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        """For each line of the answer the wordings that are right, the final line last.

        Raises ValueError if the prompt is not one of this task.
        """

    def sample(self, rng: Random, split: str = "train") -> tuple[str, str]:
        """A prompt of a split with one right answer, each line in a wording drawn at random."""
        prompt = next(self._stream(rng, split))
        return prompt, "\n".join(rng.choice(wordings) for wordings in self.lines(prompt))

    def prompts(self, split: str, n: int, seed: int) -> list[str]:
        """`n` different prompts of "train", "validation" or "test"; the same for the same seed."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        stream = self._stream(Random(f"{self.name}/{self.level}/{split}/{seed}"), split)
        found: dict[str, None] = {}
        for _, prompt in zip(range(_TRIES * n), stream, strict=False):
            found[prompt] = None
            if len(found) == n:
                return list(found)
        raise ValueError(f"task {self.name} has fewer than {n} different {split} prompts at level {self.level}")

    def check(self, prompt: str, text: str) -> Score:
        """Score an answer: its last line, and whether every line is one of the right wordings."""
        right = self.lines(prompt)
        given = text.rstrip("\n").split("\n")
        strict = len(given) == len(right) and all(line in ok for line, ok in zip(given, right, strict=True))
        return Score(answer=given[-1] in right[-1], strict=strict)

    def _stream(self, rng: Random, split: str) -> Iterator[str]:
        while True:
            prompt = self.draw(rng)
            if split_of(prompt) == split:
                yield prompt

    def _body(self, prompt: str) -> str:
        """The prompt without its `name:` and line break."""
        head = f"{self.name}:"
        if not (prompt.startswith(head) and prompt.endswith("\n")):
            raise self._foreign(prompt)
        return prompt[len(head) : -1]

    def _foreign(self, prompt: str) -> ValueError:
        return ValueError(f"not a prompt of the task {self.name}: {prompt!r}")


def apply(left: int, operator: str, right: int) -> int:
    """The value of `left operator right` for +, - and *."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]
