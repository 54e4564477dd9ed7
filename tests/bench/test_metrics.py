"""Every reported number against one counted by hand from the recorded steps, for every shipped strategy and cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import pytest
import torch

from dllm_bench import Entrant, Outcome, Row, compare
from dllm_bench.environment import family
from dllm_bench.metrics import area, areas, summarise
from dllm_reference_model.model import Config, Transformer
from dllm_sdk import Scheduler, Step, combine, decode, load_cache, load_scheduler
from dllm_sdk.binding import bind
from dllm_sdk.registry import available
from tests.bench.test_compare import outcome
from tests.bench.toys import EOS, MASK, CountTask, Letters, Pairs

GEN, SEED = 10, 30
CACHES = ["none", "prefix", "dual"]


@dataclass(frozen=True)
class Ragged(CountTask):
    """Prompts of different lengths."""

    gen_length: int = GEN

    def prompts(self, split: str, n: int, seed: int) -> list[str]:
        return ["1", "23", "4567", "9ab87"][:n]

    def check(self, prompt: str, text: str) -> Any:
        return super().check(prompt[:1], text)


def transformer(*, block_causal: bool = False) -> Transformer:
    torch.manual_seed(SEED)
    config = Config(
        MASK + 1, MASK, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16, eos_ids=(EOS,),
        block_causal=block_causal,
    )  # fmt: skip
    return Transformer(config, Letters()).eval()


@dataclass
class Hand:
    """One row, counted from the steps that it was in."""

    nfe: int = 0
    refreshes: int = 0
    fed: int = 0
    generated: int = 0
    blocks: tuple[int, ...] = ()


Counts = tuple[list[Hand], int]


def by_hand(steps: Sequence[Step], lengths: Sequence[int], scheduler: Scheduler[Any], cache: str) -> Counts:
    """The rows, and the positions that the model was asked to compute for all of them."""
    hands = [Hand() for _ in lengths]
    blocks: dict[int, set[int]] = defaultdict(set)
    lanes = 0
    replans, looks_ahead = scheduler.replan == "step", scheduler.horizon(GEN) > 0
    for step in steps:
        feeds: dict[bool, list[int]] = {True: [], False: []}  # of rows that refresh, and of those that do not
        for i, row in enumerate(step.rows.tolist()):
            hand, opens = hands[row], int(step.view.step[i]) == 0
            now = set((step.view.open | step.view.committed)[i].nonzero()[:, 0].tolist())
            looked = {lane for lane in step.view.window[i].tolist() if lane < step.tokens.shape[1]}
            before, total = blocks[row], lengths[row] + GEN
            if opens or replans or scheduler.revises:  # what a sliding block committed stays in it until it opens anew
                written = {at for at in before if int(step.view.tokens[i, at]) != MASK}
                blocks[row] = now if opens else now | written
            block = (before if replans and looks_ahead else blocks[row]) | looked
            if opens:
                hand.blocks += (int(step.view.open[i].sum()),)
            full = cache in ("prefix", "dual") and opens
            finished = before or set(range(lengths[row]))
            feed = {
                "none": total,
                "prefix": total if opens else total - min(block),
                "dual": total if opens else len(block),
                "block": len(looked | finished) if opens else len(block),
            }[cache]
            feeds[full].append(feed)
            hand.nfe, hand.refreshes, hand.fed = hand.nfe + 1, hand.refreshes + full, hand.fed + feed
            if bool(step.done[i]):
                answer = step.tokens[i, lengths[row] : total].tolist()
                hand.generated = answer.index(EOS) + 1 if EOS in answer else GEN
        if feeds[True] and feeds[False]:  # the others run as a whole batch, in which the refreshing rows are padding
            lanes += len(feeds[True]) * max(feeds[True]) + len(step.rows) * max(feeds[False])
        else:
            lanes += len(step.rows) * max(feeds[True] + feeds[False])
    return hands, lanes


def check(model: Transformer, scheduler: str, caches: Sequence[str]) -> list[Row]:
    task = Ragged()
    found = compare(model, [scheduler], [task], limit=4, batch_size=4, caches=caches)
    ids = [Letters().encode(prompt) for prompt in task.prompts("test", 4, 0)]
    lengths = [len(one) for one in ids]
    bound = bind(load_scheduler(scheduler), model)
    for row, cache in zip(found.rows, caches, strict=True):
        steps = list(decode(model, ids, bound, gen_length=GEN, cache=load_cache(cache)))
        hands, lanes = by_hand(steps, lengths, bound, cache)
        outcomes = [one for one in found.outcomes if one.scheduler == row.scheduler]
        assert [Hand(o.nfe, o.refreshes, o.fed, o.generated, tuple(o.blocks)) for o in outcomes] == hands
        nfe, fed, tokens = sum(h.nfe for h in hands), sum(h.fed for h in hands), sum(h.generated for h in hands)
        assert (row.nfe, row.fed, row.generated_tokens) == pytest.approx((nfe / 4, fed / 4, tokens / 4))
        assert row.refreshes == pytest.approx(sum(h.refreshes for h in hands) / 4) and row.extra == 0
        assert row.tpf == pytest.approx(tokens / nfe) and row.padding_efficiency == pytest.approx(fed / lanes)
        seconds = sorted(one.seconds for one in outcomes)
        assert row.tokens_per_second == pytest.approx(tokens / seconds[-1])  # one batch, until its last row is done
        reported = (row.latency_p50_s, row.latency_p95_s, row.latency_p99_s)
        assert reported == pytest.approx([between(seconds, share) for share in (0.5, 0.95, 0.99)])
        assert row.peak_memory_bytes is None  # a CPU: said per run only
    assert found.environment["peak_rss_bytes"] > 0
    return list(found.rows)


def between(ordered: Sequence[float], share: float) -> float:
    """The value at a share of the way from the first to the last, linear between neighbours."""
    at = share * (len(ordered) - 1)
    low = min(int(at), len(ordered) - 2)
    return ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])


@pytest.mark.parametrize("scheduler", available("scheduler"))
def test_numbers_are_those_counted_by_hand(scheduler: str) -> None:
    check(transformer(), scheduler, CACHES)


@pytest.mark.parametrize("scheduler", ["fixed-block:block=4", "confidence-adaptive", "threshold:block=3"])
def test_numbers_with_the_block_cache(scheduler: str) -> None:
    check(transformer(block_causal=True), scheduler, ["none", "block"])


def test_the_hand_counts_are_put_to_the_test() -> None:
    """What the tests above compare is not trivial: rows end early, open blocks at different times, and pad."""
    none, prefix, dual = check(transformer(), "threshold:block=3,threshold=0.2", CACHES)
    assert none.generated_tokens < GEN and none.refreshes == 0 < dual.refreshes < dual.nfe
    assert dual.fed < prefix.fed < none.fed and max(row.padding_efficiency for row in (none, prefix, dual)) < 1


def test_peak_memory_is_the_highest_of_the_batches() -> None:
    outcomes = [outcome(i, batch=i, batch_peak_bytes=peak) for i, peak in enumerate([5, 9, 7])]
    assert summarise(Entrant("a", "A", {}, "none", "a"), outcomes).peak_memory_bytes == 9


def row(family: str, tpf: float, right: int, cache: str = "none") -> Row:
    outcomes: list[Outcome] = [outcome(i, strict=i < right, nfe=10, generated=round(10 * tpf)) for i in range(100)]
    return summarise(Entrant(f"{family} {tpf}", family, {}, cache, "a"), outcomes)


def test_the_area_under_accuracy_and_parallelism() -> None:
    rows = [row("A", 4.0, 76), row("A", 2.0, 80), row("A", 8.0, 74), row("B", 2.0, 90), row("A", 3.0, 50, "dual")]
    (one,) = areas(rows)  # B and the cached one have one setting each
    assert (one.family, one.cache, list(one.schedulers)) == ("A", "none", ["A 2.0", "A 4.0"])  # 74 is 6 points below 80
    weighted = [y * exp(-3 * (1 - y / 90)) for y in (80, 76)]
    assert one.aup == pytest.approx(2 * 80 + (4 - 2) * sum(weighted) / 2)
    assert area([(1.0, 50.0), (2.0, 50.0)], 50.0) == 100.0  # as accurate as the best: nothing is taken off
    assert areas([row("A", 1.0, 0), row("A", 2.0, 0)]) == []


def test_a_family_has_one_class_and_any_settings() -> None:
    assert family(Pairs(3)) == family(Pairs(4)) == "Pairs"
    assert family(combine(plan=Pairs(3), select=Pairs(4))) == "Combined(Pairs, Pairs)"
    assert family(load_scheduler("adablock+fixed-block")) == "Combined(AdaBlock, FixedBlock)"
