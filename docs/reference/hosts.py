"""Write hosts.md, the table of strategies and hosts, from what each scheduler needs: `python docs/reference/hosts.py`.

Every shipped scheduler is asked with its default fields, and with the host's block where it has such a field.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dllm_sdk import Scheduler, load_scheduler, registry
from dllm_sdk.bridges.block import bound
from dllm_sdk.bridges.hosts import obstacle, rehearse

PAGE = Path(__file__).with_suffix(".md")
SIZE = 8  # of the host's block; which one makes no difference
HEAD = """# Which strategy runs where

A strategy is written and checked here once and deployed where models are served already: in
[transformers](../how-to/transformers.md), [diffusers](../how-to/diffusers.md) or [SGLang](../how-to/sglang.md).
transformers runs our own loop, so every strategy works there. The other two own the block: SGLang's server fixes it
when it starts, `LLaDA2Pipeline` for a call, and both show a strategy the logits of one block at a time. What needs more
is refused at construction, with a sentence that says why.

Nothing here is written by hand: `docs/reference/hosts.py` asks every shipped scheduler, with its default fields and
the host's block length, what it declares, and watches it decode two blocks. *Draws anew*: it works, and its random
numbers are others than in our own loop, since they come from the block and its place, not from the whole row.

| strategy | transformers | diffusers | SGLang | why |
| --- | --- | --- | --- | --- |
"""
FOOT = """
What both hosts do as our loop does: state per row, edits, and masking a token of the block again. PLAN+SELECT, with a
plan of the host's block, brings the commit rule of a refused strategy along, as in `threshold:block=32+p2:steps=8`.
A prompt that ends inside a block of the host leaves the rest of it as the first block.
"""


def fitted(scheduler: Scheduler[Any]) -> Scheduler[Any]:
    """With the host's block in its fields, those of a scheduler inside it included."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(scheduler):
        value = getattr(scheduler, item.name)
        if isinstance(value, Scheduler):
            changes[item.name] = fitted(value)
        elif item.name == "block":
            changes[item.name] = SIZE
    return dataclasses.replace(scheduler, **changes)


def row(name: str) -> str:
    """A line of the table."""
    scheduler = fitted(load_scheduler(name))
    why = obstacle(scheduler, SIZE, eos_ids=(1,))
    if why is not None:
        return f"| `{name}` | yes | no | no | {why.partition(';')[0]} |"
    draws = "key" in rehearse(bound(scheduler, (1,)), SIZE).read
    said = "draws anew" if draws else "yes"
    return f"| `{name}` | yes | {said} | {said} | |"


def page() -> str:
    """The whole page."""
    points = registry.available("scheduler").items()
    ours = [name for name, point in points if point.dist is not None and point.dist.name == "dllm-sdk"]
    return HEAD + "".join(f"{row(name)}\n" for name in ours) + FOOT


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
