"""Strategies that wrap another one to end a row early: when they act, and that they are the inner one otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_sdk import ConfigError, Decision, View, combine, decode, generate, load_scheduler, wrap
from dllm_sdk.testing import Case, cases, check_scheduler, run_case
from dllm_strategies import (
    DCD,
    DSB,
    AdaBlock,
    BlockRefinement,
    ConfidenceAdaptive,
    Dream,
    EarlyEOS,
    FixedBlock,
    Prophet,
    SchED,
    Threshold,
)

INNER = [
    FixedBlock(5, 3),
    ConfidenceAdaptive(0.3, 1, 5, 0.5),
    AdaBlock("\n", 5, 0.6, 0.2, 0.5),
    Dream(7, "maskgit_plus"),
    DSB(4, "const", 0.6),
]
inners = st.sampled_from(INNER)


@given(case=cases(max_rows=2), inner=inners)
@settings(max_examples=12)
def test_a_limit_that_is_never_reached_leaves_the_inner_strategy(case: Case, inner) -> None:
    plain = run_case(inner, case)
    assert run_case(Prophet(inner, math.inf, math.inf, math.inf), case) == plain
    assert run_case(SchED(inner, math.inf, math.inf, "cosine"), case) == plain


@given(case=cases(max_rows=2), inner=inners)
@settings(max_examples=10)
def test_a_limit_of_zero_is_one_forward_pass(case: Case, inner) -> None:
    for scheduler in (Prophet(inner, 0, 0, 0), SchED(inner, 0.0, 0.0)):
        assert [len(history) for history in run_case(scheduler, case)] == [1] * len(case.rows)


def fixed_gap(gap: float, shift: float = 0.0):
    """A model whose best logit leads by `gap` at every position."""

    def logits(tokens):
        return torch.nn.functional.one_hot(torch.full_like(tokens, 3), 8).double() * gap + shift

    return wrap(logits, mask_id=7, vocab_size=8)


def passes(scheduler, model) -> int:
    return generate(model, [[1]], scheduler, gen_length=100).nfe[0]


def test_prophet_steps_down_in_thirds_of_what_is_decided() -> None:
    one_by_one = FixedBlock(50, 50)
    assert passes(Prophet(one_by_one), fixed_gap(8.0)) == 1
    assert passes(Prophet(one_by_one), fixed_gap(6.0)) == 34  # 33 of 100 are decided, and the rest commits
    assert passes(Prophet(one_by_one), fixed_gap(3.0)) == 68
    assert passes(Prophet(one_by_one), fixed_gap(1.0)) == 100


def test_prophet_reads_raw_logits() -> None:
    assert passes(Prophet(FixedBlock(50, 50)), fixed_gap(6.0, shift=64.0)) == 34  # a constant changes nothing
    assert passes(Prophet(FixedBlock(50, 50)), fixed_gap(6.0 * 2)) == 1  # a scale does


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
def test_sched_falls_from_high_to_low(shape) -> None:
    limit = SchED(high=8.0, low=2.0, shape=shape, decay=20.0).limit(torch.linspace(0, 1, 11, dtype=torch.float64))
    assert float(limit[0]) == 8.0 and float(limit[-1]) == pytest.approx(2.0)
    assert (limit.diff() < 0).all()
    assert passes(SchED(FixedBlock(50, 50), 7.5, 2.5), fixed_gap(5.0)) == 51  # linear: half way down, half way through


def test_early_commits_take_the_block_of_an_inner_strategy_that_has_one() -> None:
    steps = list(decode(fixed_gap(3.0), [[1]], Prophet(Threshold(10, 1.1)), gen_length=30))
    blocks = [step.view.open[0].nonzero()[:, 0].tolist() for step in steps]
    assert blocks[:11] == [list(range(1 + i, 11)) for i in range(10)] + [list(range(11, 21))]
    assert blocks[-1] == list(range(22, 31)) and steps[-1].done.all()  # 21 of 30 are decided


def test_early_commits_wrap_what_never_takes_back() -> None:
    with pytest.raises(ConfigError, match="Prophet: inner must be a scheduler that does not revise"):
        Prophet(BlockRefinement(edit_threshold=0.9))
    with pytest.raises(ConfigError, match="SchED: inner must be a scheduler, got 'adablock'"):
        SchED("adablock")  # type: ignore[arg-type]


def ends_at(end: int):
    """A model that is sure of token 3 everywhere, and of EOS (6) at position `end`; unsure of what follows it."""

    def logits(tokens):
        best = torch.where(torch.arange(tokens.shape[1]) == end, 6, 3).expand_as(tokens)
        peak = torch.where(torch.arange(tokens.shape[1]) > end, 1.0, 9.0)
        return torch.nn.functional.one_hot(best, 8).double() * peak[:, None]

    return wrap(logits, mask_id=7, vocab_size=8, eos_ids=(6,))


def test_early_eos_fills_what_lies_behind() -> None:
    steps = list(decode(ends_at(4), [[6, 1]], EarlyEOS(Threshold(12)), gen_length=10, stop_at_eos=False))
    assert len(steps) == 1  # an EOS in the prompt ends nothing
    assert steps[0].tokens[0].tolist() == [6, 1, 3, 3, 6] + [6] * 7
    assert len(list(decode(ends_at(4), [[6, 1]], Threshold(12), gen_length=10, stop_at_eos=False))) == 8


@pytest.mark.parametrize(
    ("remask", "edit", "filled"),
    [(None, None, [2, 3]), ([0], None, []), (None, [0], []), ([0], [1], [2, 3]), ([1], None, [2, 3])],
)
def test_an_end_that_is_taken_back_ends_nothing(remask, edit, filled: list[int]) -> None:
    """EOS (6) and a 3 are committed, two masks follow; the inner strategy commits none of them."""

    def at(places: list[int] | None) -> Tensor | None:
        return None if places is None else torch.tensor([[place in places for place in range(4)]])

    class Inner(Threshold):
        def select(self, view, state):
            tokens = torch.tensor([[3, 6, 3, 3]])  # what an edit writes
            return Decision(commit=view.open & False, tokens=tokens, remask=at(remask), edit=at(edit)), state

    open, row = torch.tensor([[False, False, True, True]]), torch.zeros(1, dtype=torch.int64)
    tokens = torch.tensor([[6, 3, 7, 7]])
    view = View(tokens, open, ~open, tokens, open.float(), row, row + 4, row, torch.zeros(1, 4, 8), tokens)
    decision, _ = EarlyEOS(Inner(), (6,)).select(view, ((), torch.ones_like(open)))
    assert decision.commit[0].nonzero()[:, 0].tolist() == filled


def test_early_eos_writes_the_ids_it_is_given() -> None:
    steps = list(decode(ends_at(2), [[1]], EarlyEOS(Threshold(12), (5,)), gen_length=6, stop_at_eos=False))
    assert steps[-1].tokens[0].tolist() == [1, 3, 6, 3, 3, 3, 3]  # 5 never comes


@given(case=cases(max_rows=2), inner=st.sampled_from([*INNER, DCD(6, 8, 0.5), BlockRefinement(6, 4, 0.6, 0.3, 5)]))
@settings(max_examples=12)
def test_early_eos_keeps_answers_that_have_no_end(case: Case, inner) -> None:
    case = replace(case, model=replace(case.model, eos=False))
    assert run_case(EarlyEOS(inner), case) == run_case(inner, case)


@given(case=cases(max_rows=1), inner=inners)
@settings(max_examples=10)
def test_early_eos_leaves_no_mask_of_the_block_behind_an_end(case: Case, inner) -> None:
    case = replace(case, model=replace(case.model, eos=True), rows=(replace(case.rows[0], holes=()),))
    row, model = case.rows[0], case.model.build()
    for step in decode(model, [list(row.prompt)], EarlyEOS(inner), gen_length=row.gen_length):
        answer = step.tokens[0].tolist()[len(row.prompt) :]
        open = step.view.open[0].tolist()[len(row.prompt) :]
        end = answer.index(model.eos_ids[0]) if model.eos_ids[0] in answer else row.gen_length
        assert all(token == model.eos_ids[0] for token, was in list(zip(answer, open, strict=True))[end:] if was)


def test_a_wrapped_strategy_is_a_spec_in_quotes() -> None:
    wrapped = load_scheduler('prophet:inner="adablock:block=8+fixed-block:steps=4",late=1')
    assert wrapped == Prophet(combine(plan=AdaBlock(block=8), select=FixedBlock(steps=4)), late=1)
    with pytest.raises(ConfigError, match="there is no field 'blok' of AdaBlock"):
        load_scheduler('early-eos:inner="adablock:blok=8"')


BAD_FIELDS = [
    (lambda: SchED(high=1.0, low=2.0), "SchED: low must be <= high, got 2.0 and 1.0"),
    (lambda: SchED(shape="square"), "SchED: shape must be linear, cosine or exponential, got 'square'"),
]


@pytest.mark.parametrize(("make", "words"), BAD_FIELDS, ids=[words[:30] for _, words in BAD_FIELDS])
def test_a_bad_field_is_named_with_its_range(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "scheduler",
    [
        Prophet(AdaBlock("\n", 5, 0.6, 0.2, 0.5), 1.0, 0.5, 0.2),
        SchED(DSB(5, "const", 0.6), 2.0, 0.5, "cosine"),
        EarlyEOS(DCD(6, 8, 0.5)),
        EarlyEOS(BlockRefinement(6, 4, 0.6, 0.3, 5)),
    ],
    ids=repr,
)
def test_every_stop_rule_keeps_the_protocol(scheduler) -> None:
    check_scheduler(scheduler, examples=4)
