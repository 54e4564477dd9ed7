"""Task `record`: pick fields of a record in a given order. Nothing to compute, all to copy, in values of any length.

record:age=31;time=12:40;job=cook;tags=red+blue|job,time
{
job=cook
time=12:40
}
#### cook,12:40
"""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from dllm_reference_model.tasks.base import FINAL, Task

_FIELDS = ((4, 5), (5, 7), (6, 8))  # fields in the record, by level
_PICKED = ((2, 3), (3, 4), (4, 5))
_WORDS = {
    "name": ("ada", "bo", "cy", "dee", "eli", "fay", "gil", "hal"),
    "city": ("rome", "oslo", "lima", "kiev", "bern", "cairo", "delhi", "tokyo"),
    "job": ("cook", "nurse", "pilot", "clerk", "baker", "judge", "miner", "tailor"),
}
_COLOURS = ("red", "blue", "tan", "gold", "pink", "gray")
_KEYS = (*_WORDS, "age", "time", "date", "tags", "size")


@dataclass(frozen=True)
class Record(Task):
    """Copying by key, in another order than the record's."""

    name: ClassVar[str] = "record"
    LENGTHS: ClassVar[tuple[int, int, int]] = (48, 64, 80)

    def draw(self, rng: Random) -> str:
        keys = rng.sample(_KEYS, rng.randint(*_FIELDS[self.level - 1]))
        picked = rng.sample(keys, rng.randint(*_PICKED[self.level - 1]))
        return f"record:{';'.join(f'{key}={_value(key, rng)}' for key in keys)}|{','.join(picked)}\n"

    def lines(self, prompt: str) -> list[tuple[str, ...]]:
        fields, bar, picked = self._body(prompt).partition("|")
        values = dict(field.split("=", 1) for field in fields.split(";") if "=" in field)
        keys = picked.split(",")
        if not bar or any(key not in values for key in keys):
            raise self._foreign(prompt)
        body = [(f"{key}={values[key]}",) for key in keys]
        return [("{",), *body, ("}",), (FINAL + ",".join(values[key] for key in keys),)]


def _value(key: str, rng: Random) -> str:
    if key in _WORDS:
        return rng.choice(_WORDS[key])
    if key == "tags":
        return "+".join(rng.sample(_COLOURS, rng.randint(1, 3)))
    count, sign = {"age": (1, ""), "time": (2, ":"), "date": (3, "-"), "size": (2, "*")}[key]
    return sign.join(str(rng.randint(0, 99)) for _ in range(count))
