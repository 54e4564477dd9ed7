"""Task `expr`: reduce an arithmetic expression, one operation per line. Early lines are long, late ones short.

expr:3+(9-4)*2
=3+5*2
=3+10
=13
#### 13
"""

import re
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm_reference_model.tasks.base import FINAL, Task, apply

_OPERATIONS = ((2, 3), (3, 5), (4, 6))  # how many, by level
_LIMIT = (40, 99, 99)  # largest value that may occur
_OPERAND = (20, 50, 99)  # largest number in the prompt
_ORDER = tuple(re.compile(p) for p in (r"\((\d+)([-+*])(\d+)\)", r"(\d+)(\*)(\d+)", r"(\d+)([-+])(\d+)"))
_GRAMMAR = re.compile(r"(\d+|\(\d+[-+*]\d+\))([-+*](\d+|\(\d+[-+*]\d+\)))+")


@dataclass(frozen=True)
class Expr(Task):
    """Brackets first, then products, then sums from the left; no value leaves 0..99."""

    name: ClassVar[str] = "expr"
    LENGTHS: ClassVar[tuple[int, int, int]] = (32, 64, 80)

    def draw(self, rng: Random) -> str:
        while True:
            expression = self._expression(rng)
            if all(0 <= value <= _LIMIT[self.level - 1] for _, value in _reductions(expression)):
                return f"expr:{expression}\n"

    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        expression = self._body(prompt)
        steps = _reductions(expression)
        if not _GRAMMAR.fullmatch(expression) or any(value < 0 for _, value in steps):
            raise self._foreign(prompt)
        return [*((f"={text}",) for text, _ in steps), (f"{FINAL}{steps[-1][1]}",)]

    def _expression(self, rng: Random) -> str:
        operations = rng.randint(*_OPERATIONS[self.level - 1])
        operators = rng.choices("+-*", weights=(4, 4, 3), k=operations)
        # A factor is small, or nearly every draw would be thrown away.
        near = zip([*operators, "+"], ["+", *operators], strict=True)
        parts = [str(rng.randint(1, 9 if "*" in pair else _OPERAND[self.level - 1])) for pair in near]
        if rng.random() < 0.6:
            at = rng.randrange(operations)
            parts[at], parts[at + 1] = f"({parts[at]}", f"{parts[at + 1]})"
        return parts[0] + "".join(operator + part for operator, part in zip(operators, parts[1:], strict=True))


def _reductions(expression: str) -> list[tuple[str, int]]:
    """The expression after each operation, with the value that the operation gave."""
    steps = []
    while found := next((hit for pattern in _ORDER if (hit := pattern.search(expression))), None):
        value = apply(int(found[1]), found[2], int(found[3]))
        expression = f"{expression[: found.start()]}{value}{expression[found.end() :]}"
        steps.append((expression, value))
    return steps
