"""Stop on a margin that a schedule lowers. SchED (progress-aware confidence schedules), arXiv:2512.02892."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import ConfigError, check_number
from dllm_strategies.early_commit import EarlyCommit


@dataclass(frozen=True)
class SchED(EarlyCommit):
    """Everything commits once the mean gap of the two best logits is >= a limit that falls from `high` to `low`.

    With progress p, the share of the row that is decided (the paper: step / steps), w falls from 1 to 0 and the limit
    is low + (high - low) w. "linear": w = 1 - p; "cosine": w = (1 + cos(pi p)) / 2; "exponential": w = exp(-decay p).
    The mean is over the row's masks; the paper's is over the whole answer.
    """

    high: float = 7.5
    low: float = 2.5
    shape: Literal["linear", "cosine", "exponential"] = "linear"
    decay: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("high", "low", "decay"):
            check_number(self, name, 0)
        if self.low > self.high:
            raise ConfigError(f"SchED: low must be <= high, got {self.low} and {self.high}")
        if self.shape not in ("linear", "cosine", "exponential"):
            raise ConfigError(f"SchED: shape must be linear, cosine or exponential, got {self.shape!r}")

    def limit(self, progress: Tensor) -> Tensor:
        """Between the two, by the schedule."""
        if self.shape == "linear":
            weight = 1 - progress
        elif self.shape == "cosine":
            weight = (1 + torch.cos(math.pi * progress)) / 2
        else:
            weight = torch.exp(-self.decay * progress)
        return self.low + (self.high - self.low) * weight
