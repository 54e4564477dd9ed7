"""Public implementations in our words: their arguments in, `generate`'s keywords out; a paper can say which it used.

    generate(model, prompt, gen_length=256, **fast_dllm(gen_length=256, threshold=0.9, cache="dual"))

Each is tied to recorded outputs of the public code by tests/check_goldens.py. Where that code spends forward passes
that decide nothing, these do not.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from dllm_sdk import Cache, DualCache, NoCache, PrefixCache, Sampler, Scheduler, TokenIds, suppress
from dllm_strategies.adablock import AdaBlock
from dllm_strategies.block_refinement import BlockRefinement
from dllm_strategies.dream import Dream, DreamThreshold
from dllm_strategies.factor import Factor
from dllm_strategies.first_alone import FirstAlone
from dllm_strategies.fixed_block import FixedBlock
from dllm_strategies.threshold import Threshold

CacheName = Literal["none", "prefix", "dual"]
_CACHES: dict[CacheName, Cache] = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}
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
    cfg_scale: float = 0.0,
    no_eos: TokenIds = (),
    eos_last: TokenIds = (),
) -> Preset:
    """LLaDA's `generate` (ML-GSAI/LLaDA): `steps` over the whole answer, low-confidence remasking.

    `no_eos`: its `logits_eos_inf`, with the EOS id; `eos_last`: its `confidence_eos_eot_inf`, with the EOS and EoT ids.
    """
    scheduler = FixedBlock(block_length, steps * block_length // gen_length, eos_last)
    processors = (suppress(*(int(token) for token in no_eos)),) if no_eos else ()
    return _preset(scheduler, sampler=Sampler(processors=processors), guidance=cfg_scale)


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
        return _preset(Factor(block_length, factor, commit_last=True), _CACHES[cache])
    if threshold is not None:
        return _preset(Threshold(block_length, threshold), _CACHES[cache])
    return _preset(FixedBlock(block_length, steps * block_length // gen_length), _CACHES[cache])


def adablock(
    *,
    init_block_length: int = 32,
    threshold: float = 0.9,
    delimiter_ids: TokenIds = (198,),
    delimiter_threshold: float = 0.3,
    cache: CacheName = "none",
) -> Preset:
    """AdaBlock's `generate_adablock` and its cached forms for LLaDA (lgxi24/AdaBlock-dLLM), in float32."""
    return _preset(AdaBlock(delimiter_ids, init_block_length, threshold, delimiter_threshold), _CACHES[cache])


def dream(
    *,
    steps: int = 512,
    alg: Literal["maskgit_plus", "topk_margin", "entropy", "confidence_threshold"] = "entropy",
    threshold: float = 0.9,
) -> Preset:
    """Dream's `diffusion_generate` at temperature 0, with Fast-dLLM's `confidence_threshold` beside its own rules."""
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
    if alg == "entropy":
        scheduler = Dream(steps * block_length // gen_length, "entropy", block_length, start=1)
    return _preset(scheduler if cache == "none" else FirstAlone(scheduler), _CACHES[cache])


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
    return _preset(scheduler if cache == "none" else FirstAlone(scheduler), _CACHES[cache])


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
    steps = min(num_inference_steps, gen_length // minimal_topk)
    edit = max(editing_threshold or 0.0, 0.0)
    scheduler = BlockRefinement(block_length, steps, threshold, edit, max_post_steps + 1)
    return _preset(scheduler, NoCache(suffix=False))
