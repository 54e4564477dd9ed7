"""What the machine can do at most, measured in the same run: bytes moved and products made per second."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dllm_bench.timing.clocks import clock_of, quickest
from dllm_bench.timing.counting import Work

_REPEATS, _GPU_REPEATS = 10, 200  # a GPU that has idled takes some tenths of a second to come up to its clock rate


@dataclass(frozen=True)
class Ceilings:
    """The quickest of several copies and of several square matrix products in the model's dtype."""

    bytes_per_second: float  # read and written
    flops_per_second: float
    copied_bytes: int
    product_size: int

    def floor(self, work: Work) -> tuple[float, str]:
        """The seconds that the work takes at least, and which ceiling says so: memory or matrix."""
        moving, computing = work.bytes / self.bytes_per_second, work.flops / self.flops_per_second
        return max(moving, computing), "memory" if moving >= computing else "matrix"


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """A copy far larger than any cache, and a product of random matrices (zeros would be quicker than data)."""
    on_gpu, clock = device.type == "cuda", clock_of(device)
    repeats = _GPU_REPEATS if on_gpu else _REPEATS
    source = torch.empty(2**32 if on_gpu else 2**26, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copying = quickest(lambda: target.copy_(source), clock, repeats)
    size = 8192 if on_gpu else 1024
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    multiplying = quickest(lambda: one @ two, clock, repeats)
    return Ceilings(2 * source.numel() / copying, 2 * size**3 / multiplying, source.numel(), size)
