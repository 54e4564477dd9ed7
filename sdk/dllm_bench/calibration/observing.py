"""What the drafts of a careful decode were worth: would a mask that waited have kept the token it could have taken?

The reference decodes once more and every step is looked at: each mask that the step leaves open had a draft, with a
confidence, and in the end a token. So the label of a confidence needs no answer key. Knows no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllm_bench.measure import Batch
from dllm_bench.significance import Floats
from dllm_sdk import Model, Scheduler, Step, View, generate


class Drafts(NamedTuple):
    """All drafts of a run that had to wait."""

    confidence: Floats  # [N]
    stays: Floats  # [N]  1: the draft is the token that was written in the end
    drops: NDArray[np.float64]  # [3, V]  by drafted token: pairs with an open neighbour, sum of falls, of their squares


def observe(model: Model, scheduler: Scheduler[Any], seed: int, batch: Batch) -> Drafts:
    """Decode a batch and look at every step; what lies behind EOS does not count."""
    drops = np.zeros((3, model.vocab_size))
    waited: list[tuple[Tensor, ...]] = []  # by step: row and position of a draft, its token, its confidence

    def look(step: Step) -> None:
        rows, positions = (step.view.open & ~step.decision.commit).nonzero(as_tuple=True)
        drafts = (step.view.draft[rows, positions], step.view.confidence[rows, positions])
        waited.append(tuple(part.cpu() for part in (step.rows[rows], positions, *drafts)))
        np.add(drops, _falls(step.view, model.vocab_size), out=drops)

    length = batch.questions.gen_length
    found = generate(model, list(batch.ids), scheduler, gen_length=length, seed=seed, on_step=look)
    ends = [len(ids) + n for ids, n in zip(batch.ids, found.generated, strict=True)]
    written = torch.full((len(ends), max(ends)), -1)
    for row, (end, tokens) in enumerate(zip(ends, found.tokens, strict=True)):
        written[row, :end] = tokens[:end]
    rows, positions, draft, confidence = (torch.cat(column) for column in zip(*waited, strict=True))
    counts = positions < torch.tensor(ends)[rows]
    stays = draft[counts] == written[rows[counts], positions[counts]]
    return Drafts(confidence[counts].double().numpy(), stays.double().numpy(), drops)


def together(parts: Sequence[Drafts]) -> Drafts:
    """The drafts of several batches."""
    confidence, stays, drops = zip(*parts, strict=True)
    return Drafts(np.concatenate(confidence), np.concatenate(stays), np.sum(drops, axis=0))


def _falls(view: View, vocab_size: int) -> NDArray[np.float64]:
    """By how much confidence falls from an open position to the next one, summed by the token drafted at the first."""
    both = view.open[:, :-1] & view.open[:, 1:]
    token = view.draft[:, :-1][both].cpu().numpy()
    fall = (view.confidence[:, :-1] - view.confidence[:, 1:])[both].cpu().double().numpy()
    return np.stack([np.bincount(token, weights=w, minlength=vocab_size) for w in (np.ones_like(fall), fall, fall**2)])
