"""The models that a name stands for: the shipped ones, and public checkpoints of LLaDA and Dream.

Each function is an entry point: `tiny`, `tiny-causal`, `llada:FOLDER`, `dream:hf:ORG/NAME@REVISION`. It knows no file
format.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dllm_reference_model import checkpoint, hub, public
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
    path: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | None = None,
) -> public.PublicTransformer:
    """LLaDA-8B or a model in its layout; `dtype` None: as stored, bfloat16 for the public checkpoints.

    `path` is a folder, or `hf:ORG/NAME@REVISION` for a checkpoint on the Hugging Face hub, such as
    `hf:GSAI-ML/LLaDA-8B-Instruct@main`: its safetensors and JSON files are fetched into the hub's cache, nothing else,
    and `revision` of the model is the commit that was read. This needs the extra `hub`. See `public.load_llada` for
    the token ids.
    """
    options = {"device": device, "dtype": dtype, "mask_id": mask_id, "eos_ids": eos_ids}
    return _public("llada", public.load_llada, path, options)


def dream(
    path: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | None = None,
) -> public.PublicTransformer:
    """Dream-7B or a model in its layout, from a folder or the hub: as `llada`."""
    options = {"device": device, "dtype": dtype, "mask_id": mask_id, "eos_ids": eos_ids}
    return _public("dream", public.load_dream, path, options)


def _public(
    name: str, load: Callable[..., public.PublicTransformer], path: str | None, options: dict[str, Any]
) -> public.PublicTransformer:
    if not path:
        raise checkpoint.CheckpointError(
            f"{name} needs a checkpoint: give {name}:FOLDER, or {name}:{hub.PREFIX}ORG/NAME@REVISION from the hub"
        )
    if not path.startswith(hub.PREFIX):
        return load(path, **options)
    folder, revision = hub.fetch(path.removeprefix(hub.PREFIX))
    model = load(folder, **options)
    model.revision = revision
    return model
