"""Linear maps of one input, and how their weights lie in memory while a model decodes. Knows no transformer.

A decoding step multiplies few lanes with every weight, so reading the weights is most of it: fewer and wider products,
and a layout that is read in order, are what there is to gain.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Maps(Protocol):
    """Linear maps of one input, N lanes of it. No module: to call one takes as long as a small product."""

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """[N, D] -> the outputs of each map, [N, E]."""
        ...

    def in_panels(self, x: Tensor) -> Sequence[Tensor]:
        """The same in panels, [n, N, E / n]: what is done to every number can be done before they are `together`."""
        ...


def laid_out(*maps: nn.Linear) -> Maps:
    """Maps whose weights are laid out for decoding, where they are now; those of another kind of module stay apart."""
    return Product(*maps) if all(type(one) is nn.Linear for one in maps) else Apart(*maps)


class Apart:
    """Each map by itself, as it is trained."""

    def __init__(self, *maps: nn.Module) -> None:
        self.maps = maps

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return [one(x) for one in self.maps]

    def in_panels(self, x: Tensor) -> Sequence[Tensor]:
        return [one(x)[None] for one in self.maps]


class Product:
    """One product with the weights of all maps.

    The maps' weights become views of one tensor, so that nothing is held twice. Only float32 on a CPU is held once
    more, cut into panels of up to 256 outputs, which a product of few lanes reads faster (docs/benchmarks/speed.md).
    """

    def __init__(self, *maps: nn.Linear) -> None:
        self.widths = [one.out_features for one in maps]
        self.weight = _joined([one.weight for one in maps])  # [E, D], or in panels [n, D, E / n]
        self.bias = None if maps[0].bias is None else _joined([one.bias for one in maps])  # [E], or [n, 1, E / n]
        self.panels: list[int] = []  # of each map
        if self.weight.dtype == torch.float32 and self.weight.device.type == "cpu":
            panel = _panel_width(math.gcd(*self.widths))
            self.panels = [width // panel for width in self.widths]
            self.weight = rearrange(self.weight, "(n e) d -> n d e", e=panel).contiguous()
            self.bias = None if self.bias is None else self.bias.view(-1, 1, panel)
        else:
            for one, part in zip(maps, self.weight.split_with_sizes(self.widths), strict=True):
                one.weight = nn.Parameter(part, requires_grad=False)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        if not self.panels:
            return F.linear(x, self.weight, self.bias).split_with_sizes(self.widths, dim=-1)
        whole = self._whole(x)
        if whole.shape[0] == len(self.panels):  # one panel each
            return whole.unbind()
        return [together(part) for part in whole.split_with_sizes(self.panels)]

    def in_panels(self, x: Tensor) -> Sequence[Tensor]:
        if not self.panels:
            return [part[None] for part in self(x)]
        return self._whole(x).split_with_sizes(self.panels)

    def _whole(self, x: Tensor) -> Tensor:
        """[N, D] -> all panels, [n, N, E / n]."""
        whole = torch.bmm(x.expand(self.weight.shape[0], -1, -1), self.weight)
        return whole if self.bias is None else whole.add_(self.bias)


def together(panels: Tensor) -> Tensor:
    """Outputs in panels, [n, N, E / n] -> [N, E]."""
    return panels[0] if panels.shape[0] == 1 else panels.transpose(0, 1).flatten(1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)).detach() if len(parts) > 1 else parts[0].detach()


def _panel_width(outputs: int) -> int:
    """The outputs of a panel: the largest divisor up to 256, or all of them where panels would be very narrow."""
    width = next(width for width in range(min(outputs, 256), 0, -1) if outputs % width == 0)
    return width if width >= 64 else outputs
