"""`generate`: the loop run to its end, and what is left of it. Knows the steps, not how they are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm_sdk import __version__
from dllm_sdk.binding import describe
from dllm_sdk.caching import Cache, NoCache
from dllm_sdk.canvas import Canvas, OpenMask, Prompts, build_canvas, up_to_eos
from dllm_sdk.decoding import Made, Options, Step, run
from dllm_sdk.errors import ConfigError
from dllm_sdk.execution import Backend
from dllm_sdk.model import Model
from dllm_sdk.recorder import Recorder
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Scheduler
from dllm_sdk.trace import Trace


@dataclass
class Generation:
    """One entry per row, in the order of the prompts (and samples)."""

    tokens: list[Tensor] = field(repr=False)  # int64 [length]  the whole canvas, prompt included
    text: list[str | None]  # from the first generated position up to EOS; None without a tokenizer
    generated: list[int]  # tokens generated, up to and including the first EOS
    nfe: list[int]  # forward passes
    refreshes: list[int]  # those that recomputed a cache
    fed: list[int]  # positions computed
    extra: list[int]  # further forward passes, for guidance
    seconds: list[float]  # from the call until the row was done, without preparation
    preparation: float  # seconds that went into compiling and capturing steps, all rows together; 0 if all were known
    trace: list[Trace] | None = field(default=None, repr=False)  # what happened at every step, if it was asked for


def generate(
    model: Model,
    prompt: Prompts,
    scheduler: Scheduler[Any],
    *,
    gen_length: int | Sequence[int],
    open: OpenMask | Sequence[OpenMask] | None = None,
    samples: int = 1,
    cache: Cache = NoCache(),  # noqa: B008  frozen
    sampler: Sampler = Sampler(),  # noqa: B008  frozen
    seed: int = 0,
    stop_at_eos: bool = True,
    guidance: float = 0.0,
    backend: Backend = "eager",
    trace: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Generation:
    """Decode to the end; with `trace` keep what happened. `on_step` is handed every step.

    Other arguments and errors are those of `decode`.
    """
    start = time.perf_counter()
    if on_step is not None and not callable(on_step):
        raise ConfigError(f"on_step must be a function that takes a Step, got {on_step!r}")
    canvas = build_canvas(model, prompt, gen_length=gen_length, open=open, samples=samples, seed=seed)
    recorder = Recorder(canvas) if trace else None
    options = Options(cache, sampler, stop_at_eos, guidance, backend)

    def look(made: Made) -> None:
        step = made.step()
        if recorder is not None:
            recorder.add(step)
        if on_step is not None:
            on_step(step)

    steps = run(model, canvas, scheduler, options)
    found = finish(model, canvas, handed(steps, look) if trace or on_step is not None else steps, start)
    if recorder is not None:
        found.trace = recorder.traces(_about(model, scheduler, options), model.tokenizer)
    return found


def handed(steps: Iterable[Made], look: Callable[[Made], None]) -> Iterator[Made]:
    """The steps, each handed to `look` on its way."""
    for made in steps:
        look(made)
        yield made


def finish(model: Model, canvas: Canvas, steps: Iterable[Made], start: float) -> Generation:
    """The steps of a canvas, made to the end. `start`: when `generate` was called, by time.perf_counter."""
    rows = len(canvas.length)
    seconds, ends, counts = [0.0] * rows, [canvas.tokens[0]] * rows, [[0] * 4] * rows
    preparation = 0.0
    for made in steps:
        preparation += made.preparation
        if made.ends:  # the only steps after which there is something to read
            step = made.step()
            columns = (step.rows, step.nfe, step.refreshes, step.fed, step.extra)
            table = torch.stack(columns, dim=1).tolist()
            for i in step.ends:
                row, *count = table[i]
                seconds[row] = time.perf_counter() - start - preparation
                ends[row], counts[row] = step.tokens[i], count
    lengths, opens = canvas.length.tolist(), canvas.open.cpu()
    # Copies: whole canvases need not be kept, and outside inference mode these are tensors like any other.
    tokens = [end[:length].cpu().clone() for end, length in zip(ends, lengths, strict=True)]
    read = [_read(model, row, opens[i, : lengths[i]]) for i, row in enumerate(tokens)]
    nfe, refreshes, fed, extra = (list(column) for column in zip(*counts, strict=True))
    texts, generated = [text for text, _ in read], [n for _, n in read]
    return Generation(tokens, texts, generated, nfe, refreshes, fed, extra, seconds, preparation)


def _about(model: Model, scheduler: Scheduler[Any], options: Options) -> dict[str, Any]:
    """What a trace says of its run."""
    return {
        "scheduler": repr(scheduler),
        "fields": describe(scheduler),
        "cache": repr(options.cache),
        "sampler": repr(options.sampler),
        "guidance": options.guidance,
        "stop_at_eos": options.stop_at_eos,
        "mask_id": model.mask_id,
        "eos_ids": list(model.eos_ids),
        "fill": model.eos_ids[0] if model.eos_ids else None,
        "versions": {"dllm-sdk": __version__, "torch": str(torch.__version__)},
    }


def _read(model: Model, tokens: Tensor, generated: Tensor) -> tuple[str | None, int]:
    """The text of a row from its first generated position up to EOS, and how many tokens were generated for it."""
    positions = generated.nonzero()[:, 0].tolist()
    written = tokens[generated].tolist()
    count = up_to_eos(written, model.eos_ids)
    if model.tokenizer is None:
        return None, count
    end = positions[count - 1] if written[count - 1] in model.eos_ids else len(tokens)
    return model.tokenizer.decode(tokens[positions[0] : end].tolist()), count
