"""Caches on a real transformer in float64: batch invariance, the oracle, the exact block cache, and no leaks."""

from __future__ import annotations

from functools import cache as memo
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_sdk import (
    BlockCache,
    Cache,
    ConfigError,
    Decision,
    DualCache,
    ModelError,
    NoCache,
    PrefixCache,
    RegistryError,
    Sampler,
    Scheduler,
    combine,
    decode,
    generate,
    load_cache,
)
from dllm_sdk.rules import first, top_k
from dllm_sdk.testing import ToyModel
from dllm_strategies import DSB, AdaBlock, ConfidenceAdaptive, FixedBlock

MASK, EOS, VOCABULARY = 12, 11, 13


@memo
def model(*, block_causal: bool = False, shift: int = 0, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    config = Config(
        vocab_size=VOCABULARY, mask_id=MASK, eos_ids=(EOS,), width=16, layers=2, heads=4, kv_heads=2, mlp_width=24,
        rope_base=100.0, qk_norm=True, attention_scale=1.0, shift=shift, block_causal=block_causal, max_length=200,
    )  # fmt: skip
    made = Transformer(config).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return made


SCHEDULERS: list[Scheduler] = [
    FixedBlock(5, 3),
    ConfidenceAdaptive(0.3, 2, 7, 0.5),
    AdaBlock((0, 1, 2), 6, 0.5, 0.2, 0.5),
    combine(plan=AdaBlock((0, 1, 2), 3, 0.5, 0.2, 0.5), select=FixedBlock(6, 2)),
]
APPROXIMATE: list[Cache] = [
    NoCache(),
    NoCache(suffix=False),
    PrefixCache(),
    PrefixCache(suffix=False),
    PrefixCache(refresh_every=2),
    DualCache(),
    DualCache(suffix=False),
    DualCache(refresh_every=3),
]
batches = st.lists(st.tuples(st.lists(st.integers(0, EOS), max_size=6), st.integers(1, 24)), min_size=2, max_size=4)


def history(made: Transformer, prompts: list, lengths: list[int], scheduler: Scheduler, **options) -> list[list]:
    rows: list[list] = [[] for _ in prompts]
    for step in decode(made, prompts, scheduler, gen_length=lengths, **options):
        for i, row in enumerate(step.rows.tolist()):
            end = len(prompts[row]) + lengths[row]
            counts = (int(step.nfe[i]), int(step.refreshes[i]), int(step.fed[i]))
            rows[row].append((step.decision.commit[i, :end].tolist(), step.tokens[i, :end].tolist(), counts))
    return rows


@given(
    batch=batches,
    scheduler=st.sampled_from(SCHEDULERS),
    cache=st.sampled_from([*APPROXIMATE, BlockCache(), NoCache()]),
    shift=st.integers(0, 1),
    temperature=st.sampled_from([0.0, 0.7]),
    causal=st.booleans(),
)
@settings(max_examples=120)
def test_rows_alone_and_in_batches_are_identical(  # noqa: PLR0917
    batch, scheduler, cache, shift, temperature, causal
) -> None:
    causal = isinstance(cache, BlockCache) or (causal and isinstance(cache, NoCache))
    made = model(block_causal=causal, shift=shift)
    prompts, lengths = [list(prompt) for prompt, _ in batch], [length for _, length in batch]
    options = {"cache": cache, "sampler": Sampler(temperature=temperature)}
    together = history(made, prompts, lengths, scheduler, **options)
    for row in range(len(batch)):
        assert history(made, [prompts[row]], [lengths[row]], scheduler, **options)[0] == together[row]


@given(batch=batches, scheduler=st.sampled_from(SCHEDULERS), shift=st.integers(0, 1))
@settings(max_examples=40)
def test_refreshing_every_step_is_no_cache(batch, scheduler, shift) -> None:
    prompts, lengths = [list(prompt) for prompt, _ in batch], [length for _, length in batch]
    oracle = history(model(shift=shift), prompts, lengths, scheduler, cache=NoCache())
    for cache in (PrefixCache(refresh_every=1), DualCache(refresh_every=1)):
        cached = history(model(shift=shift), prompts, lengths, scheduler, cache=cache)
        assert [[step[:2] for step in row] for row in cached] == [[step[:2] for step in row] for row in oracle]


@given(batch=batches, scheduler=st.sampled_from(SCHEDULERS), shift=st.integers(0, 1))
@settings(max_examples=60)
def test_the_block_cache_is_exact(batch, scheduler, shift) -> None:
    made = model(block_causal=True, shift=shift)
    prompts, lengths = [list(prompt) for prompt, _ in batch], [length for _, length in batch]
    cached = decode(made, prompts, scheduler, gen_length=lengths, cache=BlockCache())
    plain = decode(made, prompts, scheduler, gen_length=lengths, cache=NoCache())
    for left, right in zip(cached, plain, strict=True):
        assert left.tokens.equal(right.tokens)
        real = left.view.window < left.tokens.shape[1]  # float32 is what a view shows
        torch.testing.assert_close(left.view.logits[real], right.view.logits[real], rtol=0, atol=1e-5)
        assert (left.fed <= right.fed).all() and (left.refreshes == 0).all()


@pytest.mark.parametrize("shift", [0, 1])
def test_who_looks_ahead_sees_what_a_planned_block_sees(shift: int) -> None:
    class Ahead(FixedBlock):
        def horizon(self, gen_length: int) -> int:
            return self.block

    wanted, found = (
        history(model(block_causal=True, shift=shift), [[1, 2], [3]], [9, 6], one, cache=BlockCache())
        for one in (FixedBlock(3, 3), Ahead(3, 3))
    )
    assert [[step[:2] for step in row] for row in found] == [[step[:2] for step in row] for row in wanted]


def test_the_block_cache_equals_the_uncached_forward_in_float64() -> None:
    """Beneath the loop, which shows float32: the hidden states themselves, for random partitions into blocks."""
    made, generator = model(block_causal=True), torch.Generator().manual_seed(3)
    for _ in range(20):
        tokens = torch.randint(0, EOS, (1, 24), generator=generator)
        positions = torch.arange(24)[None]
        cuts = sorted(torch.randperm(22, generator=generator)[:4].add(1).tolist())
        block = torch.bucketize(positions, torch.tensor(cuts), right=True)
        order = block[:, None, :] <= block[:, :, None]
        whole = made(tokens, positions, None, order)
        store, done = made.new_store(1, 24), 0
        for end in [*cuts, 24]:
            lane = positions[:, done:end]
            part = made(tokens[:, done:end], lane, store, (positions < end)[:, None])
            torch.testing.assert_close(part, whole[:, done:end], rtol=0, atol=1e-9)
            done = end


def test_what_a_step_feeds() -> None:
    made, prompt, scheduler = model(), [1, 2, 3], FixedBlock(4, 4)
    canvas = len(prompt) + 8

    def fed(cache: Cache) -> list[int]:
        steps = decode(made, [prompt], scheduler, gen_length=8, cache=cache, stop_at_eos=False)
        total = [0, *(int(step.fed[0]) for step in steps)]
        return [b - a for a, b in pairwise(total)]

    assert fed(NoCache()) == [canvas] * 8
    assert fed(PrefixCache()) == [canvas, 8, 8, 8, canvas, 4, 4, 4]
    assert fed(DualCache()) == [canvas, 4, 4, 4, canvas, 4, 4, 4]
    assert fed(DualCache(refresh_every=2)) == [canvas, 4, canvas, 4] * 2
    assert fed(DualCache(suffix=False)) == [7, 4, 4, 4, 11, 4, 4, 4]
    causal = decode(model(block_causal=True), [prompt], scheduler, gen_length=8, cache=BlockCache(), stop_at_eos=False)
    assert [int(step.fed[0]) for step in causal] == [7, 11, 15, 19, 27, 31, 35, 39]
    counted = generate(made, [prompt], scheduler, gen_length=8, cache=DualCache(), stop_at_eos=False)
    assert (counted.nfe, counted.refreshes, counted.fed) == ([8], [2], [2 * canvas + 6 * 4])


@pytest.mark.parametrize("cache", [NoCache(), DualCache(refresh_every=1)], ids=repr)
def test_guidance_keeps_a_store_of_its_own(cache: Cache) -> None:
    oracle = history(model(), [[1, 2], [3]], [6, 9], FixedBlock(3, 2), guidance=0.7)
    guided = history(model(), [[1, 2], [3]], [6, 9], FixedBlock(3, 2), guidance=0.7, cache=cache)
    assert [[step[:2] for step in row] for row in guided] == [[step[:2] for step in row] for row in oracle]
    assert history(model(), [[3]], [9], FixedBlock(3, 2), guidance=0.7, cache=cache)[0] == guided[1]


def test_what_guides_does_not_write_where_the_other_pass_reads() -> None:
    """Next to no guidance is none, also at steps that read what earlier ones stored."""
    plain, faint = (
        history(model(), [[1, 2], [3]], [6, 9], FixedBlock(3, 3), guidance=by, cache=DualCache()) for by in (0, 1e-9)
    )
    assert [[step[:2] for step in row] for row in faint] == [[step[:2] for step in row] for row in plain]


def test_a_dual_step_does_not_depend_on_the_canvas() -> None:
    for canvas in (40, 160):
        steps = list(decode(model(), [[1]], FixedBlock(4, 4), gen_length=canvas, cache=DualCache(), stop_at_eos=False))
        assert int(steps[1].fed[0] - steps[0].fed[0]) == 4


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was never written into a store would be seen."""
    new_store = Transformer.new_store

    def poisoned(self: Transformer, rows: int, slots: int):
        store = new_store(self, rows, slots)
        for layer in (*store.keys, *store.values):
            layer.fill_(1e6)
        return store

    monkeypatch.setattr(Transformer, "new_store", poisoned)


def test_nothing_leaks_from_the_padding_slot_or_from_unwritten_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, lengths = [[1, 2, 3, 4, 5], [6], [7, 8]], [9, 20, 3]
    clean = [history(model(), prompts, lengths, s, cache=c) for s in SCHEDULERS for c in APPROXIMATE[2:]]
    poison(monkeypatch)
    assert [history(model(), prompts, lengths, s, cache=c) for s in SCHEDULERS for c in APPROXIMATE[2:]] == clean


class Ends(Scheduler):
    """A window of two, and from its second step on also the last mask: what lies between comes into sight."""

    replan = "step"

    def plan(self, view, state):
        last = first(view.open.flip(1), 1).flip(1)
        return first(view.open, 2) | (last & (view.step > 0)[:, None]), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


class FifthThenEnds(Ends):
    """As `Ends`, after a first block in longer rows: their fifth mask, which comes into sight as a token."""

    def plan(self, view, state):
        fifth = view.open & (view.open.cumsum(1) == 5)
        untouched = (view.open.sum(1) == view.gen_length) & (view.gen_length > 8)
        return torch.where(untouched[:, None], fifth, super().plan(view, state)[0]), state


@pytest.mark.parametrize("scheduler", [Ends(), FifthThenEnds()], ids=["masks", "a token"])
@pytest.mark.parametrize("cache", [PrefixCache(suffix=False), DualCache(suffix=False)])
def test_what_comes_into_sight_within_a_block_is_computed(
    cache: Cache, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = history(model(), [[1, 2], [3]], [10, 7], scheduler, cache=cache)
    assert history(model(), [[1, 2]], [10], scheduler, cache=cache)[0] == clean[0]
    poison(monkeypatch)
    assert history(model(), [[1, 2], [3]], [10, 7], scheduler, cache=cache) == clean


class EveryOther(Scheduler):
    """Two scattered blocks, every second position each."""

    def plan(self, view, state):
        odd = view.open & (torch.arange(view.open.shape[1], device=view.open.device) % 2 == 1)
        return torch.where(odd.any(1, keepdim=True), odd, view.open), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


@pytest.mark.parametrize("shift", [0, 1])
def test_scattered_blocks_of_a_block_causal_model_see_no_later_one(shift: int) -> None:
    made = model(block_causal=True, shift=shift)
    found = [
        [step[:2] for step in history(made, [[1, 2]], [10], EveryOther(), cache=cache)[0]]
        for cache in (NoCache(), BlockCache())
    ]
    assert found[0] == found[1]


class Widens(Scheduler):
    """A window of two, and from the second step of a block on one of five: some are in sight, and then no more."""

    replan = "step"

    def plan(self, view, state):
        return first(view.open, torch.where(view.step > 0, 5, 2)), state

    def select(self, view, state):
        return Decision(first(view.open, 1)), state  # so that all that lies behind is masked


@pytest.mark.parametrize("shift", [0, 1])
def test_a_block_causal_model_sees_nothing_behind_a_window_that_became_narrow(shift: int) -> None:
    made = model(block_causal=True, shift=shift)
    whole, cut = (decode(made, [[1, 2]], Widens(), gen_length=12, cache=NoCache(suffix)) for suffix in (True, False))
    for left, right in zip(whole, cut, strict=True):
        torch.testing.assert_close(left.view.logits, right.view.logits)
        assert left.tokens.equal(right.tokens)


def test_a_finished_row_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = Transformer.forward

    def counted(self: Transformer, tokens: Tensor, *rest):
        rows.append(len(tokens))
        return forward(self, tokens, *rest)

    monkeypatch.setattr(Transformer, "forward", counted)
    generate(model(), [[1], [2]], FixedBlock(4, 4), gen_length=[2, 6], cache=DualCache(), stop_at_eos=False)
    assert rows == [2, 2, 1, 1, 1, 1]


class Slide(Scheduler):
    """A window of four, replanned at every step."""

    replan = "step"

    def plan(self, view, state):
        return first(view.open, 4), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


def test_sliding_windows_with_caches() -> None:
    prompts, lengths = [[1, 2], [3]], [9, 14]
    for cache in APPROXIMATE:
        together = history(model(), prompts, lengths, Slide(), cache=cache)
        for row in range(2):
            assert history(model(), [prompts[row]], [lengths[row]], Slide(), cache=cache)[0] == together[row]


def test_a_sliding_block_computes_what_it_just_committed_again() -> None:
    """Else its stored key stays that of a mask until the next refresh."""
    steps = list(decode(model(), [[1, 2]], DSB(4, threshold=0.5), gen_length=24, cache=DualCache(), stop_at_eos=False))
    for before, step in pairwise(steps):
        window, committed = int(step.view.open.sum()), int(before.decision.commit.sum())
        assert int(step.fed - before.fed) >= window + committed


def test_a_cache_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="BlockCache is for block-causal models"):
        generate(model(), [1], FixedBlock(), gen_length=4, cache=BlockCache())
    with pytest.raises(ConfigError, match="DualCache is for bidirectional models"):
        generate(model(block_causal=True), [1], FixedBlock(), gen_length=4, cache=DualCache())
    with pytest.raises(ConfigError, match="replans at every step"):
        generate(model(block_causal=True), [1], Slide(), gen_length=4, cache=BlockCache())
    with pytest.raises(ConfigError, match="a wrapped callable has no keys and values to cache"):
        generate(ToyModel().build(), [1], FixedBlock(), gen_length=4, cache=DualCache())
    with pytest.raises(ConfigError, match="refresh_every must be a whole number >= 1, got 0"):
        DualCache(refresh_every=0)


class Forgetful:
    """A store that keeps nothing; the model around it has none."""

    def __init__(self, model: Any, stores: bool) -> None:
        self.model, self.stores = model, stores

    def __getattr__(self, name: str) -> Any:
        if name == "new_store":
            if not self.stores:
                raise AttributeError(name)
            return lambda rows, length: {}
        return getattr(self.model, name)


def test_a_model_without_a_whole_store_is_told_before_the_first_pass() -> None:
    for stores, error, words in [
        (False, ConfigError, "DualCache needs a model that has `new_store`: take cache none"),
        (True, ModelError, "new_store must return a store with `keep` and `put`, got dict"),
    ]:
        own: Any = Forgetful(model(), stores)
        with pytest.raises(error, match=words):
            generate(own, [1], FixedBlock(), gen_length=4, cache=DualCache())
        assert generate(own, [1], FixedBlock(), gen_length=4).nfe == [4]


def test_caches_by_name() -> None:
    assert load_cache("none") == NoCache() and load_cache("block") == BlockCache()
    assert load_cache("dual:refresh_every=8,suffix=false") == DualCache(suffix=False, refresh_every=8)
    with pytest.raises(RegistryError, match="no cache 'duel'; did you mean 'dual'"):
        load_cache("duel")
    with pytest.raises(ConfigError, match="no field 'every' of DualCache"):
        load_cache("dual:every=8")
    with pytest.raises(ConfigError, match="refresh_every must be a whole number >= 1, got 0"):
        load_cache("prefix:refresh_every=0")
    with pytest.raises(ConfigError, match="DualCache: suffix must be true or false, got 'no'"):
        load_cache('dual:suffix="no"')
