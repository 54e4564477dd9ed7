"""Strategies that take back what they wrote: their schedules, their bounds, and what they are without taking back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_sdk import ConfigError, Decision, Scheduler, combine, decode, generate, wrap
from dllm_sdk.rules import uniform
from dllm_sdk.testing import Case, ToyModel, cases, check_scheduler, run_case
from dllm_strategies import P2, SDAR, BlockRefinement, EarlyEOS, FixedBlock, ReMDM, Saber

thresholds = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.1])
blocks = st.integers(1, 12)


def never_ends(case: Case) -> Case:
    return replace(case, model=replace(case.model, eos=False))


def masks(row) -> int:
    return row.gen_length + len(row.holes)


def counts(history) -> list[tuple[int, int, int]]:
    """Commits, remasks and edits of each step."""
    return [tuple(sum(kind == i for kind, _ in changed) for i in range(3)) for changed, _ in history]


@dataclass(frozen=True)
class Ancestral(Scheduler):
    """MDLM's sampler: in each step a mask commits with probability (a_s - a_t) / (1 - a_t), a_t = 1 - t."""

    steps: int

    @property
    def revises(self) -> bool:
        return True  # to wait for the end of its schedule

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        chance = 1 / (self.steps - view.step.double()).clamp(min=1)
        return Decision(commit=view.open & (uniform(view) < chance[:, None]), hold=view.step + 1 < self.steps), state


@given(case=cases(max_rows=2), steps=st.integers(1, 20))
@settings(max_examples=15)
def test_remdm_without_remasking_is_ancestral_sampling(case: Case, steps: int) -> None:
    assert run_case(ReMDM("cap", steps, 0.0), case) == run_case(Ancestral(steps), case)


@given(case=cases(max_rows=2), steps=st.integers(1, 20), eta=st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=15)
def test_remdm_takes_its_steps_and_ends_full(case: Case, steps: int, eta: float) -> None:
    case = never_ends(case)
    for schedule in ("cap", "loop"):
        for row, history in zip(case.rows, run_case(ReMDM(schedule, steps, eta), case), strict=True):
            assert len(history) == steps
            assert sum(commits - remasks for commits, remasks, _ in counts(history)) == masks(row)


def shares(scheduler: ReMDM, n: int = 600) -> list[tuple[float, int]]:
    """Per step: the share of a long answer that is decided after it, and how many tokens it masked again."""
    model = ToyModel(1, sees="position", eos=False).build()
    left, found = n, []
    for step in decode(model, [[1]], scheduler, gen_length=n):
        again = int(step.decision.remask.sum())
        left += again - int(step.decision.commit.sum())
        found.append((1 - left / n, again))
    return found


def test_remdm_decides_what_its_schedule_says_whatever_it_takes_back() -> None:
    for i, (share, again) in enumerate(shares(ReMDM("cap", 10, 0.2)), start=1):
        assert share == pytest.approx(i / 10, abs=0.06)
        assert (again > 0) == (1 < i < 10)  # nothing to take back at first, and no time for it at last


def test_remdm_loop_takes_back_in_its_loop_only() -> None:
    found = shares(ReMDM("loop", 20, 0.05, on=0.5, off=0.25, level=0.8))
    assert [i for i, (_, again) in enumerate(found) if again] == list(range(10, 15))  # t from 0.5 to above 0.25
    expected = [0.8 * min(i / 10, 1) for i in range(1, 16)] + [0.8 + 0.04 * i for i in range(1, 6)]
    assert [share for share, _ in found] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("scheduler", "nfe"),
    [
        (ReMDM("loop", 200, 0.02), 200),
        (combine(plan=FixedBlock(4), select=ReMDM()), 5 * 32),
        (combine(plan=FixedBlock(1), select=ReMDM("loop", 100, 0.02)), 20 * 100),
        (combine(plan=FixedBlock(2), select=P2(100)), 10 * 51),
    ],
)
def test_a_strategy_says_how_long_it_goes_without_fewer_masks(scheduler: Scheduler, nfe: int) -> None:
    model = ToyModel(1, sees="position", eos=False).build()
    assert generate(model, [[1]], scheduler, gen_length=20).nfe == [nfe]
    assert EarlyEOS(scheduler).patience == scheduler.patience


@pytest.mark.parametrize("scheduler", [ReMDM(steps=6_000), P2(12_000)])
def test_no_number_of_steps_is_too_large_to_begin_with(scheduler: Scheduler) -> None:
    assert next(decode(ToyModel(1).build(), [[1]], scheduler, gen_length=20)).view.step == 0


@given(case=cases(max_rows=2), steps=st.integers(1, 30), eta=st.sampled_from([0.0, 1.0, 3.0]))
@settings(max_examples=15)
def test_p2_leaves_what_its_schedule_says(case: Case, steps: int, eta: float) -> None:
    case = never_ends(case)
    for row, history in zip(case.rows, run_case(P2(steps, eta), case), strict=True):
        n, left = masks(row), masks(row)
        for i, (commits, remasks, _) in enumerate(counts(history), start=1):
            left -= commits - remasks
            assert left == n * (steps - i) // steps
            assert eta > 0 or not remasks
        assert left == 0


def test_p2_keeps_what_it_trusts_beside_a_certain_mask() -> None:
    """Once anything is committed every mask is certain, and as sure as a token whose score is 0 times anything."""

    def logits(tokens):
        found = torch.zeros(*tokens.shape, 8, dtype=torch.float64)
        found[..., 2] = 40.0
        if int((tokens == 7).sum()) == 4:
            found[:, 1:4, 2] = 1.0
        return found

    steps = list(decode(wrap(logits, mask_id=7, vocab_size=8), [1], P2(4, eta=0.0), gen_length=4))
    assert len(steps) == 4 and not any(step.decision.remask.any() for step in steps)


@given(case=cases(max_rows=1), steps=st.integers(1, 8), each=st.integers(1, 4))
@settings(max_examples=15)
def test_p2_that_trusts_what_it_wrote_is_top_k_unmasking(case: Case, steps: int, each: int) -> None:
    case = never_ends(case)
    case = replace(case, rows=(replace(case.rows[0], gen_length=steps * each, holes=()),))
    assert run_case(P2(steps, 0.0), case) == run_case(FixedBlock(steps * each, steps), case)


def regretful(tokens: torch.Tensor) -> torch.Tensor:
    """Drafts 1 everywhere, surest at position 0; once anything is committed, it thinks 2 of position 0."""
    logits = torch.zeros(*tokens.shape, 8, dtype=torch.float64)
    logits[..., 1] = 3.0
    logits[:, 0, 1] = 4.0
    decided = (tokens != 7).any(1)
    logits[decided, 0, 2] = 9.0
    return logits


def test_p2_takes_back_a_token_that_lost_its_probability() -> None:
    model = wrap(regretful, mask_id=7, vocab_size=8)
    steps = list(decode(model, [[]], P2(4), gen_length=4))
    assert steps[0].decision.commit[0].tolist() == [True, False, False, False]
    assert steps[1].decision.remask[0].tolist() == [True, False, False, False]
    assert steps[-1].tokens[0].tolist() == [2, 1, 1, 1]
    kept = list(decode(model, [[]], P2(4, 0.0), gen_length=4))
    assert kept[-1].tokens[0].tolist() == [1, 1, 1, 1]


def saber_by_hand(model, gen_length: int, least: int) -> list[list[int]]:
    """Saber on one row without a prompt, position by position: the canvas after each step, -1 for masks."""
    canvas, at_commit, before, found = [-1] * gen_length, {}, [0.0] * gen_length, []
    while -1 in canvas:
        tokens = torch.tensor([[model.mask_id if token < 0 else token for token in canvas]])
        logits = model.head(model.forward(tokens, torch.arange(gen_length)[None], None, None))[0].float()
        logits[:, model.mask_id] = -math.inf
        confidence, draft = logits.softmax(-1).max(-1)
        now = confidence.tolist()
        open = [i for i in range(gen_length) if canvas[i] < 0]
        mean = sum(at_commit.values()) / len(at_commit) if at_commit else 1.0
        chosen = [i for i in open if now[i] > mean]
        if len(chosen) < least:
            chosen = sorted(open, key=lambda i: -now[i])[:least]
        for i in chosen:
            canvas[i], at_commit[i] = int(draft[i]), now[i]
        if -1 in canvas:
            back = min(max(least // 2, -(-len(chosen) // 8)), len(chosen) - 1)
            decided = [i for i in range(gen_length) if canvas[i] >= 0]
            for i in sorted(decided, key=lambda i: now[i] - before[i])[:back]:
                canvas[i] = -1
        before = now
        found.append(list(canvas))
    return found


@given(seed=st.integers(0, 500), gen_length=st.integers(1, 24), least=st.integers(1, 5))
@settings(max_examples=15)
def test_saber_does_what_its_rule_says(seed: int, gen_length: int, least: int) -> None:
    model = ToyModel(seed, eos=False).build()
    steps = decode(model, [[]], Saber(256, least), gen_length=gen_length)
    found = [[-1 if token == model.mask_id else token for token in step.tokens[0].tolist()] for step in steps]
    assert found == saber_by_hand(model, gen_length, least)


@given(case=cases(max_rows=2), block=blocks, least=st.integers(1, 5))
@settings(max_examples=15)
def test_saber_gets_on_at_every_step(case: Case, block: int, least: int) -> None:
    case = never_ends(case)
    for row, history in zip(case.rows, run_case(Saber(block, least), case), strict=True):
        assert all(commits > remasks for commits, remasks, _ in counts(history))
        assert sum(commits - remasks for commits, remasks, _ in counts(history)) == masks(row)


@given(case=cases(max_rows=2), block=blocks, steps=st.integers(1, 12), threshold=thresholds)
@settings(max_examples=15)
def test_llada2_without_edits_is_sdar_with_its_dynamic_rule(
    case: Case, block: int, steps: int, threshold: float
) -> None:
    plain = run_case(BlockRefinement(block, steps, threshold), case)
    assert run_case(SDAR(block, steps, "low_confidence_dynamic", threshold), case) == plain
    assert not any(
        edits for history in plain for _, _, edits in counts(history)
    )  # 0 turns edits off, not all of them on


@given(case=cases(max_rows=2), block=blocks, post_steps=st.integers(1, 6))
@settings(max_examples=15)
def test_llada2_edits_for_so_many_steps_at_most(case: Case, block: int, post_steps: int) -> None:
    case = never_ends(case)
    for history in run_case(BlockRefinement(block, 1, 0.9, 0.01, post_steps), case):
        idle = [commits == 0 for commits, _, _ in counts(history)]
        assert "11" * post_steps not in "".join(str(int(step)) for step in idle)


def test_llada2_edits_a_token_that_lost_its_probability() -> None:
    model = wrap(regretful, mask_id=7, vocab_size=8)
    assert generate(model, [[]], BlockRefinement(4, 4, 0.9, 0.9), gen_length=4).tokens[0].tolist() == [2, 1, 1, 1]
    for not_sure_enough in (BlockRefinement(4, 4, 0.9), BlockRefinement(4, 4, 0.9, 1.0)):
        assert generate(model, [[]], not_sure_enough, gen_length=4).tokens[0].tolist() == [1, 1, 1, 1]


def test_quotas_that_may_be_zero_are_not_combined() -> None:
    edits = BlockRefinement(block=4, steps=8, edit_threshold=0.9)
    assert generate(ToyModel(1, eos=False).build(), [[1]], edits, gen_length=20).tokens[0].shape == (21,)
    with pytest.raises(ConfigError, match=r"plans and selects as one: give it alone$"):
        combine(plan=FixedBlock(20), select=edits)
    for never_zero in (replace(edits, steps=4), replace(edits, edit_threshold=0.0)):
        assert combine(plan=FixedBlock(20), select=never_zero).fits == "lasting"


BAD_FIELDS = [
    (lambda: ReMDM("rescale"), "ReMDM: schedule must be cap or loop, got 'rescale'"),
    (lambda: ReMDM(eta=2), "ReMDM: eta must be a number from 0 to 1, got 2"),
    (lambda: ReMDM(on=0.1, off=0.2), "ReMDM: off and on must be 0 < off <= on < 1, got 0.2 and 0.1"),
]


@pytest.mark.parametrize(("make", "words"), BAD_FIELDS, ids=[words[:30] for _, words in BAD_FIELDS])
def test_a_bad_field_is_named_with_its_range(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("scheduler", [ReMDM("cap", 9, 0.5), ReMDM("loop", 12, 0.3), P2(7, 2.0), Saber(6, 3)], ids=repr)
def test_every_revising_strategy_keeps_the_protocol(scheduler) -> None:
    check_scheduler(scheduler, examples=6)
