"""Task `trace`: run a little program; every line puts in values that earlier lines computed.

trace:a=3;b=a+9;c=b;d=b-a+1
a=3
b=3+9=12
c=12
d=12-3+1=9+1=10
#### 10
"""

import re
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm_reference_model.tasks.base import FINAL, Task, apply

_LETTERS = "abcdefgh"
_STATEMENTS = ((3, 4), (4, 6), (5, 8))  # how many, by level
_LIMIT = (20, 50, 99)  # largest value of a variable
_TERMS = ((1, 4, 1), (1, 4, 3), (1, 3, 4))  # weights of one, two and three terms on a right-hand side
_STATEMENT = re.compile(r"([a-h])=([a-h]|\d+)(?:([-+])([a-h]|\d+))?(?:([-+])([a-h]|\d+))?")


@dataclass(frozen=True)
class Trace(Task):
    """Straight-line programs of sums and differences; no value leaves 0..99."""

    name: ClassVar[str] = "trace"
    LENGTHS: ClassVar[tuple[int, int, int]] = (64, 96, 128)

    def draw(self, rng: Random) -> str:
        count = rng.randint(*_STATEMENTS[self.level - 1])
        # In order at the first level: a small model learns to look up an ordinal, but guesses between shuffled names.
        names = list(_LETTERS[:count]) if self.level == 1 else rng.sample(_LETTERS, count)
        limit = _LIMIT[self.level - 1]
        program: list[str] = []
        for at, name in enumerate(names):
            while True:  # until the value stays in range
                attempt = [*program, f"{name}={self._right(rng, names[:at])}"]
                if all(0 <= value <= limit for _, values in _run(attempt) for value in values):
                    break
            program = attempt
        return f"trace:{';'.join(program)}\n"

    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        program = self._body(prompt).split(";")
        try:
            steps = _run(program)
        except (KeyError, ValueError):
            raise self._foreign(prompt) from None
        return [*((text,) for text, _ in steps), (f"{FINAL}{steps[-1][1][-1]}",)]

    def _right(self, rng: Random, known: list[str]) -> str:
        if not known:
            return str(rng.randint(1, _LIMIT[self.level - 1] // 2))
        count = rng.choices((1, 2, 3), weights=_TERMS[self.level - 1])[0]
        right = rng.choice(known[-2:])  # a recent one, so that most lines depend on the line before
        for _ in range(count - 1):
            term = rng.choice(known) if rng.random() < 0.4 else str(rng.randint(1, 9))
            right += rng.choice("+-") + term
        return right


def _run(program: list[str]) -> list[tuple[str, list[int]]]:
    """For each statement its line of the answer and the values it went through."""
    values: dict[str, int] = {}
    steps = []
    for statement in program:
        parsed = _STATEMENT.fullmatch(statement)
        if not parsed:
            raise ValueError(f"not a statement: {statement!r}")
        name, *parts = (part for part in parsed.groups() if part)
        numbers = [values[part] if part.isalpha() else int(part) for part in parts[::2]]
        signs, went, shown = parts[1::2], [numbers[0]], name
        for at in range(len(numbers)):
            if at:
                went.append(apply(went[-1], signs[at - 1], numbers[at]))
            rest = zip(signs[at:], numbers[at + 1 :], strict=True)
            shown += f"={went[-1]}" + "".join(f"{sign}{number}" for sign, number in rest)
        values[name] = went[-1]
        steps.append((shown, went))
    return steps
