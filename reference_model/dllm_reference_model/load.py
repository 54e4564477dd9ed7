"""The shipped model, and any folder in our own layout: the entry point that `tiny` names."""

from pathlib import Path

import torch

from dllm_reference_model import checkpoint
from dllm_reference_model.model import Transformer

WEIGHTS = Path(__file__).parent / "weights" / "tiny"


def tiny(
    path: str | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Transformer:
    """The tiny model of this package, or the one in folder `path`; float32 unless `dtype` says otherwise."""
    return checkpoint.load(WEIGHTS if path is None else path, device=device, dtype=dtype or torch.float32)
