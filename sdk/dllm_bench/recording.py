"""A few prompts of a run, decoded once more and kept position by position, for the report. Knows no strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dllm_bench.ahead import confidences
from dllm_bench.measure import Run
from dllm_bench.questions import Questions
from dllm_bench.results import Recording, Snapshot
from dllm_sdk import Model, Trace, generate

TASKS, SCHEDULERS = 5, 12  # how many are recorded: what a page has room for
_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the answer: when the confidence of every position is looked at


def record(run: Run, questions: Sequence[Questions]) -> list[Recording]:
    """The first prompt of the first tasks under the first schedulers, task by task; snapshots of the first one.

    The rows of a batch do not read each other: this is what happened to these prompts in the run.
    """
    asked = questions[:TASKS]
    found: dict[tuple[int, int], Recording] = {}
    for i, contender in enumerate(run.contenders[:SCHEDULERS]):
        traces = generate(
            run.model,
            [one.prompts[0] for one in asked],
            contender.scheduler,
            gen_length=[one.gen_length for one in asked],
            cache=contender.cache,
            sampler=run.sampler,
            seed=run.seed,
            trace=True,
        ).trace
        for j, (one, trace) in enumerate(zip(asked, traces or (), strict=True)):
            # A block-causal model has none: what it says of a mask depends on blocks, and those ahead are unknown.
            snapshots = _snapshots(run.model, trace) if i == 0 and not run.model.block_causal else ()
            found[j, i] = _recording(trace, one.name, contender.name, snapshots)
    return [found[at] for at in sorted(found)]


def _recording(trace: Trace, task: str, scheduler: str, snapshots: Sequence[Snapshot]) -> Recording:
    confidence, block = torch.zeros(len(trace.tokens)), torch.zeros(len(trace.tokens), dtype=torch.int64)
    for step in trace:
        at = step.position[step.commit]
        confidence[at], block[at] = step.confidence[step.commit].float(), step.block
    order, texts = trace.order(), trace.about["texts"]
    return Recording(
        task=task,
        prompt=0,
        scheduler=scheduler,
        passes=len(trace),
        tokens=[texts.get(str(token), "") for token in trace.canvas()[trace.open].tolist()],
        order=order[trace.open].tolist(),
        confidence=[round(value, 3) for value in confidence[trace.open].tolist()],
        block=block.masked_fill(order == 0, 0)[trace.open].tolist(),
        snapshots=snapshots,
    )


def _snapshots(model: Model, trace: Trace) -> list[Snapshot]:
    """The model's confidence at every undecided position, when so much of the answer was decided: one forward pass."""
    order = trace.order()
    total = max(1, int((order > 0).sum()))
    decided = [int(((order > 0) & (order <= steps)).sum()) for steps in range(len(trace))]
    steps = [next((i for i, n in enumerate(decided) if n >= share * total), len(trace) - 1) for share in _SHARES]
    steps = list(dict.fromkeys(steps))
    canvases = list(trace.replay())
    seen = confidences(model, [canvases[i] for i in steps])
    return [
        Snapshot(decided[i] / total, [_seen(value) for value in row[trace.open].tolist()])
        for i, row in zip(steps, seen, strict=True)
    ]


def _seen(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
