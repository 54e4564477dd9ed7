"""Traces: what is recorded is what happened, whatever the scheduler; files come back as they were, or not at all."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, replace
from functools import cache as memo
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_sdk import (
    BlockCache,
    Cache,
    ConfigError,
    Decision,
    DualCache,
    PrefixCache,
    Sampler,
    Scheduler,
    Step,
    Trace,
    View,
    generate,
    load_scheduler,
    wrap,
)
from dllm_sdk.model import CallableModel
from dllm_sdk.registry import available
from dllm_sdk.rules import at_least_one, first, margin, uniform
from dllm_sdk.testing import Case, ToyModel, cases
from dllm_sdk.writing import write_whole
from dllm_strategies import AdaBlock, BlockRefinement, ConfidenceAdaptive, FixedBlock


@dataclass(frozen=True)
class Revises(Scheduler):
    """Remasks, edits, holds and stops at random, within what progress allows."""

    block: int = 6
    stops: bool = True

    @property
    def revises(self) -> bool:
        return True

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        chance = uniform(view)
        early = (view.step < 12)[:, None]
        decision = Decision(
            commit=at_least_one(view.open, view.confidence, view.open & (chance < 0.5)),
            tokens=view.draft,
            remask=view.committed & (chance < 0.1) & early,
            edit=view.committed & (chance > 0.8),
            hold=(view.step % 3 == 1) & early[:, 0],
            stop=(chance.amax(1) > 0.99) & self.stops,
        )
        return decision, state


@dataclass(frozen=True)
class Sliding(Revises):
    """A window that is planned at every step."""

    @property
    def revises(self) -> bool:
        return False

    @property
    def replan(self):
        return "step"


REGISTERED = [load_scheduler(name) for name in available("scheduler")]
SCHEDULERS = [*REGISTERED, Revises(), Sliding(stops=False), AdaBlock((0, 1), 6), ConfidenceAdaptive(0.6, 2, 7, 0.8)]


def options(case: Case) -> dict[str, Any]:
    return {
        "gen_length": [row.gen_length for row in case.rows],
        "open": [torch.tensor([i in row.holes for i in range(len(row.prompt))], dtype=torch.bool) for row in case.rows],
        "sampler": Sampler(temperature=case.temperature),
        "seed": case.seed,
    }


def toy(case: Case, scheduler: Scheduler):
    """A model that can end early (some schedulers stop), and the prompts."""
    model = replace(case.model, eos=True) if isinstance(scheduler, Revises) else case.model
    return model.build(), [list(row.prompt) for row in case.rows]


def same(left: Trace, right: Trace) -> bool:
    names = [item.name for item in dataclasses.fields(Trace) if item.name != "about"]
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in names) and left.about == right.about


@given(case=cases(max_rows=2, max_gen_length=20), scheduler=st.sampled_from(SCHEDULERS), data=st.data())
@settings(max_examples=200)
def test_a_trace_says_what_happened(case: Case, scheduler: Scheduler, data) -> None:
    model, prompts = toy(case, scheduler)
    steps: list[Step] = []
    traced = generate(model, prompts, scheduler, trace=True, on_step=steps.append, **options(case))
    looked_at = {row: data.draw(st.integers(0, traced.nfe[row])) for row in range(len(prompts))}
    seen = [0] * len(prompts)
    for step in steps:
        for i, row in enumerate(step.rows.tolist()):
            trace, told = traced.trace[row], traced.trace[row][seen[row]]
            if seen[row] in (looked_at[row], looked_at[row] - 1):
                assert trace.canvas(seen[row]).equal(step.view.tokens[i, : len(trace.tokens)])
                assert trace.canvas(seen[row] + 1).equal(step.tokens[i, : len(trace.tokens)])
            seen[row] += 1
            assert told.number == int(step.nfe[i]) and told.fed == len(trace.tokens)
            assert told.position.tolist() == [p for p in step.view.window[i].tolist() if p < step.tokens.shape[1]]
            assert told.draft.equal(step.view.draft[i][told.position])
            assert told.confidence.equal(step.view.confidence[i][told.position].half())
            for name in ("open", "committed", "commit", "remask", "edit"):
                happened = getattr(step.view if name in step.view._fields else step.decision, name)[i]
                assert told.position[getattr(told, name)].tolist() == happened.nonzero()[:, 0].tolist()
            wrote = told.commit | told.edit
            assert told.margin[wrote].equal(margin(step.view)[i][told.position[wrote]].half())
    for trace, tokens, nfe, generated in zip(traced.trace, traced.tokens, traced.nfe, traced.generated, strict=True):
        assert trace.canvas().equal(tokens) and len(trace) == nfe and trace.generated == generated


@memo
def transformer(block_causal: bool) -> Transformer:
    torch.manual_seed(0)
    config = Config(
        vocab_size=13, mask_id=12, eos_ids=(11,), width=16, layers=1, heads=2, kv_heads=2, mlp_width=24,
        block_causal=block_causal, max_length=200,
    )  # fmt: skip
    made = Transformer(config).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return made


@given(
    cache=st.sampled_from([PrefixCache(), DualCache(), DualCache(refresh_every=3), PrefixCache(False), BlockCache()]),
    scheduler=st.sampled_from([s for s in SCHEDULERS if s.replan == "block" and "delimiters='" not in repr(s)]),
    rows=st.lists(st.tuples(st.lists(st.integers(0, 11), max_size=3), st.integers(1, 16)), min_size=2, max_size=2),
)
@settings(max_examples=40)
def test_a_trace_with_a_cache_is_the_same_alone_and_in_a_batch(cache: Cache, scheduler: Scheduler, rows: list) -> None:
    model = transformer(isinstance(cache, BlockCache))
    prompts, lengths = [prompt for prompt, _ in rows], [length for _, length in rows]
    together = generate(model, prompts, scheduler, gen_length=lengths, cache=cache, trace=True)
    for i, trace in enumerate(together.trace):
        assert trace.canvas().equal(together.tokens[i]) and len(trace) == together.nfe[i]
        assert int(trace.fed.sum()) == together.fed[i] and int(trace.refresh.sum()) == together.refreshes[i]
        (alone,) = generate(model, [prompts[i]], scheduler, gen_length=lengths[i], cache=cache, trace=True).trace
        assert same(alone, trace) and trace.diff(alone) is None


def fixed(sees="row", gen_length=12, scheduler=None, **options) -> Trace:
    model = ToyModel(seed=5, vocabulary=9, sees=sees, eos=options.pop("eos", False)).build()
    return generate(model, "ab", scheduler or FixedBlock(4, 4), gen_length=gen_length, trace=True, **options).trace[0]


def test_without_a_trace_there_is_none() -> None:
    assert generate(ToyModel().build(), "ab", FixedBlock(), gen_length=4).trace is None


def test_blocks_their_ends_and_the_order_of_commits() -> None:
    trace = fixed(gen_length=10)
    assert [step.block for step in trace] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert [step.end for step in trace] == ["open", "open", "open", "full"] * 2 + ["open", "full"]
    assert sorted(trace.order()[2:6].tolist()) == [1, 2, 3, 4] and trace.order()[:2].tolist() == [0, 0]
    assert trace[-1].number == 10 and trace.about["seed"] == 0 and "FixedBlock(block=4" in trace.about["scheduler"]
    assert trace.about["texts"]["1"] == "a"
    with pytest.raises(IndexError):
        trace[10]
    with pytest.raises(ConfigError, match="from 0 to 10"):
        trace.canvas(11)


def always_eos() -> CallableModel:
    says = torch.tensor([0.0, 0.0, 1.0, 0.0])
    return wrap(lambda tokens: says.expand(*tokens.shape, 4), mask_id=3, vocab_size=4, eos_ids=(2,))


def test_a_row_that_ends_early_says_why_and_is_filled() -> None:
    trace = generate(always_eos(), [0], FixedBlock(8, 8), gen_length=8, trace=True).trace[0]
    assert [step.end for step in trace] == ["eos"]
    assert trace.canvas(1).tolist() == [0] + [2] * 8 and int(trace.order().sum()) == 1
    stopped = generate(always_eos(), [0], Stops(), gen_length=8, trace=True, stop_at_eos=False).trace[0]
    assert [step.end for step in stopped] == ["stop"] and stopped.canvas().tolist() == [0] + [2] * 8


@dataclass(frozen=True)
class Stops(FixedBlock):
    """Commits one and stops."""

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        return Decision(commit=first(view.open, 1), stop=view.open.any(1)), state


@dataclass(frozen=True)
class Holds(FixedBlock):
    """Commits its block at once and holds it open: first as it is, then with one token taken back."""

    revises = True

    def select(self, view: View, state: Any) -> tuple[Decision, Any]:
        remask = first(view.committed, 1) & (view.step == 2)[:, None]
        return Decision(commit=view.open, remask=remask, hold=view.step < 4), state


def test_a_full_block_that_goes_on_is_held() -> None:
    assert [step.end for step in fixed(gen_length=4, scheduler=Holds(4))] == ["held", "held", "open", "held", "full"]


def test_diff_finds_the_first_step_and_its_margin() -> None:
    trace = fixed(sees="position")
    assert trace.diff(fixed(sees="position")) is None
    parting = trace.diff(fixed(sees="position", scheduler=FixedBlock(6, 6)))
    assert parting is not None and parting[:3] == (1, "block", 6) and parting.margin is None  # one computed it
    parting = trace.diff(fixed(sees="position", scheduler=FixedBlock(4, 2)))
    second = next(int(p) for p in trace[1].position[trace[1].commit])
    assert parting == (1, "commit", second, 0)  # the same number, decided differently
    with pytest.raises(ConfigError, match="different canvases"):
        trace.diff(fixed(gen_length=11))


def test_diff_of_a_near_tie_shows_its_margin() -> None:
    def says(tip: float, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 4, dtype=torch.float64)
        logits[..., 0], logits[..., 1] = 2.0, 2.0 + tip
        return logits

    traces = [
        generate(
            wrap(partial(says, tip), mask_id=3, vocab_size=4), [0], FixedBlock(4, 4), gen_length=4, trace=True
        ).trace[0]
        for tip in (1e-4, -1e-4)
    ]
    parting = traces[0].diff(traces[1])
    assert parting is not None and parting[:3] == (1, "token", 1)
    assert 0 < parting.margin < 1e-4


def test_diff_of_a_run_that_goes_on() -> None:
    short, long = (
        generate(always_eos(), [0], FixedBlock(4, 1), gen_length=8, trace=True, stop_at_eos=stop).trace[0]
        for stop in (True, False)
    )
    assert len(short) == 1 and len(long) == 2
    assert short.diff(long) == long.diff(short) == (2, "end", None, None)


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    model, scheduler = ToyModel(eos=False).build(), Revises(stops=False)
    found = generate(model, [[1, 2], []], scheduler, trace=True, gen_length=[30, 8])
    for trace, tokens in zip(found.trace, found.tokens, strict=True):
        assert any(step.edit.any() for step in trace) and trace.canvas().equal(tokens)
        trace.save(tmp_path / "row.safetensors")
        loaded = Trace.load(tmp_path / "row.safetensors")
        assert same(loaded, trace) and loaded.diff(trace) is None
    assert [path.name for path in tmp_path.iterdir()] == ["row.safetensors"]


@pytest.mark.parametrize("scheduler", [FixedBlock(32, 32), BlockRefinement(edit_threshold=0.9)])
def test_a_long_trace_is_small(scheduler: Scheduler, tmp_path: Path) -> None:
    logits = 3 * torch.randn(514, 9, generator=torch.Generator().manual_seed(0))
    model = wrap(lambda tokens: logits.expand(len(tokens), -1, -1), mask_id=8, vocab_size=9)
    trace = generate(model, [1, 2], scheduler, gen_length=512, trace=True).trace[0]
    assert len(trace) > 480 and len(trace.position) > 8000
    large = {name: getattr(trace, name) + 100_000 for name in ("tokens", "draft", "written")}  # as LLaDA's ids
    replace(trace, **large).save(tmp_path / "row.safetensors")
    assert (tmp_path / "row.safetensors").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "there is no trace file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "no trace, or a damaged one"),
        (lambda path: path.write_bytes(b""), "no trace, or a damaged one"),
        (lambda path: path.write_text("{}"), "no trace, or a damaged one"),
        (lambda path: rewrite(path, schema="dllm-trace/2"), "holds dllm-trace/2, and this version reads dllm-trace/1"),
        (lambda path: rewrite(path, schema=None), "holds no schema at all"),
        (lambda path: rewrite(path, about="[]"), "damaged trace"),
        (lambda path: rewrite(path, about="{}"), "mask_id or fill is missing"),
        (lambda path: rewrite(path, about="{"), "damaged trace"),
        (lambda path: rewrite(path, position=None), "damaged trace.*position"),
        (lambda path: rewrite(path, written=torch.zeros(3, dtype=torch.int64)), "written has shape"),
        (lambda path: rewrite(path, written=torch.zeros(12)), "written holds torch.float32, not torch.int64"),
        (lambda path: rewrite(path, open=torch.ones(12, dtype=torch.int64)), "open holds torch.int64, not torch.bool"),
        (lambda path: rewrite(path, extra=torch.zeros(3)), "damaged trace.*extra"),
        (lambda path: rewrite(path, end=torch.full((12,), 9, dtype=torch.uint8)), "ended in an unknown way"),
        (lambda path: rewrite(path, position=torch.full((30,), 99)), "outside the canvas"),
        (lambda path: rewrite(path, offsets=torch.arange(13)), "offsets do not cut"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(damage, says: str, tmp_path: Path) -> None:
    path = tmp_path / "row.safetensors"
    fixed().save(path)
    damage(path)
    with pytest.raises(ConfigError, match=says):
        Trace.load(path)


def test_two_who_save_at_one_path_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving a trace while another is being saved there: each is whole, and nothing else is left."""
    path, write, others = tmp_path / "row", Path.write_bytes, [b"other"]

    def in_between(part: Path, content: bytes) -> int:
        written = write(part, content)
        if others:
            write_whole(path, others.pop())
        return written

    def interrupted(part: Path, content: bytes) -> int:
        write(part, content[:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", in_between)
    fixed().save(path)
    assert Trace.load(path).generated == fixed().generated
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fixed().save(path)
    assert Trace.load(path).generated == fixed().generated and os.listdir(tmp_path) == ["row"]


def rewrite(path: Path, **changes: Any) -> None:
    """The file with other metadata or tensors; None leaves one out."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    words = {name: value for name, value in changes.items() if name in metadata}
    everything = {**load_file(path), **{name: value for name, value in changes.items() if name not in words}}
    metadata = {name: value for name, value in {**metadata, **words}.items() if value is not None}
    save_file({name: value for name, value in everything.items() if value is not None}, path, metadata)


def test_a_run_under_autocast_is_traced() -> None:
    model, call = ToyModel(3).build(), {"gen_length": 8, "trace": True}
    (wanted,) = generate(model, [1, 2], FixedBlock(4), **call).trace or []
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = generate(model, [1, 2], FixedBlock(4), **call).trace or []
    assert found.confidence.equal(wanted.confidence) and found.margin.equal(wanted.margin)
