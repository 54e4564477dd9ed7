"""`list --long`: what a scheduler needs and keeps is read off the class."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import nn

from dllm_bench import available
from dllm_bench.listing import listing
from dllm_bench.protocol_use import Use, protocol_use
from dllm_sdk import Decision, Scheduler, Wrapper, registry
from dllm_sdk.rules import entropy


@dataclass(frozen=True)
class Bare(Scheduler):
    """Nothing but drafts. A second sentence."""

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        return Decision(view.open), state


def doubtful(view: Any) -> Any:
    return entropy(view) > 1


@dataclass(frozen=True)
class Hungry(Bare):
    """Reads logits two calls away, keeps a lot, and revises or not."""

    kept: int = 5
    may_revise: bool = False

    replan = "step"
    revises = property(lambda self: self.may_revise)

    def horizon(self, gen_length):
        return 3

    def init(self, tokens, open):
        """What it saw.

        At length.
        """
        return (torch.zeros(*tokens.shape, self.kept), (torch.zeros_like(tokens[:, 0]),))

    def select(self, view, state):
        return Decision(view.open & doubtful(view)), state


class Silent(Bare):
    def init(self, tokens, open):
        return (tokens[:, 0],)


@dataclass(frozen=True)
class Unready(Hungry):
    required: Any = field(kw_only=True)


@dataclass(frozen=True)
class Wraps(Wrapper):
    head: nn.Module = field(default_factory=lambda: nn.Sequential(nn.Linear(1, 1)), kw_only=True)

    def init(self, tokens, open):
        return super().init(tokens, open)


class Raises(Bare):
    def init(self, tokens, open):
        raise KeyError("mine")


def load_head():
    raise KeyError("mine")


@dataclass(frozen=True)
class Heads(Unready):
    head: Any = field(default_factory=load_head, kw_only=True)


def test_needs_and_state_are_read_off_the_class() -> None:
    assert protocol_use(Bare) == Use(needs=(), may_need=(), state="none")
    assert protocol_use(Silent).state == "int64 [B]"
    state = "float32 [B, L, 5], int64 [B]: what it saw"
    assert protocol_use(Hungry) == Use(("horizon", "logits", "replan"), ("revises",), state)
    assert protocol_use(Unready) == Use(("logits",), ("horizon", "revises", "replan"), "what it saw")


def test_every_shipped_scheduler_names_its_paper_needs_and_state() -> None:
    shipped = [plugin for plugin in available(long=True) if plugin.kind == "scheduler"]
    for plugin in shipped:
        assert plugin.papers and plugin.needs is not None and plugin.state and not plugin.error, plugin.name
        if plugin.state != "none":
            assert plugin.state[0].islower() and "[B" in plugin.state, plugin.name
    by_name = {plugin.name: plugin for plugin in shipped}
    assert by_name["klass"].needs == ("logits",) and "float32 [B, L, 65]" in str(by_name["klass"].state)
    assert by_name["prophet"].may_need == by_name["sched"].may_need == ()  # they refuse an inner one that revises
    assert by_name["adablock"].needs == ("horizon",) and by_name["block-refinement"].may_need == ("revises",)
    text = listing(shipped)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "needs: horizon\n" in text and "needs: nothing special; with other fields: revises\n" in text
    assert "\N{NO-BREAK SPACE}" not in text and "[B,\n" not in text


def test_a_field_is_one_line_and_a_state_that_nobody_knows_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("wraps", f"{__name__}:Wraps", "dllm_sdk.schedulers")
    monkeypatch.setattr(registry, "available", lambda kind: {"wraps": point} if kind == "scheduler" else {})
    monkeypatch.setattr(registry, "load", lambda kind, name: Wraps if kind == "scheduler" else object)
    text = listing(available(long=True)[:1])
    assert "fields: inner=required, head=Sequential" in text and "Linear" not in text and "state:" not in text


@pytest.mark.parametrize("kind", [Raises, Heads])
def test_a_scheduler_that_raises_is_an_entry_with_an_error(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("raises", f"{__name__}:{kind.__name__}", "dllm_sdk.schedulers")
    monkeypatch.setattr(registry, "available", lambda room: {"raises": point} if room == "scheduler" else {})
    monkeypatch.setattr(registry, "load", lambda room, name: kind if room == "scheduler" else object)
    plugin, *_ = available(long=True)
    assert plugin.error == f"{kind.__name__} raised KeyError: 'mine'"
    assert f"broken: {plugin.error}" in listing([plugin])


def test_what_no_command_would_take_is_an_entry_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def point(kind: str, name: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, f"{__name__}:{name}", f"dllm_sdk.{kind}s")}

    given = {"scheduler": "doubtful", "model": "__name__", "task": "Bare"}
    monkeypatch.setattr(registry, "entry_points", lambda group: point(group[9:-1], given[group[9:-1]]).values())
    scheduler, model, task, *_ = (" ".join(str(plugin.error).split()) for plugin in available(long=True))
    assert "which is not a subclass of dllm_sdk.Scheduler" in scheduler
    assert "give a function f(*, device, dtype) that returns a model" in model
    assert "must be an object with name, gen_length, prompts and check" in task and "make one of this class" in task


def test_a_name_that_two_claim_is_an_entry_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [EntryPoint("x", value, "dllm_sdk.schedulers") for value in ("a:A", "b:B")]
    monkeypatch.setattr(registry, "entry_points", lambda group: both if group == "dllm_sdk.schedulers" else [])
    assert available()[0].error == available(long=True)[0].error
    assert "broken: scheduler 'x' is registered by a:A and b:B: uninstall one" in " ".join(listing(available()).split())


def test_a_summary_is_the_first_sentence() -> None:
    found = {plugin.name: plugin.summary for plugin in available(long=True)}
    assert found["dilated"] is not None and found["dilated"].startswith("Round t = 1, 2, ... of a block of n commits")
    assert all(summary and summary.endswith(".") for summary in found.values())
