"""SGLang: a scheduler of ours as an algorithm of its server, found through SGLang's plug-in entry point.

    python -m sglang.launch_server --dllm-algorithm DllmSDK --dllm-algorithm-config mine.yaml ...

The YAML holds `scheduler`, a SPEC, and, where wanted, SGLang's own `block_size`, `eos_ids` (what the scheduler knows as
EOS) and `seed`. State is kept per request, so both of SGLang's loops work: whole blocks, and one step per round
(`--dllm-fdfo`). Needs the extra `sglang`. Knows SGLang's class of algorithms, no model and no server.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dllm_sdk.bridges.block import Block, Terms, join, open_block, split, step
from dllm_sdk.bridges.hosts import listed, scheduler_for
from dllm_sdk.errors import ConfigError
from dllm_sdk.rules import hash_with

try:
    from sglang.srt.dllm import algorithm
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
except ImportError as error:
    raise ImportError(f"the bridge to SGLang: {error}; pip install 'dllm-sdk[sglang]'") from error

_KEYS = ("scheduler", "block_size", "eos_ids", "seed", "capture_input_preparation")


class DllmSDK(DllmAlgorithm):  # type: ignore[misc]
    """The scheduler of a SPEC in SGLang; raises ConfigError for one that a server cannot run."""

    def __init__(self, config: Any) -> None:
        """Read the YAML's keys, and check the scheduler against the server's block."""
        super().__init__(config)
        given: dict[str, Any] = config.algorithm_config
        unknown = sorted(set(given) - set(_KEYS))
        if unknown or "scheduler" not in given:
            wrong = f"has the unknown key {unknown[0]!r}" if unknown else "has no key 'scheduler'"
            raise ConfigError(f"the YAML of --dllm-algorithm-config {wrong}: it may hold {', '.join(_KEYS)}")
        eos_ids, self.seed = listed(given.get("eos_ids", ())), given.get("seed", 0)
        scheduler = scheduler_for("SGLang", given["scheduler"], self.block_size, eos_ids=eos_ids, seed=self.seed)
        self.terms = Terms(scheduler, self.mask_id, eos_ids)

    def init_step_state(self, forward_batch: Any) -> list[Block]:
        """One block per request."""
        shape = (forward_batch.batch_size, self.block_size)
        start = forward_batch.positions.view(shape)[:, 0].long()
        seed = hash_with(torch.full_like(start, self.seed), start)  # every block of a request draws its own numbers
        tokens = forward_batch.input_ids.view(shape)
        return split(open_block(self.terms.scheduler, tokens, self._prompt_mask(forward_batch), seed))

    def max_steps(self, block_size: int) -> int:
        """As many as `block.step` can take, and one that writes nothing."""
        scheduler = self.terms.scheduler
        idle = scheduler.patience + block_size if scheduler.revises else 1
        return (block_size + 1) * idle + 1

    def step(self, forward_batch: Any, full_logits: Tensor, states: list[Any]) -> list[bool]:
        """One decision per request. True: the block is final, and this forward has stored its final keys."""
        shape = (forward_batch.batch_size, self.block_size)
        tokens = forward_batch.input_ids.view(shape)
        done = step(self.terms, join(states), tokens, full_logits.view(*shape, -1))
        forward_batch.input_ids.copy_(done.tokens.view(-1))  # in place: CUDA graphs know this very tensor
        states[:] = split(done.block)
        settled: list[bool] = done.settled.tolist()
        return settled


def register() -> None:
    """SGLang's plug-in hook (entry point `sglang.srt.plugins`): `--dllm-algorithm DllmSDK` is known from here on."""
    names = getattr(algorithm, "algo_name_to_cls", None)
    if not isinstance(names, dict):
        raise ImportError("this version of SGLang keeps its algorithms elsewhere: pip install 'dllm-sdk[sglang]'")
    names[DllmSDK.__name__] = DllmSDK
