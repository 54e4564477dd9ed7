"""Blocks that slide and blocks that end where entropy jumps: their formulas, limits and equivalences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_sdk import ConfigError, decode, generate, wrap
from dllm_sdk.testing import Case, cases, check_scheduler, run_case
from dllm_strategies import DCD, DSB, ConfidenceAdaptive, FixedBlock, Swordsman, Threshold

thresholds = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.1])
blocks = st.integers(1, 12)


def steps_of(case: Case, scheduler):
    """Per step of a one-row case: (masks before it, the block), as sets of positions."""
    row = case.rows[0]
    left = set(range(len(row.prompt), len(row.prompt) + row.gen_length)) | set(row.holes)
    found = []
    for step in decode(
        case.model.build(),
        [list(row.prompt)],
        scheduler,
        gen_length=row.gen_length,
        open=[torch.tensor([i in row.holes for i in range(len(row.prompt))], dtype=torch.bool)],
        stop_at_eos=False,
    ):
        found.append((set(left), set(step.view.open[0].nonzero()[:, 0].tolist())))
        left -= set(step.decision.commit[0].nonzero()[:, 0].tolist())
    return found


@given(case=cases(max_rows=1), block=blocks, threshold=thresholds)
@settings(max_examples=15)
def test_dsb_follows_its_formula(case: Case, block: int, threshold: float) -> None:
    case = replace(case, rows=(replace(case.rows[0], holes=()),))
    row = case.rows[0]
    start, end = len(row.prompt), len(row.prompt) + row.gen_length
    for slide, size in (("const", block), ("greedy", math.inf)):
        for left, window in steps_of(case, DSB(block, slide, threshold)):
            committed = row.gen_length - len(left)
            stop = min(start + block + committed, min(left) + size, end)
            assert window == {i for i in left if i < stop}


@given(case=cases(max_rows=1), block=blocks, threshold=thresholds)
@settings(max_examples=15)
def test_dsb_windows_have_their_sizes(case: Case, block: int, threshold: float) -> None:
    for left, window in steps_of(case, DSB(block, "const", threshold)):
        assert window == {i for i in left if i < min(left) + block}
    for left, window in steps_of(case, DSB(block, "greedy", threshold)):
        assert len(window) == min(block, len(left)) and max(window) < min(left - window, default=math.inf)


@given(case=cases(max_rows=2), block=blocks, threshold=thresholds)
@settings(max_examples=15)
def test_dsb_reaches_its_limits(case: Case, block: int, threshold: float) -> None:
    longest = max(len(row.prompt) + row.gen_length for row in case.rows)
    whole = run_case(Threshold(longest, threshold), case)
    for everything in (longest, 2**63 - 1):
        assert run_case(DSB(everything, "const", threshold), case) == whole
        assert run_case(DSB(everything, "greedy", threshold), case) == whole
        assert run_case(DCD(everything, everything, threshold), case) == whole
    assert run_case(DSB(1, "const", threshold), case) == run_case(FixedBlock(1, 1), case)  # left to right


@given(case=cases(max_rows=2), block=blocks, threshold=thresholds)
@settings(max_examples=15)
def test_dcd_without_an_end_of_text_is_dsb(case: Case, block: int, threshold: float) -> None:
    assert run_case(DCD(block, threshold=threshold), case) == run_case(DSB(block, "greedy", threshold), case)
    assert run_case(DCD(block, block, threshold), case) == run_case(DSB(block, "const", threshold), case)


@given(case=cases(max_rows=1), block=blocks)
@settings(max_examples=15)
def test_an_early_stop_keeps_the_text_of_a_sliding_window(case: Case, block: int) -> None:
    case = replace(case, model=replace(case.model, eos=True))
    row, model = case.rows[0], case.model.build()

    def text(stop: bool) -> list[int]:
        answer = generate(model, [list(row.prompt)], DSB(block), gen_length=row.gen_length, stop_at_eos=stop)
        tokens = answer.tokens[0].tolist()[len(row.prompt) :]
        return tokens[: tokens.index(model.eos_ids[0]) + 1] if model.eos_ids[0] in tokens else tokens

    assert text(True) == text(False)


@given(case=cases(max_rows=2), block=blocks, threshold=thresholds)
@settings(max_examples=15)
def test_swordsman_without_a_jump_is_threshold_decoding(case: Case, block: int, threshold: float) -> None:
    plain = run_case(ConfidenceAdaptive(min_block=block, max_block=block, commit_threshold=threshold), case)
    assert run_case(Swordsman(math.inf, 1, block, threshold), case) == plain
    assert run_case(Swordsman(0.0, block, block, threshold), case) == plain


def table_model(sureness: list[float]):
    """Drafts token 3 with logits that grow with `sureness`, whatever is committed: entropy falls as it rises."""
    logits = torch.zeros(len(sureness), 8, dtype=torch.float64)
    logits[:, 3] = torch.tensor(sureness, dtype=torch.float64)
    return wrap(lambda tokens: logits[: tokens.shape[1]].expand(len(tokens), -1, -1), mask_id=7, vocab_size=8)


def test_swordsman_ends_a_block_before_the_largest_rise() -> None:
    model = table_model([9, 9, 3, 9, 9, 0, 9, 9, 9, 2, 9, 9])

    def lengths(scheduler: Swordsman) -> list[int]:
        steps = decode(model, [[]], scheduler, gen_length=12)
        return [int(step.view.open.sum()) for step in steps if int(step.view.step) == 0]

    assert lengths(Swordsman(0.5, 1, 12)) == [5, 4, 3]  # the rise at 5, not the smaller one at 2; then the one at 9
    assert lengths(Swordsman(0.5, 6, 12)) == [9, 3]  # the one at 5 lies in the first six
    assert lengths(Swordsman(0.5, 1, 4)) == [2, 3, 4, 3]  # only four masks ahead are looked at
    assert lengths(Swordsman(2.5, 1, 12)) == [12]  # no rise is that large


BAD_FIELDS = [
    (lambda: DSB(slide="fast"), "DSB: slide must be const or greedy, got 'fast'"),
    (lambda: DCD(reach=0), "DCD: reach must be a number >= 1, got 0"),
    (lambda: Swordsman(min_block=9, max_block=8), "Swordsman: min_block must be <= max_block, got 9 and 8"),
]


@pytest.mark.parametrize(("make", "words"), BAD_FIELDS, ids=[words[:30] for _, words in BAD_FIELDS])
def test_a_bad_field_is_named_with_its_range(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "scheduler", [DSB(5, "const", 0.6), DSB(5, "greedy", 0.6), DCD(4, 6, 0.5), Swordsman(0.1, 2, 9, 0.6)], ids=repr
)
def test_every_block_rule_keeps_the_protocol(scheduler) -> None:
    check_scheduler(scheduler, examples=8)
