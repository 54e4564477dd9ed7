"""Models of known sizes with random weights, made on the device: for measuring speed where no checkpoint is at hand.

What such a model writes means nothing; how long it takes does. Knows no file.
"""

import torch
from torch import nn

from dllm_reference_model.checkpoint import CheckpointError
from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer

_SHARPNESS = 12.0  # standard deviation of the logits: `10M` then decodes about two tokens per step at threshold 0.9


def _shape(vocab_size: int, width: int, layers: int, heads: int, mlp_width: int) -> Config:
    return Config(vocab_size, vocab_size - 1, width, layers, heads, heads, mlp_width)


SHAPES = {
    "tiny": _shape(420, 128, 6, 4, 344),
    "3M": _shape(2_048, 192, 6, 6, 512),
    "10M": _shape(4_096, 256, 8, 8, 1_024),
    "30M": _shape(8_192, 512, 8, 8, 1_408),
    "100M": _shape(16_384, 768, 12, 12, 2_048),
    "1B": _shape(32_768, 2_048, 20, 16, 5_632),
    "LLaDA-8B": _shape(126_464, 4_096, 32, 32, 12_288),
}
"""LLaDA-8B is the public model's shape (arXiv:2502.09992); the others have its architecture."""


def random_weights(
    path: str | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """The model of a shape, `random:10M` for instance; the same weights each time on the same kind of device.

    Weights are normal with a spread that keeps activations at unit size, `dtype` float32 unless given. The logits are
    sharp enough that drafts can be sure, and the mask is never one of them. Raises CheckpointError for another name.
    """
    shapes = {name.lower(): shape for name, shape in SHAPES.items()}
    config = shapes.get((path or "10M").lower())
    if config is None:
        raise CheckpointError(f"there is no shape {path!r}: give random:SHAPE with one of {', '.join(SHAPES)}")
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype or torch.float32).to_empty(device=device)
    generator = torch.Generator(model.device).manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 1, generator=generator)
            elif isinstance(module, nn.RMSNorm):
                module.weight.fill_(1)
        model.unembed.weight *= _SHARPNESS
        model.unembed.weight[config.mask_id] = 0
    return model.freeze()
