"""Write, check, watch and compare decoding strategies for masked-diffusion language models.

Nothing is imported before it is used (PEP 562), so that listing plug-ins does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_sdk.binding import tokens_containing as tokens_containing
    from dllm_sdk.caching import BlockCache as BlockCache
    from dllm_sdk.caching import Cache as Cache
    from dllm_sdk.caching import DualCache as DualCache
    from dllm_sdk.caching import NoCache as NoCache
    from dllm_sdk.caching import PrefixCache as PrefixCache
    from dllm_sdk.combining import Wrapper as Wrapper
    from dllm_sdk.combining import combine as combine
    from dllm_sdk.decoding import Step as Step
    from dllm_sdk.decoding import decode as decode
    from dllm_sdk.errors import ConfigError as ConfigError
    from dllm_sdk.errors import DllmError as DllmError
    from dllm_sdk.errors import ModelError as ModelError
    from dllm_sdk.errors import RegistryError as RegistryError
    from dllm_sdk.errors import SchedulerError as SchedulerError
    from dllm_sdk.errors import SchedulerStalled as SchedulerStalled
    from dllm_sdk.generation import Generation as Generation
    from dllm_sdk.generation import generate as generate
    from dllm_sdk.model import Model as Model
    from dllm_sdk.model import Store as Store
    from dllm_sdk.model import Tokenizer as Tokenizer
    from dllm_sdk.model import wrap as wrap
    from dllm_sdk.registry import load_cache as load_cache
    from dllm_sdk.registry import load_model as load_model
    from dllm_sdk.registry import load_scheduler as load_scheduler
    from dllm_sdk.registry import load_task as load_task
    from dllm_sdk.sampling import Sampler as Sampler
    from dllm_sdk.sampling import suppress as suppress
    from dllm_sdk.scheduler import Decision as Decision
    from dllm_sdk.scheduler import EosIds as EosIds
    from dllm_sdk.scheduler import Scheduler as Scheduler
    from dllm_sdk.scheduler import TokenIds as TokenIds
    from dllm_sdk.scheduler import View as View
    from dllm_sdk.scheduler import check_number as check_number
    from dllm_sdk.trace import Parting as Parting
    from dllm_sdk.trace import Trace as Trace
    from dllm_sdk.trace import TraceStep as TraceStep

_HOMES = {
    "binding": ["tokens_containing"],
    "caching": ["BlockCache", "Cache", "DualCache", "NoCache", "PrefixCache"],
    "combining": ["Wrapper", "combine"],
    "decoding": ["Step", "decode"],
    "errors": ["ConfigError", "DllmError", "ModelError", "RegistryError", "SchedulerError", "SchedulerStalled"],
    "generation": ["Generation", "generate"],
    "model": ["Model", "Store", "Tokenizer", "wrap"],
    "registry": ["load_cache", "load_model", "load_scheduler", "load_task"],
    "sampling": ["Sampler", "suppress"],
    "scheduler": ["Decision", "EosIds", "Scheduler", "TokenIds", "View", "check_number"],
    "trace": ["Parting", "Trace", "TraceStep"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dllm_sdk' has no attribute {name!r}")
    return getattr(import_module(f"dllm_sdk.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
