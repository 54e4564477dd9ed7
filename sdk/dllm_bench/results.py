"""What a comparison found, and its forms: table, markdown, JSON, JSON lines, CSV. Knows no model and no torch.

The definitions of the numbers stand at the fields of `Row`; `metrics` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Format = Literal["table", "json", "jsonl", "csv", "md"]
FORMATS: tuple[Format, ...] = get_args(Format)


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
    generated: int  # tokens up to and including the first EOS, else all that was asked for
    seconds: float  # from the start of the batch until the row was done
    batch: int  # number of the batch in the run: rows of one batch were decoded together


@dataclass(frozen=True)
class Row:
    """One scheduler's numbers. Prompt tokens and what lies behind EOS never count; the warm-up is left out."""

    scheduler: str  # as it was given; with several caches, and its cache
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
    tpf: float  # tokens per forward pass: all generated tokens / all forward passes
    generated_tokens: float  # tokens up to and including the first EOS, mean over prompts
    tokens_per_second: float  # generated tokens / time of the batches, each until its last row was done
    latency_p50_s: float  # seconds from the start of a batch until a row was done, median over prompts
    latency_p95_s: float


@dataclass(frozen=True)
class Difference:
    """A scheduler's accuracy against the baseline's, on the same prompts."""

    scheduler: str
    baseline: str
    n: int  # prompts scored for both
    difference: float  # accuracy minus the baseline's, a share from -1 to 1
    only_scheduler: int  # prompts that only this one gets right
    only_baseline: int  # prompts that only the baseline gets right
    p_value: float  # McNemar's exact test
    prompts_needed: int | None  # to show a difference of this size at 5 % with 80 % power; None: none to show

    def sentence(self) -> str:
        """The difference in words."""
        head = f"{self.scheduler} against {self.baseline}:"
        disagree = self.only_scheduler + self.only_baseline
        if not disagree:
            return f"{head} right and wrong on the same {self.n} prompts."
        if self.prompts_needed is None:
            return f"{head} equally accurate on these {self.n} prompts; each is right on {disagree // 2} others."
        points = f"{100 * self.difference:+.1f} points"
        size = f"the difference of {abs(100 * self.difference):.1f} points"
        if self.p_value < 0.05:
            return f"{head} {points}, more than chance explains (McNemar p = {self.p_value:.2g})."
        need = f"{size} would need about {self.prompts_needed:,} prompts"
        return f"{head} {points}, within chance on {self.n} prompts (McNemar p = {self.p_value:.2f}); {need}."


@dataclass(frozen=True)
class Comparison:
    """Schedulers side by side. It shows itself in a notebook; `str()` is the table of the command line."""

    rows: Sequence[Row]  # pooled over the tasks, one per scheduler
    tasks: Mapping[str, Sequence[Row]]  # the same by task
    differences: Sequence[Difference] = field(repr=False)  # to the first scheduler or cache; empty without answers
    environment: Mapping[str, Any] = field(repr=False)  # versions, device, settings, digest of the weights
    notes: Sequence[str] = field(default=(), repr=False)  # what a reader should know about this run
    outcomes: Sequence[Outcome] = field(default=(), repr=False)  # prompt by prompt

    def to_dict(self) -> dict[str, Any]:
        """Plain data: rows, tasks, differences, environment, notes. The outcomes stay in results.jsonl."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "tasks": {name: [asdict(row) for row in rows] for name, rows in self.tasks.items()},
            "differences": [asdict(one) for one in self.differences],
            "environment": dict(self.environment),
            "notes": list(self.notes),
        }

    def to(self, format: Format, **style: Any) -> str:
        """As "table", "json", "jsonl", "csv" or "md"; the last three hold the pooled rows. `style` is for the table."""
        from dllm_bench import render

        return str(getattr(render, format)(self, **style))

    def to_markdown(self) -> str:
        """A markdown table with its notes."""
        return self.to("md")

    def to_json(self) -> str:
        """`to_dict` as text."""
        return self.to("json")

    def to_csv(self) -> str:
        """One line per pooled row."""
        return self.to("csv")

    def __str__(self) -> str:
        return self.to("table")

    def _repr_markdown_(self) -> str:
        return self.to_markdown()
