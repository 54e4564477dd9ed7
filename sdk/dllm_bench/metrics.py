"""From outcomes, prompt by prompt, to the numbers of a comparison. Pure functions of what was recorded.

The definitions stand at the fields of `results.Row`. Knows no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

import numpy as np

from dllm_bench.results import Aup, Comparison, Difference, Entrant, Outcome, Row
from dllm_bench.significance import Floats, bootstrap, mcnemar, prompts_needed, wilson

_AUP_PENALTY, _AUP_DROP = 3.0, 5.0  # d3LLM's: the penalty's exponent, and percentage points


def sum_up(
    entrants: Sequence[Entrant],
    outcomes: Sequence[Outcome],
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
    prompts: Mapping[str, Mapping[int, str]] | None = None,
) -> Comparison:
    """The comparison of some outcomes, at least one of every entrant in every task; rows in the entrants' order."""
    mine = {one.scheduler: [outcome for outcome in outcomes if outcome.scheduler == one.scheduler] for one in entrants}
    rows = [summarise(one, mine[one.scheduler]) for one in entrants]
    return Comparison(
        rows=rows,
        tasks={
            task: [summarise(one, [o for o in mine[one.scheduler] if o.task == task]) for one in entrants]
            for task in dict.fromkeys(outcome.task for outcome in outcomes)
        },
        differences=[
            difference(mine[one.baseline], mine[one.scheduler]) for one in entrants if one.baseline != one.scheduler
        ],
        environment=environment,
        notes=notes,
        outcomes=outcomes,
        prompts=prompts or {},
        aup=areas(rows),
    )


def summarise(entrant: Entrant, outcomes: Sequence[Outcome]) -> Row:
    """An entrant's row over its outcomes; at least one."""
    scored = [outcome for outcome in outcomes if outcome.strict is not None]
    strict = sum(bool(outcome.strict) for outcome in scored)
    low, high = wilson(strict, len(scored)) if scored else (None, None)
    tokens = sum(outcome.generated for outcome in outcomes)
    passes = sum(outcome.nfe for outcome in outcomes)
    fed = sum(outcome.fed for outcome in outcomes)
    p50, p95, p99 = np.percentile([outcome.seconds for outcome in outcomes], [50, 95, 99])
    batches = {outcome.batch: outcome for outcome in outcomes}
    peaks = [one.batch_peak_bytes for one in batches.values() if one.batch_peak_bytes is not None]
    return Row(
        scheduler=entrant.scheduler,
        family=entrant.family,
        cache=entrant.cache,
        fields=dict(entrant.fields),
        n=len(outcomes),
        n_scored=len(scored),
        accuracy=strict / len(scored) if scored else None,
        accuracy_low=low,
        accuracy_high=high,
        answer_accuracy=sum(bool(outcome.answer) for outcome in scored) / len(scored) if scored else None,
        agreement=sum(outcome.agreement for outcome in outcomes) / len(outcomes),
        nfe=passes / len(outcomes),
        refreshes=sum(outcome.refreshes for outcome in outcomes) / len(outcomes),
        fed=fed / len(outcomes),
        extra=sum(outcome.extra for outcome in outcomes) / len(outcomes),
        tpf=tokens / passes,
        generated_tokens=tokens / len(outcomes),
        tokens_per_second=tokens / wall_seconds(outcomes),
        latency_p50_s=float(p50),
        latency_p95_s=float(p95),
        latency_p99_s=float(p99),
        padding_efficiency=fed / sum(one.batch_lanes for one in batches.values()),
        peak_memory_bytes=max(peaks, default=None),
    )


def wall_seconds(outcomes: Sequence[Outcome]) -> float:
    """Time of the batches, one after another: each lasts until its last row is done."""
    ends: dict[int, float] = {}
    for outcome in outcomes:
        ends[outcome.batch] = max(ends.get(outcome.batch, 0.0), outcome.seconds)
    return sum(ends.values())


def difference(first: Sequence[Outcome], other: Sequence[Outcome]) -> Difference:
    """`other` against `first`, paired by prompt; they share at least one."""
    known = {(outcome.task, outcome.prompt): outcome for outcome in first}
    both = [(known[key], one) for one in other if (key := (one.task, one.prompt)) in known]
    scored = [(a.strict, b.strict) for a, b in both if a.strict is not None and b.strict is not None]
    only_first, only_other = scored.count((True, False)), scored.count((False, True))
    share = (only_other - only_first) / len(scored) if scored else None
    right = np.array(scored, dtype=float)
    low, high = bootstrap(right, lambda mean: mean[:, 1] - mean[:, 0]) if scored else (None, None)
    cost = np.array([(a.nfe, b.nfe, a.generated, b.generated) for a, b in both], dtype=float)
    passes_first, passes_other, tokens_first, tokens_other = cost.mean(0)
    nfe_low, nfe_high = bootstrap(cost, lambda mean: mean[:, 1] - mean[:, 0])
    tpf_low, tpf_high = bootstrap(cost, lambda mean: mean[:, 3] / mean[:, 1] - mean[:, 2] / mean[:, 0])
    return Difference(
        scheduler=other[0].scheduler,
        baseline=first[0].scheduler,
        n=len(both),
        n_scored=len(scored),
        accuracy=share,
        accuracy_low=low,
        accuracy_high=high,
        only_scheduler=only_other,
        only_baseline=only_first,
        p_value=None if share is None else mcnemar(only_first, only_other),
        prompts_needed=None if share is None else prompts_needed(share, (only_first + only_other) / len(scored)),
        nfe=float(passes_other - passes_first),
        nfe_low=nfe_low,
        nfe_high=nfe_high,
        tpf=float(tokens_other / passes_other - tokens_first / passes_first),
        tpf_low=tpf_low,
        tpf_high=tpf_high,
    )


def areas(rows: Sequence[Row]) -> list[Aup]:
    """The area under the accuracy-parallelism curve of every scheduler class and cache with several settings."""
    scored = [row for row in rows if row.accuracy is not None]
    best = max((100 * (row.accuracy or 0.0) for row in scored), default=0.0)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in scored:
        groups.setdefault((row.family, row.cache), []).append(row)
    found = []
    for (family, cache), group in groups.items():
        if len(group) > 1 and best > 0:
            group.sort(key=lambda row: row.tpf)
            first = group[0].accuracy or 0.0
            kept = [row for row in group if 100 * (row.accuracy or 0.0) >= 100 * first - _AUP_DROP - 1e-9]
            points = [(row.tpf, 100 * (row.accuracy or 0.0)) for row in kept]
            found.append(Aup(family, cache, [row.scheduler for row in kept], area(points, best)))
    return found


def area(points: Sequence[tuple[float, float]], best: float) -> float:
    """AUP of (tokens per forward pass r, accuracy y in percent), by rising r; `best`: the highest y of any method.

    With W(y) = min(exp(-3 (1 - y / best)), 1):

        r_1 y_1 + sum over i >= 2 of (r_i - r_(i-1)) (y_i W_i + y_(i-1) W_(i-1)) / 2

    arXiv:2601.07568, whose code (aup_utils.py) leaves out what is more than 5 points below y_1.
    """
    weighted = [y * min(exp(-_AUP_PENALTY * (1 - y / best)), 1.0) for _, y in points]
    total = points[0][0] * points[0][1]
    for i in range(1, len(points)):
        total += (points[i][0] - points[i - 1][0]) * (weighted[i] + weighted[i - 1]) / 2
    return total


def front(losses: Sequence[float] | Floats, costs: Sequence[float] | Floats) -> list[int]:
    """Those that nothing beats: no other is as good in both, and better in one. Places, from the dearest on."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], losses[i]))
    kept: list[int] = []
    for i in order:
        if not kept or losses[i] < losses[kept[-1]] or (losses[i], costs[i]) == (losses[kept[-1]], costs[kept[-1]]):
            kept.append(i)
    return kept[::-1]


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> float:
    """Share of positions with the same token, up to the end of the longer answer; 1 for two empty ones."""
    longer = max(len(tokens), len(reference))
    return sum(a == b for a, b in zip(tokens, reference, strict=False)) / longer if longer else 1.0
