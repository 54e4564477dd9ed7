"""The published commit rules: their formulas, the reductions between them, and what is easy to get wrong in each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dllm_sdk import ConfigError, Scheduler, View, combine, decode
from dllm_sdk.testing import Case, ToyModel, cases, run_case
from dllm_strategies import (
    BACD,
    KLASS,
    SDAR,
    BlockRefinement,
    CreditDecoding,
    Dilated,
    DInferHierarchical,
    DInferThreshold,
    DreamOrigin,
    EBSampler,
    Factor,
    FixedBlock,
    Frechet,
    LocalLeap,
    PCSampler,
    RandomOrder,
    StreamingDLLM,
    Threshold,
)
from tests.strategies.test_equivalences import bare_view, blocks, never_ends, thresholds

inf = math.inf
confidences = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8)


def committed(scheduler: Scheduler[Any], view: View, state: Any = ()) -> set[int]:
    """The positions that the only row of a view commits."""
    decision, _ = scheduler.select(view, state)
    return set(decision.commit[0].nonzero()[:, 0].tolist())


def with_logits(logits: torch.Tensor, step: int = 0) -> View:
    """One row, every position open, the likeliest tokens drafted. float32 [L, V]."""
    confidence, draft = logits.softmax(-1).max(-1)
    view = bare_view(confidence.tolist())
    return view._replace(draft=draft[None], logits=logits[None], step=torch.tensor([step]))


def random_logits(seed: int, positions: int = 6, vocabulary: int = 7) -> torch.Tensor:
    return 3 * torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed))


# --- one is another ---------------------------------------------------------------------------------------------------

SAME: list[tuple[str, Callable[[int, float], Scheduler[Any]], Callable[[int, float], Scheduler[Any]]]] = [
    ("no neighbourhood", lambda b, t: LocalLeap(b, t, 0.0, 0), Threshold),
    ("neighbours need as much", lambda b, t: LocalLeap(b, t, t, 3), Threshold),
    ("nothing relaxed", lambda b, t: StreamingDLLM(b, t, 0.0), Threshold),
    ("no run counts", lambda b, t: DInferHierarchical(b, t, inf), Threshold),
    ("equal bounds", lambda b, t: BACD(b, t, t), Threshold),
    ("no weight", lambda b, t: CreditDecoding(b, t, weight=0.0), Threshold),
    ("no settling needed", lambda b, t: KLASS(b, b, t, inf, 0), lambda b, t: SDAR_first(b, t)),
    ("sure of nothing", lambda b, t: KLASS(b, 3, 1.1), lambda b, t: FixedBlock(b, 3)),
    ("above one", lambda b, t: SDAR(b, 3, threshold=1.1), lambda b, t: SDAR(b, 3, "low_confidence_static")),
    ("no edits", lambda b, t: SDAR(b, 3, threshold=t), lambda b, t: BlockRefinement(b, 3, t)),
    ("no slope, no cap", lambda b, t: PCSampler(b, 3, 0.0, inf), lambda b, t: FixedBlock(b, 3)),
    ("steep slope", lambda b, t: PCSampler(b, b, 12.0), lambda b, t: combine(plan=FixedBlock(b), select=leftmost)),
    ("no doubt allowed", lambda b, t: Frechet(b, 1.0), lambda b, t: FixedBlock(b, b)),
    ("any budget", lambda b, t: EBSampler(b, inf), lambda b, t: Threshold(b, 0.0)),
]


def SDAR_first(block: int, threshold: float) -> Scheduler[Any]:
    """Above the threshold, else the best one: strict, where Threshold is not."""
    return combine(plan=FixedBlock(block), select=Threshold(1, threshold))


def leftmost(view: View) -> torch.Tensor:
    return view.open & (view.open.cumsum(1) == 1)


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in SAME], ids=[name for name, *_ in SAME])
@given(case=cases(max_rows=2, max_gen_length=20), block=blocks, threshold=thresholds)
@settings(max_examples=12)
def test_one_is_another(one, other, case: Case, block: int, threshold: float) -> None:
    assert run_case(one(block, threshold), case) == run_case(other(block, threshold), case)


ELSEWHERE = [
    lambda b: StreamingDLLM(b, 0.7),
    lambda b: BACD(b, 0.3, 0.8),
    lambda b: Dilated(b),
    lambda b: KLASS(b, 4, 0.5, 1.0, 1),
    lambda b: CreditDecoding(b, 0.6),
    lambda b: PCSampler(b, 4),
    lambda b: RandomOrder(b, 4),
    lambda b: DreamOrigin(4, b),
    lambda b: DInferHierarchical(b),
    lambda b: EBSampler(b),
]


@pytest.mark.parametrize("make", ELSEWHERE, ids=lambda make: type(make(1)).__name__)
@given(case=cases(max_rows=2, max_gen_length=20), block=blocks)
@settings(max_examples=10)
def test_a_commit_rule_is_the_same_in_blocks_that_another_scheduler_plans(make, case: Case, block: int) -> None:
    assert run_case(combine(plan=FixedBlock(block), select=make(99)), case) == run_case(make(block), case)


# --- formulas ---------------------------------------------------------------------------------------------------------


@given(values=confidences, bound=st.floats(0, 1))
def test_frechet_commits_the_largest_n_of_its_formula(values: list[float], bound: float) -> None:
    ranked = sorted((float(torch.tensor(c)) for c in values), reverse=True)
    worth = [sum(ranked[:n]) - (n - 1) - (1 - ranked[n - 1]) for n in range(1, len(ranked) + 1)]
    assume(all(abs(g - bound) > 1e-5 for g in worth))
    passing = [n for n, g in enumerate(worth, start=1) if g > bound]
    assert len(committed(Frechet(8, bound), bare_view(values))) == max([1, *passing])


@given(values=confidences, factor=st.floats(0.05, 1.0))
def test_factor_never_commits_more_than_frechet(values: list[float], factor: float) -> None:
    ranked = sorted(values, reverse=True)
    assume(all(abs((n + 1) * (1 - c) - factor) > 1e-4 for n, c in enumerate(ranked, start=1)))
    assert committed(Factor(8, factor), bare_view(values)) <= committed(Frechet(8, 1 - factor), bare_view(values))
    equal = bare_view([values[0]] * len(values))
    assume(all(abs((n + 1) * (1 - values[0]) - factor) > 1e-4 for n in range(1, 9)))
    assert committed(Factor(8, factor), equal) == committed(Frechet(8, 1 - factor), equal)


def test_factor_commits_at_its_bound_and_frechet_does_not() -> None:
    at_bound = bare_view([0.75, 0.75])
    assert committed(Factor(8, 0.75), at_bound) == {0, 1} and committed(Frechet(8, 0.25), at_bound) == {0}
    sure = bare_view([1.0, 1.0])
    assert committed(Factor(8, 0.0), sure) == {0, 1} and committed(Frechet(8, 1.0), sure) == {0}


def test_threshold_factor_and_frechet_on_the_profile_of_the_notes() -> None:
    view = bare_view([0.74, 0.99, 0.82, 0.95, 0.78])
    sizes = [len(committed(s, view)) for s in (Threshold(8, 0.9), Factor(8, 0.75), Frechet(8, 0.25))]
    assert sizes == [2, 3, 4]


@given(seed=st.integers(0, 2**16), budget=st.floats(0, 8))
def test_eb_sampler_commits_the_largest_k_of_its_formula(seed: int, budget: float) -> None:
    view = with_logits(random_logits(seed))
    p = view.logits[0].double().softmax(-1)
    ranked = sorted((-(p * p.log()).sum(-1)).tolist())
    spent = [sum(ranked[:k]) - max(ranked[:k]) for k in range(1, len(ranked) + 1)]
    assume(all(abs(s - budget) > 1e-4 for s in spent[1:]))
    expected = max([1, *[k for k, s in enumerate(spent, start=1) if s <= budget]])
    assert len(committed(EBSampler(8, budget), view)) == expected and len(committed(EBSampler(8, 0.0), view)) == 1
    total = sum(s <= budget for s in torch.tensor(ranked).cumsum(0).tolist())
    assume(all(abs(s - budget) > 1e-4 for s in torch.tensor(ranked).cumsum(0).tolist()))
    assert len(committed(SDAR(8, 8, "entropy_bounded", budget=budget), view)) == max(1, total)


@given(values=confidences, low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_stricter_setting_commits_less_in_the_same_step(
    values: list[float], low: float, high: float, seed: int
) -> None:
    low, high = sorted((low, high))
    view, logits = bare_view(values), with_logits(random_logits(seed))
    assert committed(Frechet(8, high), view) <= committed(Frechet(8, low), view)
    assert committed(LocalLeap(8, 0.9, high), view) <= committed(LocalLeap(8, 0.9, low), view)
    assert committed(DInferHierarchical(8, 0.9, high), view) <= committed(DInferHierarchical(8, 0.9, low), view)
    assert committed(EBSampler(8, low), logits) <= committed(EBSampler(8, high), logits)


def test_positions_without_entropy_are_free_at_any_budget() -> None:
    logits = torch.zeros(4, 5)
    logits[:3, 1] = 200.0  # softmax gives exactly 1
    assert committed(EBSampler(8, 0.0), with_logits(logits)) == {0, 1, 2, 3}  # the last one pays nothing for them
    logits[2] = 0
    assert committed(EBSampler(8, 0.0), with_logits(logits)) == {0, 1, 2}


def test_with_two_tokens_entropy_orders_as_confidence_does() -> None:
    logits = random_logits(0, vocabulary=2)
    for size in range(1, 6):
        masks = torch.zeros(1, 6, dtype=torch.bool)
        masks[:, :size] = True
        view = with_logits(logits)._replace(open=masks)
        assert committed(SDAR(8, 8, "entropy_bounded", budget=0), view) == committed(FixedBlock(8, 8), view)


@given(values=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8, unique_by=lambda c: round(c, 3)), data=st.data())
def test_where_a_position_lies_does_not_matter_to_a_bound_or_a_threshold(values: list[float], data) -> None:
    order = data.draw(st.permutations(range(len(values))))
    for scheduler in (Frechet(8, 0.2), DInferThreshold(8, 0.7), SDAR(8, 3, threshold=0.7), LocalLeap(8, 0.7, 0.7)):
        moved = committed(scheduler, bare_view([values[i] for i in order]))
        assert {order[i] for i in moved} == committed(scheduler, bare_view(values))


def test_a_strict_threshold_of_one_does_not_stall_where_probabilities_round_to_one() -> None:
    sure = bare_view([1.0, 1.0, 1.0])
    klass = KLASS(8, 8, 1.0, history=0)
    assert committed(SDAR(8, 8, threshold=1.0), sure) == committed(DInferHierarchical(8, 1.0, 1.0), sure) == {0}
    assert committed(klass, sure, klass.init(sure.tokens, sure.open)) == {0}


# --- neighbourhoods, runs, rounds -------------------------------------------------------------------------------------


def test_local_leap_relaxes_beside_masks_of_this_step_only() -> None:
    view = bare_view([0.8, 0.8, 0.95, 0.7, 0.8, 0.8])
    assert committed(LocalLeap(8, 0.9, 0.75, 2), view) == {0, 1, 2, 4}  # 3 is too doubtful, 5 too far
    assert committed(LocalLeap(8, 0.9, 0.75, 2**63 - 1), view) == {0, 1, 2, 4, 5}
    done = view.open.clone()
    done[0, 2] = False
    assert committed(LocalLeap(8, 0.9, 0.75, 2), view._replace(open=done)) == {0}  # a token is no anchor


def test_hierarchical_commits_the_best_of_every_run() -> None:
    view = bare_view([0.5, 0.6, 0.9, 0.45, 0.3, 0.2, 0.95])
    gaps = view.open.clone()
    gaps[0, 2] = False
    view = view._replace(open=gaps)
    assert committed(DInferHierarchical(8, 0.9, 0.4), view) == {1, 6}
    assert committed(DInferHierarchical(8, 0.44, 0.4), view) == {0, 1, 3, 6}
    assert committed(DInferHierarchical(8, 0.9, 0.97), view) == {6}  # the best of all, whatever `low` says
    assert committed(DInferHierarchical(8, 0.9, 0.4), bare_view([0.6, 0.6, 0.6])) == {0}  # one of equals


@given(n=st.integers(1, 40), seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_hierarchical_alone_needs_a_logarithm_of_steps(n: int, seed: int) -> None:
    steps = decode(ToyModel(seed, eos=False).build(), [[1]], DInferHierarchical(64, 1.1, 0.0), gen_length=n)
    assert math.ceil(math.log2(n + 1)) <= len(list(steps)) <= n


@given(n=st.integers(1, 70), block=st.integers(1, 40), base=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=15)
def test_dilated_takes_a_logarithm_of_rounds_whatever_the_model_says(n: int, block: int, base: int, seed: int) -> None:
    model = ToyModel(seed, eos=False).build()
    orders = [
        [
            step.decision.commit[0].nonzero()[:, 0].tolist()
            for step in decode(m, [[1]], Dilated(block, base), gen_length=n)
        ]
        for m in (model, ToyModel(seed + 1, eos=False).build())
    ]
    assert orders[0] == orders[1]
    sizes = [min(block, n - start) for start in range(0, n, block)]
    assert len(orders[0]) <= sum(max(1, math.ceil(math.log(size, base) - 1e-9)) for size in sizes)


def test_dilated_rounds_of_the_paper() -> None:
    steps = decode(ToyModel(0, eos=False).build(), [[]], Dilated(), gen_length=32)
    rounds = [step.decision.commit[0].nonzero()[:, 0].tolist() for step in steps]
    assert rounds[:3] == [[0, 16], [8, 24], [4, 12, 20, 28]]
    assert [len(r) for r in rounds] == [2, 2, 4, 8, 16]


# --- thresholds that move ---------------------------------------------------------------------------------------------


def test_near_ties_of_the_best_commit_in_dinfer_alone() -> None:
    tie = bare_view([0.5, 0.3, 0.5, 0.499995])
    assert committed(DInferThreshold(8), tie) == {0, 2, 3}
    assert committed(Threshold(8), tie) == {0}


@given(values=confidences, threshold=st.floats(0, 1))
def test_dinfer_commits_what_threshold_decoding_does_and_near_ties(values: list[float], threshold: float) -> None:
    view = bare_view(values)
    plain, mine = committed(Threshold(8, threshold), view), committed(DInferThreshold(8, threshold), view)
    assert plain <= mine and all(values[i] >= max(values) - 2e-5 for i in mine - plain)


def test_streaming_relaxes_as_the_block_fills() -> None:
    scheduler = StreamingDLLM(8, 0.8, 0.5)
    view = bare_view([0.9, 0.7, 0.65, 0.1])
    decision, state = scheduler.select(view, scheduler.init(view.tokens, view.open))
    assert decision.commit[0].tolist() == [True, False, False, False]  # all masked: 0.8
    later = view._replace(open=view.open & ~decision.commit, step=view.step + 1)
    assert committed(scheduler, later, state) == {1}  # three quarters left: 0.8 (1 - 0.5 / 4) = 0.7
    half = later._replace(open=torch.tensor([[False, False, True, True]]))
    assert committed(scheduler, half, state) == {2}  # half left: 0.6


def test_bacd_follows_the_mean_of_what_was_committed_within_its_bounds() -> None:
    scheduler = BACD(8, 0.6, 0.9)
    view = bare_view([0.89, 0.7, 0.5, 0.3])
    low = (torch.tensor([0.2]).double(), torch.tensor([1]))
    decision, state = scheduler.select(view, scheduler.plan(view, low)[1])
    assert decision.commit[0].tolist() == [True, False, False, False]  # nothing known: 0.9, and the best one
    sure = view._replace(open=view.open & ~decision.commit, confidence=torch.tensor([[0, 0.89, 0.895, 0.7]]))
    assert committed(scheduler, sure, state) == {1, 2}  # the mean is 0.89
    assert committed(scheduler, sure, low) == {1, 2, 3}  # never below 0.6


# --- histories --------------------------------------------------------------------------------------------------------


def steps_of(scheduler: Scheduler[Any], seeds: list[int]) -> list[tuple[View, set[int], Any]]:
    """Ask about the same masks again and again, with other logits."""
    state = scheduler.init(*with_logits(random_logits(seeds[0]))[:2])
    found = []
    for step, seed in enumerate(seeds):
        view = with_logits(random_logits(seed), step)
        decision, after = scheduler.select(view, state)
        found.append((view, set(decision.commit[0].nonzero()[:, 0].tolist()), (decision, after)))
        state = after
    return found


@given(seeds=st.lists(st.integers(0, 5), min_size=3, max_size=6), divergence=st.floats(0.01, 3))
@settings(max_examples=40)
def test_klass_with_every_token_kept_measures_the_whole_divergence(seeds: list[int], divergence: float) -> None:
    threshold, held, old = 0.5, torch.zeros(6), None
    for view, commit, _ in steps_of(KLASS(8, 99, threshold, divergence, history=2, kept=7), seeds):
        p = view.logits[0].double().softmax(-1)
        moved = torch.full((6,), inf) if old is None else (p * (p / old).log()).sum(-1)
        assume((moved - divergence).abs().min() > 1e-4)
        held, old = torch.where(moved < divergence, held + 1, 0), p
        ready = set(((held >= 2) & (view.confidence[0] > threshold)).nonzero()[:, 0].tolist())
        assert commit == (ready or {int(view.confidence.argmax())})


@given(seeds=st.lists(st.integers(0, 9), min_size=2, max_size=4), kept=st.integers(1, 6))
@settings(max_examples=40)
def test_klass_with_fewer_tokens_kept_never_measures_more(seeds: list[int], kept: int) -> None:
    few, all_of_them = (steps_of(KLASS(8, 99, 0.0, 0.3, 1, k), seeds) for k in (kept, 7))
    for (_, _, (_, coarse)), (_, _, (_, fine)) in zip(few, all_of_them, strict=True):
        assert (coarse[2] >= fine[2]).all()  # for how many steps it has settled


def test_klass_has_nothing_to_compare_with_in_a_blocks_first_step() -> None:
    commits = [commit for _, commit, _ in steps_of(KLASS(8, 99, 0.3, 0.1, history=2), [4, 4, 4])]
    assert [len(commit) for commit in commits[:2]] == [1, 1] and len(commits[2]) > 1


@given(case=cases(max_rows=2, max_gen_length=20), block=blocks, steps=st.integers(1, 6))
@settings(max_examples=20)
def test_a_quota_larger_than_what_is_left_overwrites_nothing(case: Case, block: int, steps: int) -> None:
    case = never_ends(case)
    for scheduler in (KLASS(block, steps, 0.3, inf, 0), SDAR(block, steps, threshold=0.3)):
        for row, history in zip(case.rows, run_case(scheduler, case), strict=True):
            positions = [position for changed, _ in history for _, position in changed]
            assert len(positions) == len(set(positions)) == row.gen_length + len(row.holes)


@given(seeds=st.lists(st.integers(0, 5), min_size=1, max_size=8), decay=st.floats(0, 1), weight=st.floats(0, 2))
@settings(max_examples=40)
def test_credit_in_slots_is_credit_per_token(seeds: list[int], decay: float, weight: float) -> None:
    credit = torch.zeros(6, 7, dtype=torch.float64)
    scheduler = CreditDecoding(8, 0.5, weight, 0.3, decay, kept=7)
    for view, commit, (decision, _) in steps_of(scheduler, seeds):
        p = view.logits[0].double().softmax(-1)
        best, leader = p.max(-1)
        credit = decay * credit
        credit[torch.arange(6), leader] += best**0.3
        scored = (view.logits[0].double() + weight * (1 + credit).log()).softmax(-1)
        top = scored.topk(2, -1).values
        assume((top[:, 0] - 0.5).abs().min() > 1e-4 and (top[:, 0] - top[:, 1]).min() > 1e-4)
        confidence, token = scored.max(-1)
        assert decision.tokens is not None and decision.tokens[0].tolist() == token.tolist()
        assert commit == set((confidence >= 0.5).nonzero()[:, 0].tolist()) | {int(confidence.argmax())}


def test_a_token_that_keeps_leading_is_committed_sooner() -> None:
    logits = torch.tensor([[0.6, 0.0, 0.0], [3.0, 0.0, 0.0]])
    view = with_logits(logits)
    scheduler = CreditDecoding(8, 0.7, weight=1.0, decay=1.0)
    state, counts = scheduler.init(view.tokens, view.open), []
    for _ in range(4):
        decision, state = scheduler.select(view, state)
        counts.append(int(decision.commit.sum()))
    assert counts == [1, 2, 2, 2] and committed(Threshold(8, 0.7), view) == {1}


def test_a_sampled_draft_is_rescored_not_replaced() -> None:
    view = with_logits(torch.tensor([[2.0, 1.0, 0.0]]))
    drawn = view._replace(draft=torch.tensor([[2]]))
    scheduler = CreditDecoding()
    decision, _ = scheduler.select(drawn, scheduler.init(view.tokens, view.open))
    assert decision.tokens is not None and decision.tokens.tolist() == [[2]]


# --- chance -----------------------------------------------------------------------------------------------------------


@given(case=cases(max_rows=2), block=blocks, steps=st.integers(1, 12))
@settings(max_examples=10)
def test_random_order_keeps_the_quota(case: Case, block: int, steps: int) -> None:
    case = replace(never_ends(case), temperature=0.0)
    counts = [
        [[len(changed) for changed, _ in history] for history in run_case(scheduler(block, steps), case)]
        for scheduler in (RandomOrder, FixedBlock)
    ]
    assert counts[0] == counts[1]


def test_random_order_is_uniform() -> None:
    model = ToyModel(0, eos=False).build()
    first = [0] * 4
    for step in decode(model, [[]], RandomOrder(4, 4), gen_length=4, samples=400):
        if int(step.view.step[0]) == 0:
            first = step.decision.commit.sum(0).tolist()
    assert sum(first) == 400 and all(70 <= count <= 130 for count in first)  # 100 expected, 3.5 deviations


@given(n=st.integers(1, 40), steps=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_dream_origin_takes_at_most_its_steps_and_none_is_idle(n: int, steps: int, seed: int) -> None:
    found = list(decode(ToyModel(0, eos=False).build(), [[1]], DreamOrigin(steps), gen_length=n, seed=seed))
    counts = [int(step.decision.commit.sum()) for step in found]
    assert len(counts) <= steps and min(counts) >= 1 and sum(counts) == n


def test_dream_origin_commits_with_the_probability_of_the_interval() -> None:
    n, steps = 2000, 4
    found = decode(ToyModel(0, eos=False).build(), [[]], DreamOrigin(steps), gen_length=n)
    left, time = n, torch.linspace(1, 1e-3, steps + 1).tolist()
    for i, step in enumerate(found):
        p = 1.0 if i == steps - 1 else 1 - time[i + 1] / time[i]
        count = int(step.decision.commit.sum())
        assert abs(count - left * p) <= 4.5 * math.sqrt(left * p * (1 - p))
        left -= count


# --- background frequencies -------------------------------------------------------------------------------------------


def test_pc_sampler_prefers_the_left_and_the_rare(tmp_path: Path) -> None:
    counts = (90.0, 9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    view = bare_view([0.5, 0.5, 0.5])._replace(draft=torch.tensor([[0, 1, 2]]))
    assert committed(PCSampler(8, 3, slope=0.0, background=counts), view) == {2}
    assert committed(PCSampler(8, 3, slope=2.0, background=counts), view) == {1}
    assert committed(PCSampler(8, 3, slope=0.0, cap=0.01, background=counts), view) == {0}  # all are capped: a tie
    save_file({"counts": torch.tensor(counts)}, tmp_path / "background.safetensors")
    from_file = PCSampler(8, 3, background=str(tmp_path / "background.safetensors"))
    assert from_file.log_frequency.equal(PCSampler(8, 3, background=counts).log_frequency)
    shares = PCSampler(8, 3, background=tuple(count / 200 for count in counts))
    torch.testing.assert_close(shares.log_frequency, from_file.log_frequency)


@pytest.mark.parametrize(
    ("background", "words"),
    [
        ("nowhere.safetensors", "PCSampler: background cannot be read: .*nowhere"),
        (("a", "b"), "PCSampler: background cannot be read"),
        ((1.0, -1.0), "must hold one number >= 0 per token id"),
        ((math.nan, 1.0), "must hold one number >= 0 per token id"),
        ((0.0, 0.0), "must hold one number >= 0 per token id, not all of them 0"),
    ],
)
def test_a_bad_background_is_one_sentence(background: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PCSampler(background=background)


def test_a_background_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="background has 2 tokens, the model 8: give one per token"):
        list(decode(ToyModel().build(), [[1]], PCSampler(background=(1.0, 2.0)), gen_length=4))


BAD_FIELDS = [
    (lambda: BACD(low=0.9, high=0.6), "BACD: low must be <= high, got 0.9 and 0.6"),
    (lambda: CreditDecoding(decay=1.5), "decay must be a number from 0 to 1, got 1.5"),
    (lambda: Dilated(base=1), "base must be a whole number >= 2, got 1"),
    (lambda: Frechet(bound=2), "bound must be a number from 0 to 1, got 2"),
    (lambda: SDAR(rule="best"), "SDAR: rule must be one of sequential, .*got 'best'"),  # type: ignore[arg-type]
    (lambda: StreamingDLLM(relax=2), "relax must be a number from 0 to 1, got 2"),
]


@pytest.mark.parametrize(("make", "words"), BAD_FIELDS, ids=[words[:30] for _, words in BAD_FIELDS])
def test_a_bad_field_is_named_with_its_range(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


SETTLED = (
    BACD(8), CreditDecoding(8), Dilated(8), DInferHierarchical(8), DInferThreshold(8), DreamOrigin(5, 8), EBSampler(8),
    Frechet(8), KLASS(8, 8), LocalLeap(8), PCSampler(8, 3), RandomOrder(8, 3), SDAR(), StreamingDLLM(8),
)  # fmt: skip


@given(case=cases(max_rows=1))
@settings(max_examples=4)
def test_on_a_context_free_model_every_rule_writes_the_same(case: Case) -> None:
    case = replace(case, model=replace(case.model, sees="position", eos=False), temperature=0.0)
    assert len({tuple(run_case(scheduler, case)[0][-1][1]) for scheduler in SETTLED}) == 1
