"""A stand-in for how public research code decodes: what `dllm-bench speed` measures the loop against.

Written from a description of what Fast-dLLM (arXiv:2505.22618; github.com/NVlabs/Fast-dLLM at f6b35ec, llada/) does at
every call, and AdaBlock (arXiv:2509.26432) after it; none of their code is here. It runs the reference transformer's
own weights, a batch of one, and does as they do:

- the output head on every position that was fed, then a float64 softmax over all of them and the whole vocabulary;
- keys are cached before they are rotated, and all of them are rotated again in every layer of every call, in float32;
- the prefix cache is concatenated with the new keys in every layer of every call; the dual cache writes the block into
  the old keys at positions that a `nonzero` finds in every layer;
- RMSNorm is written out in float32; the host asks after every call whether the block is done;
- the threshold is compared in a Python loop over the block's masks (Fast-dLLM; AdaBlock compares them all at once), and
  the prefix loop drafts every fed position once more and throws it away.

It leaves out what costs them a little more: an attention bias that is sliced in every layer and never used, an autocast
context around every norm and rotation. Attention is torch's own kernel, without a mask, as theirs is. Each weight is
multiplied by itself and lies as a checkpoint stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_sdk import ConfigError, Model

PUBLIC_FIGURES = (
    "Public code elsewhere, for the order of magnitude: Fast-dLLM's loops took 60.5 / 32.9 / 20.6 ms of CPU time per "
    "call (none / prefix / dual) on a model of the shape 10M with one thread of a shared two-core machine; Fast-dLLM "
    "on LLaDA-8B takes 24.2 ms per forward pass on an H100 (2.77 tokens per pass, 114.29 tokens/s, hao-ai-lab/d3LLM)."
)
CACHES = ("dual", "prefix", "none")

Past: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys, not rotated, and values of every layer, [1, G, S, E]."""

Rule: TypeAlias = Callable[[Tensor, int], Tensor]
"""`f(confidence float64 [1, Q], -inf where nothing may commit; step of the block) -> commit bool [1, Q]`."""


class Researched(NamedTuple):
    """What the loop wrote, and how many forward passes it took."""

    tokens: Tensor  # int64 [L]
    nfe: int


def threshold_rule(threshold: float) -> Rule:
    """Everything at or above the threshold, and always the best (Fast-dLLM)."""

    def choose(confidence: Tensor, step: int) -> Tensor:
        order = confidence[0].topk(int(torch.isfinite(confidence).sum())).indices
        commit = torch.zeros_like(confidence, dtype=torch.bool)
        commit[0, order] = True
        for place in order[1:]:  # each of them a question to the host, as in its `get_transfer_index`
            if confidence[0, place] < threshold:
                commit[0, place] = False
        return commit

    return choose


def quota_rule(steps: int) -> Rule:
    """An equal share of what is left in each of the block's steps, the most confident first (LLaDA)."""

    def choose(confidence: Tensor, step: int) -> Tensor:
        left = int(torch.isfinite(confidence).sum())
        best = confidence.topk(-(-left // max(steps - step, 1)), dim=1).indices
        return torch.zeros_like(confidence, dtype=torch.bool).scatter(1, best, True)

    return choose


@torch.no_grad()
def decode_research(
    model: Model, prompt: Sequence[int], rule: Rule, *, gen_length: int, block: int, cache: str
) -> Researched:
    """Decode one prompt; `cache` is one of CACHES. Raises ConfigError for a model that is not the reference's."""
    canvas = torch.tensor([[*prompt, *[model.mask_id] * gen_length]], device=model.device)
    run = ResearchModel(model, canvas.shape[1])
    nfe = 0
    for start in range(len(prompt), canvas.shape[1], block):
        end = min(start + block, canvas.shape[1])
        logits, past = run(canvas)
        step = 0
        _commit(canvas, logits, end, model.mask_id, choose=rule, step=step)
        if cache == "prefix":
            past = [(keys[:, :, :start], values[:, :, :start]) for keys, values in past]
        while bool((canvas[:, start:end] == model.mask_id).any()):
            step += 1
            if cache == "none":
                fed = canvas
                logits, _ = run(fed)
            elif cache == "prefix":
                fed = canvas[:, start:]
                logits, _ = run(fed, past)
                logits.argmax(-1)  # as its `generate_with_prefix_cache`: nothing reads it
            else:
                fed, replaced = canvas[:, start:end], torch.zeros_like(canvas, dtype=torch.bool)
                replaced[:, start:end] = True
                logits, past = run(fed, past, replaced)
            stop = end if cache == "none" else end - start
            _commit(fed, logits, stop, model.mask_id, choose=rule, step=step)
        nfe += step + 1
    return Researched(canvas[0], nfe)


def _commit(fed: Tensor, logits: Tensor, end: int, mask_id: int, *, choose: Rule, step: int) -> None:
    """Write what the rule takes of the masks before `end` into `fed`, int64 [1, Q]. logits [1, Q, V]."""
    logits[..., mask_id] = -torch.inf  # one thing that public code does not do: a model that drafts it would never end
    masked = fed == mask_id
    masked[:, end:] = False
    draft = logits.argmax(-1)
    probability = F.softmax(logits.to(torch.float64), dim=-1).gather(-1, draft[..., None])[..., 0]
    commit = choose(torch.where(masked, probability, -torch.inf), step)
    fed[commit] = draft[commit]


class ResearchModel:
    """The reference transformer's weights under a forward pass of the research kind. B is 1."""

    def __init__(self, model: Any, length: int) -> None:
        """`length`: the longest canvas. Raises ConfigError."""
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "rope_base") or model.shift or model.block_causal:
            raise ConfigError(
                "the research-style loop runs the weights of the reference transformer, bidirectional and without "
                f"shift (tiny, random:SHAPE, llada:FOLDER), not those of a {type(model).__name__}"
            )
        self.model, self.config = model, config
        half = torch.arange(0, config.head_width, 2, device=model.device, dtype=torch.float32) / config.head_width
        angles = torch.arange(length, device=model.device)[:, None] * config.rope_base**-half  # [L, E / 2]
        self.cos, self.sin = (torch.cat((part, part), -1) for part in (angles.cos(), angles.sin()))

    def __call__(self, tokens: Tensor, past: Past | None = None, replaced: Tensor | None = None) -> tuple[Tensor, Past]:
        """Logits [1, Q, V] of every fed position, and the keys and values seen.

        Without `past` tokens int64 [1, Q] are the whole canvas; with it they follow it, or, with `replaced` bool
        [1, L], take the place of its positions there.
        """
        x, present = self.model.embed(tokens), []
        for index, layer in enumerate(self.model.layers):
            old = None if past is None else past[index]
            mixed, kept = self.attend(layer.attention, self.norm(layer.attention_norm, x), old, replaced)
            present.append(kept)
            x = x + mixed
            inner = self.norm(layer.mlp_norm, x)
            x = x + layer.mlp.down(F.silu(layer.mlp.gate(inner)) * layer.mlp.up(inner))
        out = self.norm(self.model.norm, x)
        # Weights as a checkpoint stores them: `head` would take what `freeze` has laid out.
        logits: Tensor = F.linear(out, self.model.embed.weight) if self.config.tied else self.model.unembed(out)
        return logits, present

    def attend(
        self, layer: Any, x: Tensor, old: tuple[Tensor, Tensor] | None, replaced: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attention of one layer, [1, Q, D] -> [1, Q, D], and its keys and values."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.config.head_width)).transpose(1, 2)
            for project in (layer.query, layer.key, layer.value)
        )
        if self.config.qk_norm:
            query, key = self.norm(layer.query_norm, query), self.norm(layer.key_norm, key)
        end: int | None = None
        if replaced is not None and old is not None:
            slots = replaced.nonzero()[:, 1]
            old[0][:, :, slots], old[1][:, :, slots] = key, value
            key, value, end = *old, int(slots.max()) + 1
        elif old is not None:
            key, value = torch.cat((old[0], key), dim=2), torch.cat((old[1], value), dim=2)
        mixed = F.scaled_dot_product_attention(
            self.turn(query, (end or key.shape[2]) - query.shape[2]),
            self.turn(key, 0),
            value,
            scale=self.config.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return layer.out(mixed.transpose(1, 2).flatten(2)), (key, value)

    def turn(self, heads: Tensor, start: int) -> Tensor:
        """Rotary position embedding of [1, H, Q, E] at positions from `start` on, in float32."""
        cos, sin = (table[start : start + heads.shape[2]] for table in (self.cos, self.sin))
        exact = heads.float()
        first, second = exact.chunk(2, dim=-1)
        return (exact * cos + torch.cat((-second, first), dim=-1) * sin).to(heads.dtype)

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """RMSNorm written out."""
        exact = x.float()
        scaled = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.config.norm_eps)
        normed: Tensor = layer.weight * scaled.to(x.dtype)
        return normed
