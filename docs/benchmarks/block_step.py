"""What a block step costs beside a full one on a long canvas: `python docs/benchmarks/block_step.py`.

Forward passes of the reference transformer with random weights, full and with a store, timed in turn on one thread;
medians and quartiles. "without attention" subtracts the attention kernel's own time, measured on the same shapes: the
block's queries still look at every key.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer


def timed(actions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each action, alternating, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@click.command()
@click.option("--canvas", default=4096, show_default=True)
@click.option("--block", default=32, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--layers", default=8, show_default=True)
@click.option("--repeats", default=7, show_default=True)
@torch.inference_mode()
def main(canvas: int, block: int, width: int, layers: int, repeats: int) -> None:
    """Time full and block forward passes on a canvas of that length."""
    torch.set_num_threads(1)
    heads = width // 64
    config = Config(4096, 4095, width, layers, heads, heads, 4 * width, max_length=canvas)
    model = Transformer(config).freeze()
    tokens, positions = torch.randint(0, 4000, (1, canvas)), torch.arange(canvas)[None]
    store = model.new_store(1, canvas + 1)
    mask = (torch.arange(canvas + 1) < canvas)[None, None]
    lanes = positions[:, canvas // 2 : canvas // 2 + block]
    query, keys = torch.randn(1, heads, canvas, 64), torch.randn(1, heads, canvas + 1, 64)

    def attention(queries: Tensor) -> Tensor:
        for _ in range(layers):
            F.scaled_dot_product_attention(queries, keys, keys, attn_mask=mask[:, None])
        return queries

    model(tokens, positions, store, mask)
    found = timed(
        {
            "full": lambda: model(tokens, positions, store, mask),
            "block": lambda: model(tokens.gather(1, lanes), lanes, store, mask),
            "full attention": lambda: attention(query),
            "block attention": lambda: attention(query[:, :, :block].contiguous()),
        },
        repeats,
    )
    middle = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(f"{name:16} {1000 * middle[name]:8.1f} ms  [{1000 * low:.1f}, {1000 * high:.1f}]")
    rest = (middle["block"] - middle["block attention"]) / (middle["full"] - middle["full attention"])
    print(f"block / full: {middle['block'] / middle['full']:.3f}; without attention: {rest:.3f}")


if __name__ == "__main__":
    main()
