"""Keys and values of a batch of rows: what a forward pass leaves for the next. Knows no transformer.

Shapes: B rows, Q fed lanes, S key slots, G key/value heads, E head width.
"""

from typing import NamedTuple, Self

from torch import Tensor


class Store(NamedTuple):
    """Keys, already rotated, and values: slots that are written by position and never moved.

    The last slot takes what padding lanes write, and nobody sees it. One tensor per layer, since compiled code would
    copy all layers where it writes into a part of them.
    """

    keys: tuple[Tensor, ...]  # [B, S + 1, G, E] of every layer
    values: tuple[Tensor, ...]

    @classmethod
    def empty(cls, layers: int, shape: tuple[int, ...], like: Tensor) -> Self:
        """Zeros, [B, S + 1, G, E] per layer, of the type and on the device of `like`."""
        return cls(*(tuple(like.new_zeros(shape) for _ in range(layers)) for _ in cls._fields))

    def keep(self, rows: Tensor) -> Self:
        """Some rows [int64, ascending], moved to the front in place, one layer at a time: no second store is made."""
        kept: list[tuple[Tensor, ...]] = []
        for part in self:
            for layer in part:
                layer[: len(rows)] = layer[rows]
            kept.append(tuple(layer[: len(rows)] for layer in part))
        return type(self)(*kept)

    def put(self, rows: Tensor, part: Self) -> None:
        """Overwrite some rows [int64], in place, with those of `part`."""
        for mine, other in zip((*self.keys, *self.values), (*part.keys, *part.values), strict=True):
            mine[rows] = other


class Slots(NamedTuple):
    """One layer's part of a store, and the slots that the fed lanes write."""

    keys: Tensor  # [B, S + 1, G, E]
    values: Tensor  # [B, S + 1, G, E]
    row: Tensor  # int64 [B, 1]
    position: Tensor  # int64 [B, Q]

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the lanes' [B, Q, G, E] into their slots; all that can be seen then, [B, S, G, E] each."""
        for slots, lanes in ((self.keys, key), (self.values, value)):
            slots.index_put_((self.row, self.position), lanes.to(slots.dtype))  # under autocast it may be another
        return self.keys[:, :-1], self.values[:, :-1]
