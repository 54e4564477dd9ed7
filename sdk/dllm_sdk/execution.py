"""How a step is run: as it is written, compiled, or captured. Knows functions of tensors, no scheduler and no model."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from dllm_sdk.errors import ConfigError

Backend: TypeAlias = Literal["eager", "compile", "graph"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def check_backend(backend: Backend) -> None:
    """Raise ConfigError unless it is one of BACKENDS."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
