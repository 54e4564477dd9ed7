"""Several processes that train one model, each on its share of every batch. It knows no model and no optimiser.

Two processes of one thread each beat one of two threads by about a quarter, and by far on a machine that is not idle:
they wait for each other twice a step, threads at every matrix product.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


class Peers:
    """One of `count` processes; alone it has nobody to wait for."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all processes, in place; the same bits everywhere."""
        if self.count > 1:
            dist.all_reduce(tensor)


def together(count: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work(*arguments, peers=...)` in `count` processes of one thread each; they end, also killed, together."""
    if count == 1:
        torch.set_num_threads(1)
        work(*arguments, peers=Peers())
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        spawn(_join, (count, meeting, work, arguments), nprocs=count)  # type: ignore[no-untyped-call]


def _join(rank: int, count: int, meeting: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Torch ends the processes of a killed parent by this signal, which a shell makes its background jobs ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        work(*arguments, peers=Peers(rank, count))
    finally:
        dist.destroy_process_group()
    # Not by way of Python's end, which kills threads that still want the interpreter: one of gloo's takes the process
    # with it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
