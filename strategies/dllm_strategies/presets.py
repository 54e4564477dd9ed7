"""Public implementations in our words: their arguments in, `generate`'s keywords out; a paper can say which it used.

    generate(model, prompt, gen_length=256, **fast_dllm(gen_length=256, threshold=0.9, cache="dual"))

Greedy ones are tied to recorded outputs of the public code by tests/check_goldens.py; `dinfer` and `sdar` are written
after their code alone. Where that code spends forward passes that decide nothing, these do not.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from dllm_sdk import (
    BlockCache,
    Cache,
    ConfigError,
    DualCache,
    NoCache,
    PrefixCache,
    Sampler,
    Scheduler,
    TokenIds,
    suppress,
)
from dllm_sdk.scheduler import check_value
from dllm_strategies.adablock import AdaBlock
from dllm_strategies.block_refinement import BlockRefinement
from dllm_strategies.credit_decoding import CreditDecoding
from dllm_strategies.dinfer_hierarchical import DInferHierarchical
from dllm_strategies.dinfer_threshold import DInferThreshold
from dllm_strategies.dream import Dream
from dllm_strategies.dream_origin import DreamOrigin
from dllm_strategies.dream_threshold import DreamThreshold
from dllm_strategies.factor import Factor
from dllm_strategies.first_alone import FirstAlone
from dllm_strategies.fixed_block import FixedBlock
from dllm_strategies.random_order import RandomOrder
from dllm_strategies.sdar import SDAR
from dllm_strategies.threshold import Threshold

CacheName = Literal["none", "prefix", "dual"]
_CACHES: dict[str, Cache] = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}
DREAM_DELIMITERS = (
    198, 271, 280, 319, 340, 382, 401, 532, 624, 630, 692, 698, 921, 1248, 1837, 1939, 2219, 2533, 3276, 3876, 4894,
    5267, 14750, 68327,
)  # fmt: skip
"""The newline-bearing tokens that AdaBlock's Dream code lists."""


class Preset(TypedDict):
    """Keywords of `generate`."""

    scheduler: Scheduler[Any]
    cache: Cache
    sampler: Sampler
    guidance: float


def _known(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _cache(name: str) -> Cache:
    return _CACHES[_known("cache", name, tuple(_CACHES))]


def _per_block(steps: int, block_length: int, gen_length: int, start: int = 0) -> int:
    """The steps of each block, where `steps` are those of the whole answer and a block's first `start` are not made."""
    check_value("steps", steps, 1, whole=True)
    check_value("block_length", block_length, 1, whole=True)
    check_value("gen_length", gen_length, 1, whole=True)
    found = steps * block_length // gen_length
    if found <= start:
        least = ("one", "two")[start]
        blocks = f"each block of {block_length} in {gen_length}"
        raise ConfigError(f"steps must be at least {least} for {blocks}, got {steps}")
    return found


def _preset(
    scheduler: Scheduler[Any],
    cache: Cache = NoCache(),  # noqa: B008  frozen
    sampler: Sampler = Sampler(),  # noqa: B008  frozen
    guidance: float = 0.0,
) -> Preset:
    return Preset(scheduler=scheduler, cache=cache, sampler=sampler, guidance=guidance)


def llada(
    *,
    gen_length: int = 128,
    block_length: int = 128,
    steps: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: Literal["low_confidence", "random"] = "low_confidence",
    no_eos: tuple[int, ...] = (),
    eos_last: TokenIds = (),
) -> Preset:
    """LLaDA's `generate` (ML-GSAI/LLaDA): `steps` over the whole answer.

    `no_eos`: its `logits_eos_inf`, with the EOS id; `eos_last`: its `confidence_eos_eot_inf`, with the EOS and EoT ids.
    """
    steps_per_block = _per_block(steps, block_length, gen_length)
    scheduler: Scheduler[Any] = FixedBlock(block_length, steps_per_block, eos_last)
    if _known("llada: remasking", remasking, ("low_confidence", "random")) == "random":
        if eos_last:
            raise ConfigError("llada: eos_last orders positions by confidence, which remasking='random' does not")
        scheduler = RandomOrder(block_length, steps_per_block)
    if not isinstance(no_eos, tuple | list):
        raise ConfigError(f"llada: no_eos must be a tuple of token ids, got {no_eos!r}")
    processors = (suppress(*no_eos),) if no_eos else ()
    return _preset(scheduler, sampler=Sampler(temperature, processors=processors), guidance=cfg_scale)


def fast_dllm(
    *,
    gen_length: int = 128,
    block_length: int = 32,
    steps: int = 128,
    threshold: float | None = None,
    factor: float | None = None,
    cache: CacheName = "none",
) -> Preset:
    """Fast-dLLM's `generate`, `generate_with_prefix_cache`, `generate_with_dual_cache` (NVlabs/Fast-dLLM, llada)."""
    if factor is not None:
        return _preset(Factor(block_length, factor, commit_last=True), _cache(cache))
    if threshold is not None:
        return _preset(Threshold(block_length, threshold), _cache(cache))
    return _preset(FixedBlock(block_length, _per_block(steps, block_length, gen_length)), _cache(cache))


def adablock(
    *,
    init_block_length: int = 32,
    threshold: float = 0.9,
    delimiter_ids: TokenIds = (198,),
    delimiter_threshold: float = 0.3,
    cache: CacheName = "none",
) -> Preset:
    """AdaBlock's `generate_adablock` and its cached forms for LLaDA (lgxi24/AdaBlock-dLLM), in float32."""
    return _preset(AdaBlock(delimiter_ids, init_block_length, threshold, delimiter_threshold), _cache(cache))


def dream(
    *,
    steps: int = 512,
    alg: Literal["origin", "maskgit_plus", "topk_margin", "entropy", "confidence_threshold"] = "entropy",
    threshold: float = 0.9,
) -> Preset:
    """Dream's `diffusion_generate` at temperature 0, with Fast-dLLM's `confidence_threshold` beside its own rules."""
    _known("dream: alg", alg, ("origin", "maskgit_plus", "topk_margin", "entropy", "confidence_threshold"))
    if alg == "origin":
        return _preset(DreamOrigin(steps))
    return _preset(DreamThreshold(steps, threshold) if alg == "confidence_threshold" else Dream(steps, alg))


def fast_dllm_dream(
    *,
    gen_length: int = 256,
    block_length: int = 32,
    steps: int = 256,
    alg: Literal["entropy", "confidence_threshold"] = "confidence_threshold",
    threshold: float = 0.9,
    cache: CacheName = "none",
) -> Preset:
    """Fast-dLLM's Dream decoding in blocks; with a cache the first pass of a block commits its first position alone."""
    scheduler: Scheduler[Any] = Threshold(block_length, threshold)
    if _known("fast_dllm_dream: alg", alg, ("entropy", "confidence_threshold")) == "entropy":
        scheduler = Dream(_per_block(steps, block_length, gen_length, start=1), "entropy", block_length, start=1)
    return _preset(scheduler if cache == "none" else FirstAlone(scheduler), _cache(cache))


def adablock_dream(
    *,
    block_length: int = 32,
    threshold: float = 0.9,
    delimiter_ids: TokenIds = DREAM_DELIMITERS,
    delimiter_threshold: float = 0.5,
    cache: Literal["none", "dual"] = "none",
) -> Preset:
    """AdaBlock's Dream decoding (lgxi24/AdaBlock-dLLM), in float32 where its code has the model's dtype."""
    scheduler = AdaBlock(delimiter_ids, block_length, threshold, delimiter_threshold)
    none = _known("adablock_dream: cache", cache, ("none", "dual")) == "none"
    return _preset(scheduler if none else FirstAlone(scheduler), _cache(cache))


def diffusers_llada2(
    *,
    gen_length: int = 2048,
    block_length: int = 32,
    num_inference_steps: int = 32,
    threshold: float = 0.7,
    editing_threshold: float | None = 0.5,
    max_post_steps: int = 16,
    minimal_topk: int = 1,
) -> Preset:
    """diffusers' `LLaDA2Pipeline`; its canvas ends with a whole block, so round prompt + gen_length up to one.

    It makes one editing pass more than `max_post_steps` says, and so does this.
    """
    check_value("gen_length", gen_length, 1, whole=True)
    check_value("minimal_topk", minimal_topk, 1, gen_length, whole=True)
    check_value("max_post_steps", max_post_steps, 0, 30, whole=True)
    check_value("num_inference_steps", num_inference_steps, 1, whole=True)
    edit = 0.0 if editing_threshold is None else editing_threshold
    check_value("editing_threshold", edit, float("-inf"))
    steps = min(num_inference_steps, gen_length // minimal_topk)
    scheduler = BlockRefinement(block_length, steps, threshold, max(edit, 0.0), max_post_steps + 1)
    return _preset(scheduler, NoCache(suffix=False))


def dinfer(
    *,
    block_length: int = 64,
    decoder: Literal["threshold", "hierarchy", "credit"] = "threshold",
    threshold: float = 0.9,
    low_threshold: float = 0.4,
    temperature: float = 0.0,
    cache: CacheName = "none",
) -> Preset:
    """dInfer's block-wise generation (inclusionAI/dInfer) with one of its parallel decoders, without its cache refresh.

    "credit" has the paper's threshold decoding under it, without the near-ties that dInfer's commits with the best.
    """
    schedulers: dict[str, Scheduler[Any]] = {
        "threshold": DInferThreshold(block_length, threshold),
        "hierarchy": DInferHierarchical(block_length, threshold, low_threshold),
        "credit": CreditDecoding(block_length, threshold),
    }
    scheduler = schedulers[_known("dinfer: decoder", decoder, tuple(schedulers))]
    return _preset(scheduler, _cache(cache), Sampler(temperature))


def sdar(
    *,
    block_length: int = 4,
    denoising_steps: int = 4,
    temperature: float = 1.0,
    top_p: float = 1.0,
    remasking_strategy: Literal[
        "sequential", "low_confidence_static", "low_confidence_dynamic", "entropy_bounded"
    ] = "low_confidence_dynamic",
    confidence_threshold: float = 0.85,
    eb_threshold: float = 0.35,
) -> Preset:
    """SDAR's `block_diffusion_generate` (JetAstra/SDAR) and JetEngine's rules; it always samples, from the cut tokens.

    The cache is the exact one of a block-causal model. Round prompt + gen_length up to a whole block, as it does.
    """
    scheduler = SDAR(block_length, denoising_steps, remasking_strategy, confidence_threshold, eb_threshold)
    return _preset(scheduler, BlockCache(), Sampler(temperature, top_p, confidence="tempered"))
