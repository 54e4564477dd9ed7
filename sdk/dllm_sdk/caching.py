"""Which positions a step computes. Knows positions and the model's forward, no scheduler.

A step has two sets of positions per row: the window (what is predicted) and the feed (what is computed). A cache policy
only says what is fed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_sdk.errors import ModelError
from dllm_sdk.model import Model


@dataclass(frozen=True)
class NoCache:
    """Every step computes every position of the row: the oracle that others are compared with."""


class Computed(NamedTuple):
    """What a forward pass gave."""

    hidden: Tensor  # [B, W, D]  the hidden state that predicts each lane
    fed: Tensor  # int64 [B]  positions computed


def compute(model: Model, tokens: Tensor, length: Tensor, window: Tensor, extent: tuple[int, int]) -> Computed:
    """Feed whole rows and read the window's hidden states.

    tokens int64 [B, L]; length int64 [B]; window int64 [B, W], L on padding lanes; extent: the shortest and the longest
    row, known to the host.
    """
    shortest, longest = extent
    positions = torch.arange(longest, device=tokens.device).expand(len(tokens), longest)
    real = positions < length[:, None]
    feed = torch.where(real, positions, tokens.shape[1])
    key_mask = None if shortest == longest else real[:, None, :]
    hidden = model.forward(tokens[:, :longest], feed, None, key_mask)
    if hidden.shape[:2] != (len(tokens), longest):
        raise ModelError(f"forward must return hidden states [{len(tokens)}, {longest}, D], got {tuple(hidden.shape)}")
    lane = (window - model.shift).clamp(0, longest - 1)  # a shifted model predicts a position from the one before it
    picked = hidden.gather(1, lane[..., None].expand(-1, -1, hidden.shape[-1]))
    return Computed(picked, length)
