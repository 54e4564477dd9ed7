"""One published decoding strategy per file, named after it. Every one imports `dllm_sdk` and nothing else of ours."""

from dllm_strategies.adablock import AdaBlock
from dllm_strategies.bacd import BACD
from dllm_strategies.block_refinement import BlockRefinement
from dllm_strategies.confidence_adaptive import ConfidenceAdaptive
from dllm_strategies.credit_decoding import CreditDecoding
from dllm_strategies.dcd import DCD
from dllm_strategies.dilated import Dilated
from dllm_strategies.dinfer_hierarchical import DInferHierarchical
from dllm_strategies.dinfer_threshold import DInferThreshold
from dllm_strategies.dream import Dream
from dllm_strategies.dream_origin import DreamOrigin
from dllm_strategies.dream_threshold import DreamThreshold
from dllm_strategies.dsb import DSB
from dllm_strategies.early_eos import EarlyEOS
from dllm_strategies.eb_sampler import EBSampler
from dllm_strategies.factor import Factor
from dllm_strategies.first_alone import FirstAlone
from dllm_strategies.fixed_block import FixedBlock
from dllm_strategies.frechet import Frechet
from dllm_strategies.klass import KLASS
from dllm_strategies.local_leap import LocalLeap
from dllm_strategies.p2 import P2
from dllm_strategies.pc_sampler import PCSampler
from dllm_strategies.prophet import Prophet
from dllm_strategies.random_order import RandomOrder
from dllm_strategies.remdm import ReMDM
from dllm_strategies.saber import Saber
from dllm_strategies.sched import SchED
from dllm_strategies.sdar import SDAR
from dllm_strategies.streaming_dllm import StreamingDLLM
from dllm_strategies.swordsman import Swordsman
from dllm_strategies.threshold import Threshold

__all__ = [
    "BACD",
    "DCD",
    "DSB",
    "KLASS",
    "P2",
    "SDAR",
    "AdaBlock",
    "BlockRefinement",
    "ConfidenceAdaptive",
    "CreditDecoding",
    "DInferHierarchical",
    "DInferThreshold",
    "Dilated",
    "Dream",
    "DreamOrigin",
    "DreamThreshold",
    "EBSampler",
    "EarlyEOS",
    "Factor",
    "FirstAlone",
    "FixedBlock",
    "Frechet",
    "LocalLeap",
    "PCSampler",
    "Prophet",
    "RandomOrder",
    "ReMDM",
    "Saber",
    "SchED",
    "StreamingDLLM",
    "Swordsman",
    "Threshold",
]
