"""The trace viewer: one page to step through one or two generations.

Turns traces into the plain data that trace.js draws; everything that needs judgement (what is late, what is premature,
how a token is shown) is decided here. Knows no model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm_bench.pages.markup import Markup, tag
from dllm_bench.pages.shell import page
from dllm_bench.sheet import counted
from dllm_sdk import Trace, TraceStep
from dllm_sdk.trace import to_flags

SURE = 0.9  # for a scheduler without a threshold of its own
_NAMES = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


class Shown(NamedTuple):
    """A trace and what is said of it."""

    name: str
    trace: Trace
    ahead: Sequence[Tensor] | None = None  # per step float32 [N]: confidence at every mask, the block's and all others


class Moment(NamedTuple):
    """A step in its canvas of N positions."""

    step: TraceStep
    masked: Tensor  # bool [N]  before the step
    seen: Tensor  # float16 [N]  confidence of each mask, NaN where it is not known
    late: list[int]  # outside the block, sure already, and must wait
    premature: list[int]  # committed before the model was sure


def sure(trace: Trace) -> float:
    """From which confidence on the scheduler commits; SURE for one that has no such threshold."""
    fields = trace.about.get("fields", {})
    while isinstance(fields, dict):
        for value in (fields.get("commit_threshold"), fields.get("threshold")):
            if isinstance(value, int | float) and 0 < value <= 1:
                return float(value)
        fields = fields.get("select_part", fields.get("inner"))  # that of a combination which commits; what is wrapped
    return SURE


def moments(shown: Shown) -> Iterator[Moment]:
    """Every step of a trace, with what is late and what is premature in it."""
    threshold = torch.tensor(sure(shown.trace)).half()
    for step, (_, masked) in zip(shown.trace, shown.trace.replay(), strict=False):
        seen = torch.full_like(masked, torch.nan, dtype=torch.float16)
        if shown.ahead is not None:
            seen = shown.ahead[step.number - 1].half()
        seen[step.position] = step.confidence
        block = torch.zeros_like(masked)
        block[step.position[step.open | step.committed]] = True
        late = masked & ~block & (seen >= threshold)
        premature = step.position[step.commit & (step.confidence < threshold)]
        yield Moment(step, masked, seen, late.nonzero()[:, 0].tolist(), premature.tolist())


def show(trace: Trace, token: int) -> str:
    """A token as it is shown: nothing in it moves a cursor, breaks a line or turns the writing round."""
    if token == trace.about["mask_id"]:
        return "▢"
    if token in trace.about.get("eos_ids", []):
        return "EOS"
    text = trace.about.get("texts", {}).get(str(token), "")
    return "".join(_NAMES.get(char, _plain(char)) for char in text) or f"⟨{token}⟩"


def _plain(char: str) -> str:
    return f"⟨{ord(char):x}⟩" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char


def view(traces: Sequence[Shown]) -> str:
    """The page, as text."""
    names = " against ".join(one.name for one in traces)
    main = tag(
        "main",
        tag("header", tag("h1", names), tag("p", facts(traces[0].trace), class_="muted")),
        tag("section", tag("h2", "Prompt"), tag("pre", _prompt(traces[0].trace)), class_="prompt"),
        _controls(max(len(one.trace) for one in traces)),
        _colours(),
        tag("div", *(_panel(number, one) for number, one in enumerate(traces)), class_="panels"),
        _legend(traces),
        tag("noscript", tag("p", "Stepping through needs JavaScript; what is shown above is the answer.")),
    )
    return page(f"Trace: {names}", main, name="trace", data={"traces": [data(one) for one in traces]})


def facts(trace: Trace) -> str:
    """What ran, in a line."""
    about = trace.about
    task = f"{about['task']}, prompt {about['number']}" if "task" in about else None
    cache = about.get("cache")
    cached = None if str(cache).startswith("NoCache") else cache
    asked = f"{counted(int(trace.open.sum()), 'position')} to generate"
    given = [about.get("model"), task, asked, cached]
    settings = [f"seed {about['seed']}"] if "seed" in about else []
    return " · ".join(str(item) for item in [*given, *settings] if item)


def answer(trace: Trace) -> str:
    """What was generated, up to EOS, as its tokens read one by one."""
    tokens, texts = trace.canvas(), trace.about.get("texts", {})
    text = ""
    for token in tokens[int(trace.open.nonzero()[0, 0]) :].tolist():
        if token in trace.about.get("eos_ids", []):
            break
        text += texts.get(str(token), show(trace, token))
    return text


def _prompt(trace: Trace) -> str:
    """Everything before the first position to generate."""
    texts = trace.about.get("texts", {})
    before = trace.tokens[: int(trace.open.nonzero()[0, 0])].tolist()
    return "".join(texts.get(str(token), show(trace, token)) for token in before) or "(empty)"


def data(shown: Shown) -> dict[str, Any]:
    """What trace.js draws. Confidences are thousandths; null where they are not known."""
    trace = shown.trace
    ids = torch.cat([trace.tokens, trace.draft, trace.written, trace.canvas()]).unique().tolist()  # type: ignore[no-untyped-call]
    texts = trace.about.get("texts", {})
    return {
        "name": shown.name,
        "tokens": trace.tokens.tolist(),
        "open": trace.open.long().tolist(),
        "final": trace.canvas().tolist(),
        "mask": trace.about["mask_id"],
        "fill": trace.about["fill"],
        "eos": list(trace.about.get("eos_ids", [])),
        "texts": {token: texts.get(str(token), show(trace, token)) for token in ids},
        "shows": {token: show(trace, token) for token in ids},
        "sure": round(1000 * sure(trace)),
        "steps": [_step(moment) for moment in moments(shown)],
    }


def _step(moment: Moment) -> dict[str, Any]:
    step = moment.step
    masks = moment.masked.nonzero()[:, 0]
    return {
        "block": step.block,
        "end": step.end,
        "refresh": step.refresh,
        "position": step.position.tolist(),
        "draft": step.draft.tolist(),
        "confidence": _thousandths(step.confidence),
        "flags": to_flags(step.open, step.committed, step.commit, step.remask, step.edit).tolist(),
        "written": step.written[step.commit | step.edit].tolist(),
        "seen": _thousandths(moment.seen[masks]),
        "late": moment.late,
        "premature": moment.premature,
    }


def _thousandths(values: Tensor) -> list[int | None]:
    return [None if value != value else round(1000 * value) for value in values.tolist()]


def _controls(steps: int) -> Markup:
    buttons = [("first", "|◀", "first step"), ("back", "◀", "one step back"), ("play", "Play", "play")]
    buttons += [("on", "▶", "one step on"), ("last", "▶|", "last step")]
    return tag(
        "div",
        tag("div", *(tag("button", text, id=key, aria_label=title, title=title) for key, text, title in buttons)),
        tag("input", type="range", id="step", min=0, max=steps, value=steps, aria_label="step"),
        tag("output", f"step {steps} of {steps}", id="where", for_="step"),
        class_="controls",
    )


def _colours() -> Markup:
    keys = ["confidence", "order"]
    buttons = (tag("button", key, data_colour=key, aria_pressed=str(key == keys[0]).lower()) for key in keys)
    return tag(
        "div",
        tag("span", "colour"),
        tag("div", *buttons, role="group", aria_label="colour"),
        tag("span", "0", id="low"),
        tag("span", class_="swatch bar"),
        tag("span", "1", id="high"),
        class_="scale muted",
    )


def _panel(number: int, shown: Shown) -> Markup:
    about = shown.trace.about
    verdicts: dict[Any, tuple[str, str]] = {True: ("answer right", "good"), False: ("answer wrong", "bad")}
    verdict = verdicts.get(about.get("right"))
    return tag(
        "section",
        tag("h2", shown.name, " ", tag("span", verdict[0], class_=verdict[1]) if verdict else ""),
        tag("p", str(about.get("scheduler", "")), class_="fields mono muted"),
        tag("p", class_="says"),
        tag("div", answer(shown.trace), class_="canvas", role="img"),
        tag("p", class_="detail muted"),
        tag("div", class_="chart"),
        tag("dl", class_="numbers"),
        class_="panel",
        id=f"trace-{number}",
    )


def _legend(traces: Sequence[Shown]) -> Markup:
    """What the signs mean, each in a line."""
    limits = {one.name: f"{sure(one.trace):g}" for one in traces}
    same = len(set(limits.values())) == 1
    limit = limits[traces[0].name] if same else " or ".join(f"{value} ({name})" for name, value in limits.items())
    lines = {
        _sample("mask"): "a mask; the stronger its colour, the surer is the model of what it would write there",
        _sample("draft", "cards"): "a mask of the block, with the token that the model would write now (its draft)",
        _sample("done", "cards"): "committed: the mask became this token; its colour says how sure the model was",
        _sample("done new", "cards"): "committed in this step",
        _sample("done cur", "cards"): "in the current block; an upright line stands where a block begins",
        tag("b", "▲", class_="late"): f"late: outside the block and already at or above {limit}, yet it must wait",
        tag("b", "▼", class_="premature"): f"premature: committed below {limit}, because the block has to be finished",
        tag(
            "span", class_="swatch band"
        ): "the volatility band, confidences from 0.1 to 0.8: here decoding takes place (AdaBlock, arXiv:2509.26432)",
    }
    keys = "Keys: ← and → one step, Home and End, space plays."
    rows = (tag("div", tag("dt", sign), tag("dd", text)) for sign, text in lines.items())
    return tag("section", tag("h2", "How to read this"), tag("dl", *rows), tag("p", keys), class_="legend")


def _sample(kind: str, text: str = "") -> Markup:
    return tag("span", text, class_=f"cell sample {kind}")
