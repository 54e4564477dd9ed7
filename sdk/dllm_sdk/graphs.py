"""A function as a CUDA graph: recorded once, and replayed on whatever lies in the same place in memory then.

Knows streams, memory pools and trees of tensors; no model, and nothing of what the function does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dllm_sdk.trees import alike, map_tensors, tensors_of


class Captured:
    """A function of rows: it is recorded once, and replayed on what lies in their place then."""

    def __init__(self, function: Callable[[Any], Any], rows: Any, pool: list[Any], key: Hashable) -> None:
        """function: has run before, on rows like these; pool: the memory that all graphs share.

        key: what it is known by, and what holds the tensors that are read besides the rows and those of the model.
        """
        self.key = key  # keeps these tensors alive; to keep the function would keep the model, too
        with _apart():
            for _ in range(2):
                found = function(rows)
        # Outside of the pool, whose memory the next graph uses again.
        self.outputs = alike(
            found, [rows if isinstance(one, type(rows)) else map_tensors(torch.empty_like, one) for one in found]
        )
        self.replay = _record(lambda: move_into(self.outputs, function(rows)), pool)

    def __call__(self) -> Any:
        """The outputs, which the next call overwrites."""
        self.replay()
        return self.outputs


@cache
def _other_stream(device: int) -> torch.cuda.Stream:
    """The same one for all: each would keep memory of its own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _apart() -> Iterator[None]:
    """On another stream, as a function that is to be captured must be run before."""
    stream = _other_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _record(run: Callable[[], None], pool: list[Any]) -> Callable[[], None]:
    """A CUDA graph of a function without arguments and results."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool[0] if pool else None):
        run()
    pool[:] = [graph.pool()]
    return graph.replay


def move_into(targets: Any, sources: Any) -> None:
    """`copy_into` where sources may lie in the targets' memory: these are read before anything is written."""
    pairs = [pair for pair in zip(tensors_of(targets), tensors_of(sources), strict=True) if pair[0] is not pair[1]]
    memory = {target.untyped_storage().data_ptr() for target in tensors_of(targets)}
    apart = [one.clone() if one.untyped_storage().data_ptr() in memory else one for _, one in pairs]
    copy_into([target for target, _ in pairs], apart)


def copy_into(targets: Any, sources: Any) -> None:
    """Tensors into tensors, those of one type together: a few kernels for all of them."""
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for target, source in zip(tensors_of(targets), tensors_of(sources), strict=True):
        if target.numel():
            pairs[target.dtype].append((target, source))
    for same in pairs.values():
        torch._foreach_copy_([target for target, _ in same], [source for _, source in same])
