"""How a step is run: as it is written, compiled, or captured as a CUDA graph. The tokens are the same.

Compiled and captured code serves one set of sizes each, so these two round rows and lanes up to a few. Knows functions
of tensors, and of a model only that it may have `code`; no scheduler and no loop.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dllm_sdk.compiling import Compiler, settings, signature
from dllm_sdk.errors import ConfigError, ModelError
from dllm_sdk.graphs import Captured, copy_into, move_into
from dllm_sdk.model import Model, Store
from dllm_sdk.trees import map_tensors

Backend: TypeAlias = Literal["eager", "compile", "graph"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

compiler = Compiler()  # a memo, like that of `re`: what has been compiled once serves every later call


def check_backend(backend: Backend) -> None:
    """Raise ConfigError unless it is one of BACKENDS."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def runner(backend: Backend, model: Model) -> Runner:
    """What runs the steps of one call of `decode`. Raises ConfigError."""
    check_runs(backend, model)
    return {"eager": Runner, "compile": Compiling, "graph": Capturing}[backend](model)


def check_runs(backend: Backend, model: Model) -> None:
    """Raise ConfigError unless there is such a backend and it can run this model."""
    check_backend(backend)
    if backend == "graph" and model.device.type != "cuda":
        raise ConfigError(
            f"backend 'graph' captures CUDA graphs, and this model is on {model.device}: "
            "load it on a CUDA device, or take backend 'compile' or 'eager'"
        )
    if backend == "graph" and getattr(model, "code", "") is None:
        raise ConfigError(
            "backend 'graph' records what the device does, and would pass over the hooks of this model (its `code` is "
            "None): remove them, or take backend 'compile' or 'eager'"
        )


class Runner:
    """Steps as they are written, in sizes as they come."""

    def __init__(self, model: Model) -> None:
        """The model whose steps are run."""
        self.model = model

    def rows(self, count: int) -> int:
        """How many rows a batch of `count` rows is filled up to."""
        return count

    def lanes(self, count: int) -> int:
        """How many lanes, or canvas columns, `count` of them are filled up to."""
        return count

    def store(self, rows: int, length: int) -> Store:
        """An empty store."""
        store: Store = self.model.new_store(rows, length)
        if not (hasattr(store, "keep") and hasattr(store, "put")):
            raise ModelError(f"new_store must return a store with `keep` and `put`, got {type(store).__name__}")
        return store

    def smaller(self, store: Store, index: Tensor) -> Store:
        """Some rows of a store, int64 [n] ascending, which takes its place."""
        return store.keep(index)

    def call(self, key: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """A function of tensors. Equal keys mean equal code."""
        return function(*tensors)

    def forward(self, function: partial[Any], *tensors: Any) -> Any:
        """A function of the model and tensors."""
        return function(self.model, *tensors)

    def step(self, keys: tuple[Hashable, Hashable], look: partial[Any], decide: partial[Any], rows: Any) -> Any:
        """`decide(rows, *look(rows))`; a key for each of the two."""
        return decide(rows, *look(rows))

    def own(self, tree: Any) -> Any:
        """Tensors that later steps do not change."""
        return tree

    def spent(self) -> float:
        """Seconds spent on compiling and capturing since it was last asked."""
        return 0.0

    def give_back(self) -> None:
        """The call is over."""


class Compiling(Runner):
    """The forward pass of a model that has `code`, and the decision, compiled; the rest as it is written."""

    def __init__(self, model: Model) -> None:
        """The model whose steps are run."""
        super().__init__(model)
        code = getattr(model, "code", None)
        self.code = compiler.codes.setdefault(code, code)
        if code is None and hasattr(model, "code"):
            what = "the forward pass of a step is not compiled but run as it is"
            warnings.warn(f"{what}: the model has hooks (its `code` is None)", RuntimeWarning, stacklevel=2)
        self.preparing = 0.0

    def rows(self, count: int) -> int:
        """A power of two: few enough to compile for each."""
        return 1 << (count - 1).bit_length() if count else 0

    def lanes(self, count: int) -> int:
        """16, 32, 64, 96, 128, 192, 256, 384, ...: at most half as many again, one third on average from 64 on."""
        whole = 1 << (max(count, 16) - 1).bit_length()
        return whole * 3 // 4 if whole > 64 and count <= whole * 3 // 4 else whole

    def call(self, key: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """Compiled."""
        return self.decision(key, function, *tensors)

    def forward(self, function: partial[Any], *tensors: Any) -> Any:
        """Compiled, if the model says what its code depends on."""
        if self.code is None:
            return super().forward(function, *tensors)
        key = (function.func, *function.keywords.items(), type(self.model), self.code)
        return self.compiled("the forward pass of a step", key, function, self.model, *tensors)

    def step(self, keys: tuple[Hashable, Hashable], look: partial[Any], decide: partial[Any], rows: Any) -> Any:
        """The decision compiled; looking compiles its forward passes."""
        return self.decision(keys[1], decide, rows, *look(rows))

    def decision(self, key: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """A part of what is decided, compiled."""
        return self.compiled("the decision of a step", key, function, *tensors)

    def compiled(self, what: str, key: Hashable, function: partial[Any], *tensors: Any) -> Any:
        """As `compiler`, noting what it spent on this call of `decode` alone: others may be under way."""
        before = compiler.seconds
        found = compiler(what, key, function, *tensors)
        self.preparing += compiler.seconds - before
        return found

    def spent(self) -> float:
        """Seconds spent on compiling and capturing since it was last asked."""
        spent, self.preparing = self.preparing, 0.0
        return spent


class Capturing(Compiling):
    """Compiled steps, and each of them captured as a CUDA graph when it is run for the second time.

    Blocks open with their largest steps, so the first captures are the largest, as the shared memory pool wants it.
    """

    def __init__(self, model: Model) -> None:
        """The model whose steps are run, on a CUDA device."""
        super().__init__(model)
        held = (*getattr(model, "parameters", tuple)(), *getattr(model, "buffers", tuple)())
        known = (self.code, *(tensor.data_ptr() for tensor in held))
        if model not in _fixed or _fixed[model].known != known:  # graphs hold the addresses of the weights
            _fixed[model] = _Fixed(known)
        self.fixed = _fixed[model]
        self.borrowed: list[tuple[tuple[int, int], Store]] = []
        self.home: Home | None = None

    @cached_property
    def place(self) -> int:
        """The number of this call among those that run now: each has graphs of its own, which hold its rows."""
        place = next(number for number in count() if number not in self.fixed.places)
        self.fixed.places.add(place)
        return place

    def store(self, rows: int, length: int) -> Store:
        """One that no other call uses now. Graphs hold its address: each call gets its stores in the same order."""
        free = self.fixed.stores[self.place, rows, length]
        store = free.pop(0) if free else super().store(rows, length)
        self.borrowed.append(((rows, length), store))
        return store

    def smaller(self, store: Store, index: Tensor) -> Store:
        """Some rows, in a store that has no others."""
        (_, length) = next(size for size, mine in self.borrowed if mine is store)
        small = self.store(len(index), length)
        small.put(torch.arange(len(index), device=index.device), store.keep(index))
        return small

    def call(self, key: Hashable, function: partial[Any], rows: Any) -> Any:
        """Captured, unless it cannot be."""
        if key in compiler.obstacles:
            return function(rows)
        return self.captured(key, partial(self.decision, key, function), rows)

    def step(self, keys: tuple[Hashable, Hashable], look: partial[Any], decide: partial[Any], rows: Any) -> Any:
        """One graph; where the decision cannot be captured, a graph of the forward pass."""
        look_key = (keys[0], *map(id, look.keywords["stores"]))
        if keys[1] in compiler.obstacles:
            return decide(rows, *self.captured(look_key, look, rows))
        return self.captured((*keys, look_key), partial(super().step, keys, look, decide), rows)

    def captured(self, key: Hashable, function: partial[Any], rows: Any) -> Any:
        """The first run compiles, and finds what cannot be; the second one captures."""
        home = self.home if self.home and rows is self.home.rows else None
        kind = home.kind if home else (self.place, signature(rows))
        known = (key, kind, settings())
        if known not in self.fixed.graphs:
            self.fixed.graphs[known] = None
            return function(rows)
        if kind not in self.fixed.homes:
            self.fixed.homes[kind] = Home(kind, map_tensors(torch.empty_like, rows))
        self.home = self.fixed.homes[kind]
        graph = self.fixed.graphs[known]
        if home is None:
            move_into(self.home.rows, rows)
        if graph is None:
            start = time.perf_counter()
            graph = self.fixed.graphs[known] = Captured(function, self.home.rows, self.fixed.pool, key)
            self.preparing += time.perf_counter() - start
        return graph()

    def own(self, tree: Any) -> Any:
        """Copies: a graph writes its results where it wrote them before."""
        mine = map_tensors(torch.empty_like, tree)
        copy_into(mine, tree)
        return mine

    def give_back(self) -> None:
        """The stores and the place serve the next call."""
        for size, store in self.borrowed:
            self.fixed.stores[self.place, *size].append(store)
        self.borrowed.clear()
        self.fixed.places.discard(self.place)


class Home(NamedTuple):
    """Where the graphs of one call find the rows in work, and leave them for the next graph."""

    kind: Hashable  # the place of the call, and what the tensors are like
    rows: Any


@dataclass
class _Fixed:
    """What keeps its address as long as a model lives."""

    known: Hashable  # what a model ran, on weights at which addresses, when this was made
    pool: list[Any] = field(default_factory=list)
    stores: dict[tuple[int, ...], list[Store]] = field(default_factory=lambda: defaultdict(list))
    homes: dict[Hashable, Home] = field(default_factory=dict)
    places: set[int] = field(default_factory=set)  # of calls that run now
    graphs: dict[Hashable, Captured | None] = field(default_factory=dict)


_fixed: WeakKeyDictionary[Model, _Fixed] = WeakKeyDictionary()
