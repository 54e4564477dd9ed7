"""Task `story`: a word problem, solved in prose. How a line is worded is free, so nobody can know how long it will be.

story:Ann has 12 pens. Ben gives Ann 5 pens. Ann sells 3 pens. How many pens has Ann?
There are 12 pens at first.
Now Ann has 12+5=17 pens.
17-3=14.
#### 14
"""

import re
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm_reference_model.tasks.base import FINAL, Task, apply

_EVENTS = ((2, 2), (3, 4), (4, 5))  # how many, by level
_LIMIT = (40, 99, 99)  # largest number that may occur
_CHANGE = (12, 40, 60)  # largest number in an event
_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Ida")
_THINGS = ("pens", "cups", "eggs", "coins", "cards", "books")

_MORE = ("{name} buys {n} {things}.", "{name} finds {n} more {things}.", "{other} gives {name} {n} {things}.")
_LESS = ("{name} sells {n} {things}.", "{name} loses {n} of the {things}.", "{name} gives {other} {n} {things}.")

_FIRST = ("{n} {things}.", "There are {n} {things} at first.", "In the beginning {name} has {n} {things}.")
_AFTER = (
    "{sum}.",
    "Now {name} has {sum} {things}.",
    "After that there are {sum} {things}.",
)
_GAIN = ("With the {n} new {things} it is {sum} in all.",)
_LOSS = ("Without those {n} {things} it is only {sum}.",)

_START = re.compile(r"(?P<name>\w+) has (?P<n>\d+) (?P<things>\w+)")
_EVENT = re.compile(r"(?P<left>\w+) (?P<verb>buys|finds|sells|loses|gives)(?: (?P<right>[A-Z]\w+))? (?P<n>\d+) .*")


@dataclass(frozen=True)
class Story(Task):
    """Sums and differences behind free wording; every wording of a line counts as right."""

    name: ClassVar[str] = "story"
    LENGTHS: ClassVar[tuple[int, int, int]] = (64, 96, 128)

    def draw(self, rng: Random) -> str:
        name, other = rng.sample(_NAMES, 2)
        things, limit = rng.choice(_THINGS), _LIMIT[self.level - 1]
        have = rng.randint(1, limit // 2)
        sentences = [f"{name} has {have} {things}."]
        for _ in range(rng.randint(*_EVENTS[self.level - 1])):
            gain = have == 0 or (have < limit and rng.random() < 0.5)
            n = rng.randint(1, min(_CHANGE[self.level - 1], limit - have if gain else have))
            sentences.append(rng.choice(_MORE if gain else _LESS).format(name=name, other=other, n=n, things=things))
            have += n if gain else -n
        return f"story:{' '.join(sentences)} How many {things} has {name}?\n"

    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        first, *events = re.split(r"\. ?", self._body(prompt))[:-1] or [""]  # without the question
        start, changes = _START.fullmatch(first), [_EVENT.fullmatch(event) for event in events]
        if not start or not changes:
            raise self._foreign(prompt)
        words, have = start.groupdict(), int(start["n"])
        answer = [tuple(wording.format(**words) for wording in _FIRST)]
        for change in changes:
            if not change:
                raise self._foreign(prompt)
            gain = change["verb"] in ("buys", "finds") or change["right"] == words["name"]
            now = apply(have, "+" if gain else "-", int(change["n"]))
            words |= {"n": change["n"], "sum": f"{have}{'+' if gain else '-'}{change['n']}={now}"}
            wordings = (*_AFTER, *(_GAIN if gain else _LOSS))
            answer.append(tuple(wording.format(**words) for wording in wordings))
            have = now
        return [*answer, (f"{FINAL}{have}",)]
