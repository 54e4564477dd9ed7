"""What a transformer of ours is built from: sizes, flags and token ids, checked. Knows no tensor."""

from dataclasses import dataclass


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
