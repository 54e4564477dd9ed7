"""torchao: a model whose linear maps are held in eight bits, with a scale for each output; all else stays as it is.

    load_model("int8:llada:FOLDER", device="cuda")
    quantize(model)

The weights take half the memory that they take in bfloat16. What is computed with them is computed in the type of the
model, so the steps are slower unless compiled code converts weights while it multiplies. Needs the extra `int8`.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn

from dllm_sdk.errors import ConfigError
from dllm_sdk.model import Model
from dllm_sdk.registry import load_model

M = TypeVar("M")


def load(path: str | None = None, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Model:
    """The model of a name, `int8:tiny` or `int8:llada:FOLDER` for instance, quantized once it is loaded.

    Raises what `load_model` raises for that name, and ConfigError as `quantize` does.
    """
    if not path:
        raise ConfigError("int8 quantizes another model: give int8:MODEL, such as int8:tiny or int8:llada:FOLDER")
    return quantize(load_model(path, device=device, dtype=dtype))


def quantize(model: M) -> M:
    """Hold the weights of a model's `nn.Linear` in eight bits, in place: symmetric, one scale per output.

    Embeddings, norms and an output head that is tied to the embedding stay as they are, and so do activations. A model
    made by `wrap_hf` is quantized within. Raises ConfigError for a model without such maps, or without the extra.
    """
    module: Any = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    tied = {one.weight for one in parts if isinstance(one, nn.Embedding)}
    maps = {one for one in parts if type(one) is nn.Linear and one.weight not in tied}
    if not maps:
        raise ConfigError(f"a {type(model).__name__} has no nn.Linear that could be quantized, or none any more")
    config, quantize_, unwrap = _torchao()
    frozen = getattr(module, "frozen", False)
    if frozen:
        module.train()  # else what is laid out for decoding would hold the old weights until all are quantized
    quantize_(module, config(set_inductor_config=False), filter_fn=lambda one, name: one in maps)
    unwrap(module)  # weights as plain tensors: compiled regions, graphs and digests of weights know no other
    if frozen:
        module.freeze()
    return model


def _torchao() -> tuple[Any, Any, Any]:
    logged = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it complains of kernels that were built for other machines; none is used here
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
        from torchao.utils import unwrap_tensor_subclass
    except ImportError as error:
        raise ConfigError(
            f"weights in eight bits need the package torchao: pip install 'dllm-sdk[int8]' ({error})"
        ) from None
    finally:
        logging.disable(logged)
    return Int8WeightOnlyConfig, quantize_, unwrap_tensor_subclass
