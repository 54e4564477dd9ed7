"""`dllm-bench trace`: what is late and premature, the text, the files, and the page in a real browser."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from dllm_bench import Traces, trace
from dllm_bench.ahead import confidences
from dllm_bench.cli import cli
from dllm_bench.pages.trace import Shown, moments, sure, view
from dllm_sdk import ConfigError, Decision, Scheduler, Trace, combine, generate, wrap
from dllm_sdk.rules import first
from dllm_sdk.testing import ToyModel
from dllm_strategies import AdaBlock, BlockRefinement, ConfidenceAdaptive, EarlyEOS, FixedBlock, Threshold
from tests.bench.toys import HERE, Pairs, counting, task
from tests.browser import Browser

TOYS = str(HERE)
GOOD = ["trace", "--model", f"{TOYS}:load", "--task", f"{TOYS}:task", "--scheduler", "fixed-block:block=6,steps=3"]
HOSTILE = (
    "</script><script>document.title = 1</script>", "<img src=x onerror=alert(1)>", "\x1b[31m", "\u202egro", "-" * 128,
    "' on=\"x", "\n", " two  words",
)  # fmt: skip


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@cache
def pair() -> Traces:
    """Six tokens at a time against two: 2 and 6 steps."""
    return trace(counting(), [Pairs(), FixedBlock(6, 1)], task=task, number=6)


def known(scheduler: FixedBlock) -> Trace:
    """Four positions that the model is always as sure of: 0.95, 0.5, 0.95, 0.99."""
    p = torch.tensor([0.95, 0.95, 0.5, 0.95, 0.99], dtype=torch.float64)

    def says(tokens: Tensor) -> Tensor:
        sides = torch.stack([p, 1 - p, torch.zeros_like(p)], -1).log()
        return sides.expand(len(tokens), -1, -1)

    return generate(wrap(says, mask_id=2, vocab_size=3), [0], scheduler, gen_length=4, trace=True).trace[0]


def test_late_is_sure_but_outside_the_block_and_premature_is_committed_unsure() -> None:
    made = known(FixedBlock(2, 2))
    ahead = [torch.tensor([torch.nan, 0.95, 0.5, 0.95, 0.99]).half()] * 4
    found = [(one.late, one.premature) for one in moments(Shown("x", made, ahead))]
    assert found == [([3, 4], []), ([3, 4], [2]), ([], []), ([], [])]
    alone = [(one.late, one.premature) for one in moments(Shown("x", made))]
    assert alone == [([], []), ([], [2]), ([], []), ([], [])]  # a saved trace knows its blocks only


def test_the_model_is_asked_about_every_mask() -> None:
    made = trace(counting(), [FixedBlock(6, 1)], task=task, number=6).shown[0]
    assert [int((~ahead.isnan()).sum()) for ahead in made.ahead or ()] == [12, 6]
    assert [one.late for one in moments(made)] == [list(range(7, 13)), []]


def test_a_block_that_is_held_open_without_a_mask_can_be_shown() -> None:
    model = ToyModel(eos=False).build()
    made = generate(model, [0], BlockRefinement(edit_threshold=0.01, block=4, steps=2), gen_length=4, trace=True).trace[
        0
    ]
    ends = [step.end for step in made]
    assert "held" in ends
    ahead = confidences(model, list(made.replay())[:-1])
    assert [bool(one.isnan().all()) for one in ahead][ends.index("held") + 1]
    assert "| held" in Traces([Shown("x", made, ahead)]).to_text()


@pytest.mark.parametrize(
    ("scheduler", "threshold"),
    [
        (AdaBlock((0,), threshold=0.8, delimiter_threshold=0.3), 0.8),
        (ConfidenceAdaptive(threshold=0.7, commit_threshold=0.95), 0.95),
        (FixedBlock(), 0.9),
        (combine(plan=AdaBlock((0,), threshold=0.8), select=FixedBlock()), 0.9),
        (combine(plan=FixedBlock(), select=ConfidenceAdaptive(commit_threshold=0.95)), 0.95),
        (AdaBlock((0,), threshold=0.8, delimiter_threshold=float("inf")), 0.8),
        (EarlyEOS(Threshold(threshold=0.5), eos=(0,)), 0.5),
        (EarlyEOS(combine(plan=AdaBlock((0,)), select=Threshold(threshold=0.5)), eos=(0,)), 0.5),
    ],
)
def test_sure_is_where_the_scheduler_commits(scheduler, threshold: float) -> None:
    made = known(FixedBlock(2, 2))
    (told,) = generate(counting(), "1", scheduler, gen_length=4, trace=True).trace
    assert sure(replace(made, about=told.about)) == threshold


def test_the_text_has_one_line_per_step() -> None:
    lines = pair().to_text().splitlines()
    assert "count, prompt 6" in lines[0] and "12 positions" in lines[0]
    assert [line for line in lines if line[:1].isdigit()] == [
        "1  1:1-12  aa",
        "2  1:3-12  aa",
        "3  1:5-12  aa",
        "4  1:7-12  aEOS  | eos",
        "1  1:1-6   aaaaaa  | full",
        "2  2:7-12  aEOSEOSEOSEOSEOS  | full",
    ]
    premature = Traces([Shown("x", known(FixedBlock(2, 2)))]).to_text()
    assert premature.count("?") == 2  # one token, and what it means


@dataclass(frozen=True)
class TakesBack(Scheduler):
    """Commits everything, takes the first position back, commits it again."""

    revises = True

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        again = first(view.committed, 1) & (view.step == 1)[:, None]
        return Decision(view.open, remask=again, hold=view.step == 0), state


def test_what_is_taken_back_is_numbered_as_blocks_are() -> None:
    text = trace(counting(), [TakesBack()], task=task, number=6).to_text()
    assert "  1:1-12  [1: mask]" in text and text.endswith("[position: mask] a token taken back")
    assert "taken back" not in pair().to_text() and "an edit" not in text


class Replaces(TakesBack):
    """Commits everything, and what it commits first anew: the same token."""

    def select(self, view, state):
        again = first(view.committed, 1) & (view.step == 1)[:, None]
        return Decision(view.open, edit=again, hold=view.step == 0), state


def test_what_is_replaced_is_told_from_a_token_that_is_written_first() -> None:
    text = trace(counting(), [Replaces()], task=task, number=6).to_text()
    assert "  1:1-12  [1: a]" in text and text.endswith("[position: token] an edit")


def test_a_trace_needs_no_more_about_it_than_its_format_asks_for() -> None:
    made = known(FixedBlock(2, 2))
    bare = Traces([Shown("x", replace(made, about={name: made.about[name] for name in ("mask_id", "fill")}))])
    assert bare.to_text().startswith("4 positions to generate\n") and "<h2>x" in bare.to_html() and bare.to_json()


def test_json_has_what_the_page_shows() -> None:
    first, second = json.loads(pair().to_json())["traces"]
    assert len(first["steps"]) == 4 and len(second["steps"]) == 2
    assert second["steps"][0]["end"] == "full" and second["about"]["right"] is True


def test_a_saved_trace_can_be_shown_again(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    assert run(*GOOD, "--output", path).exit_code == 0
    shown = run("trace", path, path)
    assert shown.exit_code == 0 and shown.stdout.count("fixed-block:block=6,steps=3: 2 tokens in 1 step, right") == 2
    assert run("trace", path, "--output", str(tmp_path / "a.html")).exit_code == 0
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.html", "a.safetensors"]


def test_a_terminal_without_a_sign_shows_no_mark_in_its_place() -> None:
    """`?` stands behind a token that was committed too early, and for nothing else."""
    shown = CliRunner(charset="ascii").invoke(cli, GOOD)
    assert shown.exit_code == 0 and "? committed below 0.9   \\u2026 a gap" in shown.stdout
    assert shown.stdout.count("?") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*GOOD, "--output", "x.pdf"], "says no format: end it in .html"),
        ([*GOOD, "--format", "safetensors"], "needs --output"),
        ([*GOOD, "--output", "nowhere/x.html"], "cannot be written: No such file"),
        ([*GOOD, "--output", "."], "says no format"),
        ([*GOOD, "--output", ".", "--format", "html"], "is a folder"),
        ([*GOOD, "--prompt", "1"], "--task and --prompt"),
        ([*GOOD, "--number", "-1"], "number must be a whole number >= 0"),
        ([*GOOD, "--gen-length", "0"], "gen_length must be a whole number >= 1, got 0"),
        (["trace", "--prompt", "1", "--gen-length", "0"], "gen_length must be a whole number >= 1, got 0"),
        ([*GOOD, "--scheduler", "adablock", "--scheduler", "dream"], "one scheduler is traced, or two"),
        ([*GOOD, "--scheduler", "adablok"], "did you mean 'adablock'"),
        (["trace", "none.safetensors"], "there is no trace file none.safetensors"),
        (["trace", "torn.safetensors"], "torn.safetensors is no trace, or a damaged one"),
        (["trace", "torn.safetensors", "--seed", "1"], "a saved trace takes no --seed"),
        (["trace", "torn.safetensors", "--scheduler", "adablock"], "a saved trace takes no --scheduler:"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert says in result.stderr and len(result.stderr.splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["torn.safetensors"]


def test_no_file_takes_the_place_of_a_pipe_or_a_link(tmp_path: Path) -> None:
    pipe, link, target = (tmp_path / name for name in ("pipe.txt", "link.txt", "target.txt"))
    os.mkfifo(pipe)  # /dev/null and /dev/stdout are as little a file as this
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for output in (pipe, link):
            assert run(*GOOD, "--output", str(output)).exit_code == 0
        assert os.read(reader, 2**16) == target.read_bytes() != b""
    finally:
        os.close(reader)
    assert pipe.is_fifo() and link.is_symlink() and len(list(tmp_path.iterdir())) == 3


def test_two_traces_do_not_fit_into_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds one trace"):
        pair().save(tmp_path / "two.safetensors")


class Hostile:
    """Tokens that would like to be markup, or to drive the terminal."""

    def encode(self, text: str) -> list[int]:
        return [1]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(HOSTILE[i] for i in ids if i < len(HOSTILE))


def hostile() -> Traces:
    """Every hostile token in the answer and one in the prompt, under a scheduler of that kind."""

    def says(tokens: Tensor) -> Tensor:
        wanted = (torch.arange(tokens.shape[1]) - 1).clamp(0, len(HOSTILE) - 1)
        return 20.0 * torch.nn.functional.one_hot(wanted, len(HOSTILE) + 1).expand(len(tokens), -1, -1)

    model = wrap(says, mask_id=len(HOSTILE), vocab_size=len(HOSTILE) + 1, tokenizer=Hostile())
    (made,) = generate(model, [1], FixedBlock(4, 2), gen_length=len(HOSTILE), trace=True).trace
    about = {**made.about, "scheduler": HOSTILE[1], "task": HOSTILE[0], "number": 0, "text": "".join(HOSTILE)}
    return Traces([Shown(HOSTILE[1], replace(made, about=about))])


def test_no_token_drives_the_terminal() -> None:
    text = hostile().to_text()
    assert "⟨1b⟩[31m" in text and "\x1b" not in text and "\u202e" not in text


def final(browser: Browser, number: int = 0) -> str:
    canvas = browser.find(f"#trace-{number} .canvas")[0]
    return str(canvas.get_attribute("aria-label"))


def calm(browser: Browser) -> bool:
    return not browser.problems() and not browser.requests() and browser.overflow() == 0


@pytest.mark.extra
def test_the_page_steps_by_key_and_slider(browser: Browser) -> None:
    browser.open(pair().to_html())
    texts = [one.trace.about["text"] for one in pair().shown]
    assert [final(browser, i) for i in range(2)] == texts == ["aaaaaaa", "aaaaaaa"]
    browser.press("HOME")
    assert browser.find("#where")[0].text == "step 0 of 4" and final(browser) == "▢" * 12
    browser.press("ARROW_RIGHT")
    assert final(browser) == "aa" + "▢" * 10 and final(browser, 1) == "aaaaaa" + "▢" * 6  # in lockstep
    browser.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
    assert final(browser) == "aaaa" + "▢" * 8 and final(browser, 1) == texts[1]  # done: it waits
    assert "Done after 2 steps" in browser.find("#trace-1 .says")[0].text
    browser.press("END")
    assert final(browser) == texts[0]
    browser.run("const s = document.getElementById('step'); s.value = 1; s.dispatchEvent(new Event('input'))")
    assert browser.find("#where")[0].text == "step 1 of 4"
    assert len(browser.find("#trace-0 .cell.new")) == 2 and len(browser.find("#trace-0 .chart .new")) == 2
    assert len(browser.find("#trace-0 .chart path.late")) == 0 == len(browser.find("#trace-1 .chart path.late")) - 6
    assert calm(browser)


@pytest.mark.extra
def test_the_page_plays(browser: Browser) -> None:
    browser.open(pair().to_html())
    browser.run("document.querySelector('#play').click()")  # from the end it starts anew
    seen = set()
    deadline = time.monotonic() + 60
    while browser.find("#play")[0].text == "Pause" and time.monotonic() < deadline:
        seen.add(browser.find("#where")[0].text)
    assert browser.find("#where")[0].text == "step 4 of 4" and len(seen) > 1
    browser.press("HOME", " ")
    assert browser.find("#play")[0].text == "Pause"
    browser.press(" ")
    assert browser.find("#play")[0].text == "Play"
    assert calm(browser)


@pytest.mark.extra
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    browser.open(pair().to_html(), width=width, dark=dark)
    for step in (0, 1, 4):
        browser.run(f"go({step})")
        assert calm(browser)
    browser.run("document.querySelector('[data-colour=order]').click()")
    assert browser.find("#trace-0 .cell .place")[0].text == "1"
    assert calm(browser) and browser.barriers() == []


@pytest.mark.extra
def test_a_token_says_how_it_came_about(browser: Browser) -> None:
    browser.open(pair().to_html())
    browser.find("#trace-0 .cell")[2].click()
    assert (
        browser.find("#trace-0 .detail")[0].text == "Position 3 · “a” committed at step 2 in block 1 · confidence 1.00."
    )


@pytest.mark.extra
def test_nothing_in_a_trace_becomes_markup(browser: Browser) -> None:
    made = hostile()
    browser.open(made.to_html(), width=360)
    for key in ("HOME", *["ARROW_RIGHT"] * len(made.shown[0].trace)):
        browser.press(key)
        assert calm(browser)
    browser.run("document.querySelectorAll('.cell')[4].click()")
    assert HOSTILE[4] in browser.find(".detail")[0].text and calm(browser)  # long, and the first of its block
    assert final(browser) == made.shown[0].trace.about["text"]
    assert browser.find("img") == [] and len(browser.find("script")) == 2
    assert browser.find("h1")[0].text == HOSTILE[1] and browser.run("return document.title").startswith("Trace: <img")


def test_the_page_shows_the_answer_without_its_script() -> None:
    assert '<div class="canvas" role="img">aaaaaaa</div>' in view(pair().shown)
