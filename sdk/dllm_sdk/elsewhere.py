"""A device that this machine lacks: its tensors say that they are on it, while their values lie here.

On it, what takes tensors of two devices fails as on a GPU; and on any device, copies between it and the CPU can be
forbidden. So a CPU shows what a GPU would. Knows torch, and nothing of decoding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # torch's name for tensors without values; within `elsewhere()` they have some

_aten = torch.ops.aten
_COPIES = {_aten.to, _aten._to_copy, _aten.copy_, _aten._foreach_copy_}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_}
_READ = {_aten.equal, _aten.is_nonzero}
_DEPENDS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # not on all that do: not on _READ


class DeviceError(RuntimeError):
    """Tensors of two devices met, or values crossed from one to the other where they may not."""


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within it ELSEWHERE is a device with values. Compiled functions run as they are written.

    Raises DeviceError where tensors of two devices meet.
    """
    with torch.compiler.set_stance("force_eager"), _Functions(), _Operations():
        yield


def send(tensor: Tensor) -> Tensor:
    """The tensor elsewhere."""
    return _Away(tensor)


def fetch(leaf: Any) -> Any:
    """The values of a tensor that is elsewhere; anything else as it is."""
    return leaf.here if isinstance(leaf, _Away) else leaf


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


class Uncrossed(_Mode):  # type: ignore[no-untyped-call]
    """Within it nothing is copied between a device and the CPU, and no value is read: what a CUDA graph asks for.

    Raises DeviceError where that would happen, but for functions that are marked as constant in compiled code
    (`torch.compiler.assume_constant_result`): what they copy is copied once.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, unless it crosses."""
        if (found := decomposed(self, func, args, kwargs)) is not NotImplemented:
            return found
        found = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type != "cpu" for tensor in given)
        crosses = func.overloadpacket in _COPIES | _INDEXED and len(_devices([*given, found], func)) > 1
        if (crosses or (on_device and reads_values(func, args, kwargs))) and not _within_constant():
            raise DeviceError(f"{func} copies between devices, or reads a value")
        return found


def _devices(tree: Any, func: Any) -> set[torch.device]:
    """Those of the tensors in a tree. A single number of the CPU goes with any operation, if that is no copy."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {one.device for one in tensors if one.dim() or one.device.type != "cpu" or func.overloadpacket in _COPIES}


def _within_constant() -> bool:
    """Whether a caller is marked as constant in compiled code."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if getattr(frame.f_globals.get(frame.f_code.co_name), "_dynamo_marked_constant", False):
            return True
        frame = frame.f_back
    return False


def decomposed(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives that is made of others, each of which `mode` sees; NotImplemented if it is none.

    In inference mode these reach a dispatch mode whole.
    """
    if func.namespace != "aten":  # what fake tensors ask of themselves
        return NotImplemented
    with mode:
        return func.decompose(*args, **(kwargs or {}))


def reads_values(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation makes the host wait for values: they, or the shape of the result, are needed there."""
    if func.overloadpacket not in _INDEXED:
        return func.overloadpacket in _READ or not _DEPENDS.isdisjoint(func.tags)
    masks = [index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]]
    # A number of the CPU that is written by a single mask fills it unread.
    fills = func.overloadpacket is not _aten.index and args[2].numel() == 1 and args[2].device.type == "cpu"
    return any(masks) and not (fills and len(masks) == 1 and not (kwargs or {}).get("accumulate"))


class _Away(Tensor):
    """A tensor elsewhere."""

    here: Tensor  # its values

    @staticmethod
    def __new__(cls, here: Tensor) -> _Away:
        with torch.inference_mode(False):  # views of inference tensors cannot be of this class
            away: _Away = Tensor._make_wrapper_subclass(
                cls,
                here.size(),
                strides=here.stride(),
                storage_offset=here.storage_offset(),
                dtype=here.dtype,
                device=ELSEWHERE,
            )
        away.here = here
        return away

    def __repr__(self) -> str:  # type: ignore[override]
        return f"elsewhere({self.here})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, *given: Any) -> Any:
        raise DeviceError(f"{func} on a tensor that is elsewhere, outside of `elsewhere()`")


class _Functions(TorchFunctionMode):
    """What torch would do without telling `_Operations`: make a tensor of Python's numbers, and the reverse."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        me = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(me, Tensor):
            made = func(*tree_map(_number, args), **{**kwargs, "device": None})
            return made.to(ELSEWHERE) if _is_elsewhere(kwargs.get("device")) else made
        if func is torch._has_compatible_shallow_copy_type and any(isinstance(one, _Away) for one in args):
            return False  # a module then takes new parameters, instead of other data for those it has
        if isinstance(me, _Away):
            if func is Tensor.__getitem__:
                return func(me, _index(args[1]))
            if func is Tensor.__setitem__:
                value = args[2] if isinstance(args[2], Tensor) else torch.tensor(args[2], dtype=me.dtype)
                return func(me, _index(args[1]), value)
            if func is Tensor.new_tensor and kwargs.get("device") is None:
                return torch.tensor(*args[1:], **{"dtype": me.dtype} | kwargs).to(ELSEWHERE)
            if func is Tensor.tolist or (func is Tensor.__format__ and not me.dim()):
                return func(me.cpu(), *args[1:])
            if func is Tensor.numpy and kwargs.get("force"):
                return me.cpu().numpy()
            if func in (Tensor.numpy, Tensor.__array__):
                raise DeviceError("only a tensor on the CPU becomes an array of numpy: call cpu() before")
            if func is Tensor.data_ptr:
                return me.here.data_ptr()
        return func(*args, **kwargs)


class _Operations(_Mode):  # type: ignore[no-untyped-call]
    """Every operation, on the values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        leaves = tree_leaves(given)
        away = [leaf for leaf in leaves if isinstance(leaf, _Away)]
        if len(_devices(leaves, func)) > 1 and not _may_mix(func, args):
            if (found := decomposed(self, func, args, kwargs)) is not NotImplemented:  # some only look at a shape
                return found
            raise DeviceError(f"{func} takes tensors of two devices")
        asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        lands = asked[0] == ELSEWHERE if asked else bool(away)
        args, kwargs = tree_map(_here, given)
        found = func(*args, **kwargs)
        mine = {id(fetch(leaf)): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        return tree_map(lambda leaf: _placed(leaf, mine, lands) if isinstance(leaf, Tensor) else leaf, found)


def _here(leaf: Any) -> Any:
    return torch.device("cpu") if isinstance(leaf, torch.device) else fetch(leaf)


def _placed(result: Tensor, given: dict[int, Tensor], lands: bool) -> Tensor:
    """A result where it belongs; given: the operands, by the identity of their values."""
    before = given.get(id(result))
    if before is None:
        return send(result) if lands else result
    if isinstance(before, _Away) != lands:  # on the other device now: a copy
        return send(result.clone()) if lands else result.clone()
    if (before.shape, before.stride()) != (result.shape, result.stride()):  # changed in place
        with no_dispatch():
            before.as_strided_(result.shape, result.stride(), result.storage_offset())
    return before


def _number(leaf: Any) -> Any:
    return leaf.item() if isinstance(leaf, _Away) else leaf


def _index(index: Any) -> Any:
    """With lists of numbers as tensors, as torch makes them on a device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    listed = isinstance(index, list | range) and all(isinstance(one, int) for one in index)
    return torch.tensor([*index]).to(ELSEWHERE) if listed else index


def _may_mix(func: Any, args: Any) -> bool:
    """Whether it takes tensors of two devices: copies do, and an index may come from the CPU."""
    if func.overloadpacket in _INDEXED:
        return isinstance(args[0], _Away) and len(_devices([args[0], *args[2:]], func)) == 1
    return func.overloadpacket in _COPIES


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device) == ELSEWHERE
