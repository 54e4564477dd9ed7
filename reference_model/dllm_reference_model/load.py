"""The models that a name stands for: the shipped ones, and public checkpoints of LLaDA and Dream.

Each function is an entry point: `tiny`, `tiny-causal`, `llada:FOLDER`, `dream:hf:ORG/NAME@REVISION`. It knows no file
format.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from dllm_reference_model import checkpoint, hub, public
from dllm_reference_model.layouts import DREAM, LLADA, Given, Layout
from dllm_reference_model.model import Transformer

WEIGHTS = Path(__file__).parent / "weights" / "tiny"
CAUSAL_WEIGHTS = WEIGHTS.with_name("tiny-causal")


def tiny(
    path: str | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """The tiny model of this package, or the one in folder `path`; float32 unless `dtype` says otherwise."""
    return checkpoint.load(WEIGHTS if path is None else path, device=device, dtype=dtype or torch.float32)


def tiny_causal(
    path: str | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """Its block-causal sibling, for which cache `block` is exact whatever blocks a scheduler chooses."""
    return tiny(str(CAUSAL_WEIGHTS) if path is None else path, device=device, dtype=dtype)


def llada(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | None = None,
) -> public.PublicTransformer:
    """LLaDA-8B (arXiv:2502.09992) or a model in its layout; `dtype` None: as stored, bfloat16 for the public ones.

    `path` is a folder, or `hf:ORG/NAME@REVISION` for a checkpoint on the Hugging Face hub, such as
    `hf:GSAI-ML/LLaDA-8B-Instruct@main`: its safetensors and JSON files are fetched into the hub's cache, nothing else,
    and `revision` of the model is the commit that was read. This needs the extra `hub`.

    `mask_id` and `eos_ids` come from config.json, generation_config.json or tokenizer_config.json, EoT (`<|eot_id|>`)
    joins EOS where the tokenizer has it; an argument replaces what the files say, and `eos_ids=()` means that rows
    never stop early. Raises CheckpointError for a missing, torn, wrong or unsupported file.
    """
    return _public(LLADA, path, device, dtype, Given(mask_id, eos_ids))


def dream(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | None = None,
) -> public.PublicTransformer:
    """Dream-7B (arXiv:2508.15487) or a model in its layout, as `llada`: EoT is `<|im_end|>`, shift is 1.

    Dream's tokenizer is published as vocab.json and merges.txt. Only a tokenizer.json is read; without one the model
    has no tokenizer, and prompts are token ids.
    """
    return _public(DREAM, path, device, dtype, Given(mask_id, eos_ids))


def _public(
    layout: Layout, path: str | Path | None, device: str | torch.device, dtype: torch.dtype | None, given: Given
) -> public.PublicTransformer:
    name = layout.name
    if not path:
        raise checkpoint.CheckpointError(
            f"{name} needs a checkpoint: give {name}:FOLDER, or {name}:{hub.PREFIX}ORG/NAME@REVISION from the hub"
        )
    online = str(path).startswith(hub.PREFIX)
    folder, revision = hub.fetch(str(path).removeprefix(hub.PREFIX)) if online else (Path(path), None)
    model = public.load(layout, folder, torch.device(device), dtype, given)
    model.revision = revision
    return model
