"""Functions of tensors, compiled once per set of shapes; and what keeps one from being compiled.

Knows torch.compile, no model, no scheduler and no loop. Every set of shapes has code of its own, under each of torch's
settings: so torch's limit of recompilations per function is never met, and a function that would be compiled twice for
the same shapes is known to depend on something besides its arguments.
"""

from __future__ import annotations

import linecache
import re
import time
import traceback
import warnings
from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from threading import RLock, local
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import GlobalStateGuard
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from dllm_sdk.elsewhere import DeviceError, Uncrossed
from dllm_sdk.errors import ConfigError, DllmError
from dllm_sdk.trees import map_tensors

Function = Callable[..., Any]

_NUMBERS = count()
_TORCH, _OURS = Path(torch.__file__).parent, Path(__file__).parent
_TRITON = _TORCH.parent / "triton"
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


class _Clock(local):
    """What the thread that looks has spent."""

    seconds = 0.0


class Compiler:
    """Calls functions of tensors, each compiled for the shapes it is called with."""

    def __init__(self, backend: str = "inductor") -> None:
        """backend: of torch.compile."""
        self.backend = backend
        self.clock = _Clock()
        self.lock = RLock()  # a compiled function may call another one
        self.made: dict[Hashable, Compiled] = {}
        self.codes: dict[Hashable, Hashable] = {}  # of models, one object for equal ones: steps compare them fast
        self.obstacles: dict[Hashable, str] = {}  # what runs as it is written, and why

    @property
    def seconds(self) -> float:
        """What this thread has spent on compiling."""
        return self.clock.seconds

    def __call__(self, what: str, key: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """Call a function of tensors. Equal keys mean equal code; `what` names it in the warning that it runs as it is.

        Raises ConfigError where there is nothing to compile with.
        """
        if key in self.obstacles:
            return function(*tensors)
        shaped = (key, signature(tensors), settings())
        if shaped in self.made and self.made[shaped].settled:
            return self.made[shaped](function, *tensors)
        with self.lock:  # the trials of another thread are not ours
            return self._try(what, key, shaped, function, *tensors)

    def _try(self, what: str, key: Hashable, shaped: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """One of the first calls, which compile and find what cannot be."""
        if key in self.obstacles:
            return function(*tensors)
        start = time.perf_counter()
        fresh = shaped not in self.made
        if fresh:
            self.made[shaped] = Compiled(function, self.backend)
        try:
            return self.made[shaped](function, *tensors)
        except Obstacle as obstacle:
            if str(obstacle) not in self.obstacles.values():  # a decision with a plan and one without share it
                warnings.warn(f"{what} is not compiled but run as it is: {obstacle}", RuntimeWarning, stacklevel=3)
            self.obstacles[key] = str(obstacle)
            return function(*tensors)
        finally:
            self.clock.seconds += time.perf_counter() - start if fresh else 0.0


class Obstacle(Exception):
    """What keeps a function from being compiled, with the line."""


class Compiled:
    """A function compiled for one set of shapes. Raises Obstacle, before it has done anything, if that cannot be."""

    def __init__(self, function: partial[Any], backend: str) -> None:
        """function: with everything bound that is no tensor."""
        # A code object of its own: torch keeps what it has compiled, and its limits, per code object.
        code = _traced.__code__.replace(co_name=f"{function.func.__name__}_{next(_NUMBERS)}")
        clone = FunctionType(code, _traced.__globals__, code.co_name)
        self.calls, self.graphs = 0, 0
        self.backend: Any = lookup_backend(backend)
        self.settings = _inductor if backend == "inductor" else lambda inputs: {}
        self.run = torch.compile(clone, fullgraph=True, dynamic=False, backend=self.compile)

    @property
    def settled(self) -> bool:
        """Whether two calls have shown that it need not be compiled again."""
        return self.calls > 1 and self.graphs == 1

    def compile(self, graph: Any, inputs: Any) -> Any:
        """The backend of torch.compile, counting what it is asked."""
        self.graphs += 1
        return self.backend(graph, inputs, **self.settings(inputs))

    def __call__(self, function: partial[Any], *tensors: Any) -> Any:
        """As `function(*tensors)`, which must be the function that was given, or one of equal configuration."""
        call = partial(self.run, function.func, *function.args, *tensors, **function.keywords)
        if self.settled:
            return call()
        self.calls += 1
        if self.calls == 1 and (line := host_read(function, *tensors)):
            raise Obstacle(line)
        try:
            with torch.compiler.set_stance("default" if self.calls == 1 else "fail_on_recompile"):
                return call()
        except TorchDynamoException as error:
            raise Obstacle(_reason(error)) from None
        except RuntimeError as error:
            if "fail_on_recompile" not in str(error):
                raise
            line = _where([_start(function.func), *_told(str(error))])
            raise Obstacle(f"{line} depends on something that changes from call to call") from None


def _inductor(inputs: Any) -> dict[str, Any]:
    """Its settings for a function of these inputs."""
    settings = {"size_asserts": False}  # sizes and strides are guarded: code need not assert them at every call
    if any(isinstance(one, Tensor) and one.dtype == torch.int8 for one in inputs):
        # Only a product whose kernel is chosen by trying several can convert eight-bit weights while it multiplies.
        settings["max_autotune_gemm"] = True
    return {"config_patches": settings}


def _traced(function: Function, *given: Any, **named: Any) -> Any:
    """What is compiled: the function, its tuples made anew. torch 2.11 loses the fields of one that `_replace` made."""
    return map_tensors(lambda tensor: tensor, function(*given, **named))


def obstacle(function: Function, *tensors: Any) -> str | None:
    """What keeps a pure function of tensors from being compiled and captured, with the line; None: nothing.

    Fake tensors, which have shapes and no values, find what reads a value back to the host; a second call that would
    have to be compiled again finds state that is kept in Python.
    """
    bound = partial(_call, _copied(function))
    compiled = Compiled(bound, "eager")
    try:
        for _ in range(2):
            compiled(bound, *map_tensors(torch.clone, tensors))
    except Obstacle as found:
        return str(found)
    return None


def _call(function: Function, *tensors: Any) -> Any:
    return function(*tensors)


def _copied(function: Function) -> Function:
    """With a copy of what is bound to it, so that a trial leaves nothing behind; as it is if that cannot be copied."""
    try:
        return deepcopy(function)
    except Exception:
        return function


def host_read(function: Function, *tensors: Any) -> str | None:
    """Where a function makes the host wait for a tensor, if it does. Calls a copy of it on fake tensors."""
    function = _copied(function)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = map_tensors(mode.from_tensor, tensors)
        try:
            with Uncrossed():
                function(*fakes)
        except DllmError:
            return None  # the real call says it better
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            return f"{line_of(error)} reads a tensor's value back to the host"
        except DeviceError as error:
            return f"{line_of(error)} copies between the device and the CPU"
        except Exception as error:
            return f"{line_of(error)} fails on tensors without values ({type(error).__name__})"
    return None


def line_of(error: Exception) -> str:
    """The line of a user's file that an error comes from."""
    return _where([(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)])


def _reason(error: Exception) -> str:
    """A line of the user's code, as an error of torch.compile tells it."""
    text = str(error)
    if "No working C++ compiler" in text or "InvalidCxxCompiler" in text:
        raise ConfigError("backend 'compile' needs a C++ compiler on this machine: install g++, or take 'eager'")
    return f"{_where(_told(text))}: {' '.join(text.splitlines()[:2])}"


def _told(text: str) -> list[tuple[str, int]]:
    """The frames that a message names, but for the one that everything is called from."""
    frames = [(name, int(number)) for name, number in _FRAME.findall(text)]
    return [frame for frame in frames if frame != _start(_traced)]


def _start(function: Any) -> tuple[str, int]:
    return function.__code__.co_filename, function.__code__.co_firstlineno


def _where(frames: list[tuple[str, int]]) -> str:
    """The innermost line that is neither torch's, Triton's nor ours; the innermost one of ours if there is none."""
    inner = [frame for frame in frames if not (_within(frame[0], _TORCH) or _within(frame[0], _TRITON))]
    users = [frame for frame in inner if not _within(frame[0], _OURS)]
    for name, number in (users or inner or frames)[-1:]:
        return f"{name}:{number}: {linecache.getline(name, number).strip()}"
    return "a line that torch does not tell"


def _within(name: str, folder: Path) -> bool:
    return Path(name).is_relative_to(folder)


def signature(tree: Any) -> Hashable:
    """What compiled code is made for: shapes, types and devices of the tensors, what is None, the kinds of tuples."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype, tree.device
    return (type(tree), *map(signature, tree)) if isinstance(tree, tuple) else tree is None


def settings() -> Hashable:
    """Those of torch that compiled code is made for as well: autocast, number of threads and the like."""
    return GlobalStateGuard().__getstate__(), torch._C._len_torch_function_stack()  # a default device is a mode
