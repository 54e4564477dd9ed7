"""From the canvas to lanes and back: what a step computes of each row lies side by side. Knows no model.

Rows compute different numbers of positions; lanes that a row does not need are padding, at position L.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lanes(mask: Tensor, width: int) -> Tensor:
    """The positions of a mask, ascending, L on padding: bool [B, L] -> int64 [B, width]."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    ascending = torch.where(mask, positions, mask.shape[1]).sort(1).values[:, :width]
    # Compiled code is made for strides, and a slice has others.
    return ascending.clone(memory_format=torch.contiguous_format)


def at_lanes(canvas: Tensor, window: Tensor) -> Tensor:
    """What the canvas [B, L] holds at the positions of lanes, int64 [B, W]; 0 on padding lanes."""
    return _pad(canvas).gather(1, window)


def placed(canvas: Tensor, window: Tensor, values: Tensor) -> Tensor:
    """The canvas [B, L] with what lanes hold, [B, W], at their positions, int64 [B, W]; padding lanes write nothing."""
    return _pad(canvas).scatter(1, window, values)[:, :-1]


def before(mask: Tensor) -> Tensor:
    """The positions one to the left of those of a mask, bool [B, L]: a shifted model predicts these from there."""
    return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)


def _pad(canvas: Tensor) -> Tensor:
    """One more column, for the padding lanes."""
    return torch.cat([canvas, torch.zeros_like(canvas[:, :1])], dim=1)
