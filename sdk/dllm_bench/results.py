"""What a comparison found, and its forms: table, markdown, JSON, JSON lines, CSV. Knows no model and no torch.

The definitions of the numbers stand at the fields of `Row`, and at length in docs/reference/metrics.md; `metrics`
computes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args

from dllm_bench.sheet import as_markdown, as_table, counted, csv_lines, json_lines
from dllm_sdk.errors import ConfigError

Format = Literal["table", "json", "jsonl", "csv", "md"]
FORMATS: tuple[Format, ...] = get_args(Format)


def check_format(format: str, known: Iterable[str] = FORMATS) -> None:
    """Raise ConfigError for any other."""
    if format not in known:
        raise ConfigError(f"format must be one of {', '.join(known)}, got {format!r}")


class Result:
    """What a run found. `str()` is the table of the command line; a notebook shows it as markdown."""

    forms: ClassVar[str]  # the module that says what stands on its `sheet`, and has its rows as `records`
    columns: ClassVar[Sequence[str]] = ()  # of CSV, those that stand there without a row, too
    notes: Sequence[str]  # what a reader should know

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to(self, format: Format, **style: Any) -> str:
        """As "table", "json", "jsonl", "csv" or "md". `style` is for the table. Raises ConfigError."""
        check_format(format)
        if format == "json":
            return self.to_json()
        forms = import_module(self.forms)
        if format == "table":
            return as_table(forms.sheet(self), **style)
        if format == "md":
            return as_markdown(forms.sheet(self))
        if format == "jsonl":
            return json_lines(forms.records(self, flat=False))
        return csv_lines(forms.records(self, flat=True), self.columns)

    def __str__(self) -> str:
        return self.to("table")

    def _repr_markdown_(self) -> str:
        return self.to("md")


DEFINITIONS = 1
"""Raised whenever a number comes to mean something else: results with other definitions are never read as these."""


@dataclass(frozen=True)
class Entrant:
    """What a row of the table is about, before it has numbers."""

    scheduler: str  # as it was given; where there are several caches, followed by its cache
    family: str  # its class, with those of its parts: rows of a family differ in settings only
    fields: Mapping[str, Any]  # its hyperparameters
    cache: str  # as it was given
    baseline: str  # the `scheduler` of the row that it is measured against


@dataclass(frozen=True)
class Outcome:
    """One prompt decoded by one scheduler: a line of results.jsonl."""

    task: str
    prompt: int  # number of the prompt in its task, from 0
    scheduler: str
    cache: str
    text: str  # what was generated, up to EOS
    answer: bool | None  # the final answer is right; None: the task has none for this prompt
    strict: bool | None  # every line is right
    agreement: float  # share of positions with the baseline's token, up to the end of the longer answer
    nfe: int  # forward passes of this row
    refreshes: int  # those of them that recomputed a cache
    fed: int  # positions computed
    extra: int  # further forward passes, for guidance
    generated: int  # tokens up to and including the first EOS, else all that was asked for
    blocks: Sequence[int]  # block by block: masked positions when it opened
    seconds: float  # from the start of the batch until the row was done
    batch: int  # number of the batch in the run: rows of one batch were decoded together
    batch_lanes: int  # positions that the model was asked to compute for the batch, padding included
    batch_peak_bytes: int | None  # most memory allocated on the device during the batch; None on a CPU


@dataclass(frozen=True)
class Row:
    """One scheduler's numbers. Prompt tokens and what lies behind EOS never count; the warm-up is left out."""

    scheduler: str  # as it was given; where there are several caches, followed by its cache
    family: str  # its class, with those of its parts: rows of a family differ in settings only
    cache: str  # as it was given
    fields: Mapping[str, Any]  # its hyperparameters
    n: int  # prompts
    n_scored: int  # prompts with a known answer: those that the accuracies are about
    accuracy: float | None  # share of prompts with every line right; None: no prompt has a known answer
    accuracy_low: float | None  # Wilson 95 % interval of it
    accuracy_high: float | None
    answer_accuracy: float | None  # share of prompts with the final answer right
    agreement: float  # mean share of tokens that are the baseline's: the first scheduler's, or the first cache's
    nfe: float  # forward passes, mean over prompts
    refreshes: float  # those of them that recomputed a cache, mean over prompts
    fed: float  # positions computed, mean over prompts
    extra: float  # further forward passes, for guidance, mean over prompts
    tpf: float  # tokens per forward pass: all generated tokens / all forward passes
    generated_tokens: float  # tokens up to and including the first EOS, mean over prompts
    tokens_per_second: float  # generated tokens / time of the batches, each until its last row was done
    latency_p50_s: float  # seconds from the start of a batch until a row was done, median over prompts
    latency_p95_s: float
    latency_p99_s: float
    padding_efficiency: float  # positions computed / those that the model was asked for, padding included
    peak_memory_bytes: int | None  # most memory allocated on the device during any batch; None on a CPU


@dataclass(frozen=True)
class Aup:
    """Area under the accuracy-parallelism curve of one scheduler class, over its settings (`metrics.area`)."""

    family: str
    cache: str
    schedulers: Sequence[str]  # the rows that count, by rising tokens per forward pass
    aup: float


@dataclass(frozen=True)
class Difference:
    """A row's numbers minus its baseline's, on the same prompts; low and high are 95 % paired bootstrap intervals."""

    scheduler: str
    baseline: str
    n: int  # prompts of both
    n_scored: int  # those with a known answer; None below if there is none
    accuracy: float | None  # a share, from -1 to 1
    accuracy_low: float | None
    accuracy_high: float | None
    only_scheduler: int  # prompts that only this one gets right
    only_baseline: int  # prompts that only the baseline gets right
    p_value: float | None  # McNemar's exact test
    prompts_needed: int | None  # to show such a difference at 5 % with 80 % power; None: there is none to show
    nfe: float  # forward passes per prompt
    nfe_low: float
    nfe_high: float
    tpf: float  # tokens per forward pass
    tpf_low: float
    tpf_high: float

    def sentence(self) -> str:
        """The difference of the accuracies in words; empty without answers."""
        if self.accuracy is None or self.accuracy_low is None or self.accuracy_high is None or self.p_value is None:
            return ""
        head, prompts = f"{self.scheduler} against {self.baseline}:", counted(self.n_scored, "prompt")
        disagree = self.only_scheduler + self.only_baseline
        if not disagree:
            return f"{head} on {prompts} neither is right where the other is wrong."
        if self.prompts_needed is None:
            each = f"each is right on {disagree // 2} that the other is not"
            return f"{head} equally accurate on {prompts}; {each}."
        points = f"{100 * self.accuracy:+.1f} points [{100 * self.accuracy_low:+.1f}, {100 * self.accuracy_high:+.1f}]"
        if self.p_value < 0.05:
            return f"{head} {points}, more than chance explains (McNemar p = {self.p_value:.2g})."
        need = f"a difference of this size would need about {self.prompts_needed:,} prompts"
        return f"{head} {points}, within chance on {prompts} (McNemar p = {self.p_value:.2f}); {need}."


@dataclass(frozen=True)
class Snapshot:
    """How sure the model was of every position of an answer while it was being decoded."""

    decided: float  # share of the answer that was decided
    confidence: Sequence[float | None]  # probability of the likeliest token; None: decided


@dataclass(frozen=True)
class Recording:
    """How one prompt was decoded: an entry per position that was to be generated."""

    task: str
    prompt: int  # number of the prompt in its task
    scheduler: str
    passes: int
    tokens: Sequence[str]  # in the end
    order: Sequence[int]  # the pass, from 1, that decided it; 0: none did, the row had ended
    confidence: Sequence[float]  # in the token, in that pass
    block: Sequence[int]  # number of its block, from 1
    snapshots: Sequence[Snapshot] = ()


@dataclass(frozen=True)
class Comparison(Result):
    """Schedulers side by side. JSON lines and CSV hold the pooled rows."""

    forms, columns = "dllm_bench.render", tuple(item.name for item in fields(Row))
    rows: Sequence[Row]  # pooled over the tasks, one per scheduler
    tasks: Mapping[str, Sequence[Row]]  # the same by task
    differences: Sequence[Difference] = field(repr=False)  # to the first scheduler or cache
    environment: Mapping[str, Any] = field(repr=False)  # versions, device, settings, digest of the weights
    notes: Sequence[str] = field(default=(), repr=False)  # what a reader should know about this run
    outcomes: Sequence[Outcome] = field(default=(), repr=False)  # prompt by prompt
    prompts: Mapping[str, Mapping[int, str]] = field(default_factory=dict, repr=False)  # task -> number -> text
    aup: Sequence[Aup] = field(default=(), repr=False)  # one per scheduler class that has several settings
    recordings: Sequence[Recording] = field(default=(), repr=False)  # of a few prompts, if the run had an output

    def to_dict(self) -> dict[str, Any]:
        """Plain data: all but the outcomes and the prompts, which stay in results.jsonl."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "tasks": {name: [asdict(row) for row in rows] for name, rows in self.tasks.items()},
            "differences": [asdict(one) for one in self.differences],
            "aup": [asdict(one) for one in self.aup],
            "environment": dict(self.environment),
            "notes": list(self.notes),
        }

    def to_html(self) -> str:
        """A self-contained page: the table, the charts, a few prompts step by step, the environment."""
        from dllm_bench.pages.report import report

        return report(self)

    def to_markdown(self) -> str:
        """A markdown table with its notes."""
        return self.to("md")

    def to_csv(self) -> str:
        """One line per pooled row."""
        return self.to("csv")
