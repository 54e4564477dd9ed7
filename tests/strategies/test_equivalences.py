"""Strategies that must agree, and limits they must reach, on context-free, order-sensitive and random toy models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dllm_sdk import ConfigError, Scheduler, View, combine, decode, generate, wrap
from dllm_sdk.testing import Case, ToyModel, cases, run_case
from dllm_strategies import (
    AdaBlock,
    BlockRefinement,
    ConfidenceAdaptive,
    Dilated,
    Dream,
    Factor,
    FirstAlone,
    FixedBlock,
    StreamingDLLM,
    Threshold,
)

NEWLINE = (0,)
thresholds = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.1])
blocks = st.integers(1, 12)
inf = math.inf


def threshold_decoding(block: int, threshold: float) -> ConfidenceAdaptive:
    return ConfidenceAdaptive(min_block=block, max_block=block, commit_threshold=threshold)


def never_ends(case: Case) -> Case:
    return replace(case, model=replace(case.model, eos=False))


def forward_passes(scheduler, case: Case) -> list[int]:
    return [len(history) for history in run_case(scheduler, case)]


@given(case=cases(max_rows=2), block=blocks, threshold=thresholds)
@settings(max_examples=60)
def test_adablock_without_a_sure_delimiter_is_threshold_decoding(case: Case, block: int, threshold: float) -> None:
    plain = run_case(threshold_decoding(block, threshold), case)
    assert run_case(AdaBlock(NEWLINE, block, threshold, inf), case) == plain
    assert run_case(AdaBlock((), block, threshold, 0.0), case) == plain
    assert run_case(AdaBlock(NEWLINE, block, threshold, 0.0, window=0), case) == plain


@given(case=cases(max_rows=2), block=blocks, threshold=thresholds)
@settings(max_examples=30)
def test_threshold_decoding_has_three_names(case: Case, block: int, threshold: float) -> None:
    plain = run_case(Threshold(block, threshold), case)
    assert run_case(threshold_decoding(block, threshold), case) == plain
    assert run_case(combine(plan=FixedBlock(block), select=Threshold(1, threshold)), case) == plain


@given(case=cases(max_rows=2), block=blocks)
@settings(max_examples=30)
def test_factor_reaches_its_limits(case: Case, block: int) -> None:
    case = replace(never_ends(case), temperature=0.0)
    assert run_case(Factor(block, block + 2.0), case) == run_case(Threshold(block, 0.0), case)  # all at once
    for history in run_case(Factor(block, 1e-9), case):  # one at a time, but for probabilities that round to 1
        assert all(len(changed) >= 1 for changed, _ in history)


@given(confidences=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8), factor=st.floats(0.1, 5.0))
def test_factor_commits_the_largest_n_of_its_formula(confidences: list[float], factor: float) -> None:
    ranked = sorted((float(torch.tensor(c)) for c in confidences), reverse=True)
    passing = [n for n, c in enumerate(ranked, start=1) if c >= 1 - factor / (n + 1)]
    assume(all(abs(c - (1 - factor / (n + 1))) > 1e-5 for n, c in enumerate(ranked, start=1)))
    view = bare_view(confidences)
    decision, _ = Factor(8, factor).select(view, ())
    assert int(decision.commit.sum()) == max([1, *passing])


@given(
    case=cases(max_rows=2), steps=st.integers(1, 20), rule=st.sampled_from(["maskgit_plus", "topk_margin", "entropy"])
)
@settings(max_examples=40)
def test_dream_keeps_to_its_schedule_without_idle_passes(case: Case, steps: int, rule: str) -> None:
    case = never_ends(case)
    for row, history in zip(case.rows, run_case(Dream(steps, rule), case), strict=True):
        left = row.gen_length + len(row.holes)
        time = torch.linspace(1, 1e-3, steps + 1)
        counts = []
        for i in range(steps):
            n = left if i == steps - 1 else int(torch.tensor(float(left)) * (1 - time[i + 1] / time[i]))
            counts += [n] if n else []
            left -= n
        assert [len(changed) for changed, _ in history] == counts


def test_dream_with_as_many_steps_as_tokens_is_not_one_token_per_step() -> None:
    model = ToyModel(1, eos=False).build()
    steps = decode(model, [[1]], Dream(steps=16), gen_length=16)
    assert [int(step.decision.commit.sum()) for step in steps] == [1] * 14 + [2]  # its first interval commits none


@given(case=cases(max_rows=2), block=blocks, steps=st.integers(1, 12))
@settings(max_examples=30)
def test_block_refinement_above_one_is_its_quota(case: Case, block: int, steps: int) -> None:
    case = never_ends(case)
    for history in run_case(BlockRefinement(block, steps, 1.1), case):
        assert all(1 <= len(changed) <= max(1, -(-block // steps)) for changed, _ in history)


def test_first_alone_commits_the_first_position_alone() -> None:
    model = ToyModel(1, eos=False).build()
    steps = list(decode(model, [[1]], FirstAlone(Threshold(4, 0.0)), gen_length=8))
    assert [step.decision.commit[0].nonzero()[:, 0].tolist() for step in steps] == [[1], [2, 3, 4], [5], [6, 7, 8]]


@pytest.mark.parametrize("inner", [StreamingDLLM(8, 1.0, 1.0), Dilated(8)])
def test_first_alone_keeps_every_block_of_what_counts_from_its_first_step(inner: Scheduler) -> None:
    def half(tokens):  # every position is equally sure of its token
        return torch.tensor([9.0, 9.0, *[0.0] * 6]).expand(*tokens.shape, 8)

    def commits(scheduler: Scheduler, masks: int) -> list[int]:
        steps = decode(wrap(half, mask_id=7, vocab_size=8), [1], scheduler, gen_length=masks)
        return [int(step.decision.commit.sum()) for step in steps]

    assert commits(FirstAlone(inner), 16) == 2 * [1, *commits(inner, 7)]


def bare_view(confidences: list[float]) -> View:
    """One row, every position open, nothing but confidences."""
    n = len(confidences)
    tokens, open, row = torch.full((1, n), 7), torch.ones(1, n, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    confidence = torch.tensor([confidences])
    window = torch.arange(n)[None]
    return View(tokens, open, ~open, tokens * 0, confidence, row, row + n, row, torch.zeros(1, n, 8), window)


@given(case=cases(max_rows=2), block=blocks)
@settings(max_examples=40)
def test_a_threshold_above_one_is_one_token_per_step(case: Case, block: int) -> None:
    case = never_ends(case)
    one_by_one = run_case(FixedBlock(block, block), case)
    assert run_case(threshold_decoding(block, 1.1), case) == one_by_one
    assert run_case(AdaBlock(NEWLINE, block, 1.1, inf), case) == one_by_one
    assert [len(history) for history in one_by_one] == [row.gen_length + len(row.holes) for row in case.rows]


@given(case=cases(max_rows=2), block=blocks)
@settings(max_examples=30)
def test_a_threshold_of_zero_is_one_step_per_block(case: Case, block: int) -> None:
    case = never_ends(case)
    masks = [row.gen_length + len(row.holes) for row in case.rows]
    steps = [-(-n // block) for n in masks]
    assert forward_passes(threshold_decoding(block, 0.0), case) == steps
    assert run_case(FixedBlock(block, 1), case) == run_case(threshold_decoding(block, 0.0), case)


@given(case=cases(max_rows=1))
@settings(max_examples=30)
def test_a_block_of_one_is_left_to_right(case: Case) -> None:
    for history in run_case(FixedBlock(1, 1), never_ends(case)):
        order = [position for changed, _ in history for _, position in changed]
        assert order == sorted(order)


@given(case=cases(max_rows=2), block=blocks, steps=st.integers(1, 15) | st.just(2**63 - 1))
@settings(max_examples=40)
def test_a_quota_is_an_equal_share(case: Case, block: int, steps: int) -> None:
    case = never_ends(case)
    for row, history in zip(case.rows, run_case(FixedBlock(block, steps), case), strict=True):
        left = row.gen_length + len(row.holes)
        expected: list[int] = []
        while left:
            m = min(block, left)
            share = [m // steps + (i < m % steps) for i in range(min(steps, m))]  # LLaDA's own formula
            expected += [count for count in share if count]
            left -= m
        assert [len(changed) for changed, _ in history] == expected


@given(case=cases(max_rows=1), low=thresholds, high=thresholds, block=blocks)
@settings(max_examples=40)
def test_a_higher_threshold_commits_less_in_the_same_step(case: Case, low: float, high: float, block: int) -> None:
    first_commits = [run_case(threshold_decoding(block, t), case)[0][0][0] for t in sorted((low, high))]
    assert {p for _, p in first_commits[1]} <= {p for _, p in first_commits[0]}


@given(case=cases(max_rows=1), block=blocks, threshold=thresholds)
@settings(max_examples=30)
def test_on_a_context_free_model_every_strategy_writes_the_same(case: Case, block: int, threshold: float) -> None:
    case = replace(never_ends(case), model=replace(case.model, sees="position", eos=False), temperature=0.0)
    ends = {
        tuple(run_case(scheduler, case)[0][-1][1])
        for scheduler in (
            FixedBlock(block, 3),
            ConfidenceAdaptive(threshold, 1, block),
            AdaBlock(NEWLINE, block, threshold),
        )
    }
    assert len(ends) == 1


@pytest.mark.parametrize("scheduler", [threshold_decoding(8, 0.9), AdaBlock((), 8, 0.9), ConfidenceAdaptive()])
def test_where_a_token_needs_its_left_neighbour_thresholds_go_left_to_right(scheduler) -> None:
    def sure_after_a_token(tokens):
        known = torch.cat([torch.ones_like(tokens[:, :1]), (tokens[:, :-1] != 7).long()], dim=1)
        return torch.nn.functional.one_hot(torch.full_like(tokens, 3), 8).double() * (0.5 + 9 * known[..., None])

    model = wrap(sure_after_a_token, mask_id=7, vocab_size=8)
    steps = list(decode(model, [1], scheduler, gen_length=20))
    assert [step.decision.commit[0].nonzero().flatten().tolist() for step in steps] == [[i] for i in range(1, 21)]


@given(case=cases(max_rows=1), block=blocks, threshold=thresholds, window=st.sampled_from([0.25, 0.5, 1.0, 3]))
@settings(max_examples=40)
def test_adablock_block_lengths_keep_their_bounds(case: Case, block: int, threshold: float, window: float) -> None:
    case = never_ends(case)
    row = case.rows[0]
    left = masks = row.gen_length + len(row.holes)
    width = int(window * masks) if isinstance(window, float) else window
    lengths = []
    for step in decode(
        case.model.build(),
        [list(row.prompt)],
        AdaBlock(NEWLINE, block, threshold, 0.4, window),
        gen_length=row.gen_length,
        open=[torch.tensor([i in row.holes for i in range(len(row.prompt))], dtype=torch.bool)],
    ):
        if int(step.view.step) == 0:
            length = int(step.view.open.sum())
            lengths.append(length)
            last = int(step.view.open[0].nonzero().max())
            sure = int(step.view.draft[0, last]) in NEWLINE and float(step.view.confidence[0, last]) >= 0.4
            assert length == min(block, left) or (sure and length <= width)
            left -= length
    assert sum(lengths) == masks


def table_model(drafts: list[int], confidences: list[float]):
    """A model that drafts these tokens with these probabilities, whatever is committed."""
    logits = torch.zeros(len(drafts), 8, dtype=torch.float64)
    for i, (draft, p) in enumerate(zip(drafts, confidences, strict=True)):
        logits[i] = math.log((1 - p) / 6)
        logits[i, draft] = math.log(p)
    return wrap(lambda tokens: logits[: tokens.shape[1]].expand(len(tokens), -1, -1), mask_id=7, vocab_size=8)


def block_lengths(model, scheduler, gen_length: int) -> list[int]:
    steps = decode(model, [[]], scheduler, gen_length=gen_length)
    return [int(step.view.open.sum()) for step in steps if int(step.view.step) == 0]


def test_adablock_ends_at_the_most_confident_delimiter_not_the_nearest() -> None:
    model = table_model([3, 0, 3, 0, 3, 3, 0, 3], [0.95, 0.5, 0.9, 0.8, 0.5, 0.5, 0.8, 0.9])
    assert block_lengths(model, AdaBlock(NEWLINE, 8, 0.9, 0.3, 1.0), 8)[0] == 4  # tie of positions 3 and 6: the nearer
    assert block_lengths(model, AdaBlock(NEWLINE, 5, 0.9, 0.85, 1.0), 8) == [5, 3]  # none is sure enough
    assert block_lengths(model, AdaBlock(NEWLINE, 5, 0.9, 0.3, 0.25), 8)[0] == 2  # a quarter of 8 positions is seen
    assert block_lengths(model, AdaBlock(NEWLINE, 2, 0.9, 0.3, 8), 8)[0] == 4  # the window overrides the block


def test_confidence_adaptive_blocks_follow_the_run_of_sure_drafts() -> None:
    model = table_model([1] * 10, [0.95, 0.8, 0.75, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1])
    assert block_lengths(model, ConfidenceAdaptive(0.7, 2, 8), 10) == [3, 2, 4, 1]
    assert block_lengths(model, ConfidenceAdaptive(0.7, 2, 3), 10)[0] == 3


def test_text_delimiters_are_every_token_that_contains_them() -> None:
    model = ToyModel(3, eos=False).build()
    by_text = generate(model, [[1]], AdaBlock("\n", 4, window=1.0), gen_length=12)
    by_id = generate(model, [[1]], AdaBlock(NEWLINE, 4, window=1.0), gen_length=12)
    assert by_text.tokens[0].equal(by_id.tokens[0]) and by_text.nfe == by_id.nfe
    with pytest.raises(ConfigError, match="no token of the model's tokenizer contains '!'"):
        generate(model, [[1]], AdaBlock("!"), gen_length=4)


BAD_FIELDS = [
    (lambda: ConfidenceAdaptive(min_block=9, max_block=8), "min_block must be <= max_block"),
    (lambda: AdaBlock(window=1.5), "window must be a number from 0 to 1, got 1.5"),
    (lambda: AdaBlock(window=-1), "window must be a number >= 0, got -1"),
]


@pytest.mark.parametrize(("make", "words"), BAD_FIELDS, ids=[words[:30] for _, words in BAD_FIELDS])
def test_a_bad_field_is_named_with_its_range(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
