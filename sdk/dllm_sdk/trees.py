"""Trees: tensors in tuples of tuples, named or not, such as a view, a state or the rows in work. Knows no meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to every tensor of a (named) tuple of tuples; what is neither stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if not isinstance(tree, tuple):
        return tree
    return alike(tree, [map_tensors(function, part) for part in tree])


def take(tree: T, index: Tensor) -> T:
    """Some rows, int64 [n], of every tensor of a tuple of tuples."""
    taken: T = map_tensors(lambda tensor: tensor[index], tree)
    return taken


def alike(tree: tuple[Any, ...], parts: list[Any]) -> Any:
    """The parts as a tuple of the same kind: a named one keeps its names."""
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def tensors_of(tree: Any) -> list[Tensor]:
    """Every tensor of a tuple of tuples, in order."""
    return [tree] if isinstance(tree, Tensor) else [tensor for part in tree for tensor in tensors_of(part)]
