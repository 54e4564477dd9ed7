"""What a measurement of speed found, and its forms: table, markdown, JSON, JSON lines, CSV. Knows no model.

Every time is in milliseconds, with the quartiles of its rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dllm_bench.results import Result
from dllm_bench.timing.ceilings import Ceilings
from dllm_bench.timing.clocks import Spread
from dllm_sdk.errors import ConfigError
from dllm_sdk.execution import Backend


@dataclass(frozen=True)
class Race:
    """`generate` against the research-style loop on the same prompts, one at a time, in turn."""

    cache: str
    backend: str
    rule: str  # what both commit
    equal: float  # share of prompts with the same tokens and the same NFE
    nfe: float  # mean over the rounds
    research_nfe: float
    step_ms: Spread  # of a whole generation, per forward pass
    step_cpu_ms: Spread
    research_step_ms: Spread
    research_step_cpu_ms: Spread
    speedup: Spread  # round by round: research-style time of the generation / ours
    cpu_speedup: Spread  # the same with CPU time
    preparation_s: float  # seconds that went into compiling and capturing, during the warm-up


@dataclass(frozen=True)
class StepCost:
    """A step of a generation with a forced number of forward passes, by what the step computes.

    The first step of a generation is left out: its time is that of setting everything up, too.
    """

    kind: str  # full: everything, without a cache; refresh: everything, into the cache; prefix; block
    backend: Backend
    batch_size: int
    fed: float  # positions computed per row, mean
    ms: Spread  # the whole step, forward pass and decision
    cpu_ms: Spread
    forward_ms: Spread | None  # the model's part; eager only
    decision_ms: Spread | None  # the rest: the step with a model that costs nothing
    ceiling_share: float  # the least time that products and attention take on this machine / the step's median
    bound: str  # by what that least time is bound: memory or matrix
    kernels: float | None = None  # started per step; on a CPU operations that are not views, eager only
    host_reads: float | None = None  # per step
    busy_ms: float | None = None  # of a step, how long kernels, copies and fills ran on a GPU; the rest is waiting
    longest: str | None = None  # what ran longest of these: milliseconds and how many per step, name


@dataclass(frozen=True)
class Rate:
    """Generated tokens per second."""

    work: str  # forced: a fixed number of passes; adaptive: threshold decoding of real prompts
    cache: str
    backend: str
    batch_size: int
    nfe: float  # mean over rows
    tpf: float  # tokens per forward pass
    tokens_per_second: Spread
    preparation_s: float  # seconds that went into compiling and capturing, during the warm-up; 0: all was known


@dataclass(frozen=True)
class DecisionCost:
    """A step of a scheduler with a model that costs nothing and gives random logits."""

    scheduler: str
    backend: str
    batch_size: int
    nfe: float  # mean over rows
    ms: Spread
    cpu_ms: Spread


_TABLES: dict[str, Any] = {"races": Race, "steps": StepCost, "rates": Rate, "decisions": DecisionCost}


@dataclass(frozen=True)
class Speed(Result):
    """All that was measured."""

    forms = "dllm_bench.timing.render"
    ceilings: Ceilings
    races: Sequence[Race]
    steps: Sequence[StepCost]
    rates: Sequence[Rate]
    environment: Mapping[str, Any] = field(repr=False)  # versions, machine and settings
    notes: Sequence[str] = field(repr=False)
    decisions: Sequence[DecisionCost] = ()  # of the schedulers that were asked for

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Speed:
        """From what `to_dict` gave. Raises ConfigError for anything else."""
        try:
            whole = {"decisions": [], **data}  # older results have none
            tables = {name: [_record(kind, row) for row in whole[name]] for name, kind in _TABLES.items()}
            return cls(
                ceilings=Ceilings(**data["ceilings"]), environment=data["environment"], notes=data["notes"], **tables
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is no result of dllm-bench speed --format json: {error!r}") from error


def _record(kind: Any, row: Mapping[str, Any]) -> Any:
    spreads = {item.name for item in fields(kind) if "Spread" in str(item.type)}
    return kind(**{k: Spread(**v) if k in spreads and v is not None else v for k, v in row.items()})
