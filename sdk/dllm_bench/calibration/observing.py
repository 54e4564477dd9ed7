"""What the drafts of a careful decode were worth: would a mask that waited have kept the token it could have taken?

The reference decodes once more and every step is looked at: each mask that the step leaves open had a draft, with a
confidence, and in the end a token. So the label of a confidence needs no answer key. Knows no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllm_bench.measure import Batch, Run
from dllm_bench.significance import Floats
from dllm_sdk import Step, generate

_Columns: TypeAlias = tuple[Tensor, ...]  # [N] each


class Drafts(NamedTuple):
    """All drafts of a run that had to wait."""

    confidence: Floats  # [N]
    stays: Floats  # [N]  1: the draft is the token that was written in the end
    drops: NDArray[np.float64]  # [3, V]  by drafted token: pairs with an open neighbour, sum of falls, of their squares


def observe(run: Run, batch: Batch) -> Drafts:
    """Decode a batch with a run's first contender and look at every step; what lies behind EOS does not count."""
    waited: list[_Columns] = []  # by step: row and position of a draft, its token, its confidence
    pairs: list[_Columns] = []  # by step: row of two open neighbours, position of the second, token of the first, fall

    def look(step: Step) -> None:
        view = step.view
        rows, positions = (view.open & ~step.decision.commit).nonzero(as_tuple=True)
        drafts = (view.draft[rows, positions], view.confidence[rows, positions])
        waited.append(tuple(part.cpu() for part in (step.rows[rows], positions, *drafts)))
        rows, first = (view.open[:, :-1] & view.open[:, 1:]).nonzero(as_tuple=True)
        fall = view.confidence[rows, first] - view.confidence[rows, first + 1]
        pairs.append(tuple(part.cpu() for part in (step.rows[rows], first + 1, view.draft[rows, first], fall)))

    found = generate(run.model, **run.asked(batch, run.contenders[0]), on_step=look)
    ends = [len(ids) + n for ids, n in zip(batch.ids, found.generated, strict=True)]
    written = torch.full((len(ends), max(ends)), -1)
    for row, (end, tokens) in enumerate(zip(ends, found.tokens, strict=True)):
        written[row, :end] = tokens[:end]
    rows, positions, draft, confidence = _before(ends, waited)
    stays = draft == written[rows, positions]
    _, _, token, fall = _before(ends, pairs)
    return Drafts(confidence.double().numpy(), stays.double().numpy(), _sums(token, fall, run.model.vocab_size))


def _before(ends: Sequence[int], steps: Sequence[_Columns]) -> _Columns:
    """The columns of all steps, the first two row and position, without what lies behind the row's end."""
    columns = tuple(torch.cat(column) for column in zip(*steps, strict=True))
    counts = columns[1] < torch.tensor(ends)[columns[0]]
    return tuple(column[counts] for column in columns)


def _sums(token: Tensor, fall: Tensor, vocab_size: int) -> NDArray[np.float64]:
    """By token: how many falls [N], their sum and that of their squares."""
    values = fall.double().numpy()
    weights = (np.ones_like(values), values, values**2)
    return np.stack([np.bincount(token.numpy(), weights=w, minlength=vocab_size) for w in weights])


def together(parts: Sequence[Drafts]) -> Drafts:
    """The drafts of several batches."""
    confidence, stays, drops = zip(*parts, strict=True)
    return Drafts(np.concatenate(confidence), np.concatenate(stays), np.sum(drops, axis=0))
