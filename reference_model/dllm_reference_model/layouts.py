"""What a public folder's config.json means for our transformer: a table per family, and checked reading of its fields.

Names, sizes and the values that this transformer computes; everything else is refused by name. Knows no tensor data.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dllm_reference_model.checkpoint import LARGEST, MOST, CheckpointError, printable, read_json

REQUIRED: Any = object()


@dataclass(frozen=True)
class Layout:
    """How one family of checkpoints writes down what this transformer needs."""

    name: str  # of the family, as a model is named: NAME:FOLDER
    sizes: Callable[["Fields"], dict[str, Any]]  # config.json -> our Config's fields, without token ids
    supported: Mapping[str, tuple[Any, ...]]  # field -> what it means when absent, and further values we compute
    required: Mapping[str, tuple[Any, ...]]  # field -> the values we compute; absence means something else
    names: Mapping[str, str]  # our module -> theirs; * is the number of the layer
    tied: str  # the field that says whether the embedding is also the output head
    turn_end: str  # the token that ends a turn of a chat, an end of text as well


@dataclass(frozen=True)
class Given:
    """Token ids that the caller gives instead of the folder."""

    mask_id: int | None
    eos_ids: Sequence[int] | None


class Fields:
    """A JSON object read field by field, so that each fault names the file and the field."""

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        self.path, self.found = path, found

    @classmethod
    def read(cls, path: Path) -> "Fields":
        found = read_json(path, "a JSON object")
        if not isinstance(found, dict):
            raise CheckpointError(f"{path} holds {shown(found)}, expected a JSON object")
        return cls(path, found)

    @classmethod
    def beside(cls, path: Path) -> "Fields":
        """A file that may be missing."""
        return cls.read(path) if path.exists() else cls(path, {})

    def error(self, name: str, expected: str) -> CheckpointError:
        if name not in self.found:
            return CheckpointError(f"{self.path} has no field {printable(name)}, expected {expected}")
        return CheckpointError(f"{self.path}: {printable(name)} is {shown(self.found[name])}, expected {expected}")

    def whole(self, name: str, default: int = REQUIRED) -> int:
        """A size; null is the same as absent, as in the public configurations."""
        value = self.found.get(name)
        if value is None and default is not REQUIRED:
            return default
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise self.error(name, f"a whole number in 1..{LARGEST}")
        return value

    def number(self, name: str) -> float:
        value = self.found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
            raise self.error(name, f"a number above 0, {MOST:g} at most")
        return float(value)

    def flag(self, name: str, default: bool = REQUIRED) -> bool:
        value = self.found.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """A token id or a list of them; empty if absent or null."""
        value = self.found.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(item) is not int for item in ids):
            raise self.error(name, "a token id or a list of them")
        return tuple(ids)

    def require(self, layout: Layout) -> None:
        """Refuse a config that asks for another computation than this transformer's."""
        for name, values in layout.required.items():
            if not _among(self.found.get(name, REQUIRED), values):
                raise self.error(name, f"{_either(values)}, nothing else is supported")
        for name, values in layout.supported.items():
            if not _among(self.found.get(name, values[0]), values):
                raise self.error(name, f"{_either(values)}, nothing else is supported")


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(type(value) is type(item) and value == item for item in values)  # in JSON, true is not 1


def _either(values: Iterable[Any]) -> str:
    return " or ".join(json.dumps(value) for value in values)


def shown(value: Any) -> str:
    """A JSON value in one short line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _llada_sizes(config: Fields) -> dict[str, Any]:
    width, heads, words = config.whole("d_model"), config.whole("n_heads"), config.whole("vocab_size")
    rows = config.whole("embedding_size", words)  # vocab_size rounded up: the logits are as wide
    if rows < words:
        raise config.error("embedding_size", f"at least vocab_size, {words}")
    return {
        "vocab_size": rows,
        "width": width,
        "layers": config.whole("n_layers"),
        "heads": heads,
        "kv_heads": config.whole("n_kv_heads", heads),
        "mlp_width": config.whole("mlp_hidden_size", 0) or width * config.whole("mlp_ratio"),
        "max_length": config.whole("max_sequence_length"),
        "rope_base": config.number("rope_theta"),
        "norm_eps": config.number("rms_norm_eps"),
        "qkv_bias": config.flag("include_qkv_bias", False),
    }


def _dream_sizes(config: Fields) -> dict[str, Any]:
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if config.whole("head_dim", width // heads) != width // heads:
        raise config.error("head_dim", f"hidden_size / num_attention_heads, {width // heads}")
    # Qwen2 keeps a sliding_window in configs that do not use it; only an explicit false says so.
    if config.found.get("sliding_window") is not None and config.found.get("use_sliding_window") is not False:
        raise config.error("sliding_window", 'null, or "use_sliding_window": false')
    return {
        "vocab_size": config.whole("vocab_size"),
        "width": width,
        "layers": config.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": config.whole("num_key_value_heads", heads),
        "mlp_width": config.whole("intermediate_size"),
        "max_length": config.whole("max_position_embeddings"),
        "rope_base": config.number("rope_theta"),
        "norm_eps": config.number("rms_norm_eps"),
        "qkv_bias": True,
        "shift": 1,
    }


_BOTH = {"rope_scaling": (None,), "rope_parameters": (None,), "quantization_config": (None,)}

LLADA = Layout(
    name="llada",
    sizes=_llada_sizes,
    required={
        "model_type": ("llada",),
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu",),
        "rope": (True,),
    },
    supported={
        **_BOTH,
        "alibi": (False,),
        "attention_layer_norm": (False,),
        "bias_for_layer_norm": (None, False),
        "block_group_size": (1,),
        "include_bias": (False,),
        "input_emb_norm": (False,),
        "layer_norm_with_affine": (True,),
        "multi_query_attention": (None, False),
        "rope_full_precision": (True,),
        "scale_logits": (False,),
        "sliding_window": (None,),
    },
    names={
        "embed": "model.transformer.wte",
        "layers.*.attention_norm": "model.transformer.blocks.*.attn_norm",
        "layers.*.attention.query": "model.transformer.blocks.*.q_proj",
        "layers.*.attention.key": "model.transformer.blocks.*.k_proj",
        "layers.*.attention.value": "model.transformer.blocks.*.v_proj",
        "layers.*.attention.out": "model.transformer.blocks.*.attn_out",
        "layers.*.mlp_norm": "model.transformer.blocks.*.ff_norm",
        "layers.*.mlp.gate": "model.transformer.blocks.*.ff_proj",
        "layers.*.mlp.up": "model.transformer.blocks.*.up_proj",
        "layers.*.mlp.down": "model.transformer.blocks.*.ff_out",
        "norm": "model.transformer.ln_f",
        "unembed": "model.transformer.ff_out",
    },
    tied="weight_tying",
    turn_end="<|eot_id|>",
)

DREAM = Layout(
    name="dream",
    sizes=_dream_sizes,
    required={"model_type": ("Dream", "dream"), "hidden_act": ("silu",)},
    supported={**_BOTH, "use_sliding_window": (False,), "attention_bias": (True,), "mlp_bias": (False,)},
    names={
        "embed": "model.embed_tokens",
        "layers.*.attention_norm": "model.layers.*.input_layernorm",
        "layers.*.attention.query": "model.layers.*.self_attn.q_proj",
        "layers.*.attention.key": "model.layers.*.self_attn.k_proj",
        "layers.*.attention.value": "model.layers.*.self_attn.v_proj",
        "layers.*.attention.out": "model.layers.*.self_attn.o_proj",
        "layers.*.mlp_norm": "model.layers.*.post_attention_layernorm",
        "layers.*.mlp.gate": "model.layers.*.mlp.gate_proj",
        "layers.*.mlp.up": "model.layers.*.mlp.up_proj",
        "layers.*.mlp.down": "model.layers.*.mlp.down_proj",
        "norm": "model.norm",
        "unembed": "lm_head",
    },
    tied="tie_word_embeddings",
    turn_end="<|im_end|>",
)
