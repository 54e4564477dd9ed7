"""One published decoding strategy per file, named after it. Every one imports `dllm_sdk` and nothing else of ours."""

from dllm_strategies.adablock import AdaBlock
from dllm_strategies.confidence_adaptive import ConfidenceAdaptive
from dllm_strategies.fixed_block import FixedBlock

__all__ = ["AdaBlock", "ConfidenceAdaptive", "FixedBlock"]
