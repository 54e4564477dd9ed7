"""The answer is known before decoding ends. Prophet, arXiv:2508.19982 (early commit decoding)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_sdk import check_number
from dllm_strategies.early_commit import EarlyCommit


@dataclass(frozen=True)
class Prophet(EarlyCommit):
    """Everything commits once the mean gap of the two best logits is >= 7.5, 5 or 2.5 in the thirds of the schedule.

    The schedule's progress is the share of the row that is decided, which is the paper's step / steps where equal
    shares commit. The gap is over all masks of the row; the paper's code takes five positions behind a known start of
    the answer. Gaps of raw logits are not comparable between models, nor invariant to their scale.
    """

    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("early", "middle", "late"):
            check_number(self, name, 0)

    def limit(self, progress: Tensor) -> Tensor:
        """A step down at 0.33 and at 0.67."""
        late = torch.full_like(progress, self.late)
        return late.masked_fill(progress < 0.67, self.middle).masked_fill(progress < 0.33, self.early)
