"""What a piece of work asks of the machine: operations, host reads, floating-point operations, bytes. Times nothing.

Two ways to look: below torch's dispatcher (any device, eager only), and the profiler's list of what a GPU ran.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from dllm_sdk.elsewhere import decomposed, reads_values

T = TypeVar("T")

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
_READS = ("tolist", "cpu", "numpy")  # above the dispatcher
_WAITS = ("Context Sync", "Stream Sync", "Event Sync", "Stream Wait Event")  # the profiler's names


class Counts(NamedTuple):
    """How much was started, and how often the host waited for an answer."""

    kernels: int  # on a GPU; elsewhere operations that are not views
    host_reads: int
    busy_us: Mapping[str, Sequence[float]] = {}  # on a GPU, by name: how long each kernel, copy and fill took


@dataclass(frozen=True)
class Work:
    """What must be done at least."""

    flops: float  # of matrix products and attention
    bytes: float  # operands and results of these, each moved once

    def __add__(self, other: Work) -> Work:
        """Both."""
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def count(action: Callable[[], object], device: torch.device) -> Counts:
    """What an action started and read. Off a GPU it must run eagerly."""
    if device.type == "cuda":
        return _count_profiled(action)
    below, above = _Below(), _Above()
    with below, above:
        action()
    return Counts(below.operations, below.reads + above.reads)


def weigh(action: Callable[[], T]) -> tuple[T, Work]:
    """What an action gives, and its work; it must run eagerly."""
    with _Products() as seen:
        result = action()
    return result, seen.work


def _count_profiled(action: Callable[[], object]) -> Counts:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:  # to read what the CPU did would take many seconds
        action()
        torch.cuda.synchronize()
    events = [event for event in found.events() if event.device_type.name == "CUDA"]
    busy_us: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if not (event.is_user_annotation or event.name in _WAITS):
            busy_us[event.name].append(event.time_range.elapsed_us())
    kernels = sum(len(took) for name, took in busy_us.items() if not name.startswith(("Memcpy", "Memset")))
    return Counts(kernels, sum(len(took) for name, took in busy_us.items() if "DtoH" in name), busy_us)


class _Below(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations as they reach a device, and those that the host waits for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (found := decomposed(self, func, args, kwargs)) is not NotImplemented:
            return found
        self.operations += not func.is_view
        self.reads += reads_values(func, args, kwargs)
        return func(*args, **(kwargs or {}))


class _Above(TorchFunctionMode):
    """Reads that a CPU tensor answers without an operation, and a GPU's with a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += getattr(func, "__name__", "") in _READS
        return func(*args, **(kwargs or {}))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Matrix products and attention: torch's own counter does not know the attention kernels of a CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work(0, 0)
        # Of what was converted: bytes per element before.
        self._stored: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (found := decomposed(self, func, args, kwargs)) is not NotImplemented:
            return found
        result = func(*args, **(kwargs or {}))
        operands = [one for one in args if isinstance(one, Tensor)]
        if func._schema.name == "aten::_to_copy":
            self._stored[result] = self._size(operands[0])
        if func._schema.name in _PRODUCTS:
            self._add(2 * result.numel() * operands[-1].shape[-2], [*operands, result])
        elif func._schema.name == "mkldnn::_linear_pointwise":
            self._add(2 * result.numel() * operands[0].shape[-1], [*operands, result])
        elif "scaled_dot_product" in func._schema.name:
            query, keys = operands[:2]
            self._add(4 * query.numel() * keys.shape[-2], [*operands, result[0]])
        return result

    def _add(self, flops: float, moved: list[Tensor]) -> None:
        self.work = self.work + Work(flops, sum(_elements(one) * self._size(one) for one in moved))

    def _size(self, tensor: Tensor) -> int:
        """Bytes of an element where it is stored: what was converted, as eight-bit weights are, need not lie there."""
        here = tensor.element_size()
        return min(here, self._stored[tensor]) if tensor in self._stored else here


def _elements(tensor: Tensor) -> int:
    """Those in memory: what is expanded lies there once."""
    if tensor.is_mkldnn:  # packed: it has no strides
        return tensor.numel()
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
