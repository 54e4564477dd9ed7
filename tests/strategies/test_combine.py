"""Every registered block rule with every registered commit rule: it runs, or it is refused in a sentence."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
import torch

from dllm_sdk import ConfigError, Decision, Scheduler, combine, decode, load_scheduler
from dllm_sdk.registry import available
from dllm_sdk.rules import first, top_k
from dllm_sdk.testing import ToyModel
from dllm_strategies import DSB, AdaBlock, ConfidenceAdaptive, EarlyEOS, FirstAlone, FixedBlock, Prophet, Threshold

NAMES = sorted(available("scheduler"))
BLOCK_RULES = ("adablock", "block-refinement", "confidence-adaptive", "dcd", "dream", "dsb", "fixed-block", "swordsman")
SMALL = {"block": 3, "window": 3, "min_block": 1, "max_block": 3, "steps": 3}


def small(name: str) -> Scheduler:
    """A registered scheduler with short blocks and few steps, so that a short answer has several of both."""
    scheduler = load_scheduler(name)
    return replace(scheduler, **{item.name: SMALL[item.name] for item in fields(scheduler) if item.name in SMALL})


@pytest.mark.parametrize("plan", [*BLOCK_RULES, "early-eos", "prophet"])
def test_every_pair_runs_or_is_refused_in_a_sentence(plan: str) -> None:
    model, gen_length = ToyModel(3, sees="left", eos=False).build(), 5
    for select in NAMES:
        blocks, commits = small(plan), small(select)
        contradict = "own" in (blocks.fits, commits.fits) or (blocks.replan == "step" and commits.fits == "lasting")
        try:
            both = combine(plan=blocks, select=commits)
        except ConfigError as error:
            assert contradict and str(error).startswith("combine: ") and "\n" not in str(error)
            continue
        assert not contradict, f"{plan}+{select} was not refused"
        steps = list(decode(model, [[1, 2]], both, gen_length=gen_length))
        assert (steps[-1].tokens[0] != model.mask_id).all() and bool(steps[-1].done)
        alone = next(iter(decode(model, [[1, 2]], blocks, gen_length=gen_length)))
        assert steps[0].view.open.equal(alone.view.open), f"{plan}+{select} does not open the block of {plan}"


@pytest.mark.parametrize(
    ("plan", "select", "words"),
    [
        (DSB(), FixedBlock(), r"DSB\(.*\) replans at every step, but FixedBlock\(.*\) needs blocks that last"),
        (DSB(), FirstAlone(FixedBlock()), "needs blocks that last"),
        (EarlyEOS(DSB()), FixedBlock(), "replans at every step"),
        (FixedBlock(), Prophet(), r"Prophet\(.*\) plans and selects as one: give it alone, or combine what it wraps"),
        (Prophet(), Threshold(), "plans and selects as one"),
        (AdaBlock, Threshold(), "combine takes instances of Scheduler subclasses, got <class"),
        (AdaBlock(), Threshold, "combine takes instances of Scheduler subclasses, got <class"),
        (AdaBlock(), "threshold", "combine takes instances of Scheduler subclasses, got 'threshold'"),
    ],
)
def test_a_contradiction_is_a_sentence(plan, select, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        combine(plan=plan, select=select)


def test_a_sliding_block_takes_rules_without_steps_and_functions() -> None:
    for select in (Threshold(), EarlyEOS(Threshold()).inner, lambda view: top_k(view.open, view.confidence, 2)):
        assert combine(plan=DSB(), select=select).replan == "step"


def block_lengths(scheduler: Scheduler, gen_length: int = 20) -> list[int]:
    steps = decode(ToyModel(1, eos=False).build(), [[1]], scheduler, gen_length=gen_length)
    return [int(step.view.open.sum()) for step in steps if int(step.view.step) == 0]


def test_the_horizon_of_a_commit_rule_does_not_shorten_another_ones_blocks() -> None:
    assert block_lengths(combine(plan=FixedBlock(10), select=ConfidenceAdaptive(max_block=4))) == [10, 10]


def test_a_wrapper_has_a_state_if_what_it_wraps_has_one() -> None:
    """A plan before the forward pass stays one: else the head would be run on all that is to be generated."""
    assert combine(plan=FixedBlock(), select=FirstAlone(AdaBlock())).horizon(256) == 0
    assert combine(plan=FixedBlock(), select=FirstAlone(FromTheFirstLook())).horizon(256) == 256


@dataclass(frozen=True)
class FromTheFirstLook(Scheduler[tuple[torch.Tensor]]):
    """Commits in the order of the confidences that its plan saw."""

    def horizon(self, gen_length: int) -> int:
        return 4

    def init(self, tokens, open):
        return (torch.zeros_like(tokens, dtype=torch.float32),)

    def plan(self, view, state):
        return first(view.open, 4), (view.confidence,)

    def select(self, view, state):
        assert (state[0] > 0)[view.open].all()
        return Decision(commit=top_k(view.open, state[0], 1)), state


def test_a_commit_rule_that_plans_a_state_from_logits_sees_them() -> None:
    assert block_lengths(combine(plan=FixedBlock(10), select=FromTheFirstLook())) == [10, 10]
