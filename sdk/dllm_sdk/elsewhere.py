"""A device that this machine lacks: its tensors say that they are on it, while their values lie here.

On it, what takes tensors of two devices fails as it would on a GPU; and on any device, copies between it and the CPU
can be forbidden. So a CPU shows what a GPU would. Knows torch, and nothing of decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    Raises DeviceError where that would happen.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, unless it crosses."""
        if (made := parts(self, func, args, kwargs)) is not NotImplemented:
            return made
        found = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type != "cpu" for tensor in given)
        crosses = func.overloadpacket in _COPIES | _INDEXED and len(_devices([*given, found], func)) > 1
        if crosses or (on_device and reads_values(func, args)):
            raise DeviceError(f"{func} copies between devices")
        return found


def _devices(tree: Any, func: Any) -> set[torch.device]:
    """Those of the tensors in a tree. A single number of the CPU goes with any operation, if that is no copy."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {one.device for one in tensors if one.numel() and (one.dim() or func.overloadpacket in _COPIES)}


def parts(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives that is made of others, each of which `mode` sees; NotImplemented if it is none.

    In inference mode these reach a dispatch mode whole.
    """
    if func.namespace != "aten":  # what fake tensors ask of themselves
        return NotImplemented
    with mode:
        return func.decompose(*args, **(kwargs or {}))


def reads_values(func: Any, args: Any) -> bool:
    """Whether an operation makes the host wait for values: they, or the shape of the result, are needed there."""
    if func.overloadpacket not in _INDEXED:
        return func.overloadpacket in _READ or not _DEPENDS.isdisjoint(func.tags)
    masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return masks and (func.overloadpacket is _aten.index or args[2].numel() > 1)  # one number fills a mask unread


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
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_elsewhere(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": None}).to(ELSEWHERE)
        if func is torch._has_compatible_shallow_copy_type and any(isinstance(one, _Away) for one in args):
            return False  # a module then takes new parameters, instead of other data for those it has
        if isinstance(me, _Away):
            if func in (Tensor.__getitem__, Tensor.__setitem__):
                return func(me, _index(args[1]), *args[2:])
            if func is Tensor.new_tensor and kwargs.get("device") is None:
                return torch.tensor(*args[1:], **{"dtype": me.dtype} | kwargs).to(ELSEWHERE)
            if func is Tensor.tolist or (func is Tensor.__format__ and not me.dim()):
                return func(me.cpu(), *args[1:])
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
            raise DeviceError(f"{func} takes tensors of two devices")
        asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        if func is _aten.to.other:
            asked = [args[1].device]
        lands = asked[0] == ELSEWHERE if asked else bool(away)
        args, kwargs = tree_map(_here, given)
        found = func(*args, **kwargs)
        mine = {id(tensor.here): tensor for tensor in away}  # what is changed in place stays what it is
        return tree_map(lambda leaf: _placed(leaf, mine) if lands and isinstance(leaf, Tensor) else leaf, found)


def _here(leaf: Any) -> Any:
    return torch.device("cpu") if isinstance(leaf, torch.device) else fetch(leaf)


def _placed(result: Tensor, mine: dict[int, _Away]) -> Tensor:
    if id(result) not in mine:
        return send(result)
    away = mine[id(result)]
    if away.shape != result.shape:
        with no_dispatch():
            away.as_strided_(result.shape, result.stride())
    return away


def _index(index: Any) -> Any:
    """With lists as tensors, as torch makes them on a device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index).to(ELSEWHERE) if isinstance(index, list) else index


def _may_mix(func: Any, args: Any) -> bool:
    """Whether it takes tensors of two devices: copies do, and an index may come from the CPU."""
    if func.overloadpacket in _INDEXED:
        return isinstance(args[0], _Away) and len(_devices([args[0], *args[2:]], func)) == 1
    return func.overloadpacket in _COPIES


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device) == ELSEWHERE
