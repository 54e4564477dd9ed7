"""A server in miniature: what SGLang's scheduler does around an algorithm, one request per row, on a CPU.

The rules of who is batched, what is carried and what is emitted are those of `sglang/srt/dllm/mixin/scheduler.py`; it
has no cache: every forward recomputes the prefix, which is `generate` with `NoCache(suffix=False)`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Request:
    """A row: final tokens, the block in work, and what the algorithm keeps of it."""

    ids: list[int]
    prompt: int
    length: int
    incomplete: list[int] = field(default_factory=list)
    state: Any = None
    forwards: int = 0

    def block(self, size: int, mask_id: int) -> list[int]:
        """The tokens of the block in work."""
        given = self.ids[self.start(size) :]
        return self.incomplete or given + [mask_id] * (size - len(given))

    def start(self, size: int) -> int:
        """Where it begins."""
        return len(self.ids) // size * size


class Runner:
    """`model_runner`: forwards a batch of blocks, each behind its own prefix."""

    def __init__(self, model: Any) -> None:
        self.model, self.forwards = model, 0

    def forward(self, batch: Any, pp_proxy_tensors: Any = None) -> Any:
        self.forwards += 1
        size = len(batch.input_ids) // batch.batch_size
        blocks = batch.input_ids.view(batch.batch_size, size)
        logits = [self.logits(request, block)[-size:] for request, block in zip(batch.requests, blocks, strict=True)]
        for request in batch.requests:
            request.forwards += 1
        return SimpleNamespace(logits_output=SimpleNamespace(full_logits=torch.cat(logits)), can_run_graph=False)

    @torch.no_grad()
    def logits(self, request: Request, block: Tensor) -> Tensor:
        """[L, V] of the prefix and the block; never the mask, as the loop has it."""
        row = torch.cat([torch.tensor(request.ids[: request.start(len(block))], dtype=torch.int64), block])[None]
        hidden = self.model.forward(row, torch.arange(row.shape[1])[None], None, None)
        return self.model.head(hidden)[0].index_fill(1, torch.tensor(self.model.mask_id), -torch.inf)


def serve(model: Any, algorithm: Any, prompts: list[list[int]], length: int, *, batch: int = 2) -> list[Request]:
    """Decode until every request has `length` tokens, prompt included: a whole number of blocks."""
    size, runner, draw = algorithm.block_size, Runner(model), random.Random(0)
    waiting = [Request(list(prompt), len(prompt), length) for prompt in prompts]
    requests = list(waiting)
    while waiting:
        chosen = draw.sample(waiting, min(batch, len(waiting)))  # rows of different requests, mixed anew every round
        work = _forward_batch(chosen, size, model.mask_id)
        if algorithm.fdfo:
            _, ids, accepted, states, _ = algorithm.run(runner, work, [request.state for request in chosen])
            for i, request in enumerate(chosen):
                request.incomplete = [] if accepted[i] else ids[i]
                request.state = None if accepted[i] else states[i]
                if accepted[i]:
                    request.ids = request.ids[: request.start(size)] + ids[i]
        else:
            _, ids, _, _, _ = algorithm.run(runner, work)
            for request, tail in zip(chosen, ids, strict=True):
                request.ids = request.ids + tail.tolist()
        waiting = [request for request in waiting if len(request.ids) < request.length]
    return requests


def _forward_batch(requests: list[Request], size: int, mask_id: int) -> Any:
    blocks = torch.tensor([request.block(size, mask_id) for request in requests])
    given = torch.tensor([[request.start(size) + i < request.prompt for i in range(size)] for request in requests])
    positions = torch.tensor([[request.start(size) + i for i in range(size)] for request in requests])
    return SimpleNamespace(
        input_ids=blocks.view(-1),
        positions=positions.view(-1).int(),
        batch_size=len(requests),
        dllm_prompt_mask=given,
        requests=requests,
    )
