"""From outcomes, prompt by prompt, to the numbers of a row. Pure functions of what was recorded.

The definitions stand at the fields of `results.Row`. Knows no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dllm_bench.results import Difference, Outcome, Row
from dllm_bench.significance import mcnemar, prompts_needed, wilson


def summarise(scheduler: str, fields: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Row:
    """One scheduler's row over its outcomes; at least one."""
    scored = [outcome for outcome in outcomes if outcome.strict is not None]
    strict = sum(bool(outcome.strict) for outcome in scored)
    low, high = wilson(strict, len(scored)) if scored else (None, None)
    tokens = sum(outcome.generated for outcome in outcomes)
    passes = sum(outcome.nfe for outcome in outcomes)
    p50, p95 = np.percentile([outcome.seconds for outcome in outcomes], [50, 95])
    return Row(
        scheduler=scheduler,
        cache=outcomes[0].cache,
        fields=dict(fields),
        n=len(outcomes),
        n_scored=len(scored),
        accuracy=strict / len(scored) if scored else None,
        accuracy_low=low,
        accuracy_high=high,
        answer_accuracy=sum(bool(outcome.answer) for outcome in scored) / len(scored) if scored else None,
        agreement=sum(outcome.agreement for outcome in outcomes) / len(outcomes),
        nfe=passes / len(outcomes),
        refreshes=sum(outcome.refreshes for outcome in outcomes) / len(outcomes),
        fed=sum(outcome.fed for outcome in outcomes) / len(outcomes),
        tpf=tokens / passes,
        generated_tokens=tokens / len(outcomes),
        tokens_per_second=tokens / wall_seconds(outcomes),
        latency_p50_s=float(p50),
        latency_p95_s=float(p95),
    )


def wall_seconds(outcomes: Sequence[Outcome]) -> float:
    """Time of the batches, one after another: each lasts until its last row is done."""
    ends: dict[int, float] = {}
    for outcome in outcomes:
        ends[outcome.batch] = max(ends.get(outcome.batch, 0.0), outcome.seconds)
    return sum(ends.values())


def difference(first: Sequence[Outcome], other: Sequence[Outcome]) -> Difference | None:
    """The accuracy of `other` against `first`, paired by prompt; None if no prompt of both is scored."""
    strict = {(outcome.task, outcome.prompt): outcome.strict for outcome in first}
    pairs = [(strict.get((outcome.task, outcome.prompt)), outcome.strict) for outcome in other]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return None
    only_first, only_other = pairs.count((True, False)), pairs.count((False, True))
    share = (only_other - only_first) / len(pairs)
    return Difference(
        scheduler=other[0].scheduler,
        baseline=first[0].scheduler,
        n=len(pairs),
        difference=share,
        only_scheduler=only_other,
        only_baseline=only_first,
        p_value=mcnemar(only_first, only_other),
        prompts_needed=prompts_needed(share, (only_first + only_other) / len(pairs)),
    )


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> float:
    """Share of positions with the same token, up to the end of the longer answer; 1 for two empty ones."""
    longer = max(len(tokens), len(reference))
    return sum(a == b for a, b in zip(tokens, reference, strict=False)) / longer if longer else 1.0
