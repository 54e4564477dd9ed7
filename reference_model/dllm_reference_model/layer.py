"""A layer of the transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU, for some of the fed lanes.

Which lanes are fed and which keys are visible is the caller's business. Knows no vocabulary.

Shapes: B rows, Q fed lanes, W lanes that are asked for, S key slots, D width, H query heads, G key/value heads, E head
width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dllm_reference_model.config import Config
from dllm_reference_model.products import Apart, Maps
from dllm_reference_model.store import Slots


class Turn(NamedTuple):
    """Rotary position embedding in the rotate-half layout, arXiv:2104.09864: what every layer turns its heads by."""

    cos: Tensor  # [B, Q, 1, E]
    sin: Tensor  # [B, Q, 1, E]  negative in the first half

    def __call__(self, heads: Tensor) -> Tensor:
        """[B, Q, H, E] -> the same, each pair of channels (i, i + E / 2) turned by its position's angle."""
        exact = heads.to(self.cos.dtype)
        partner = exact.roll(heads.shape[-1] // 2, -1)
        return (exact * self.cos).addcmul_(partner, self.sin).to(heads.dtype)


def pick(x: Tensor, lanes: Tensor | None) -> Tensor:
    """[B, Q, ...] at some lanes, int64 [B, W] -> [B, W, ...]; None: all of them."""
    return x if lanes is None else x[torch.arange(len(x), device=x.device)[:, None], lanes]


def turn_by(positions: Tensor, config: Config, dtype: torch.dtype) -> Turn:
    """The rotation of positions int64 [B, Q]; once per forward pass."""
    # At least float32: in bfloat16 the angles of far positions would collapse.
    exact = torch.promote_types(dtype, torch.float32)
    pair = torch.arange(0, config.head_width, 2, device=positions.device, dtype=exact) / config.head_width
    angles = positions[..., None, None].to(exact) * config.rope_base**-pair  # [B, Q, 1, E / 2]
    cos, sin = angles.cos(), angles.sin()
    return Turn(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square normalization of the last dimension, arXiv:1910.07467."""
    return F.rms_norm(x, weight.shape, weight, eps)


class Asked(NamedTuple):
    """The lanes whose result is wanted of a layer, and what they see. The keys and values are those of every lane."""

    lanes: Tensor | None  # int64 [B, W]; None: all of them
    mask: Tensor | None  # bool [B, 1, W (once per query head of a group) or 1, S]; None: every key


class Attention(nn.Module):
    """The maps of grouped-query attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, queries = config.width, config.heads * config.head_width
        keys = config.kv_heads * config.head_width
        self.query = nn.Linear(width, queries, bias=config.qkv_bias)
        self.key = nn.Linear(width, keys, bias=config.qkv_bias)
        self.value = nn.Linear(width, keys, bias=config.qkv_bias)
        self.out = nn.Linear(queries, width, bias=False)
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(config.head_width, config.norm_eps)
            self.key_norm = nn.RMSNorm(config.head_width, config.norm_eps)


class SwiGLU(nn.Module):
    """The maps of a gated feed-forward layer, arXiv:2002.05202."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)


class Parts(NamedTuple):
    """What a layer computes with, gathered: to find a tensor in a module takes as long as a small operation."""

    attention_norm: Tensor  # [D]
    inward: Maps  # to queries, keys and values
    query_norm: Tensor | None  # [E]; None: heads are not normed
    key_norm: Tensor | None
    outward: Maps
    mlp_norm: Tensor  # [D]
    gate_and_up: Maps
    down: Maps


class Layer(nn.Module):
    """Pre-norm residual layer. Of its modules only the linear maps are called, and may be replaced by others."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config)
        self.laid_out: Parts | None = None  # for decoding

    def parts(self, maps: Callable[..., Maps]) -> Parts:
        """Its weights as they are now, those of linear maps by `maps`."""
        attention, mlp, normed = self.attention, self.mlp, self.config.qk_norm
        return Parts(
            attention_norm=self.attention_norm.weight,
            inward=maps(attention.query, attention.key, attention.value),
            query_norm=attention.query_norm.weight if normed else None,
            key_norm=attention.key_norm.weight if normed else None,
            outward=maps(attention.out),
            mlp_norm=self.mlp_norm.weight,
            gate_and_up=maps(mlp.gate, mlp.up),
            down=maps(mlp.down),
        )

    def forward(self, x: Tensor, turn: Turn, slots: Slots | None, asked: Asked) -> Tensor:
        """The lanes of all rows, [B * Q, D] -> those that are asked for, [B * W, D]."""
        parts, eps = self.laid_out or self.parts(Apart), self.config.norm_eps
        mixed = self.attend(parts, rms_norm(x, parts.attention_norm, eps), turn, slots, asked)
        if asked.lanes is not None:
            x = pick(x.view(*turn.cos.shape[:2], x.shape[-1]), asked.lanes).flatten(0, 1)
        x = x + mixed
        gate, up = parts.gate_and_up(rms_norm(x, parts.mlp_norm, eps))
        return x + parts.down(F.silu(gate) * up)[0]

    def attend(self, parts: Parts, x: Tensor, turn: Turn, slots: Slots | None, asked: Asked) -> Tensor:
        """Rotary grouped-query attention, bidirectional wherever the key mask allows: [B * Q, D] -> [B * W, D]."""
        config, (rows, lanes) = self.config, turn.cos.shape[:2]
        query, key, value = [
            part.view(rows, lanes, part.shape[-1] // config.head_width, config.head_width) for part in parts.inward(x)
        ]
        if parts.query_norm is not None and parts.key_norm is not None:
            query = rms_norm(query, parts.query_norm, config.norm_eps)
            key = rms_norm(key, parts.key_norm, config.norm_eps)
        query, key = turn(query), turn(key)
        if slots is not None:
            key, value = slots.write(key, value)
        query, group = pick(query, asked.lanes).transpose(1, 2), config.heads // config.kv_heads
        if group > 1:  # queries of one key head become lanes of it: no key is repeated, and every kernel can do it
            query = rearrange(query, "b (g n) q e -> b g (n q) e", n=group)
        mixed = F.scaled_dot_product_attention(
            query, key.transpose(1, 2), value.transpose(1, 2), attn_mask=asked.mask, scale=config.scale
        )
        if group > 1:
            mixed = rearrange(mixed, "b g (n q) e -> b (g n) q e", n=group)
        return parts.outward(mixed.transpose(1, 2).flatten(2).flatten(0, 1))[0]


@torch.compiler.nested_compile_region
def run_layer(layer: nn.Module, x: Tensor, turn: Turn, slots: Slots | None, asked: Asked) -> Tensor:
    """One layer. Where the model is compiled, this is compiled once for all of them."""
    out: Tensor = layer(x, turn, slots, asked)
    return out
