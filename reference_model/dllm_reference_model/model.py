"""The transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU; one file for tiny, LLaDA and Dream.

It predicts every position at once, from tokens and explicit positions, with or without a key/value store. It knows no
decoding, no cache policy and no checkpoint: which lanes are fed and which keys are visible is the caller's business.

Shapes: B rows, Q fed lanes, S key slots, D width, V vocabulary, H query heads, G key/value heads, E head width,
N layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Codec(Protocol):
    """What a model's tokenizer must be able to do."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Config:
    """Sizes and flags; the defaults of the flags are LLaDA's (arXiv:2502.09992); Dream's differ (arXiv:2508.15487)."""

    vocab_size: int  # rows of the embedding
    mask_id: int
    width: int  # D
    layers: int
    heads: int
    kv_heads: int  # fewer than heads: grouped-query attention, arXiv:2305.13245
    mlp_width: int
    eos_ids: tuple[int, ...] = ()  # the first fills; empty: rows never stop early
    max_length: int = 4096  # longest canvas, prompt included
    head_width: int = 0  # 0: width / heads
    rope_base: float = 500_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False  # Dream: True
    qk_norm: bool = False  # RMSNorm of every query and key head
    attention_scale: float = 0.0  # factor of the attention logits; 0: head_width ** -0.5
    tied: bool = False  # the embedding is also the output head
    shift: int = 0  # 1: the logits at a position predict the next one (Dream)
    block_causal: bool = False  # trained to see only its own and earlier blocks; the caller's key mask says which

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "mlp_width", "max_length"):
            _require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.head_width:
            _require(self.width % self.heads == 0, f"heads must divide width {self.width}, got {self.heads}")
            object.__setattr__(self, "head_width", self.width // self.heads)
        _require(self.heads % self.kv_heads == 0, f"kv_heads must divide heads {self.heads}, got {self.kv_heads}")
        _require(self.head_width >= 2 and self.head_width % 2 == 0, f"head_width must be even, got {self.head_width}")
        for token in (self.mask_id, *self.eos_ids):
            _require(0 <= token < self.vocab_size, f"token ids must be in 0..{self.vocab_size - 1}, got {token}")
        _require(self.mask_id not in self.eos_ids, f"mask_id must not be one of eos_ids, got {self.mask_id}")
        _require(self.shift in (0, 1), f"shift must be 0 or 1, got {self.shift}")
        for name in ("rope_base", "norm_eps"):
            _require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        _require(self.attention_scale >= 0, f"attention_scale must be >= 0, got {self.attention_scale}")


def _require(met: bool, message: str) -> None:
    if not met:
        raise ValueError(message)


@dataclass(frozen=True)
class Store:
    """Keys, already rotated, and values of every layer: slots that are written by position and never moved."""

    keys: Tensor  # [N, B, G, S, E]
    values: Tensor  # [N, B, G, S, E]

    def write(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values` [B, G, Q, E] of one layer into the slots `positions` [B, Q]."""
        row = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self.keys[layer][row, :, positions] = rearrange(keys, "b g q e -> b q g e")
        self.values[layer][row, :, positions] = rearrange(values, "b g q e -> b q g e")

    def keep(self, rows: Tensor) -> "Store":
        """Some rows [int64, ascending], moved to the front in place, one layer at a time: no second store is made."""
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[: len(rows)], values[: len(rows)] = keys[rows], values[rows]
        return Store(self.keys[:, : len(rows)], self.values[:, : len(rows)])

    def put(self, rows: Tensor, part: "Store") -> None:
        """Overwrite some rows [int64], in place, with those of `part`."""
        self.keys[:, rows] = part.keys
        self.values[:, rows] = part.values


class Attention(nn.Module):
    """Rotary grouped-query attention, bidirectional wherever the key mask allows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, queries = config.width, config.heads * config.head_width
        keys = config.kv_heads * config.head_width
        self.head_width = config.head_width
        self.grouped = config.kv_heads != config.heads
        self.scale = config.attention_scale or config.head_width**-0.5
        self.query = nn.Linear(width, queries, bias=config.qkv_bias)
        self.key = nn.Linear(width, keys, bias=config.qkv_bias)
        self.value = nn.Linear(width, keys, bias=config.qkv_bias)
        self.out = nn.Linear(queries, width, bias=False)
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(config.head_width, config.norm_eps)
            self.key_norm = nn.RMSNorm(config.head_width, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, turn: "Rotation", memory: "Memory", mask: Tensor | None) -> Tensor:
        """[B, Q, D] -> [B, Q, D]; mask: bool [B, 1, Q or 1, S]."""
        query, key, value = (
            rearrange(project(x), "b q (h e) -> b h q e", e=self.head_width)
            for project in (self.query, self.key, self.value)
        )
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query, (key, value) = turn(query), memory.extend(turn(key), value)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=self.grouped
        )
        out: Tensor = self.out(rearrange(mixed, "b h q e -> b q (h e)"))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward layer, arXiv:2002.05202."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Layer(nn.Module):
    """Pre-norm residual layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, turn: "Rotation", memory: "Memory", mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, memory, mask)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Rotation:
    """Rotary position embedding in the rotate-half layout, arXiv:2104.09864: computed once per forward pass."""

    def __init__(self, positions: Tensor, config: Config, dtype: torch.dtype) -> None:
        # At least float32: in bfloat16 the angles of far positions would collapse.
        exact = torch.promote_types(dtype, torch.float32)
        pair = torch.arange(0, config.head_width, 2, device=positions.device, dtype=exact) / config.head_width
        angles = positions[:, None, :, None].to(exact) * config.rope_base**-pair  # [B, 1, Q, E / 2]
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, heads: Tensor) -> Tensor:
        """[B, H, Q, E] -> the same, each pair of channels (i, i + E / 2) turned by its position's angle."""
        first, second = heads.to(self.cos.dtype).chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1).to(heads.dtype)


@dataclass(frozen=True)
class Memory:
    """The keys and values that one layer attends to: the fed lanes alone, or all slots of a store."""

    layer: int
    positions: Tensor  # int64 [B, Q]
    store: Store | None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, G, Q, E] each -> [B, G, S, E] each."""
        if self.store is None:
            return keys, values
        self.store.write(self.layer, self.positions, keys, values)
        return self.store.keys[self.layer], self.store.values[self.layer]


class Transformer(nn.Module):
    """A masked-diffusion language model. `forward` gives hidden states; `head` turns those that matter into logits."""

    def __init__(self, config: Config, tokenizer: Codec | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.unembed = nn.Linear(config.width, config.vocab_size, bias=False)
        self.mask_id: int = config.mask_id
        self.eos_ids: tuple[int, ...] = config.eos_ids
        self.vocab_size: int = config.vocab_size
        self.shift: int = config.shift
        self.block_causal: bool = config.block_causal
        self.max_length: int = config.max_length

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def forward(
        self, tokens: Tensor, positions: Tensor, store: Store | None = None, key_mask: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, Q, D] of the fed lanes, after the last norm.

        tokens, positions: int64 [B, Q]. Without a store the keys are the Q fed lanes; with one, the lanes' keys and
        values are written to its slots `positions` and every lane attends to its S slots. key_mask: bool
        [B, Q or 1, S], True where a key is visible; None: every key is.
        """
        x = self.embed(tokens)
        turn = Rotation(positions, self.config, x.dtype)
        mask = None if key_mask is None else key_mask[:, None]
        for index, layer in enumerate(self.layers):
            x = layer(x, turn, Memory(index, positions, store), mask)
        out: Tensor = self.norm(x)
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [.., V] of hidden states [.., D]."""
        return F.linear(hidden, self.embed.weight if self.config.tied else self.unembed.weight)

    def new_store(self, rows: int, slots: int) -> Store:
        """An empty store for `rows` rows of `slots` positions."""
        shape = (self.config.layers, rows, self.config.kv_heads, slots, self.config.head_width)
        keys, values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        return Store(keys, values)
