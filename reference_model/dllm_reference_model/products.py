"""Linear maps of one input, and how their weights lie in memory while a model decodes. Knows no transformer.

A decoding step multiplies few lanes with every weight, so reading the weights is most of it: fewer and wider products,
and a layout that is read in order, are what there is to gain.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Product:
    """Linear maps of one input, given at every call; once frozen, one product with all their weights.

    Frozen, the maps' weights are views of one tensor, so that nothing is held twice. Only float32 on a CPU is held once
    more, cut into panels of up to 256 outputs, which a product of few lanes reads faster (docs/benchmarks/speed.md).
    No module: calling one, and finding its tensors, would take as long as a small product does.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None  # [E, D], or in panels [n, D, E / n]
        self.bias: Tensor | None = None  # [E]
        self.widths: list[int] = []  # outputs of each map

    def freeze(self, *maps: nn.Linear) -> None:
        """Lay the weights out for decoding, where they are now; those of another kind of module stay as they are."""
        self.thaw()
        if any(type(one) is not nn.Linear for one in maps):
            return
        self.widths = [one.out_features for one in maps]
        weight = _joined([one.weight for one in maps])
        self.bias = None if maps[0].bias is None else _joined([one.bias for one in maps])
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            panel = _panel_width(math.gcd(*self.widths))
            self.weight = rearrange(weight, "(n e) d -> n d e", e=panel).contiguous()
        else:
            self.weight = weight
            for one, part in zip(maps, weight.split_with_sizes(self.widths), strict=True):
                one.weight = nn.Parameter(part, requires_grad=False)

    def thaw(self) -> None:
        """Each map as it is again."""
        self.weight = self.bias = None

    def __call__(self, x: Tensor, *maps: nn.Linear) -> Sequence[Tensor]:
        """[.., D] -> the outputs of each map, in panels [n, .., E / n]: see `together`."""
        weight, bias = self.weight, self.bias
        if weight is None or maps[0].weight.requires_grad:
            return [one(x)[None] for one in maps]
        if weight.dim() == 2:
            whole = F.linear(x, weight, bias)
            return [part[None] for part in whole.split_with_sizes(self.widths, dim=-1)]
        count, width, panel = weight.shape
        whole = torch.bmm(x.reshape(1, -1, width).expand(count, -1, -1), weight)
        if bias is not None:
            whole += bias.view(count, 1, panel)
        return whole.view(count, *x.shape[:-1], panel).split_with_sizes([size // panel for size in self.widths])


def together(panels: Tensor) -> Tensor:
    """Outputs in panels, [n, .., E / n] -> [.., E]."""
    return panels[0] if panels.shape[0] == 1 else panels.movedim(0, -2).flatten(-2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)).detach() if len(parts) > 1 else parts[0].detach()


def _panel_width(outputs: int) -> int:
    """The outputs of a panel: the largest divisor up to 256, or all of them where panels would be very narrow."""
    width = next(width for width in range(min(outputs, 256), 0, -1) if outputs % width == 0)
    return width if width >= 64 else outputs
