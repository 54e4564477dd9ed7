"""A model, a task and schedulers small enough to know every number beforehand."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_sdk import Decision, Scheduler, View, wrap
from dllm_sdk.model import CallableModel
from dllm_sdk.rules import first

HERE = Path(__file__)
LETTERS = "0123456789ab\n"
EOS, MASK = len(LETTERS), len(LETTERS) + 1


class Letters:
    """One id per character; EOS and mask leave no text."""

    def encode(self, text: str) -> list[int]:
        for letter in text:
            if letter not in LETTERS:
                raise ValueError(f"the tokenizer knows {LETTERS!r} only, got {letter!r}")
        return [LETTERS.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids if i < len(LETTERS))


@dataclass
class Counting:
    """`k` (one digit, at position 0) is answered by k times `a`, then EOS; from `bad` on by `b` instead.

    Every position is as sure as the others, so a scheduler that asks for confidence commits all of them at once.
    """

    bad: int = 10
    interrupt_at: int = 0  # the forward pass at which Ctrl-C is pressed; 0: never
    passes: int = field(default=0, init=False)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        digit = tokens[:, :1]
        position = torch.arange(tokens.shape[1])
        letter = torch.where(digit >= self.bad, LETTERS.index("b"), LETTERS.index("a"))
        says = torch.where(position - 1 < digit, letter, EOS)
        return 20.0 * torch.nn.functional.one_hot(says, MASK + 1)


def counting(bad: int = 10, *, interrupt_at: int = 0, max_length: int | None = 40) -> CallableModel:
    function = Counting(bad, interrupt_at)
    return wrap(function, mask_id=MASK, vocab_size=MASK + 1, eos_ids=(EOS,), max_length=max_length, tokenizer=Letters())


def load(*, device: str, dtype: Any) -> CallableModel:
    """As an entry point or MODULE:FUNCTION would be; wrong from the digit 6 on."""
    return counting(6)


def load_and_interrupt(*, device: str, dtype: Any) -> CallableModel:
    return counting(interrupt_at=30)


def load_no_tokenizer(*, device: str, dtype: Any) -> CallableModel:
    return wrap(Counting(), mask_id=MASK, vocab_size=MASK + 1)


def load_nothing(*, device: str, dtype: Any) -> str:
    return "nothing"


def load_none(*, device: str, dtype: Any) -> None:
    """As one that forgets to return."""


def load_module(*, device: str, dtype: Any) -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


class BatchEncoder(Letters):
    """As a tokenizer of another kind is called."""

    def encode(self, text: str) -> Any:
        return {"input_ids": super().encode(text)}


def load_batch_encoder(*, device: str, dtype: Any) -> CallableModel:
    return replace(counting(), tokenizer=BatchEncoder())


def load_and_fail(*, device: str, dtype: Any) -> CallableModel:
    return {}["weights"]  # type: ignore[no-any-return]


def load_wrong_checkpoint(*, device: str, dtype: Any) -> CallableModel:
    raise OSError(2, "No such file or directory", "weights.safetensors")


class Score(NamedTuple):
    answer: bool
    strict: bool


@dataclass(frozen=True)
class CountTask:
    """Prompts 1, 2, 3, ...; strict: k times `a`; answer: k letters of any kind."""

    name: str = "count"
    gen_length: int = 12
    broken: bool = False

    def prompts(self, split: str, n: int, seed: int) -> list[str]:
        if n > 9:
            raise ValueError(f"task {self.name} has fewer than {n} prompts")
        return [str(i + 1) for i in range(n)]

    def check(self, prompt: str, text: str) -> Score:
        if self.broken:
            raise RuntimeError("no idea")
        return Score(answer=len(text) == int(prompt), strict=text == "a" * int(prompt))


task = CountTask()
other_task = CountTask("other")
broken_task = CountTask(broken=True)
empty_task = CountTask("empty")
object.__setattr__(empty_task, "prompts", lambda split, n, seed: [])
yes_task = CountTask("yes")
object.__setattr__(yes_task, "check", lambda prompt, text: True)
text_task, number_task = CountTask("text"), CountTask("number")
object.__setattr__(text_task, "prompts", lambda split, n, seed: "1" * n)
object.__setattr__(number_task, "prompts", lambda split, n, seed: [1] * n)
long_task = CountTask("long")
object.__setattr__(long_task, "prompts", lambda split, n, seed: ["1" * 30] * n)


@dataclass(frozen=True)
class Pairs(Scheduler):
    """Two tokens per step."""

    block: int = 32

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return first(view.open, self.block), state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(commit=first(view.open, 2)), state


@dataclass(frozen=True)
class Broken(Pairs):
    """Fails in its own code."""

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(commit=view.open[:, 10**6]), state


@dataclass(frozen=True)
class Stalls(Pairs):
    """Commits nothing."""

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(commit=torch.zeros_like(view.open)), state
