"""diffusers: a scheduler of ours in a real `LLaDA2Pipeline`, and diffusers' `BlockRefinementScheduler` as one of ours.

    pipe = LLaDA2Pipeline(model, DllmScheduler("credit-decoding:block=32"), tokenizer)

The pipeline owns the block and recomputes everything up to its end at every step: what `generate` does with
`NoCache(suffix=False)`. Needs the extra `diffusers`. Knows the two classes of diffusers and no strategy of ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from dllm_sdk.bridges.block import Block, Terms, open_block, step
from dllm_sdk.bridges.hosts import listed, scheduler_for
from dllm_sdk.errors import ConfigError
from dllm_sdk.rules import aligned, hash_with
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Decision, Scheduler, View, check_number

try:
    from diffusers import BlockRefinementScheduler, ConfigMixin, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
except ImportError as error:
    raise ImportError(f"the bridge to diffusers: {error}; pip install 'dllm-sdk[diffusers]'") from error


class DllmScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """The scheduler of a SPEC as that of a `LLaDA2Pipeline`.

    `block_length` is the pipeline's; `eos_ids` are what the scheduler knows as EOS (the pipeline stops at its own
    `eos_token_id`); `seed` is where random numbers come from. The pipeline's `threshold`, `editing_threshold`,
    `num_inference_steps`, `max_post_steps` and `minimal_topk` do nothing: the fields of the SPEC say it all. Its
    `temperature` and `top_p` hold; `top_k` and `generator` are refused. `save_pretrained` writes these arguments, no
    code. Raises ConfigError for a scheduler that the pipeline cannot run.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, scheduler: str, block_length: int = 32, eos_ids: tuple[int, ...] = (), seed: int = 0) -> None:
        """Check that the pipeline can run it."""
        self.register_to_config(_use_default_values=[])  # from_config would drop what was given by position
        self._eos_ids, self._seed, self._size = listed(eos_ids), seed, block_length
        self._scheduler = scheduler_for("diffusers", scheduler, block_length, eos_ids=self._eos_ids, seed=seed)
        self._block: Block | None = None  # the pipeline hands no state around: it lives from a block's first step on
        self._opened = 0  # blocks of the pipeline's call, so that no two of them draw the same numbers

    def set_timesteps(self, num_inference_steps: int, device: Any = None, block_length: int | None = None) -> None:
        """The pipeline says how long its blocks are. Raises ConfigError unless that is what was checked."""
        if block_length not in (None, self._size):
            raise ConfigError(
                f"the pipeline was called with block_length={block_length}, but its scheduler was made for "
                f"{self._size}: make another DllmScheduler with block_length={block_length}"
            )
        self._block, self._opened = None, 0

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        *,
        mask_token_id: int,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> Any:
        """Decide from model_output [B, n, V], the logits of the block sample [B, n]; timestep 0 opens a block.

        prompt_mask bool [n]: what of the block belongs to the prompt.
        """
        if top_k is not None or generator is not None:
            raise ConfigError("DllmScheduler draws by its seed and top_p: leave top_k and generator out")
        sampler = Sampler(0.0 if sampling_method == "greedy" else temperature, 1.0 if top_p is None else top_p)
        if timestep == 0 or self._block is None:
            given = torch.zeros_like(sample, dtype=torch.bool) if prompt_mask is None else prompt_mask.expand_as(sample)
            self._opened += 1
            seed = int(hash_with(torch.tensor(self._seed), self._opened))
            self._block = open_block(self._scheduler, sample, given, seed)
        terms = Terms(self._scheduler, mask_token_id, self._eos_ids, sampler)
        done = step(terms, self._block, sample, model_output)
        self._block = done.block
        output = (done.tokens, done.commit, done.revise, done.draft, done.confidence, model_output)
        return BlockRefinementSchedulerOutput(*output) if return_dict else output

    def check_eos_finished(
        self,
        *,
        cur_x: Tensor,
        finished: Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
        **ignored: Any,
    ) -> Tensor:
        """The rows, bool [B], whose tokens up to their first generated EOS are final."""
        generated = cur_x[:, prompt_length:]
        ends = generated == eos_token_id
        before = ends.cumsum(1) == 0
        done = ends.any(1) & ~(before & (generated == mask_token_id)).any(1)
        if self._block is not None and self._scheduler.revises:
            done &= self._block.closed
        return finished | done

    def check_block_should_continue(self, *, finished: Tensor, **ignored: Any) -> bool:
        """Until every row that goes on has closed its block."""
        return self._block is not None and bool((~self._block.closed & ~finished).any())


Counter: TypeAlias = tuple[Tensor]  # int64 [B]


@dataclass(frozen=True)
class FromDiffusers(Scheduler[Counter]):
    """A `BlockRefinementScheduler` as a scheduler of ours: it commits and edits in aligned blocks, row by row.

    Its own config says block_length, num_inference_steps, threshold and editing_threshold; `max_post_steps` is the
    pipeline's. It drafts by itself, always the likeliest token. Its `step` reads numbers back to the host for every
    row: it is a cross-check, not a fast way to decode.
    """

    scheduler: Any  # a BlockRefinementScheduler
    max_post_steps: int = 16
    _edits: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Check the fields, and keep a copy that nobody else sets."""
        if not isinstance(self.scheduler, BlockRefinementScheduler):
            raise ConfigError(f"FromDiffusers takes a BlockRefinementScheduler, got {type(self.scheduler).__name__}")
        check_number(self, "max_post_steps", 1, 30, whole=True)
        config = self.scheduler.config
        if config.num_inference_steps > config.block_length:
            raise ConfigError(
                f"num_inference_steps must be <= block_length ({config.block_length}), else some steps commit nothing, "
                f"got {config.num_inference_steps}"
            )
        own = copy.deepcopy(self.scheduler)
        own.set_timesteps(config.num_inference_steps, block_length=config.block_length)
        object.__setattr__(self, "scheduler", own)
        object.__setattr__(self, "_edits", (config.editing_threshold or 0) > 0)

    @property
    def revises(self) -> bool:
        """Only if it may edit."""
        return self._edits

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def init(self, tokens: Tensor, open: Tensor) -> Counter:
        """Steps spent since the block's last mask was committed."""
        return (torch.zeros_like(tokens[:, 0]),)

    def plan(self, view: View, state: Counter) -> tuple[Tensor, Counter]:
        """The masks of the aligned block that holds the first one."""
        return aligned(view.open, self.scheduler.config.block_length), (torch.zeros_like(state[0]),)

    def select(self, view: View, state: Counter) -> tuple[Decision, Counter]:
        """What its `step` says of each row; the block stays open while its `check_block_should_continue` says so."""
        after = state[0] + ~view.open.any(1)
        said = [self._row(view, row, int(after[row])) for row in range(len(view.tokens))]
        commit, edit, tokens = (torch.stack(part) for part in zip(*(row[:3] for row in said), strict=True))
        if not self.revises:
            return Decision(commit=commit, tokens=tokens), (after,)
        hold = torch.tensor([row[3] for row in said], device=view.open.device)
        return Decision(commit=commit, tokens=tokens, edit=edit, hold=hold), (after,)

    def _row(self, view: View, row: int, after: int) -> tuple[Tensor, Tensor, Tensor, bool]:
        """What it commits and edits in one row, bool [L], the tokens, int64 [L], and whether it wants another step."""
        length = view.tokens.shape[1]
        window = view.window[row][view.window[row] < length]
        logits = view.logits[row : row + 1, : len(window)]
        sample = view.tokens[row].masked_fill(view.open[row], -1)[window]
        at = int(view.step[row])
        said = self.scheduler.step(logits, at, sample[None], mask_token_id=-1)
        goes_on = self.scheduler.check_block_should_continue(
            step_idx=at + 1,
            masks_remaining=bool(view.open[row].any()),
            editing_enabled=self._edits,
            editing_transfer_index=said.editing_transfer_index,
            post_steps=after,
            max_post_steps=self.max_post_steps,
            finished=torch.zeros(1, dtype=torch.bool),
        )
        nothing = torch.zeros_like(view.open[row])
        commit = nothing.index_put((window,), said.transfer_index[0])
        edit = nothing.index_put((window,), said.editing_transfer_index[0])
        return commit, edit, view.tokens[row].index_put((window,), said.sampled_tokens[0]), bool(goes_on)
