"""What the schedulers of a run have in common: the model, the prompts, and how these are decoded.

A `Setup` is what a user asked for, checked as far as it can be without a model; `prepare` loads it. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dllm_bench.environment import fingerprint
from dllm_bench.inputs import batches_of, check_whole, load_any_model
from dllm_bench.measure import WARM_UP_STEPS, Run
from dllm_bench.questions import Questions, collect
from dllm_sdk import Model, Sampler
from dllm_sdk.execution import Backend, check_backend, check_runs

_IN_THE_ENVIRONMENT = ("seed", "batch_size", "temperature", "limit", "backend")


@dataclass(frozen=True)
class Setup:
    """Arguments of `compare`; ConfigError for a number or backend that cannot be."""

    model: str | Model = "tiny"
    tasks: Sequence[Any] | None = None  # None: all that are registered
    limit: int = 200  # prompts in all tasks together
    batch_size: int = 32
    gen_length: int | None = None  # None: the task's own
    seed: int = 0
    temperature: float = 0.0
    device: str = "cpu"
    dtype: str | None = None
    backend: Backend = "eager"

    def __post_init__(self) -> None:
        """Check what needs no model."""
        for name, low in (("limit", 1), ("batch_size", 1), ("seed", 0)):
            check_whole(name, getattr(self, name), low)
        check_whole("gen_length", self.gen_length, 1, optional=True)
        check_backend(self.backend)
        _ = self.sampler

    @property
    def sampler(self) -> Sampler:
        """How tokens are drawn. Raises ConfigError."""
        return Sampler(temperature=self.temperature)

    def questions(self, split: str = "test") -> list[Questions]:
        """The prompts. Raises ConfigError and RegistryError."""
        return collect(self.tasks, limit=self.limit, seed=self.seed, gen_length=self.gen_length, split=split)

    def load_model(self) -> Model:
        """The model. Raises ConfigError and RegistryError."""
        loaded = load_any_model(self.model, self.device, self.dtype)
        check_runs(self.backend, loaded)
        return loaded

    def environment(self, model: Model, questions: Sequence[Questions]) -> dict[str, Any]:
        """What a number depends on besides the scheduler, as a report shows it."""
        return {
            **fingerprint(model, self.model),
            **{name: getattr(self, name) for name in _IN_THE_ENVIRONMENT},
            "gen_length": {one.name: one.gen_length for one in questions},
        }


class Prepared(NamedTuple):
    """A setup, loaded and checked."""

    setup: Setup
    run: Run  # without contenders
    questions: Sequence[Questions]

    @property
    def notes(self) -> list[str]:
        """What a reader should know about the prompts."""
        return [note for one in self.questions for note in one.notes]

    def environment(self) -> dict[str, Any]:
        """What a measured number depends on besides the scheduler."""
        return self.setup.environment(self.run.model, self.questions) | {"warm_up_steps": WARM_UP_STEPS}


def prepare(setup: Setup) -> Prepared:
    """Load a setup. Raises ConfigError and RegistryError."""
    questions, model = setup.questions(), setup.load_model()
    batches = batches_of(model, questions, setup.batch_size)
    run = Run(model, (), batches, setup.sampler, setup.seed, setup.backend)
    return Prepared(setup, run, questions)
