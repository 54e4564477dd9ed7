"""Muon, the optimiser for the weight matrices: momentum, then the nearest orthogonal matrix (Jordan et al., 2024).

torch.optim.Muon is not used because it orthogonalises in bfloat16, matrix by matrix: on a CPU without bfloat16 units
1.1 s per step of this model, four times the forward and backward pass together; in float32 and batched, 0.04 s.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dllm_reference_model.peers import Peers

_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the published Newton-Schulz iteration
_ITERATIONS = 5


class Muon:
    """Matrices of one shape, or its transpose, are stacked and orthogonalised together."""

    def __init__(self, matrices: Sequence[Tensor], momentum: float = 0.95) -> None:
        self.momentum = momentum
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for matrix in matrices:
            small, large = sorted(matrix.shape)
            shapes.setdefault((small, large), []).append(matrix)
        self.groups = list(shapes.values())
        self.velocity = [torch.zeros(len(group), *shape) for shape, group in shapes.items()]

    @torch.no_grad()
    def step(self, lr: float, peers: Peers) -> None:
        """One update of every matrix from its gradient, the work shared with the peers; gradients are cleared."""
        for group, velocity in zip(self.groups, self.velocity, strict=True):
            gradient = torch.stack([_wide(matrix.grad) for matrix in group if matrix.grad is not None])
            velocity.lerp_(gradient, 1 - self.momentum)
            direction = gradient.lerp(velocity, self.momentum)  # Nesterov
            mine = slice(peers.rank, None, peers.count)
            updates = torch.zeros_like(direction)
            updates[mine] = orthogonal(direction[mine])
            peers.sum(updates)
            for matrix, update in zip(group, updates, strict=True):
                rows, columns = matrix.shape
                turned = update if rows <= columns else update.mT
                matrix.sub_(turned, alpha=lr * max(1.0, rows / columns) ** 0.5)
                matrix.grad = None


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, r, c] with r <= c -> about the nearest matrices with orthonormal rows, by Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
