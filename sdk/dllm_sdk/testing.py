"""`check_scheduler`: does a scheduler keep the protocol? A property-based kit for users' own subclasses.

Runs the scheduler on random toy models, canvases and batches, while `watching` sees every call, and shrinks what fails
to the smallest example. Knows the loop and the protocol, no strategy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import hypothesis

from dllm_sdk.binding import bind
from dllm_sdk.contract import check_members
from dllm_sdk.errors import ConfigError, DllmError, SchedulerError, SchedulerStalled
from dllm_sdk.remarks import compile_obstacle, oversights
from dllm_sdk.scheduler import Scheduler
from dllm_sdk.toys import Case as Case
from dllm_sdk.toys import Row as Row
from dllm_sdk.toys import ToyModel as ToyModel
from dllm_sdk.toys import ToyTokenizer as ToyTokenizer
from dllm_sdk.toys import cases as cases
from dllm_sdk.toys import run_case as run_case
from dllm_sdk.toys import with_toy_ids
from dllm_sdk.watching import Broken, EndsRows, Spy, changed, fingerprint

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
    before = fingerprint(subject)
    try:
        check()
    except hypothesis.errors.Flaky:
        kept = changed(before, subject) or "something"
        what = f"an example that failed passes when it is run again: {kept} is kept from one run to the next"
        raise CheckFailed("keeps nothing", what, "any") from None
    return Report(repr(scheduler), examples, list(PROPERTIES), scheduler)


def check_case(scheduler: Scheduler[Any], case: Case) -> None:
    """Check every property on one case; raises CheckFailed."""
    model = case.model.build()
    spy = Spy(bind(scheduler, model), case.model)
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
    except Broken as broken:
        raise CheckFailed(broken.property, broken.what, str(case)) from None
    except EndsRows:  # such a strategy is for models that can be filled up
        check_case(scheduler, replace(case, model=replace(case.model, eos=True)))
    except SchedulerStalled as error:
        raise CheckFailed("progress", str(error), str(case)) from None
    except SchedulerError as error:
        raise CheckFailed("shapes", str(error), str(case)) from None
    except (CheckFailed, DllmError):
        raise
    except Exception as error:
        raise CheckFailed("runs", f"{type(error).__name__}: {error}", str(case)) from error


def _parting(mine: list[Any], theirs: list[Any]) -> str:
    """Where two histories of a row part, as `run_case` tells them."""
    for number, ((mine_places, mine_tokens), (places, tokens)) in enumerate(zip(mine, theirs, strict=False), 1):
        if mine_places != places:
            ours, others = ([place for _, place in one] for one in (mine_places, places))
            return f"its step {number} changes positions {ours} in the batch, {others} there"
        if mine_tokens != tokens:
            return f"its step {number} writes {mine_tokens} in the batch, {tokens} there"
    return f"it takes {len(mine)} steps in the batch, {len(theirs)} there"
