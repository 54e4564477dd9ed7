"""The kit itself: every mutant is caught for the right reason, and every honest scheduler passes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from dllm_sdk import ConfigError, Decision, Scheduler, TokenIds, generate, testing
from dllm_sdk.rules import at_least_one, first, top_k, uniform
from dllm_sdk.testing import PROPERTIES, CheckFailed, ToyModel, check_scheduler
from dllm_strategies import AdaBlock


@dataclass(frozen=True)
class Honest(Scheduler):
    """Blocks of four, one token per step."""

    def plan(self, view, state):
        return first(view.open, 4), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


class BatchMaximum(Honest):
    def select(self, view, state):
        best = view.confidence.masked_fill(~view.open, -1).max()  # over all rows
        return Decision(at_least_one(view.open, view.confidence, view.open & (view.confidence >= best - 0.1))), state


class CommitsNothing(Honest):
    def select(self, view, state):
        return Decision(torch.zeros_like(view.open)), state


class WritesIntoTheCanvas(Honest):
    def select(self, view, state):
        view.tokens[view.open] = 0
        return super().select(view, state)


class WritesIntoTheLogits(Honest):
    def select(self, view, state):
        view.logits.add_(1)
        return super().select(view, state)


@dataclass(frozen=True)
class CountsOnItself(Honest):
    seen: list = field(default_factory=list)

    def select(self, view, state):
        self.seen.append(int(view.step[0]))
        return super().select(view, state)


@dataclass(frozen=True, slots=True)
class CountsInASlot(Honest):
    calls: int = 0

    def select(self, view, state):
        object.__setattr__(self, "calls", self.calls + 1)
        return Honest.select(self, view, state)


class Forgets(Honest):
    def __init__(self) -> None:
        object.__setattr__(self, "once", True)

    def select(self, view, state):
        vars(self).pop("once", None)
        return super().select(view, state)


class Normalizes(torch.nn.Module):
    """As batch normalization in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x


@dataclass(frozen=True)
class Adapts(Honest):
    """What a module counts moves at every call."""

    norm: torch.nn.Module = field(default_factory=Normalizes, compare=False)

    def select(self, view, state):
        return Decision(top_k(view.open, self.norm(view.confidence), 1)), state


class CountsInTheModule(Honest):
    calls = 0

    def select(self, view, state):
        type(self).calls += 1
        return Decision(top_k(view.open, view.confidence, 1 + type(self).calls % 2)), state


class CommitsOutsideTheBlock(Honest):
    def select(self, view, state):
        return Decision(torch.ones_like(view.open)), state


class PlansOutsideOpen(Honest):
    def plan(self, view, state):
        return torch.ones_like(view.open), state


class EmptyBlock(Honest):
    def plan(self, view, state):
        return torch.zeros_like(view.open), state


class StateWithoutRows(Honest):
    def init(self, tokens, open):
        return (torch.zeros((), device=tokens.device),)


class StateAsWideAsTheWindow(Honest):
    def init(self, tokens, open):
        return (tokens.new_zeros(len(tokens), 1, dtype=torch.float32),)

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), (view.logits.amax(-1),)


class DependsOnTheBatchSize(Honest):
    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, len(view.tokens))), state


class DependsOnTheCanvasWidth(Honest):
    def plan(self, view, state):
        return first(view.open, 1 + view.tokens.shape[1] // 8), state


class DependsOnTheWindowWidth(Honest):
    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1 + view.window.shape[1] % 2)), state


class GlobalGenerator(Honest):
    def select(self, view, state):
        return Decision(top_k(view.open, torch.rand(view.open.shape), 1)), state


class RemasksWithoutSayingSo(Honest):
    def init(self, tokens, open):
        return (torch.zeros_like(open),)

    def select(self, view, state):
        decision, _ = super().select(view, ())
        return decision._replace(remask=state[0]), (decision.commit,)


class RemasksForever(Honest):
    revises = True

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1), remask=view.committed), state


class EditsOutsideTheBlock(Honest):
    revises = True

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1), edit=~view.open), state


class WrongDtype(Honest):
    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1).long()), state


class WrongWidth(Honest):
    def select(self, view, state):
        return Decision(view.to_window(view.open)), state


class NoPair(Honest):
    def select(self, view, state):
        return Decision(view.open)


class WritesTheMask(Honest):
    def select(self, view, state):
        mask_id = torch.full_like(view.tokens, view.logits.shape[-1] - 1)
        return Decision(top_k(view.open, view.confidence, 1), tokens=mask_id), state


class WritesTheMaskAndEditsNothing(WritesTheMask):
    revises = True

    def select(self, view, state):
        decision, state = super().select(view, state)
        return decision._replace(edit=torch.zeros_like(view.open)), state


class Raises(Honest):
    def select(self, view, state):
        raise KeyError("mine")


class BadHorizon(Honest):
    def horizon(self, gen_length):
        return -1


class MixesDevices(Honest):
    def select(self, view, state):
        left = torch.arange(view.open.shape[1])
        return Decision(top_k(view.open, view.confidence - left, 1)), state


class PlansOnTheCpu(Honest):
    def plan(self, view, state):
        return first(view.open, 4).cpu(), state


class StateOnTheCpu(Honest):
    def init(self, tokens, open):
        return (torch.zeros(len(tokens)),)


class NeedsNumpy(Honest):
    def select(self, view, state):
        order = torch.as_tensor(view.confidence.numpy(), device=view.open.device)
        return Decision(top_k(view.open, order, 1)), state


class AsksForTheDevice(Honest):
    def select(self, view, state):
        score = view.confidence if view.open.is_cpu else -view.confidence
        return Decision(top_k(view.open, score, 1)), state


@dataclass(frozen=True)
class LooksUp(Honest):
    table: tuple = (0.1, 0.2)

    def select(self, view, state):
        table = torch.tensor(self.table)
        return Decision(top_k(view.open, table[view.draft % 2], 1)), state


MUTANTS = {
    BatchMaximum: "row by row",
    CommitsNothing: "progress",
    WritesIntoTheCanvas: "reads only",
    WritesIntoTheLogits: "reads only",
    CountsOnItself: "keeps nothing",
    CountsInASlot: "keeps nothing",
    CountsInTheModule: "repeats",
    CommitsOutsideTheBlock: "stays inside",
    PlansOutsideOpen: "stays inside",
    EmptyBlock: "progress",
    StateWithoutRows: "shapes",
    StateAsWideAsTheWindow: "shapes",
    DependsOnTheBatchSize: "batches",
    DependsOnTheCanvasWidth: "batches",
    DependsOnTheWindowWidth: "batches",
    GlobalGenerator: "draws nothing",
    RemasksWithoutSayingSo: "stays inside",
    RemasksForever: "progress",
    EditsOutsideTheBlock: "stays inside",
    WrongDtype: "shapes",
    Adapts: "keeps nothing",
    WrongWidth: "shapes",
    NoPair: "shapes",
    WritesTheMask: "stays inside",
    WritesTheMaskAndEditsNothing: "stays inside",
    Raises: "runs",
    BadHorizon: "shapes",
    MixesDevices: "any device",
    PlansOnTheCpu: "any device",
    StateOnTheCpu: "any device",
    NeedsNumpy: "any device",
    LooksUp: "any device",
    AsksForTheDevice: "any device",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_every_mutant_is_caught_and_named(mutant: type[Honest]) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_scheduler(mutant())
    assert caught.value.property == MUTANTS[mutant]
    assert caught.value.property in str(caught.value) and "Case(" in caught.value.example


def test_a_failure_crosses_to_another_process() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_scheduler(CommitsNothing())
    sent = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert str(sent) == str(caught.value)
    assert (sent.property, sent.example) == (caught.value.property, caught.value.example)


def test_the_example_is_the_smallest() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_scheduler(CommitsNothing())
    assert caught.value.example.count("Row(") == 1 and "gen_length=1" in caught.value.example


class RandomOrder(Honest):
    """Random, and honest about it."""

    def select(self, view, state):
        return Decision(top_k(view.open, uniform(view), 1)), state


class Window(Honest):
    """A sliding window: planned anew at every step."""

    replan = "step"


class Refiner(Honest):
    """Edits what it would now write differently, twice per block, then lets go."""

    revises = True

    def init(self, tokens, open):
        return (torch.zeros_like(tokens[:, 0]),)

    def plan(self, view, state):
        return first(view.open, 3), (torch.zeros_like(state[0]),)

    def select(self, view, state):
        full = ~view.open.any(1)
        rounds = state[0] + full
        decision = Decision(
            commit=top_k(view.open, view.confidence, 2), edit=view.committed & full[:, None], hold=rounds < 2
        )
        return decision, (rounds,)


class Remasker(Honest):
    """Commits two, takes the less sure one back: one step forward each time."""

    revises = True

    def select(self, view, state):
        doubt = view.committed & (view.confidence < 0.5) & (view.open.sum(1, keepdim=True) > 1)
        return Decision(top_k(view.open, view.confidence, 2), remask=top_k(doubt, -view.confidence, 1)), state


class EarlyStop(Honest):
    """Ends a row when it is sure enough of what it commits: what is left becomes EOS."""

    def select(self, view, state):
        best = top_k(view.open, view.confidence, 1)
        return Decision(best, stop=((view.confidence > 0.5) & best).any(1)), state


@dataclass(frozen=True)
class KeepsATable(Honest):
    """Tensors and modules among its fields are where the model is, and so are those of a part."""

    part: Scheduler = Honest()
    table: torch.Tensor = field(default_factory=lambda: torch.tensor([0.1, 0.2]), compare=False)
    head: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(1, 1), compare=False)

    def select(self, view, state):
        score = sum(one.table[view.draft % 2] for one in (self, self.part) if isinstance(one, KeepsATable))
        return Decision(top_k(view.open, self.head(score[..., None])[..., 0], 1)), state


HONEST = [Honest(), RandomOrder(), Window(), Refiner(), Remasker(), EarlyStop(), KeepsATable(KeepsATable())]


@pytest.mark.parametrize("honest", HONEST, ids=lambda one: type(one).__name__)
def test_honest_schedulers_pass(honest: Honest) -> None:
    report = check_scheduler(honest, examples=25)
    assert report.passed == list(PROPERTIES)


class PlansBlindly(Honest):
    def plan(self, view, state):
        return top_k(view.open, view.confidence, 4), state


class WishesInVain(Honest):
    def select(self, view, state):
        decision, state = super().select(view, state)
        return decision._replace(remask=view.committed & (view.confidence < 0.5)), state


class Bare(Scheduler):
    plan, select = Honest.plan, Honest.select


class KeepsAModule(Bare):
    """What binding copies is what a field holds, and it has none."""

    def __init__(self):
        self.head = torch.nn.Linear(1, 1)

    def select(self, view, state):
        return Decision(top_k(view.open, self.head(view.confidence[..., None])[..., 0], 1)), state


@dataclass
class Thawed(Scheduler):
    plan, select = Honest.plan, Honest.select


class Undecorated(Honest):
    kind: ClassVar[str] = "mine"
    extra: float = 0.5


class WritesWhatIsThere(Honest):
    def select(self, view, state):
        view.confidence[~view.open] = 0
        return super().select(view, state)


class PlansFromLogits(PlansBlindly):
    def horizon(self, gen_length):
        return 8


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (PlansBlindly(), ["plan looks at view.confidence, and there is nothing to see before a forward pass"]),
        (WishesInVain(), ["select returns `remask`, which has no effect before `revises` is overridden"]),
        (Bare(), ["it is no frozen dataclass, so no result says what it holds"]),
        (Thawed(), ["it is no frozen dataclass, so two that are equal are not known to be"]),
        (Undecorated(), ["extra is no field, as what it inherits"]),
        *((one, []) for one in (Honest(), WritesWhatIsThere(), PlansFromLogits(), Refiner(), Remasker())),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_hardly_meant_is_noted(scheduler: Scheduler, words: list[str]) -> None:
    report = check_scheduler(scheduler, examples=5)
    assert [one.partition(":")[0] for one in report.oversights] == words


def test_a_module_that_is_no_field_is_told_where_it_belongs() -> None:
    with pytest.raises(CheckFailed, match="keep a table or a module in a field of the dataclass") as caught:
        check_scheduler(KeepsAModule(), examples=2)
    assert caught.value.property == "any device"


def test_what_fails_once_and_not_again_keeps_something(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(scheduler: Scheduler, case: testing.Case) -> None:
        failed.append(case)
        if len(failed) == 1:
            raise CheckFailed("runs", "once", str(case))

    failed: list[testing.Case] = []
    monkeypatch.setattr(testing, "check_case", check)
    with pytest.raises(CheckFailed, match="passes when it is run again") as caught:
        check_scheduler(Honest(), examples=5)
    assert caught.value.property == "keeps nothing"


def test_takes_an_instance() -> None:
    with pytest.raises(ConfigError, match="instance"):
        check_scheduler(Honest)  # type: ignore[arg-type]


@pytest.mark.parametrize("delimiters", [".", 198, ("\n", "b", 7, 126_081)])
def test_ids_and_texts_of_a_real_tokenizer_can_be_checked(delimiters: Any) -> None:
    report = check_scheduler(AdaBlock(delimiters), examples=5)
    assert report.obstacle is None and report.oversights == [] and report.scheduler == repr(AdaBlock(delimiters))


@dataclass(frozen=True)
class Weighs(Honest):
    delimiters: TokenIds = (3, 1)
    weights: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if len(self.delimiters) != len(self.weights):
            raise ConfigError("one weight per delimiter")


def test_ids_that_are_checked_stay_as_many() -> None:
    assert check_scheduler(Weighs(delimiters=(3, 7)), examples=5).obstacle is None


class CommitsAList(Honest):
    def select(self, view, state):
        return Decision([True]), state


class CommitsNothingAtAll(Honest):
    def select(self, view, state):
        return Decision(None), state  # type: ignore[arg-type]  # what a helper without `return` gives


class PlansWithoutState(Honest):
    def plan(self, view, state):
        return super().plan(view, state)[0]


class SelectsWithoutState(Honest):
    def select(self, view, state):
        return super().select(view, state)[0]


class CommitsABareTensor(Honest):
    def select(self, view, state):
        return view.open, state


class LooksBack(Honest):
    def horizon(self, gen_length):
        return -1


class StateIsADict(Honest):
    def init(self, tokens, open):
        return {"seen": torch.zeros(len(tokens))}


class StateGrows(Honest):
    def select(self, view, state):
        return super().select(view, state)[0], (*state, view.step)


@pytest.mark.parametrize(
    ("mutant", "words"),
    [
        (CommitsAList(), "Decision.commit must be a tensor, got list"),
        (CommitsNothingAtAll(), "Decision.commit must be a tensor, got NoneType"),
        (PlansWithoutState(), r"plan must return a pair \(result, state\), got Tensor"),
        (SelectsWithoutState(), r"select must return a pair \(result, state\), got Decision"),
        (CommitsABareTensor(), r"select must return \(Decision, state\), got Tensor"),
        (LooksBack(), r"horizon\(\d+\) must be an int >= 0, got -1"),
        (StateIsADict(), "state must be a tuple of tensors, got dict"),
        (StateGrows(), "select's state must be a tuple of 0, as init made it, got one of 1"),
        (CountsInASlot(), "select changed 'calls' of the scheduler"),
        (Forgets(), "'once' is kept from one run to the next"),
        (StateOnTheCpu(), "another device: make tensors where its own are"),
        (
            DependsOnTheBatchSize(),
            r"rows \[.*: its step \d+ changes positions \[.*\] in the batch, \[.*\] there",
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_fails_is_told_as_the_loop_tells_it(mutant: Honest, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        check_scheduler(mutant, examples=5)


class PropertyAsMethod(Honest):
    def revises(self):
        return True


class PatienceAsMethod(Honest):
    def patience(self):
        return 50


class WordOfItsOwn(Honest):
    replan = "always"


class NumberInPlaceOfAMethod(Honest):
    horizon = 16


class ForEver(Honest):
    patience = 10**9


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (
            PropertyAsMethod(),
            "PropertyAsMethod.revises must be one of False, True.*put @property above",
        ),
        (PatienceAsMethod(), "PatienceAsMethod.patience must be a number, got a method: put @property above its def"),
        (WordOfItsOwn(), "WordOfItsOwn.replan must be one of block, step, got 'always'"),
        (NumberInPlaceOfAMethod(), "NumberInPlaceOfAMethod.horizon must be a method, got 16"),
        (ForEver(), "ForEver.patience must be a whole number from 1 to 10000, got 1000000000"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_members_of_the_wrong_kind_are_named_by_check_and_loop(scheduler: Scheduler, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_scheduler(scheduler)
    with pytest.raises(ConfigError, match=words):
        generate(ToyModel().build(), [1], scheduler, gen_length=3)


def test_the_same_seed_checks_the_same_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(testing, "check_case", lambda scheduler, case: seen[-1].append(str(case)))
    for seed in (3, 3, 4):
        seen.append([])
        check_scheduler(Honest(), examples=5, seed=seed)
    assert seen[0] == seen[1] != seen[2]
