"""Where and how a run was made: versions, device, settings, a digest of the weights. Knows no numbers of a run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import dllm_sdk
from dllm_sdk import Model, Scheduler
from dllm_sdk.binding import digest
from dllm_sdk.scheduler import parts_of


def fingerprint(model: Model, given: str | Model) -> dict[str, Any]:
    """What a number depends on besides the run's own settings. `given`: the model as the user named it."""
    weights = weights_of(model)
    return (
        machine(torch.device(model.device))
        | model_identity(model, given)
        | {
            "revision": getattr(model, "revision", None),  # the commit of one from the hub
            "parameters": parameters(weights),
            "dtype": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}))
            or None,
        }
    )


def model_identity(model: Model, given: str | Model) -> dict[str, Any]:
    """Which model it is: its name, and a digest of its weights if it has any."""
    weights = weights_of(model)
    return {"model": model_name(given), "model_sha256": digest(weights) if weights else None}


def model_name(given: str | Model) -> str:
    """What a model is called: as the user named it, an object by its class."""
    return given if isinstance(given, str) else type(given).__name__


def machine(device: torch.device) -> dict[str, Any]:
    """The part of it that no model has a say in."""
    return {
        "dllm_sdk": dllm_sdk.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """Its name where the system tells it, as Linux does; else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """The weights of a model, by name; empty for one that has none, such as a wrapped function.

    Empty, too, where some have no bytes that could be read: packed by a library, or left on a disk.
    """
    module = _holder(model)
    if not isinstance(module, torch.nn.Module):
        return {}
    weights = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    return weights if all(type(one) is torch.Tensor and not one.is_meta for one in weights.values()) else {}


def parameters(weights: dict[str, torch.Tensor]) -> int:
    """How many numbers they are; a tensor under two names counts once."""
    return sum({tensor.data_ptr(): tensor.numel() for tensor in weights.values()}.values())


def dtype_of(model: Model) -> torch.dtype:
    """The type that a model computes in; float32 where it does not say."""
    dtype: torch.dtype = getattr(_holder(model), "dtype", torch.float32)
    return dtype


def _holder(model: Model) -> Any:
    """What holds the weights: the module within, as `wrap_hf` has one, else the model itself."""
    within = getattr(model, "module", None)
    return within if isinstance(within, torch.nn.Module) and not isinstance(model, torch.nn.Module) else model


def family(scheduler: Scheduler[Any], *, files: bool = False) -> str:
    """A scheduler's class, with those of its parts: what stays when only settings change. `files`: and their files."""
    held: list[Scheduler[Any]] = parts_of(scheduler) if is_dataclass(scheduler) else []
    parts = [family(part, files=files) for part in held]
    module = type(scheduler).__module__
    home = f"{getattr(sys.modules.get(module), '__file__', module)}:" if files else ""
    return home + type(scheduler).__qualname__ + (f"({', '.join(parts)})" if parts else "")


def families(schedulers: Sequence[Scheduler[Any]]) -> list[str]:
    """The family of each, by its classes alone if these are known by their names."""
    names = [(family(one), family(one, files=True)) for one in schedulers]
    return [full if any(a == short and b != full for a, b in names) else short for short, full in names]


def peak_rss() -> int | None:
    """The most memory this process has held since it began, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
