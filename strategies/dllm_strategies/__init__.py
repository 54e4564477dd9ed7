"""One published decoding strategy per file, named after it. Every one imports `dllm_sdk` and nothing else of ours."""

from dllm_strategies.adablock import AdaBlock
from dllm_strategies.block_refinement import BlockRefinement
from dllm_strategies.confidence_adaptive import ConfidenceAdaptive
from dllm_strategies.dream import Dream, DreamThreshold
from dllm_strategies.factor import Factor
from dllm_strategies.first_alone import FirstAlone
from dllm_strategies.fixed_block import FixedBlock
from dllm_strategies.threshold import Threshold

__all__ = [
    "AdaBlock",
    "BlockRefinement",
    "ConfidenceAdaptive",
    "Dream",
    "DreamThreshold",
    "Factor",
    "FirstAlone",
    "FixedBlock",
    "Threshold",
]
