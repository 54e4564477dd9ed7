"""A scheduler that is watched: every call is repeated, asked row by row and elsewhere, and what differs is told.

Knows the protocol, and toy models; what runs the scheduler meanwhile, and reports, is `testing`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dllm_sdk.binding import Held, bind, named, stamp, summary
from dllm_sdk.combining import Wrapper
from dllm_sdk.compiling import line_of
from dllm_sdk.contract import check_state
from dllm_sdk.elsewhere import ELSEWHERE, DeviceError, elsewhere, fetch, send
from dllm_sdk.scheduler import Decision, Scheduler, View, values_of
from dllm_sdk.toys import ToyModel
from dllm_sdk.trees import map_tensors

_LARGE = 100_000  # numbers in a tensor or module that are too many to digest at every call


class Broken(Exception):
    """A property does not hold, by its name in `testing.PROPERTIES`."""

    def __init__(self, property: str, what: str) -> None:
        """The property, and what was seen."""
        super().__init__(property, what)
        self.property, self.what = property, what


class EndsRows(Exception):
    """A row is ended on a model without EOS."""


@dataclass(frozen=True, repr=False)
class Spy(Wrapper):
    """Watches every call of another scheduler that is bound to a toy model. Raises Broken, and EndsRows."""

    model: ToyModel
    sent: set[str] = field(default_factory=set)  # methods that were asked elsewhere

    def __repr__(self) -> str:
        return repr(self.inner)

    def init(self, tokens: Tensor, open: Tensor) -> Any:
        state = self.inner.init(tokens.clone(), open.clone())
        check_state(self, state, len(tokens))
        self.ask_elsewhere("init", (tokens, open), state)
        return state

    def plan(self, view: View, state: Any) -> tuple[Tensor, Any]:
        answer = self.watch("plan", self.inner.plan, view, state)
        block = answer[0] if isinstance(answer, tuple) else None
        if isinstance(block, Tensor) and block.shape == view.open.shape and block.dtype == torch.bool:
            self.expect("stays inside", not (block & ~view.open).any(), "plan returned positions that are not open")
        return answer  # type: ignore[no-any-return]  # the loop says what is wrong with its shape

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        answer = self.watch("select", self.inner.select, view, state)
        if isinstance(answer, tuple) and answer and isinstance(answer[0], Decision):
            self.check_decision(view, answer[0])
        return answer  # type: ignore[no-any-return]

    def expect(self, name: str, holds: object, what: str) -> None:
        if not holds:
            raise Broken(name, what)

    def watch(self, method: str, call: Callable[..., Any], view: View, state: Any) -> Any:
        """Call twice on equal arguments, and once per row; compare everything that must not differ."""
        saved = map_tensors(torch.clone, (view, state))
        before, generators = fingerprint(self.inner), _generators()
        answer = call(view, state)
        kept = changed(before, self.inner)
        self.expect("draws nothing", generators == _generators(), f"{method} drew from a global random generator")
        self.expect("keeps nothing", not kept, f"{method} changed {kept} of the scheduler: what lasts is state")
        self.expect("reads only", _same(saved, (view, state)), f"{method} wrote into the view or the state")
        again = call(*map_tensors(torch.clone, saved))
        self.expect("repeats", _same(answer, again), f"{method} answered differently when asked the same twice")
        self.ask_elsewhere(method, saved, answer)
        rows = len(view.tokens)
        if rows > 1 and _leads_with(answer, rows):
            for row in range(rows):
                alone = call(*map_tensors(lambda tensor: tensor[row : row + 1].clone(), saved))  # noqa: B023
                mine = map_tensors(lambda tensor: tensor[row : row + 1], _tensors_only(answer))  # noqa: B023
                what = f"{method} answers differently for row {row} of {rows} when it is asked about that row alone"
                self.expect("row by row", _same(mine, _tensors_only(alone)), what)
        return answer

    def ask_elsewhere(self, method: str, given: Any, answer: Any) -> None:
        """Ask for the same on another device, once per method: it costs as much as several steps."""
        if method in self.sent:
            return
        self.sent.add(method)
        with elsewhere():
            ask = sent(self.inner, self.model, method, given)
            try:
                found = ask()
            except DeviceError as error:
                cure = "make tensors where the view's are, and keep a table or a module in a field of the dataclass"
                what = f"{method} fails on another device: {line_of(error)} ({error}): {cure}"
                self.expect("any device", False, what)
            except Exception:
                return  # it asks for something that only a real device has, such as autocast
        here = any(isinstance(leaf, Tensor) and leaf.device != ELSEWHERE for leaf in tree_leaves(found))
        what = f"{method} answers on the CPU about tensors of another device: make tensors where its own are"
        self.expect("any device", not here, what)
        same = _same(tree_map(fetch, found), answer)
        self.expect("any device", same, f"{method} answers differently on another device")

    def check_decision(self, view: View, decision: Decision) -> None:
        """Nothing beyond what the protocol allows; wrong shapes are left to the loop, which names them."""
        shapes = (view.open.shape,) * 4 + (view.open.shape[:1],) * 2
        given = [(part, shape) for part, shape in zip(decision, shapes, strict=True) if part is not None]
        if decision.commit is None or any(not isinstance(p, Tensor) or p.shape != shape for p, shape in given):
            return
        if any(t is not None and t.dtype != torch.bool for t in (decision.commit, *decision[2:])):
            return
        commit, tokens, remask, edit, hold, stop = decision
        if stop is not None and stop.any() and not self.model.eos:
            raise EndsRows
        self.expect("stays inside", not (commit & ~view.open).any(), "select commits positions that are not open")
        for name, value in (("remasks", remask), ("edits", edit)):
            if value is None:
                continue
            self.expect("stays inside", self.revises or not value.any(), f"select {name} but `revises` is False")
            what = f"select {name} positions that were not committed in the current block"
            self.expect("stays inside", not (value & ~view.committed).any(), what)
        if hold is not None:
            self.expect("stays inside", self.revises or not hold.any(), "select holds a block but `revises` is False")
        if remask is not None and edit is not None:
            self.expect("stays inside", not (remask & edit).any(), "select remasks and edits the same position")
        if tokens is not None:
            written = tokens[commit if edit is None else commit | edit]
            size = self.model.vocabulary
            sound = (written >= 0) & (written < size - 1)  # the last id is the mask
            self.expect("stays inside", sound.all(), "select writes the mask or an id outside the vocabulary")


def _generators() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def fingerprint(value: Any) -> Any:
    """Something comparable that changes when the value does."""
    if isinstance(value, Held):  # of a large one what counts is what torch knows to be written: it is asked often
        small = sum(tensor.numel() for tensor in named(value).values()) <= _LARGE
        return summary(value) if small else stamp(value)
    if isinstance(value, dict):
        return [(repr(key), fingerprint(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if isinstance(value, Scheduler):
        return fingerprint(values_of(value) | vars(value))  # its fields may be slots
    return repr(value)


def changed(before: Any, scheduler: Scheduler[Any]) -> str:
    """The names of the attributes whose fingerprints are others than before; empty: none."""
    old, new = dict(before), dict(fingerprint(scheduler))
    return ", ".join(name for name in old | new if old.get(name) != new.get(name))


def _tensors_only(tree: Any) -> Any:
    """A tree without the fields that are None, so that rows of it can be taken."""
    if isinstance(tree, tuple):
        return tuple(_tensors_only(part) for part in tree if part is not None)
    return tree


def _leads_with(tree: Any, rows: int) -> bool:
    if isinstance(tree, tuple):
        return all(_leads_with(part, rows) for part in tree)
    return tree is None or (isinstance(tree, Tensor) and tree.dim() > 0 and len(tree) == rows)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return left is right is None or left == right


def sent(scheduler: Scheduler[Any], model: ToyModel, method: str, given: Any) -> partial[Any]:
    """A method with what it is given, all of it elsewhere."""
    away = bind(scheduler, model.build(ELSEWHERE))
    return partial(getattr(away, method), *map_tensors(lambda tensor: send(tensor.clone()), given))
