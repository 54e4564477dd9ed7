"""The run itself: batches of prompts, every scheduler on every batch in turn, one outcome per prompt and scheduler.

Schedulers alternate batch by batch (A B C A B C), so that a machine that slows down slows all of them, and all of them
see the same batches. Knows tasks as prompts and scores, and no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_bench.journal import Journal
from dllm_bench.metrics import agreement
from dllm_bench.questions import Questions
from dllm_bench.results import Outcome
from dllm_sdk import Cache, Generation, Model, Sampler, Scheduler, Step, decode, generate
from dllm_sdk.execution import Backend

WARM_UP_STEPS = 8


class Progress(NamedTuple):
    """How far a run is."""

    done: int  # generations: prompts times schedulers
    total: int
    task: str  # "compiling" before the first one, where that takes minutes; empty at the end
    scheduler: str  # what runs next


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Batch:
    """Prompts of one task that are decoded together."""

    number: int
    questions: Questions
    prompts: Sequence[int]  # numbers in the task
    ids: Sequence[list[int]]  # their tokens


class Contender(NamedTuple):
    """A row of the table: a scheduler with a cache."""

    name: str  # its key: the scheduler as given, and its cache where there are several
    scheduler: Scheduler[Any]
    cache_name: str
    cache: Cache
    baseline: str  # the name of the contender that it is measured against


class Watch:
    """What the model was asked to compute, and how many masked positions each block of each row had when it opened."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.lanes = 0  # positions, padding included

    def __call__(self, step: Step) -> None:
        """Note a step; its tensors are read from the device at the end."""
        self.lanes += step.lanes
        self._seen.append((step.rows, step.view.open.sum(1) * (step.view.step == 0)))

    def blocks(self, rows: int) -> list[list[int]]:
        """The lengths, row by row, block by block."""
        found: list[list[int]] = [[] for _ in range(rows)]
        numbers, lengths = (torch.cat(column).tolist() for column in zip(*self._seen, strict=True))
        for row, length in zip(numbers, lengths, strict=True):
            if length:
                found[row].append(length)
        return found


class Decoded(NamedTuple):
    """A batch under one contender."""

    batch: Batch
    contender: Contender
    found: Generation
    blocks: list[list[int]]
    lanes: int
    peak_bytes: int | None

    def answer(self, row: int) -> list[int]:
        """The generated tokens of a row, up to and including the first EOS."""
        start = len(self.batch.ids[row])
        answer: list[int] = self.found.tokens[row][start : start + self.found.generated[row]].tolist()
        return answer

    def outcome(self, row: int, agreement: float) -> Outcome:
        """What a row cost and how good it is."""
        found, number = self.found, self.batch.prompts[row]
        text = found.text[row] or ""
        verdict = self.batch.questions.score(number, text)
        return Outcome(
            task=self.batch.questions.name,
            prompt=number,
            scheduler=self.contender.name,
            cache=self.contender.cache_name,
            text=text,
            answer=verdict.answer,
            strict=verdict.strict,
            agreement=agreement,
            nfe=found.nfe[row],
            refreshes=found.refreshes[row],
            fed=found.fed[row],
            extra=found.extra[row],
            generated=found.generated[row],
            blocks=self.blocks[row],
            seconds=found.seconds[row],
            batch=self.batch.number,
            batch_lanes=self.lanes,
            batch_peak_bytes=self.peak_bytes,
        )


@dataclass(frozen=True)
class Run:
    """What to run, all of it checked."""

    model: Model
    contenders: Sequence[Contender]
    batches: Sequence[Batch]
    sampler: Sampler
    seed: int
    backend: Backend
    preparation: list[float] = field(default_factory=list)  # seconds that went into compiling and capturing

    @property
    def total(self) -> int:
        """Generations: prompts times contenders."""
        return sum(len(batch.prompts) for batch in self.batches) * len(self.contenders)

    def warm_up(self, report: Report | None = None) -> None:
        """A few steps of the first batch under each scheduler; not counted. Reports each one that is compiled first."""
        batch = self.batches[0]
        for contender in self.contenders:
            if report is not None and self.backend != "eager":
                report(Progress(0, self.total, "compiling", contender.name))
            steps = decode(self.model, **self.asked(batch, contender))
            self.preparation.extend(step.preparation for step in islice(steps, WARM_UP_STEPS))

    def outcomes(self, journal: Journal, report: Report | None) -> Iterator[Outcome]:
        """Decode everything; what is yielded is in the journal already."""
        total, done = self.total, 0
        for batch in self.batches:
            answers: dict[str, list[list[int]]] = {}
            for contender in self.contenders:
                if report is not None:
                    report(Progress(done, total, batch.questions.name, contender.name))
                outcomes, answers[contender.name] = self.measured(batch, contender, answers.get(contender.baseline))
                journal.add(outcomes, [batch.questions.prompts[number] for number in batch.prompts])
                done += len(outcomes)
                yield from outcomes
        if report is not None:
            report(Progress(total, total, "", ""))

    def measured(
        self, batch: Batch, contender: Contender, reference: Sequence[list[int]] | None = None
    ) -> tuple[list[Outcome], list[list[int]]]:
        """A batch under one contender: an outcome and the answer's tokens per prompt.

        The outcomes agree with the answers of `reference`, the baseline's; None: it is the baseline itself.
        """
        decoded = self._decode(batch, contender)
        mine = [decoded.answer(row) for row in range(len(batch.prompts))]
        agrees = (agreement(*pair) for pair in zip(mine, reference or mine, strict=True))
        return [decoded.outcome(row, share) for row, share in enumerate(agrees)], mine

    def _decode(self, batch: Batch, contender: Contender) -> Decoded:
        watch = Watch()
        on_cuda = self.model.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.model.device)
        found = generate(self.model, **self.asked(batch, contender), on_step=watch)
        peak = torch.cuda.max_memory_allocated(self.model.device) if on_cuda else None
        self.preparation.append(found.preparation)
        return Decoded(batch, contender, found, watch.blocks(len(batch.ids)), watch.lanes, peak)

    def asked(self, batch: Batch, contender: Contender) -> dict[str, Any]:
        """The arguments of `decode` and `generate`."""
        return {
            "prompt": list(batch.ids),
            "scheduler": contender.scheduler,
            "gen_length": batch.questions.gen_length,
            "cache": contender.cache,
            "sampler": self.sampler,
            "seed": self.seed,
            "backend": self.backend,
        }


def cut(ids: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """The numbers of prompts in batches of nearly equal size, short ones together: little padding is computed."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    count = -(-len(order) // batch_size)
    edges = [len(order) * i // count for i in range(count + 1)]
    return [order[start:end] for start, end in pairwise(edges)]
