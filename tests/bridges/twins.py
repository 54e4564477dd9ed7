"""The model in the box as a Hugging Face module: the same weights in Qwen3's classes, attending in both directions."""

from __future__ import annotations

from typing import Any

import torch

from dllm_reference_model.model import Transformer

NAMES = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "embed": "model.embed_tokens",
    "norm": "model.norm",
}


def twin(model: Transformer) -> Any:
    """A `Qwen3ForCausalLM` with the weights of a `Transformer` that has query and key norms and a tied head."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    ours = model.config
    config = Qwen3Config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.width,
        intermediate_size=ours.mlp_width,
        num_hidden_layers=ours.layers,
        num_attention_heads=ours.heads,
        num_key_value_heads=ours.kv_heads,
        head_dim=ours.head_width,
        max_position_embeddings=ours.max_length,
        rms_norm_eps=ours.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_base},
        tie_word_embeddings=True,
        is_causal=False,
        bos_token_id=None,
        eos_token_id=ours.eos_ids[0],
        pad_token_id=ours.eos_ids[0],
        mask_token_id=ours.mask_id,
    )
    module = Qwen3ForCausalLM(config).to(model.dtype)
    state = {_name(name): tensor for name, tensor in model.state_dict().items()}
    for layer in range(ours.layers):  # Qwen3 has no attention scale of its own: it goes into the norm of the queries
        name = f"model.layers.{layer}.self_attn.q_norm.weight"
        state[name] = state[name] * ours.attention_scale * ours.head_width**0.5
    module.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    return module.eval()


def _name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    if parts[0] != "layers":
        return f"{NAMES[module]}.{kind}"
    return f"model.layers.{parts[1]}.{NAMES['.'.join(parts[2:])]}.{kind}"


class Counted(torch.nn.Module):
    """A module that counts its forward passes and never predicts the mask, as our loop has it."""

    def __init__(self, module: Any, mask_id: int) -> None:
        super().__init__()
        self.module, self.mask_id, self.forwards = module, mask_id, 0
        self.config, self.device, self.dtype = module.config, module.device, module.dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.forwards += 1
        output = self.module(*args, **kwargs)
        output.logits[..., self.mask_id] = -torch.inf
        return output
