"""`check_scheduler`: does a scheduler keep the protocol? A property-based kit for users' own subclasses.

Runs the scheduler on random toy models, canvases and batches, watches every call, and shrinks what fails to the
smallest example. Knows the loop and the protocol, no strategy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import hypothesis
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dllm_sdk.binding import Held, bind, named, stamp, summary
from dllm_sdk.combining import Wrapper
from dllm_sdk.compiling import line_of
from dllm_sdk.contract import check_members, check_state, map_tensors
from dllm_sdk.elsewhere import ELSEWHERE, DeviceError, elsewhere, fetch
from dllm_sdk.errors import ConfigError, DllmError, SchedulerError, SchedulerStalled
from dllm_sdk.remarks import compile_obstacle, oversights, sent
from dllm_sdk.scheduler import Decision, Scheduler, View, values_of
from dllm_sdk.toys import Case as Case
from dllm_sdk.toys import Row as Row
from dllm_sdk.toys import ToyModel as ToyModel
from dllm_sdk.toys import ToyTokenizer as ToyTokenizer
from dllm_sdk.toys import cases as cases
from dllm_sdk.toys import run_case as run_case
from dllm_sdk.toys import with_toy_ids

PROPERTIES = {
    "runs": "raises no exception of its own",
    "shapes": "returns tensors of the right shape, dtype and structure, and state that leads with the batch",
    "progress": "always brings a row nearer to its end",
    "stays inside": "plans and commits open positions only, revises only what it may, and only if it `revises`",
    "reads only": "writes nothing into the view or the state",
    "keeps nothing": "keeps no state on itself",
    "draws nothing": "leaves the global random generators alone",
    "any device": "makes its tensors where the view's are",
    "repeats": "decides the same when asked the same again",
    "row by row": "decides for a row from that row alone",
    "batches": "gives a row the same tokens, steps and forward passes alone, in any batch, order and canvas width",
}
_LARGE = 100_000  # numbers in a tensor or module that are too many to digest at every call


class CheckFailed(AssertionError):
    """A property does not hold; `property` is its name in PROPERTIES, `example` the smallest case found."""

    def __init__(self, property: str, what: str, example: str) -> None:
        """Make the message of the three."""
        super().__init__(f"{property}: {what}\n  smallest example: {example}")
        self.property, self.what, self.example = property, what, example

    def __reduce__(self) -> tuple[Any, ...]:
        """By what it is made of, not by its message: else no pool of processes could hand it to its caller."""
        return type(self), (self.property, self.what, self.example)


@dataclass(frozen=True)
class Report:
    """What was checked."""

    scheduler: str
    examples: int
    passed: list[str] = field(default_factory=list)
    subject: Scheduler[Any] | None = field(default=None, repr=False)

    @cached_property
    def obstacle(self) -> str | None:
        """What keeps the strategy from being compiled and captured, with the line; None: nothing does.

        It breaks no property: such a strategy runs as it is written, between compiled forward passes. Found out when it
        is asked for, since it takes seconds.
        """
        return None if self.subject is None else compile_obstacle(self.subject)

    @cached_property
    def oversights(self) -> list[str]:
        """What breaks no property but is hardly intended, such as a `plan` that looks before anything is computed."""
        return [] if self.subject is None else oversights(self.subject)


def check_scheduler(scheduler: Scheduler[Any], *, examples: int = 50, seed: int = 0) -> Report:
    """Check a scheduler against every property of the protocol on `examples` random cases.

    Raises CheckFailed with the property and the smallest example found; returns what was checked otherwise. The same
    seed checks the same cases.
    """
    if not isinstance(scheduler, Scheduler):
        raise ConfigError(f"check_scheduler takes an instance of a Scheduler subclass, got {scheduler!r}")
    check_members(scheduler)
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @hypothesis.seed(seed)
    @settings
    @hypothesis.given(cases())
    def check(case: Case) -> None:
        check_case(subject, case)

    subject = with_toy_ids(scheduler)
    before = _fingerprint(subject)
    try:
        check()
    except hypothesis.errors.Flaky:
        changed = _changed(before, subject) or "something"
        what = f"an example that failed passes when it is run again: {changed} is kept from one run to the next"
        raise CheckFailed("keeps nothing", what, "any") from None
    return Report(repr(scheduler), examples, list(PROPERTIES), scheduler)


def check_case(scheduler: Scheduler[Any], case: Case) -> None:
    """Check every property on one case; raises CheckFailed."""
    model = case.model.build()
    spy = _Spy(bind(scheduler, model), case)
    try:
        together = run_case(spy, case)
        orders = [list(range(len(case.rows)))[::-1]] if len(case.rows) > 1 else []
        orders += [[row] for row in range(len(case.rows))] if len(case.rows) > 1 else [[0, 0]]
        for order in orders:
            part = Case(case.model, tuple(case.rows[row] for row in order), case.temperature, case.seed)
            for row, history in zip(order, run_case(spy.inner, part), strict=True):
                if history != together[row]:
                    other = "alone" if len(order) == 1 else f"as one of rows {order}"
                    what = f"row {row} of a batch of {len(case.rows)} is decoded differently {other}"
                    raise CheckFailed("batches", f"{what}: {_parting(together[row], history)}", str(case))
    except _EndsRows:  # such a strategy is for models that can be filled up
        check_case(scheduler, replace(case, model=replace(case.model, eos=True)))
    except SchedulerStalled as error:
        raise CheckFailed("progress", str(error), str(case)) from None
    except SchedulerError as error:
        raise CheckFailed("shapes", str(error), str(case)) from None
    except (CheckFailed, DllmError):
        raise
    except Exception as error:
        raise CheckFailed("runs", f"{type(error).__name__}: {error}", str(case)) from error


class _EndsRows(Exception):
    """A row is ended on a model without EOS."""


def _parting(mine: list[Any], theirs: list[Any]) -> str:
    """Where two histories of a row part, as `run_case` tells them."""
    for number, ((mine_changed, mine_tokens), (changed, tokens)) in enumerate(zip(mine, theirs, strict=False), 1):
        if mine_changed != changed:
            ours, others = ([place for _, place in one] for one in (mine_changed, changed))
            return f"its step {number} changes positions {ours} in the batch, {others} there"
        if mine_tokens != tokens:
            return f"its step {number} writes {mine_tokens} in the batch, {tokens} there"
    return f"it takes {len(mine)} steps in the batch, {len(theirs)} there"


@dataclass(frozen=True, repr=False)
class _Spy(Wrapper):
    """Watches every call of another scheduler."""

    case: Case
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
            raise CheckFailed(name, what, str(self.case))

    def watch(self, method: str, call: Callable[..., Any], view: View, state: Any) -> Any:
        """Call twice on equal arguments, and once per row; compare everything that must not differ."""
        saved = map_tensors(torch.clone, (view, state))
        before, generators = _fingerprint(self.inner), _generators()
        answer = call(view, state)
        changed = _changed(before, self.inner)
        self.expect("draws nothing", generators == _generators(), f"{method} drew from a global random generator")
        self.expect("keeps nothing", not changed, f"{method} changed {changed} of the scheduler: what lasts is state")
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
            ask = sent(self.inner, self.case.model, method, given)
            try:
                found = ask()
            except DeviceError as error:
                cure = "make tensors where the view's are, and keep a table in a field that is a tensor"
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
        if stop is not None and stop.any() and not self.case.model.eos:
            raise _EndsRows
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
            size = self.case.model.vocabulary
            sound = (written >= 0) & (written < size - 1)  # the last id is the mask
            self.expect("stays inside", sound.all(), "select writes the mask or an id outside the vocabulary")


def _generators() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _fingerprint(value: Any) -> Any:
    """Something comparable that changes when the value does."""
    if isinstance(value, Held):  # of a large one what counts is what torch knows to be written: it is asked often
        small = sum(tensor.numel() for tensor in named(value).values()) <= _LARGE
        return summary(value) if small else stamp(value)
    if isinstance(value, dict):
        return [(repr(key), _fingerprint(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_fingerprint(item) for item in value]
    if isinstance(value, Scheduler):
        return _fingerprint(values_of(value) | vars(value))  # its fields may be slots
    return repr(value)


def _changed(before: Any, scheduler: Scheduler[Any]) -> str:
    """The names of the attributes whose fingerprints are others than before; empty: none."""
    old, new = dict(before), dict(_fingerprint(scheduler))
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
