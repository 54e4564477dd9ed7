"""The transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU; one file for tiny, LLaDA and Dream.

It predicts every position at once, from tokens and explicit positions, with or without a key/value store. It knows no
decoding, no cache policy and no checkpoint: which lanes are fed and which keys are visible is the caller's business.

Shapes: B rows, Q fed lanes, S key slots, D width, V vocabulary, H query heads, G key/value heads, E head width,
N layers.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dllm_reference_model.products import Apart, Maps, hooked, laid_out
from dllm_reference_model.store import Slots, Store


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

    @property
    def scale(self) -> float:
        """Factor of the attention logits."""
        return self.attention_scale or self.head_width**-0.5

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


def _code(module: nn.Module) -> Hashable:
    """What a module runs besides the code of its children: its type, and how it is laid out."""
    return type(module), *map(type, (isinstance(module, Layer) and module.laid_out) or ())


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
        self.to_logits: Maps | None = None  # `unembed`, laid out for decoding
        self.frozen = False  # whether weights are laid out for decoding
        self.mask_id: int = config.mask_id
        self.eos_ids: tuple[int, ...] = config.eos_ids
        self.vocab_size: int = config.vocab_size
        self.shift: int = config.shift
        self.block_causal: bool = config.block_causal
        self.max_length: int = config.max_length
        self.register_load_state_dict_post_hook(Transformer._refreeze)  # type: ignore[no-untyped-call]

    def freeze(self) -> Self:
        """For decoding, until it is trained: no gradients, and weights laid out for few lanes (`Product`).

        Names and values of the parameters stay as they are. What is written into them later, and a module that takes
        the place of a linear map or a hook on one, may have no effect before `freeze` is called again.
        """
        self.eval().requires_grad_(False)
        for layer in self._layers():
            layer.laid_out = layer.parts(laid_out)
        if not self.config.tied:
            self.to_logits = laid_out(self.unembed)
        self.frozen = True
        return self

    def _thaw(self) -> None:
        for layer in self._layers():
            layer.laid_out = None
        self.to_logits, self.frozen = None, False

    def _thaw_if_trained(self) -> None:
        if self.frozen and torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters()):
            self._thaw()

    def _layers(self) -> Iterator[Layer]:
        return (module for module in self.modules() if isinstance(module, Layer))

    def train(self, mode: bool = True) -> Self:
        """As torch's; what is trained is no longer frozen."""
        if mode:
            self._thaw()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        """What `to` and its like call: a frozen model stays frozen."""
        frozen = self.frozen
        self._thaw()  # what is laid out is not moved, but made anew
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self.freeze() if frozen else self

    def _refreeze(self, *_: object) -> None:
        if self.frozen:
            self.freeze()

    @property
    def code(self) -> Hashable:
        """Models of equal `code` run the same code: what is compiled for one serves the others.

        None where modules have hooks, which compiled code may pass over: such a model runs as it is written.
        """
        if any(map(hooked, self.modules())):
            return None
        # A frozen set keeps its hash, which is asked for at every step.
        return self.config, self.dtype, type(self.to_logits), frozenset(enumerate(map(_code, self.modules())))

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        store: Store | None = None,
        key_mask: Tensor | None = None,
        lanes: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, Q, D] of the fed lanes, after the last norm; of some of them with `lanes` (`forward_at`).

        tokens, positions: int64 [B, Q]. Without a store the keys are the Q fed lanes; with one, the lanes' keys and
        values are written to its slots `positions` and every lane attends to its S slots. key_mask: bool
        [B, Q or 1, S], True where a key is visible; None: every key is, and the fastest kernels can be used.
        """
        self._thaw_if_trained()
        x = self.embed(tokens).flatten(0, 1)
        positions = positions.expand_as(tokens)
        turn = turn_by(positions, self.config, x.dtype)
        asked = self._asked(key_mask, None)
        row = torch.arange(len(positions), device=positions.device)[:, None]
        for index, layer in enumerate(self.layers):
            slots = None if store is None else Slots(store.keys[index], store.values[index], row, positions)
            if lanes is not None and index + 1 == len(self.layers):
                asked = self._asked(key_mask, lanes)
            x = run_layer(layer, x, turn, slots, asked)
        out: Tensor = self.norm(x)
        return out.view(*(tokens if lanes is None else lanes).shape, self.config.width)

    def forward_at(
        self, tokens: Tensor, positions: Tensor, store: Store | None, key_mask: Tensor | None, lanes: Tensor
    ) -> Tensor:
        """Hidden states [B, W, D] of some of the fed lanes, int64 [B, W]: else as `forward`.

        What the last layer makes of the other lanes nobody would read: its attention and its MLP leave them out.
        """
        return self.forward(tokens, positions, store, key_mask, lanes)

    def _asked(self, key_mask: Tensor | None, lanes: Tensor | None) -> Asked:
        mask = None if key_mask is None else key_mask[:, None]
        if key_mask is not None and key_mask.shape[1] > 1:
            mask = pick(key_mask, lanes)[:, None].repeat(1, 1, self.config.heads // self.config.kv_heads, 1)
        return Asked(lanes, mask)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [.., V] of hidden states [.., D]."""
        if self.config.tied:
            return F.linear(hidden, self.embed.weight)
        self._thaw_if_trained()
        (logits,) = (self.to_logits or Apart(self.unembed))(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], logits.shape[-1])

    def new_store(self, rows: int, length: int) -> Store:
        """An empty store for `rows` rows of `length` positions; lanes at position `length` are padding."""
        shape = (rows, length + 1, self.config.kv_heads, self.config.head_width)
        return Store.empty(len(self.layers), shape, like=self.embed.weight)
