"""`trace`: one generation, or two side by side, step by step: as a page, as text, as data.

Runs the loop with a trace, and asks the model once more per step what it would say of every mask, so that one also
sees what a strategy did not look at. Knows schedulers, models and tasks through the registry or as objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dllm_bench.ahead import confidences
from dllm_bench.calibration.scheduler_file import warn_elsewhere
from dllm_bench.environment import fingerprint
from dllm_bench.inputs import check_fits, check_whole, encode, load_schedulers, with_caches
from dllm_bench.measure import Batch, Contender, Run
from dllm_bench.pages.trace import Moment, Shown, data, facts, moments, show, sure, view
from dllm_bench.questions import FILE_GEN_LENGTH, Questions, Verdict
from dllm_bench.results import check_format
from dllm_bench.setups import Setup
from dllm_bench.sheet import counted
from dllm_sdk import Cache, ConfigError, Model, Scheduler, Trace, generate
from dllm_sdk.writing import write_whole

_PROMPTS = 100_000
_ABOUT = ("model", "model_sha256", "device", "dtype")

Paint = Callable[[str, float], str]
"""A token and its confidence, 0 to 1, as a terminal shows it."""


@dataclass(frozen=True)
class Traces:
    """One trace, or two of the same prompt."""

    shown: Sequence[Shown]

    def __post_init__(self) -> None:
        """Check that they can stand side by side."""
        if not 1 <= len(self.shown) <= 2:
            raise ConfigError(f"one trace is shown, or two side by side, got {len(self.shown)}")

    @classmethod
    def read(cls, *paths: str | Path) -> Traces:
        """Traces that were saved. Raises ConfigError."""
        traces = [Trace.load(path) for path in paths]
        return cls([Shown(_name(trace, path), trace) for trace, path in zip(traces, paths, strict=True)])

    def save(self, path: str | Path) -> None:
        """The trace as a file; see `Trace.save`. Raises ConfigError for two."""
        if len(self.shown) > 1:
            raise ConfigError("a trace file holds one trace: give one scheduler")
        self.shown[0].trace.save(path)

    def to(self, format: str) -> str:
        """As html, json or text."""
        forms: dict[str, Callable[[], str]] = {"html": self.to_html, "json": self.to_json, "text": self.to_text}
        check_format(format, forms)
        return forms[format]()

    def write(self, path: str | Path, format: str) -> None:
        """As html, json, text or safetensors into a file, all of it or nothing. Raises ConfigError, OSError."""
        if format == "safetensors":
            self.save(path)
            return
        write_whole(path, self.to(format) + "\n")

    def to_html(self) -> str:
        """A page to step through."""
        return view(self.shown)

    def to_json(self) -> str:
        """What the page draws: per trace and step the block, drafts, confidences and commits."""
        return json.dumps({"traces": [{**data(one), "about": one.trace.about} for one in self.shown]}, indent=1)

    def to_text(self, paint: Paint | None = None) -> str:
        """One line per step; `paint` colours a token by its confidence."""
        parts = [_as_text(one, paint or (lambda text, confidence: text)) for one in self.shown]
        return "\n\n".join([facts(self.shown[0].trace), *parts])


def trace(
    model: str | Model = "tiny",
    schedulers: Sequence[str | Scheduler[Any]] = ("adablock",),
    *,
    task: Any = "story",
    prompt: str | None = None,
    number: int = 0,
    cache: str | Cache = "none",
    gen_length: int | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    device: str = "cpu",
    dtype: str | None = None,
) -> Traces:
    """Decode one prompt with one or two schedulers and keep what happened.

    `prompt` is a text, else prompt `number` of the task is taken (a name, FILE.jsonl or an object; `seed` is that of
    its prompts and of sampling). `gen_length`: positions to generate (None: the task's own, 64 for a text). The other
    arguments and errors are those of `compare`.
    """
    check_whole("number", number, 0)
    if number >= _PROMPTS:
        raise ConfigError(f"number must be below {_PROMPTS}, since all prompts before it are made, too; got {number}")
    setup = Setup(model, [task], number + 1, 1, gen_length, seed, temperature, device, dtype)
    contenders = with_caches(load_schedulers(schedulers), [cache])
    if len(contenders) > 2:
        raise ConfigError(f"one scheduler is traced, or two side by side, got {len(contenders)}")
    asked = _question(setup) if prompt is None else _ask(prompt, gen_length)
    loaded = setup.load_model()
    warn_elsewhere(schedulers, model, loaded, [task] if prompt is None else [])
    ids = encode(loaded, asked, len(asked.prompts) - 1)
    for one in contenders:  # so that what does not fit is found now
        check_fits(loaded, one.scheduler, one.cache)
    batch = Batch(0, asked, [len(asked.prompts) - 1], [ids])
    run = Run(loaded, contenders, [batch], setup.sampler, seed, setup.backend)
    found = fingerprint(loaded, model)
    return Traces([_traced(run, one, {name: found[name] for name in _ABOUT}) for one in contenders])


def _traced(run: Run, contender: Contender, about: Mapping[str, Any]) -> Shown:
    """The prompt of a run under one contender, and what the model says of the masks before every step."""
    (batch,) = run.batches
    (number,) = batch.prompts
    found = generate(run.model, **run.asked(batch, contender), trace=True)
    right = batch.questions.score(number, found.text[0] or "").strict
    said = {"task": batch.questions.name, "number": number, "spec": contender.name, "text": found.text[0]}
    made = (found.trace or [])[0]
    made = replace(made, about={**made.about, **about, **said, "right": right})
    ahead = None if run.model.block_causal else confidences(run.model, list(made.replay())[:-1])
    return Shown(contender.name, made, ahead)


def _ask(prompt: str, gen_length: int | None) -> Questions:
    length = FILE_GEN_LENGTH if gen_length is None else gen_length
    return Questions("prompt", length, [prompt], lambda number, text: Verdict(None, None))  # nobody knows


def _question(setup: Setup) -> Questions:
    """The first prompts of a task, up to the one that is asked for."""
    (asked,) = setup.questions()
    if len(asked.prompts) < setup.limit:
        known = counted(len(asked.prompts), "prompt")
        raise ConfigError(f"task {asked.name} has {known}, numbered from 0: there is no {setup.limit - 1}")
    return asked


def _name(trace: Trace, path: str | Path) -> str:
    return str(trace.about.get("spec") or trace.about.get("scheduler") or path)


class _Line(NamedTuple):
    step: str
    block: str
    tokens: str


def _as_text(shown: Shown, paint: Paint) -> str:
    """A line per step: its number, its block, what it wrote, what became of the block."""
    trace = shown.trace
    first = int(trace.open.nonzero()[0, 0])
    lines = [_line(trace, moment, first, paint) for moment in moments(shown)]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    right = {True: ", right", False: ", wrong", None: ""}[trace.about.get("right")]
    head = f"{shown.name}: {counted(trace.generated, 'token')} in {counted(len(trace), 'step')}{right}"
    body = (f"{line.step:>{widths[0]}}  {line.block:<{widths[1]}}  {line.tokens}" for line in lines)
    note = f"? committed below {sure(trace):g}   … a gap   block: number:first-last position"
    if any(bool(step.edit.any()) for step in trace):
        note += "   [position: token] an edit"
    if any(bool(step.remask.any()) for step in trace):
        note += "   [position: mask] a token taken back"
    return "\n".join([head, "", *body, "", note])


def _line(trace: Trace, moment: Moment, first: int, paint: Paint) -> _Line:
    step = moment.step
    block = (step.position[step.open | step.committed] - first + 1).tolist()
    ends = "" if step.end == "open" else f"  | {step.end}"
    written = "".join(_pieces(trace, moment, first, paint))
    return _Line(str(step.number), f"{step.block}:{min(block)}-{max(block)}", written + ends)


def _pieces(trace: Trace, moment: Moment, first: int, paint: Paint) -> Iterator[str]:
    """What a step wrote, in the order of the canvas, with its gaps."""
    step = moment.step
    at = -1
    for lane in (step.commit | step.edit | step.remask).nonzero()[:, 0].tolist():
        position = int(step.position[lane])
        if at >= 0 and position > at + 1:
            yield "…"
        at = position
        if step.remask[lane]:
            yield f"[{position - first + 1}: mask]"
            continue
        mark = "?" if position in moment.premature else ""
        token = paint(f"{show(trace, int(step.written[lane]))}{mark}", float(step.confidence[lane]))
        yield f"[{position - first + 1}: {token}]" if step.edit[lane] else token
