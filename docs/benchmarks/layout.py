"""What the layout and the type of the weights are worth on a CPU: `python docs/benchmarks/layout.py`.

Forward passes, head included, of a model as it is trained and as it decodes (frozen: one product per input, its weights
packed where they are many), and of the frozen model in bfloat16 and with weights in eight bits (extra `int8`), in turn
on one thread; ratios are taken turn by turn. Then what the shipped model writes in each type. Writes layout.json, which
speed.py puts on its page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import torch
from block_step import timed
from torch import Tensor

from dllm_bench import compare
from dllm_bench.timing.clocks import Spread, spread
from dllm_reference_model.shapes import random_weights
from dllm_sdk.bridges.torchao import quantize

SHAPES = ("tiny", "10M", "100M")
SCHEDULERS = ("fixed-block", "confidence-adaptive", "adablock")
TYPES = {"float32": ("tiny", "float32"), "bfloat16": ("tiny", "bfloat16"), "int8": ("int8:tiny", "float32")}
CANVAS = 192
PASSES = {"block of 8": 8, "block of 32": 32, "full": CANVAS}


@click.command()
@click.option("--turns", default=60, show_default=True, help="Forward passes of each kind and layout.")
@click.option("--limit", default=500, show_default=True, help="Prompts for the accuracy.")
def main(turns: int, limit: int) -> None:
    """Measure on one thread and write layout.json."""
    torch.set_num_threads(1)
    passes = [row for shape in SHAPES for row in forward_passes(shape, turns)]
    rows = [row for kind, (model, dtype) in TYPES.items() for row in accuracy(kind, model, dtype, limit)]
    flags = Path("/proc/cpuinfo").read_text("utf-8")
    found = {
        "torch": torch.__version__,
        "bfloat16": [one for one in ("amx_bf16", "avx512_bf16") if one in flags],  # instructions that multiply it
        "canvas": CANVAS,
        "turns": turns,
        "limit": limit,
        "passes": passes,
        "accuracy": rows,
    }
    Path(__file__).with_name("layout.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@torch.inference_mode()
def forward_passes(shape: str, turns: int) -> list[dict[str, Any]]:
    """Milliseconds and ratios of the kinds of forward pass of a shape."""
    frozen = random_weights(shape)
    models = {
        "trained": deepcopy(frozen).train(),
        "frozen": frozen,
        "bfloat16": deepcopy(frozen).bfloat16(),
        "int8": quantize(deepcopy(frozen)),
    }
    tokens, positions = torch.randint(0, 400, (1, CANVAS)), torch.arange(CANVAS)[None]
    rows = []
    for kind, lanes in PASSES.items():
        fed = positions[:, CANVAS - lanes :]
        actions: dict[str, Callable[[], Tensor]] = {}
        for name, model in models.items():
            store = model.new_store(1, CANVAS)
            model(tokens, positions, store)

            def action(model: Any = model, store: Any = store, fed: Tensor = fed) -> Tensor:
                head: Tensor = model.head(model(tokens.gather(1, fed), fed, store))
                return head

            actions[name] = action
        seconds = timed(actions, turns)
        against = {
            name: told([a / b for a, b in zip(seconds["trained"], seconds[name], strict=True)])
            for name in ("frozen", "bfloat16", "int8")
        }
        ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
        rows.append({"shape": shape, "kind": kind, "ms": ms, "times_as_fast": against})
        click.echo(f"{shape:5} {kind:11} " + ", ".join(f"{name} {one[1]:.2f}" for name, one in against.items()))
    return rows


def told(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    found: Spread = spread(values)
    return found.low, found.median, found.high


def accuracy(kind: str, model: str, dtype: str, limit: int) -> list[dict[str, Any]]:
    """What the shipped model gets right, and in how many passes."""
    found = compare(model, SCHEDULERS, limit=limit, dtype=dtype)
    return [
        {"dtype": kind, "scheduler": row.scheduler, "nfe": row.nfe}
        | {name: getattr(row, name) for name in ("accuracy", "accuracy_low", "accuracy_high")}
        for row in found.rows
    ]


if __name__ == "__main__":
    main()
