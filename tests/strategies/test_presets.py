"""Presets that no recorded run covers: what they stand for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_sdk import BlockCache, ConfigError, DualCache, NoCache, Sampler, Scheduler, generate
from dllm_sdk.testing import ToyModel
from dllm_strategies import (
    SDAR,
    AdaBlock,
    BlockRefinement,
    CreditDecoding,
    DInferHierarchical,
    DInferThreshold,
    Dream,
    DreamOrigin,
    FixedBlock,
    RandomOrder,
    Threshold,
)
from dllm_strategies.presets import (
    DREAM_DELIMITERS,
    Preset,
    adablock,
    adablock_dream,
    diffusers_llada2,
    dinfer,
    dream,
    fast_dllm,
    fast_dllm_dream,
    llada,
    sdar,
)


def test_random_remasking_shares_the_steps_among_the_blocks() -> None:
    preset = llada(gen_length=64, block_length=16, steps=32, remasking="random", temperature=0.5)
    assert preset["scheduler"] == RandomOrder(16, 8) and preset["sampler"].temperature == 0.5
    answer = generate(ToyModel(eos=False).build(), [1], gen_length=64, **preset)
    assert answer.nfe == [32]


def test_dinfers_decoders() -> None:
    assert dinfer()["scheduler"] == DInferThreshold(64)
    assert dinfer(decoder="hierarchy", low_threshold=0.3)["scheduler"] == DInferHierarchical(64, 0.9, 0.3)
    assert dinfer(decoder="credit", block_length=32, cache="dual") == {
        **dinfer(),
        "scheduler": CreditDecoding(32),
        "cache": DualCache(),
    }


def test_dreams_origin() -> None:
    assert dream(steps=8, alg="origin")["scheduler"] == DreamOrigin(8)


@pytest.mark.parametrize(
    ("preset", "scheduler"),
    [
        (llada, FixedBlock(128, 128)),
        (fast_dllm, FixedBlock(32, 32)),
        (adablock, AdaBlock((198,), 32, 0.9, 0.3)),
        (dream, Dream(512, "entropy")),
        (fast_dllm_dream, Threshold(32, 0.9)),
        (adablock_dream, AdaBlock(DREAM_DELIMITERS, 32, 0.9, 0.5)),
        (diffusers_llada2, BlockRefinement(32, 32, 0.7, 0.5, 17)),
        (dinfer, DInferThreshold(64, 0.9)),
    ],
)
def test_a_preset_that_is_given_nothing_is_what_the_public_code_does(
    preset: Callable[[], Preset], scheduler: Scheduler
) -> None:
    cache = NoCache(suffix=preset is not diffusers_llada2)
    assert preset() == {"scheduler": scheduler, "cache": cache, "sampler": Sampler(), "guidance": 0.0}


def test_sdar_that_is_given_nothing_samples() -> None:
    scheduler = SDAR(4, 4, "low_confidence_dynamic", 0.85, 0.35)
    sampler = Sampler(temperature=1.0, confidence="tempered")
    assert sdar() == {"scheduler": scheduler, "cache": BlockCache(), "sampler": sampler, "guidance": 0.0}


@pytest.mark.parametrize(
    "strategy", ["sequential", "low_confidence_static", "low_confidence_dynamic", "entropy_bounded"]
)
def test_sdar_samples_on_a_block_causal_model(strategy) -> None:
    preset = sdar(remasking_strategy=strategy, top_p=0.9)
    assert preset["cache"] == BlockCache() and preset["sampler"].confidence == "tempered"
    assert isinstance(preset["scheduler"], SDAR) and preset["scheduler"].rule == strategy
    torch.manual_seed(0)
    config = Config(12, 11, 16, 1, 2, 1, 32, eos_ids=(), block_causal=True, max_length=32)
    answer = generate(Transformer(config), [1, 2], gen_length=10, **preset)
    assert len(answer.tokens[0]) == 12 and 3 <= answer.nfe[0] <= 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: llada(remasking="best"), "llada: remasking must be one of low_confidence, random, got 'best'"),
        (lambda: llada(remasking="random", eos_last=(1,)), "eos_last orders positions by confidence"),
        (lambda: fast_dllm(cache="duel"), "cache must be one of none, prefix, dual, got 'duel'"),
        (lambda: fast_dllm_dream(alg="maskgit_plus"), "alg must be one of entropy, confidence_threshold"),
        (lambda: llada(no_eos=("a",)), "suppress takes token ids"),
        (lambda: llada(no_eos=2), "llada: no_eos must be a tuple of token ids, got 2"),
        (lambda: llada(steps=4, block_length=16), "steps must be at least one for each block of 16 in 128, got 4"),
        (lambda: llada(gen_length=0), "gen_length must be a whole number >= 1, got 0"),
        (lambda: llada(block_length=0), "block_length must be a whole number >= 1, got 0"),
        (lambda: fast_dllm(steps="8"), "steps must be a whole number >= 1, got '8'"),
        (
            lambda: fast_dllm_dream(alg="entropy", steps=8),
            "steps must be at least two for each block of 32 in 256, got 8",
        ),
        (lambda: dream(alg="best"), "dream: alg must be one of origin, .*, entropy, confidence_threshold, got 'best'"),
        (lambda: adablock_dream(cache="prefix"), "adablock_dream: cache must be one of none, dual, got 'prefix'"),
        (lambda: diffusers_llada2(minimal_topk=0), "minimal_topk must be a whole number from 1 to 2048, got 0"),
        (lambda: diffusers_llada2(num_inference_steps="8"), "num_inference_steps must be a whole number >= 1, got '8'"),
        (lambda: diffusers_llada2(editing_threshold="x"), "editing_threshold must be a number .*, got 'x'"),
        (lambda: diffusers_llada2(max_post_steps=31), "max_post_steps must be a whole number from 0 to 30, got 31"),
        (lambda: dinfer(decoder="best"), "dinfer: decoder must be one of threshold, hierarchy, credit, got 'best'"),
    ],
)
def test_what_a_preset_refuses(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
