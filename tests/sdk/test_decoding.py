"""The loop: equal to plain decoding, the same alone and in batches, and unbreakable by a scheduler or a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from dllm_sdk import (
    ConfigError,
    Decision,
    ModelError,
    NoCache,
    Sampler,
    Scheduler,
    SchedulerError,
    SchedulerStalled,
    Trace,
    View,
    combine,
    decode,
    generate,
    load_scheduler,
    suppress,
    tokens_containing,
    wrap,
)
from dllm_sdk.binding import look_up, on_device
from dllm_sdk.rules import first, top_k, uniform
from dllm_sdk.testing import Case, Row, ToyModel, cases, check_scheduler, run_case
from dllm_strategies import AdaBlock, ConfidenceAdaptive, EarlyEOS, FixedBlock, PCSampler
from tests.sdk import reference

PLAIN = [
    (FixedBlock(block=5, steps=3), lambda g: reference.fixed_block(5, 3)),
    (FixedBlock(block=4, steps=9), lambda g: reference.fixed_block(4, 9)),
    (ConfidenceAdaptive(0.6, 2, 7, 0.8), lambda g: reference.confidence_adaptive(0.6, 2, 7, 0.8)),
    (AdaBlock((0, 1), 6, 0.8, 0.5, 0.5), lambda g: reference.adablock((0, 1), 6, 0.8, 0.5, window=0.5, gen_length=g)),
]
SCHEDULERS = [scheduler for scheduler, _ in PLAIN] + [
    combine(plan=AdaBlock((0, 1), 6), select=FixedBlock(6, 2)),
    combine(plan=FixedBlock(6), select=lambda view: top_k(view.open, uniform(view), 2)),
]


@pytest.mark.parametrize(("scheduler", "plain"), PLAIN, ids=lambda x: type(x).__name__)
@given(case=cases(max_rows=1))
@settings(max_examples=60)
def test_the_loop_equals_plain_decoding(scheduler: Scheduler, plain, case: Case) -> None:
    case = replace(case, temperature=0.0, rows=(replace(case.rows[0], holes=()),))
    row = case.rows[0]
    canvas, commits, _ = reference.decode(case.model, row.prompt, row.gen_length, *plain(row.gen_length))
    (history,) = run_case(scheduler, case)
    assert [[position for kind, position in changed if kind == 0] for changed, _ in history] == commits
    assert history[-1][1] == canvas


@given(case=cases(max_rows=4), scheduler=st.sampled_from(SCHEDULERS), data=st.data())
@settings(max_examples=150)
def test_rows_alone_and_in_any_batch_are_identical(case: Case, scheduler: Scheduler, data) -> None:
    order = data.draw(st.permutations(range(len(case.rows))))
    together = run_case(scheduler, replace(case, rows=tuple(case.rows[i] for i in order)))
    for place, row in enumerate(order):
        assert run_case(scheduler, replace(case, rows=(case.rows[row],)))[0] == together[place]


@given(case=cases(max_rows=2), scheduler=st.sampled_from(SCHEDULERS))
@settings(max_examples=100)
def test_stopping_at_eos_changes_nothing_before_it(case: Case, scheduler: Scheduler) -> None:
    model = case.model.build()
    options = {
        "gen_length": [row.gen_length for row in case.rows],
        "sampler": Sampler(temperature=case.temperature),
        "seed": case.seed,
    }
    prompts = [list(row.prompt) for row in case.rows]
    short = generate(model, prompts, scheduler, **options)
    long = generate(model, prompts, scheduler, stop_at_eos=False, **options)
    for i, row in enumerate(case.rows):
        end = len(row.prompt) + short.generated[i]
        assert short.tokens[i][:end].equal(long.tokens[i][:end])
        assert short.generated[i] == long.generated[i] and short.nfe[i] <= long.nfe[i]


@given(case=cases(), scheduler=st.sampled_from(SCHEDULERS))
@settings(max_examples=80)
def test_given_positions_stay_and_every_mask_becomes_a_token(case: Case, scheduler: Scheduler) -> None:
    for row, history in zip(case.rows, run_case(scheduler, case), strict=True):
        tokens = history[-1][1]
        given_positions = [i for i in range(len(row.prompt)) if i not in row.holes]
        assert [tokens[i] for i in given_positions] == [row.prompt[i] for i in given_positions]
        rest = [token for i, token in enumerate(tokens) if i not in given_positions]
        assert all(0 <= token < case.model.vocabulary - 1 for token in rest)
        committed = [position for changed, _ in history for _, position in changed]
        assert len(committed) == len(set(committed)) and not set(committed) & set(given_positions)


@dataclass(frozen=True)
class Hostile(Scheduler):
    """Asks for everything it may not have, and writes wherever it can."""

    def plan(self, view, state):
        view.tokens.fill_(0)
        view.open.fill_(True)
        return torch.ones_like(view.open), state

    def select(self, view, state):
        for tensor in view:
            tensor.fill_(True)
        everything = torch.ones_like(view.open)
        rubbish = torch.full_like(view.tokens, 10**6)
        return Decision(everything, tokens=rubbish, remask=everything, edit=everything), state


class HostileEditor(Hostile):
    """May revise, and would edit all there is."""

    revises = True

    def select(self, view, state):
        return super().select(view, state)[0]._replace(remask=None), state


@pytest.mark.parametrize("scheduler", [Hostile(), HostileEditor()])
def test_a_hostile_scheduler_breaks_nothing(scheduler: Scheduler) -> None:
    for case in (
        Case(ToyModel(5), (Row((7, 7, 1), 6, (1,)), Row((2,), 9))),
        Case(ToyModel(6, eos=False), (Row((), 3),)),
    ):
        for row, history in zip(case.rows, run_case(scheduler, case), strict=True):
            assert len(history) == 1
            tokens = history[0][1]
            assert [tokens[i] for i in range(len(row.prompt)) if i not in row.holes] == [
                token for i, token in enumerate(row.prompt) if i not in row.holes
            ]
            assert max(tokens[len(row.prompt) :]) < case.model.vocabulary - 1


def counts(scheduler: Scheduler, gen_length: int = 10, **options) -> tuple[int, int, int]:
    generation = generate(ToyModel(1, eos=False).build(), [1, 2], scheduler, gen_length=gen_length, **options)
    return generation.nfe[0], generation.refreshes[0], generation.fed[0]


def test_forward_passes_and_fed_positions_are_counted_by_the_loop() -> None:
    assert counts(FixedBlock(4, 4)) == (10, 0, 10 * 12)
    assert counts(FixedBlock(4, 2)) == (2 + 2 + 2, 0, 6 * 12)
    assert counts(FixedBlock(10, 1)) == (1, 0, 12)


@dataclass(frozen=True)
class PingPong(Scheduler):
    """Commits one and takes the last one back, for ever: a new low never comes."""

    revises, patience = True, 5

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1), remask=view.committed), state


class Patient(PingPong):
    patience = Scheduler.patience


class Hasty(PingPong):
    patience = 1


def test_no_generation_can_hang() -> None:
    with pytest.raises(SchedulerStalled, match="no fewer masks for 1 steps"):
        counts(Hasty())
    with pytest.raises(SchedulerStalled, match=r"PingPong\(\).*5 steps.*row 0.*: commit more than .* `patience`"):
        counts(PingPong())
    with pytest.raises(SchedulerStalled, match="no fewer masks for 32 steps"):
        counts(Patient())
    for rule, words in ((torch.zeros_like, "commit at least one"),):
        with pytest.raises(SchedulerStalled, match=words):
            counts(combine(plan=FixedBlock(4), select=lambda view, rule=rule: rule(view.open)))


@dataclass(frozen=True)
class Editor(Scheduler):
    """Commits its block at once, holds it open for two steps and edits its first position to token 3."""

    revises = True

    def plan(self, view, state):
        return first(view.open, 4), state

    def select(self, view, state):
        tokens = torch.where(view.committed, 3, view.draft)
        return Decision(view.open, tokens=tokens, edit=first(view.committed, 1), hold=view.step < 2), state


def test_a_revising_scheduler_edits_and_holds() -> None:
    steps = list(decode(ToyModel(2, eos=False).build(), [1, 2], Editor(), gen_length=8))
    assert [int(step.settled[0]) for step in steps] == [2, 2, 6, 6, 6, 10]
    assert [bool(step.done[0]) for step in steps] == [False] * 5 + [True]
    final = steps[-1].tokens[0].tolist()
    assert final[2] == 3 and final[6] == 3 and len(steps) == 6
    assert not any((step.view.committed & step.view.open).any() for step in steps)


def test_what_a_scheduler_that_does_not_revise_asks_for_is_masked_off() -> None:
    @dataclass(frozen=True)
    class Plain(Editor):
        revises = False

    steps = list(decode(ToyModel(2, eos=False).build(), [1, 2], Plain(), gen_length=8))
    assert len(steps) == 2 and not any(step.decision.edit.any() or step.decision.hold.any() for step in steps)


def test_what_plan_answers_for_a_row_within_its_block_is_no_matter() -> None:
    @dataclass(frozen=True)
    class Opens(FixedBlock):
        def plan(self, view, state):
            block, state = super().plan(view, state)
            return block & (view.step == 0)[:, None], state

    def decoded(plan):
        scheduler = combine(plan=plan, select=lambda view: top_k(view.open, view.confidence, view.gen_length % 5))
        return generate(ToyModel(3, eos=False).build(), [[1], [2]], scheduler, gen_length=[8, 6])

    wanted, found = decoded(FixedBlock(4)), decoded(Opens(4))  # blocks of two steps, and of four
    assert found.nfe == wanted.nfe and all(map(torch.equal, found.tokens, wanted.tokens))


@dataclass(frozen=True)
class Stop(Scheduler):
    """Commits one token, then ends the row."""

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        return Decision(first(view.open, 1), stop=view.step >= 1), state


def test_stop_fills_the_rest_with_eos_and_needs_one() -> None:
    model = ToyModel(3)
    generation = generate(model.build(), [1], Stop(), gen_length=6, stop_at_eos=False)
    assert generation.nfe == [2] and generation.tokens[0][3:].tolist() == [model.vocabulary - 2] * 4
    without = ToyModel(3, eos=False).build()
    assert generate(without, [1], Stop(), gen_length=2).nfe == [2]  # nothing is left to fill
    for length in (3, 6):
        with pytest.raises(SchedulerError, match="no EOS"):
            generate(without, [1], Stop(), gen_length=length)


@dataclass(frozen=True)
class Sliding(Scheduler):
    """The three first masks, planned anew at every step."""

    replan = "step"

    def plan(self, view, state):
        return first(view.open, 3), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


def test_a_sliding_window_restarts_step_when_what_it_opened_with_is_committed() -> None:
    steps = list(decode(ToyModel(4, eos=False, sees="position").build(), [[]], Sliding(), gen_length=9))
    assert len(steps) == 9 and all(int(step.view.open.sum()) == min(3, 9 - i) for i, step in enumerate(steps))
    assert not any(step.view.committed.any() for step in steps)
    assert all(step.view.window[0].tolist() == step.view.open[0].nonzero()[:, 0].tolist() for step in steps)
    restarts = [i for i, step in enumerate(steps) if int(step.view.step) == 0]
    opened = steps[0].view.open[0]
    gone = next(i for i, step in enumerate(steps) if not (step.view.open[0] & opened).any())
    assert restarts[:2] == [0, gone]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_name_row_and_step(value: float) -> None:
    def poisoned(tokens):
        logits = ToyModel(0, eos=False).logits(tokens)
        if int((tokens == 7).sum()) < 5:
            logits[-1, -1] = value
        return logits

    model = wrap(poisoned, mask_id=7, vocab_size=8)
    with pytest.raises(ModelError, match="row 1 at step 2"):
        generate(model, [[1], [1]], FixedBlock(8, 8), gen_length=3)


def test_logits_that_no_row_asks_for_may_be_anything() -> None:
    """A row that predicts fewer positions than another one is filled up with some that it computed."""

    def logits(tokens):
        found = ToyModel(3, eos=False).logits(tokens)
        found[:, 0] = torch.nan
        return found

    model = wrap(logits, mask_id=7, vocab_size=8)
    assert generate(model, [[1, 2, 3], [1]], FixedBlock(8, 2), gen_length=[3, 5]).nfe == [2, 2]


def test_temperature_draws_the_models_distribution_row_by_row() -> None:
    table = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).log()
    model = wrap(lambda tokens: table.expand(*tokens.shape, 5), mask_id=4, vocab_size=5)
    for temperature in (0.5, 1.0, 2.0):
        options = {"gen_length": 64, "samples": 60, "sampler": Sampler(temperature)}
        generation = generate(model, [[]], FixedBlock(64, 1), **options)
        drawn = torch.cat(generation.tokens).bincount(minlength=5) / (64 * 60)
        assert torch.allclose(drawn, (table / temperature).softmax(-1), atol=0.03)
        assert len({tuple(row.tolist()) for row in generation.tokens}) == 60
    cut = generate(
        model, [[]], FixedBlock(64, 1), gen_length=64, samples=9, sampler=Sampler(temperature=1.0, top_p=0.69)
    )
    assert set(torch.cat(cut.tokens).tolist()) == {2, 3}
    cold = generate(model, [[]], FixedBlock(64, 1), gen_length=8, sampler=Sampler(processors=(suppress(3),)))
    assert cold.tokens[0].tolist() == [2] * 8


def test_guidance_moves_the_logits_away_from_those_without_the_prompt() -> None:
    toy = ToyModel(4, eos=False)
    model, mask = toy.build(), toy.vocabulary - 1
    with_prompt = toy.logits(torch.tensor([[3, 1, mask, mask]]))
    without = toy.logits(torch.tensor([[mask, mask, mask, mask]]))
    (step,) = decode(model, [3, 1], FixedBlock(2, 1), gen_length=2, guidance=0.5)
    wanted = (without + 1.5 * (with_prompt - without))[:, 2:, :mask]
    torch.testing.assert_close(step.view.logits[..., :mask], wanted.float())
    assert (int(step.nfe), int(step.extra), int(step.fed)) == (1, 1, 8)
    plain = generate(model, [[3, 1], [2]], FixedBlock(4, 2), gen_length=8)
    assert plain.extra == [0, 0]
    guided = generate(model, [[3, 1], [2]], FixedBlock(4, 2), gen_length=8, guidance=1.0)
    assert guided.extra == guided.nfe == plain.nfe and guided.fed == [2 * n for n in plain.fed]


def test_samples_have_their_own_seeds() -> None:
    model = ToyModel(0, eos=False).build()
    options = {"gen_length": 8, "sampler": Sampler(temperature=2.0)}
    three = generate(model, [[1], [2]], FixedBlock(8, 8), samples=3, seed=5, **options)
    one = generate(model, [2], FixedBlock(8, 8), seed=7, **options)
    assert len(three.tokens) == 6 and three.tokens[5].equal(one.tokens[0])


def test_ties_go_to_the_lowest_position_and_token() -> None:
    model = wrap(lambda tokens: torch.zeros(*tokens.shape, 5), mask_id=4, vocab_size=5)
    steps = list(decode(model, [3], FixedBlock(4, 4), gen_length=4))
    assert [step.decision.commit[0].nonzero().item() for step in steps] == [1, 2, 3, 4]
    assert steps[-1].tokens.tolist() == [[3, 0, 0, 0, 0]]


@pytest.mark.parametrize("vocab", [7, 64, 100, 192])
def test_the_draft_is_the_likeliest_token_and_of_equal_ones_the_lowest(vocab: int) -> None:
    noise = torch.Generator().manual_seed(vocab)
    logits = torch.randint(-2, 3, (9, 40, vocab), generator=noise).float()
    logits[torch.rand(logits.shape, generator=noise) < 0.2] = -torch.inf
    place = torch.arange(40).repeat(9, 1)
    found = Sampler()(logits.clone(), place[:, 0], place, place, mask_id=vocab - 1)
    best = logits[..., :-1].amax(-1)
    for row, lane in [(row, lane) for row in range(9) for lane in range(40)]:
        assert found.draft[row, lane] == logits[row, lane].tolist().index(best[row, lane])
    torch.testing.assert_close(found.confidence, logits[..., :-1].softmax(-1).amax(-1))


def test_a_prompt_may_contain_the_mask_id() -> None:
    model = ToyModel(0, eos=False)
    (history,) = run_case(FixedBlock(4, 1), Case(model, (Row((7, 1), 3),)))
    assert history[-1][1][0] == 7


def test_text_in_and_out() -> None:
    model = ToyModel(11, eos=False).build()
    text = generate(model, ["ab", "c"], AdaBlock("\n", block=4), gen_length=5).text
    assert [len(t or "") for t in text] == [5, 5]
    for model in (ToyModel(seed).build() for seed in range(9)):
        found = generate(model, "ab", FixedBlock(4, 1), gen_length=8)
        answer = found.tokens[0].tolist()[2:]
        end = answer.index(model.eos_ids[0]) if model.eos_ids[0] in answer else 8
        assert found.text == [model.tokenizer.decode(answer[:end])] and found.generated == [min(end + 1, 8)]


class Misspelt(FixedBlock):
    replan = "steps"


BAD_CALLS = [
    ({"gen_length": 0}, "gen_length must be >= 1"),
    ({"gen_length": [3, 3]}, "gen_length has 2 entries for 1 prompts"),
    ({"prompt": []}, "empty list"),
    ({"prompt": [[1], [99]]}, "token ids outside 0..7"),
    ({"prompt": [1.5]}, "token ids"),
    ({"open": [True]}, "2 bools"),
    ({"samples": 0}, "samples must be >= 1"),
    ({"samples": 1.5}, "samples must be a whole number, got 1.5"),
    ({"gen_length": True}, "gen_length must be a whole number, got True"),
    ({"gen_length": [4.0]}, "gen_length must be a whole number, got 4.0"),
    ({"seed": 2**63 - 1, "samples": 2}, r"seed \+ samples at most 2\*\*63"),
    ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
    ({"cache": "dual"}, "cache must be a Cache, such as DualCache"),
    ({"stop_at_eos": "no"}, "stop_at_eos must be true or false, got 'no'"),
    ({"on_step": 3}, "on_step must be a function that takes a Step, got 3"),
    ({"prompt": torch.tensor(1)}, "flat list of token ids"),
    ({"prompt": {"input_ids": [1]}}, "prompt must be a text, token ids, or a list of either, got dict"),
    ({"prompt": None}, "or a list of either, got NoneType"),
    ({"prompt": [[1, None]]}, "flat list of token ids"),
    ({"open": True}, "open must be bools, one per prompt token"),
    ({"open": "ab"}, "open must be bools, one per prompt token, or a list of such masks, got 'ab'"),
    ({"prompt": [[1, 2], [3]], "open": [[True, False], None]}, "open must be bools, one per prompt token"),
    ({"sampler": 0.7}, "sampler must be a Sampler"),
    ({"guidance": -1}, r"^guidance must be a number from 0 to 1e\+06"),
    ({"guidance": float("inf")}, "^guidance must be a number"),
    ({"model": "tiny"}, "model must be one that load_model, wrap or wrap_hf returns, or the like, got 'tiny'"),
    ({"scheduler": FixedBlock}, "instance of a Scheduler subclass"),
    ({"gen_length": "32"}, "gen_length must be a whole number, got '32'"),
    ({"scheduler": Misspelt()}, "Misspelt.replan must be one of block, step, got 'steps'"),
    ({"scheduler": AdaBlock(delimiters=(8, -1))}, r"AdaBlock.delimiters must hold token ids in 0\.\.7, got \(8, -1\)"),
]


@pytest.mark.parametrize(("change", "words"), BAD_CALLS, ids=lambda x: str(x)[:30])
def test_bad_arguments_are_named(change: dict, words: str) -> None:
    call = {"model": ToyModel().build(), "prompt": [1, 2], "scheduler": FixedBlock(), "gen_length": 3, **change}
    with pytest.raises(ConfigError, match=words):
        generate(**call)


def test_whole_numbers_of_numpy_and_empty_prompts_with_masks_are_fine() -> None:
    model = ToyModel().build()
    wanted = generate(model, [[]], FixedBlock(), gen_length=4, seed=3)
    found = generate(model, [[]], FixedBlock(), gen_length=np.int64(4), seed=np.int32(3), open=[[]])
    assert found.tokens[0].tolist() == wanted.tokens[0].tolist()
    assert generate(model, [[]], FixedBlock(), gen_length=4, seed=2**63 - 1).nfe
    for length in (torch.tensor(4), np.array(4), [np.int64(4)]):
        assert generate(model, [[]], FixedBlock(), gen_length=length).tokens[0].shape == (4,)
    for ids in ([np.int64(1), np.int64(2)], np.array([1, 2]), np.array([1, 2], np.uint16), torch.tensor([1, 2]).byte()):
        assert generate(model, ids, FixedBlock(), gen_length=1).tokens[0][:2].tolist() == [1, 2]


def test_processors_that_forbid_the_same_are_equal() -> None:
    """So that what is compiled for one serves the other, and a trace says the same of both."""
    assert Sampler(processors=(suppress(1, 2),)) == Sampler(processors=(suppress(1, 2),))
    assert Sampler(processors=(suppress(1),)) != Sampler(processors=(suppress(2),))
    assert "Suppress(ids=(1,))" in repr(Sampler(processors=(suppress(1),)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: suppress("a"), r"suppress takes token ids, as in suppress\(2, 5\), got 'a'"),
        (lambda: suppress([1, 2]), r"got \[1, 2\]"),
        (lambda: suppress(1, "a"), "got 1, 'a'"),
        (lambda: Sampler(processors=suppress(1)), "processors must be a tuple of functions"),
        (lambda: Sampler(processors=(1,)), "processors must be a tuple of functions"),
        (lambda: Sampler(confidence="best"), "confidence must be 'model' or 'tempered', got 'best'"),  # type: ignore[arg-type]
        (lambda: Sampler(top_p=0.0), "top_p must be above 0"),
        (lambda: Sampler(top_p=1.1), "top_p must be a number from 0 to 1, got 1.1"),
    ],
)
def test_what_no_sampler_takes_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("temperature", [float("inf"), 2e6, 1e-40, -1.0, float("nan")])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature must be"):
        Sampler(temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_no_mask_is_drawn_at_the_ends_of_the_range(temperature: float) -> None:
    logits = torch.linspace(-30, 30, 8).expand(1, 50, 8)
    place = torch.arange(50)[None]
    found = Sampler(temperature)(logits.clone(), place[:, 0], place, place, mask_id=7)
    assert (found.draft != 7).all() and (temperature > 1 or (found.draft == 6).all())


@pytest.mark.parametrize(("mask", "eos"), [(7, 7), (7, 99), (7, -1), (8, 1), (None, 1), (7, "1")])
def test_ids_of_a_callable_are_checked(mask: Any, eos: Any) -> None:
    with pytest.raises(ConfigError, match="mask_id"):
        wrap(ToyModel().logits, mask_id=mask, vocab_size=8, eos_ids=(eos,))
    with pytest.raises(ConfigError, match="wrap takes a callable, tokens -> logits, got None"):
        wrap(None, mask_id=7, vocab_size=8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eos_ids": 6}, "eos_ids must be a tuple of token ids, got 6"),
        ({"shift": 2}, "shift must be 0 or 1, got 2"),
        ({"shift": True}, "shift must be a whole number, got True"),
        ({"shift": 1.0}, "shift must be a whole number, got 1.0"),
        ({"vocab_size": "8"}, "vocab_size must be a whole number, got '8'"),
        ({"vocab_size": 8.0}, "vocab_size must be a whole number, got 8.0"),
        ({"max_length": "long"}, "max_length must be a whole number, got 'long'"),
    ],
)
def test_arguments_of_wrap_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wrap(ToyModel().logits, **{"mask_id": 7, "vocab_size": 8, **change})


def test_a_module_in_training_mode_is_not_wrapped() -> None:
    module = nn.Sequential(nn.Embedding(8, 16), nn.Dropout(0.5), nn.Linear(16, 8))
    with pytest.raises(ConfigError, match=r"Sequential is in training mode, .* call its eval\(\) first"):
        wrap(module, mask_id=7, vocab_size=8)
    with pytest.raises(ConfigError, match=r"or give a function that calls it"):
        module.eval()[1].train()
        wrap(module, mask_id=7, vocab_size=8)
    around = nn.Sequential(module.eval())  # in training mode itself, and nothing in it
    assert around.training and wrap(around, mask_id=7, vocab_size=8)
    model, prompts = wrap(module, mask_id=7, vocab_size=8), [[1, 2], [3]]
    first, second = (generate(model, prompts, FixedBlock(4, 4), gen_length=8) for _ in range(2))
    assert all(map(torch.equal, first.tokens, second.tokens))


def test_what_plan_writes_into_the_logits_is_lost() -> None:
    class Writes(FixedBlock):
        def horizon(self, gen_length: int) -> int:
            return 6

        def plan(self, view, state):
            view.logits.zero_()
            return first(view.open, 6), state

        def select(self, view, state):
            seen.append(bool(view.logits.any()))
            return super().select(view, state)

    seen: list[bool] = []
    generate(ToyModel(0, eos=False).build(), [1], Writes(), gen_length=12)
    assert seen and all(seen)


@pytest.mark.parametrize("write", [lambda x: x.open.zero_(), lambda x: x.confidence.neg_(), lambda x: x.window.zero_()])
@pytest.mark.parametrize("name", ["plan", "select"])
def test_what_is_written_into_a_view_is_lost(name: str, write: Callable[[View], object]) -> None:
    """Also for those who look at the step afterwards."""

    class Writes(FixedBlock):
        def plan(self, view, state):
            return self.answer("plan", view, state)

        def select(self, view, state):
            return self.answer("select", view, state)

        def answer(self, which, view, state):
            found = getattr(super(), which)(view, state)
            if which == name:
                write(view)
            return found

    model = ToyModel(0, eos=False).build()
    wanted, found = (generate(model, [1, 2], one(4, 2), gen_length=9, trace=True) for one in (FixedBlock, Writes))
    assert found.tokens[0].equal(wanted.tokens[0]) and found.trace[0].canvas().equal(found.tokens[0])
    for ours, theirs in zip(found.trace[0], wanted.trace[0], strict=True):
        assert ours.open.equal(theirs.open) and ours.confidence.equal(theirs.confidence)


def test_answers_are_tensors_like_any_other_and_no_views() -> None:
    (answer,) = generate(ToyModel().build(), [1, 2], FixedBlock(), gen_length=5).tokens
    assert not answer.is_inference() and answer.untyped_storage().nbytes() == 7 * 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_processor_may_answer_in_another_type(dtype: torch.dtype) -> None:
    sampler = Sampler(processors=(lambda logits, tokens, window: logits.to(dtype),))
    model = ToyModel(0).build()
    for step in decode(model, [1, 2], FixedBlock(), gen_length=4, sampler=sampler):
        assert step.view.logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("answer", "got"), [(lambda logits: logits[..., :3], r"\(1, 4, 3\)"), (lambda logits: None, "None")]
)
def test_a_processor_that_answers_something_else_is_refused(answer: Callable[..., Any], got: str) -> None:
    """Logits of fewer tokens would be drafts out of these alone."""
    model = wrap(lambda tokens: torch.zeros(*tokens.shape, 8), mask_id=0, vocab_size=8)
    sampler = Sampler(processors=(lambda logits, tokens, window: answer(logits),))
    with pytest.raises(ConfigError, match=rf"processor .* must return logits \(1, 4, 8\), got {got}"):
        generate(model, [1], FixedBlock(), gen_length=4, sampler=sampler)


def test_numbers_of_numpy_are_ids_of_a_callable(tmp_path: Path) -> None:
    model = wrap(ToyModel().logits, mask_id=np.int64(7), vocab_size=8, eos_ids=(np.int64(6),))
    (trace,) = generate(model, [1], FixedBlock(), gen_length=3, trace=True).trace
    trace.save(tmp_path / "x.trace")


def test_a_callable_is_shown_no_gap() -> None:
    """Given tokens behind a hidden part would slide to the left."""
    model, open = ToyModel().build(), [False, True, True, True, True, False]
    call = {"prompt": [1, 0, 0, 0, 0, 2], "scheduler": FixedBlock(2), "gen_length": 0, "open": open}
    with pytest.raises(ConfigError, match="it reads no positions; take NoCache"):
        generate(model, **call, cache=NoCache(suffix=False))
    assert generate(model, **call).tokens[0].tolist()[-1] == 2
    rows = {"prompt": [[1], [2, 0]], "scheduler": FixedBlock(2), "gen_length": [6, 3]}  # without a hole it may hide
    assert generate(model, **rows, cache=NoCache(suffix=False), open=[[False], [False, True]]).nfe


def test_guidance_leaves_what_both_passes_agree_on() -> None:
    """A vocabulary is padded with tokens that are never written, at minus infinity."""

    def logits(tokens):
        found = ToyModel(3, eos=False).logits(tokens)
        found[..., 4], found[..., 5] = 1, -torch.inf
        return found

    model = wrap(logits, mask_id=7, vocab_size=8)
    *_, step = decode(model, [[1, 2]], FixedBlock(4), gen_length=12, guidance=1.5)
    assert 5 not in step.tokens.tolist()[0] and (step.view.logits[..., 4] == 1).all()


def test_whatever_can_be_called_is_handed_the_steps() -> None:
    class Log(list):
        __call__ = list.append

    log = Log()
    found = generate(ToyModel(0, eos=False).build(), [1], FixedBlock(4), gen_length=8, on_step=log)
    assert len(log) == found.nfe[0]


def test_tables_without_bytes_are_held_as_any_other() -> None:
    @dataclass(frozen=True)
    class Sparse(FixedBlock):
        table: torch.Tensor = field(default_factory=lambda: torch.eye(3).to_sparse(), compare=False)

    (trace,) = generate(ToyModel(0, eos=False).build(), [1], Sparse(4), gen_length=8, trace=True).trace or []
    assert "sparse" in trace.about["fields"]["table"]
    assert check_scheduler(Sparse(4), examples=2).passed


def test_a_head_on_another_device_is_copied_again_when_it_has_changed() -> None:
    @dataclass(frozen=True)
    class Headed(FixedBlock):
        head: nn.Module = field(default_factory=lambda: nn.Sequential(nn.Linear(2, 1), nn.Dropout()), compare=False)

    scheduler = Headed(4)

    def copied() -> Any:
        return on_device(scheduler, torch.device("meta")).head

    known = copied()
    for change in (nn.Module.eval, nn.Module.double, lambda head: nn.init.zeros_(head[0].weight)):
        assert copied() is known
        change(scheduler.head)
        assert copied() is not known
        known = copied()
        assert (known[1].training, known[0].weight.dtype) == (False, scheduler.head[0].weight.dtype)


def test_a_table_that_init_does_not_take_goes_to_the_device_too() -> None:
    assert on_device(PCSampler(background=(1.0, 2.0)), torch.device("meta")).log_frequency.is_meta


def test_a_canvas_longer_than_the_context_is_refused() -> None:
    model = wrap(ToyModel().logits, mask_id=7, vocab_size=8, max_length=6)
    with pytest.raises(ConfigError, match="context holds 6"):
        generate(model, [1, 2], FixedBlock(), gen_length=5)


def test_a_text_needs_a_tokenizer() -> None:
    model = wrap(ToyModel().logits, mask_id=7, vocab_size=8)
    with pytest.raises(ConfigError, match="tokenizer"):
        generate(model, "ab", FixedBlock(), gen_length=5)
    with pytest.raises(ConfigError, match=r"AdaBlock.delimiters holds the text"):
        generate(model, [1], AdaBlock(), gen_length=5)


def test_a_single_id_is_one_and_an_empty_text_is_none() -> None:
    model = ToyModel(11, eos=False).build()
    assert look_up(load_scheduler("adablock:delimiters=5"), model).delimiters == (5,)
    assert look_up(AdaBlock([5, 6]), model).delimiters == (5, 6)
    assert look_up(load_scheduler("early-eos:eos=0"), model).eos == (0,)
    ends = wrap(ToyModel().logits, mask_id=7, vocab_size=8, eos_ids=(6,))
    assert [look_up(EarlyEOS(FixedBlock(), eos=empty), ends).eos for empty in ((), [], None)] == [(6,)] * 3
    for wrong in ("", ("a", ""), (1.5,), None):
        with pytest.raises(ConfigError, match=r"AdaBlock.delimiters must be token ids, or texts that tokens contain"):
            generate(model, "ab", AdaBlock(wrong), gen_length=5)


def test_a_callable_of_the_wrong_shape_is_named() -> None:
    model = wrap(lambda tokens: torch.zeros(1, 2), mask_id=7, vocab_size=8)
    with pytest.raises(ModelError, match=r"shape \(1, 4, 8\)"):
        generate(model, [1], FixedBlock(), gen_length=3)


def test_a_hole_is_filled_in_its_context() -> None:
    open = [False, True, True, False]
    generation = generate(ToyModel(9).build(), [1, 0, 0, 2], FixedBlock(2, 2), gen_length=0, open=open)
    assert generation.tokens[0][0] == 1 and generation.tokens[0][3] == 2 and generation.nfe[0] <= 2


@given(case=cases(max_rows=1))
@settings(max_examples=30)
def test_settled_never_goes_back_and_ends_at_the_end(case: Case) -> None:
    assume(not case.rows[0].holes)
    row = case.rows[0]
    steps = decode(case.model.build(), [list(row.prompt)], ConfidenceAdaptive(), gen_length=row.gen_length)
    settled = [int(step.settled[0]) for step in steps]
    assert settled == sorted(settled) and settled[-1] == len(row.prompt) + row.gen_length


def test_a_text_is_looked_for_once_as_long_as_the_tokenizer_stays_as_large() -> None:
    class Counting:
        size, asked = 4, 0

        def __len__(self) -> int:
            return self.size

        def decode(self, ids) -> str:
            self.asked += 1
            return "ab\nc"[ids[0] % 4]

    tokenizer = Counting()
    assert [tokens_containing(tokenizer, text, 8) for text in "\nb\n"] == [(2, 6), (1, 5), (2, 6)]
    assert tokenizer.asked == 16
    tokenizer.size = 5
    assert tokens_containing(tokenizer, "\n", 8) == (2, 6) and tokenizer.asked == 24


def test_the_device_that_torch_makes_tensors_on_does_not_matter(tmp_path: Path) -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    model, prompts, open = wrap(table.__getitem__, mask_id=0, vocab_size=6), [[1, 2], []], [[True, False], []]
    wanted = generate(model, prompts, AdaBlock((3,)), gen_length=9, open=open, trace=True)
    torch.set_default_device("meta")
    try:
        found = generate(model, prompts, AdaBlock((3,)), gen_length=9, open=open, trace=True)
        found.trace[0].save(tmp_path / "trace")
        assert found.trace[0].canvas().equal(found.tokens[0])
    finally:
        torch.set_default_device(None)
    assert all(map(torch.equal, found.tokens, wanted.tokens))
    assert Trace.load(tmp_path / "trace").diff(wanted.trace[0]) is None
