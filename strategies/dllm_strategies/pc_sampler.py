"""Fixed blocks and a quota; from the left, and rare tokens before common ones. PC-Sampler, arXiv:2508.13021."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import first, leftmost, share, top_k


@dataclass(frozen=True)
class PCSampler(Scheduler):
    """Positions rank by exp(-`slope` i) min(-c log f(draft), `cap`); each of `steps` commits an equal share of a block.

    i counts positions of the block from 0, c is the confidence, f how frequent a token is in general. `background` is
    a safetensors file with one tensor, or a tuple: a count or share per token id. Without one every token is equally
    frequent, and what remains of the method is its preference for the left.
    """

    block: int = 32
    steps: int = 32
    slope: float = 0.25
    cap: float = 10.0
    background: str | tuple[float, ...] = ()
    log_frequency: Tensor = field(init=False, repr=False, compare=False)  # float32 [V], or empty

    def __post_init__(self) -> None:
        """Check the fields, read the background."""
        check_number(self, "block", 1, whole=True)
        check_number(self, "steps", 1, whole=True)
        check_number(self, "slope", 0)
        check_number(self, "cap", 0)
        object.__setattr__(self, "log_frequency", _log_frequency(self.background))

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The first `block` masks."""
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """This step's share, the best of them."""
        size, table = view.logits.shape[-1], self.log_frequency
        if len(table) not in (0, size):
            raise ConfigError(f"PCSampler: background has {len(table)} tokens, the model {size}: give one per token")
        rarity = -table[view.draft] if len(table) else math.log(size)
        index = torch.arange(view.open.shape[1], device=view.open.device) - leftmost(view.open)[:, None]
        score = (-self.slope * index).exp() * (view.confidence * rarity).clamp(max=self.cap)
        return Decision(commit=top_k(view.open, score, share(view, self.steps))), state


def _log_frequency(background: str | tuple[float, ...]) -> Tensor:
    if background == ():
        return torch.empty(0)
    try:
        counts = list(load_file(background).values()) if isinstance(background, str) else [torch.tensor(background)]
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ConfigError(f"PCSampler: background cannot be read: {error}") from error
    if len(counts) != 1 or counts[0].dim() != 1 or not (counts[0] >= 0).all() or not 0 < counts[0].sum() < torch.inf:
        raise ConfigError("PCSampler: background must hold one number >= 0 per token id, not all of them 0")
    return (counts[0].double() / counts[0].sum() + 1e-9).log().float()
