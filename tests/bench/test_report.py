"""The report: its numbers, its markup in the hands of hostile strings, and the page in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dllm_bench import compare
from dllm_bench.cli import cli
from dllm_bench.measure import Contender, Run
from dllm_bench.metrics import front
from dllm_bench.pages import charts
from dllm_bench.pages.report import report, save
from dllm_bench.questions import collect
from dllm_bench.recording import record
from dllm_sdk import NoCache, Sampler, load_model, load_scheduler
from dllm_sdk.errors import ConfigError, DllmError
from tests.bench.reports import HOSTILE, comparison
from tests.bench.toys import HERE, Pairs, counting, task
from tests.browser import Browser


class Elements(HTMLParser):
    """What a page consists of, as a browser would see it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> str:
    return comparison(HOSTILE, HOSTILE, prompt=" ".join(HOSTILE)).to_html()


def test_no_string_of_a_run_becomes_markup() -> None:
    page = Elements(hostile())
    names = [name for name, _ in page.found]
    attributes = {name for _, found in page.found for name in found}
    assert (names.count("script"), names.count("style"), names.count("img")) == (1, 1, 0)
    assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "href")]
    squeezed = "".join(page.text.split())
    for text in HOSTILE:
        assert squeezed.count("".join(text.split())) >= 5  # the table, the legend, strips, settings, prompt


def test_the_page_shows_every_scheduler_setting_and_number_of_the_table() -> None:
    found = comparison()
    text = Elements(found.to_html()).text
    for row, difference in zip(found.rows[1:], found.differences, strict=True):
        assert row.scheduler in text and difference.sentence() in text
        assert f"{row.nfe:.1f}" in text and f"{100 * row.accuracy:.1f}" in text  # type: ignore[operator]
    for name in ("block", "note", "peak_rss_bytes", "1 MiB", "tests:Toy", "By task"):
        assert name in text


def test_what_is_not_known_of_the_environment_is_left_out() -> None:
    found = comparison()
    found = replace(found, environment={**found.environment, "revision": None})
    assert "revision" not in Elements(found.to_html()).text


def test_what_no_pass_decided_is_left_blank() -> None:
    page = Elements(comparison(("only",), ("only",)).to_html())
    drawn = [one for name, one in page.found if name == "path" and re.match(r"h\d", one.get("class") or "")]
    shades = [one["class"] for one in drawn if one["d"]]
    assert len(shades) == 9 and "h0" not in shades  # fifteen passes in nine shades, and a position behind EOS


def test_without_answers_it_shows_agreement_and_with_one_task_no_breakdown() -> None:
    text = Elements(comparison(tasks=("only",), scored=False).to_html()).text
    assert "Agreement with the first row against forward passes" in text and "Accuracy" not in text
    assert "By task" not in text
    found = comparison(tasks=("only",), scored=False)
    rows = [replace(row, cache=cache) for row, cache in zip(found.rows, ("none", "dual", "none"), strict=True)]
    text = Elements(replace(found, rows=rows).to_html()).text
    assert "Agreement with the first cache against forward passes" in text and "the first row" not in text


def test_a_comparison_without_outcomes_still_has_a_page() -> None:
    found = comparison()
    bare = type(found)(**{**vars(found), "outcomes": (), "recordings": (), "prompts": {}})
    text = Elements(report(bare)).text
    assert "Verdict" in text and "Latency" not in text and "Step by step" not in text


def test_the_front_is_what_nothing_beats() -> None:
    points = [(8.0, 90.0), (8.0, 80.0), (4.0, 80.0), (4.0, 80.0), (40.0, 91.0), (50.0, 91.0)]
    passes, quality = zip(*points, strict=True)
    assert sorted(front([-y for y in quality], passes)) == [0, 2, 3, 4]
    page = comparison().to_html()
    assert "The front: three 75.0 % with 14.0 passes." in page
    text = Elements(page).text
    assert "no other is as good in both quality and passes, and better in one" in text  # as many passes, too
    assert "on the front: no other is as good in both, and better in one." in text


def test_a_point_close_to_the_edge_has_its_name_above_or_below_it() -> None:
    """The usual picture: the cheapest row far to the left, one with its interval close by, the front across."""
    points = [
        charts.Point("fixed-block", 37.2, 97.5, 87.1, 99.6, True),
        charts.Point("confidence-adaptive", 3.3, 95.0, 83.5, 98.6, True),
        charts.Point("adablock", 5.8, 92.5, 80.1, 97.4, False),
    ]
    svg = charts.scatter(points, label="")
    assert all(f">{point.name}</text>" in svg for point in points)


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.sampled_from([1, 0.001, 1000.0]))
def test_an_axis_holds_its_numbers_between_few_round_ticks(low: int, span: int, unit: float) -> None:
    xs = charts.scale(low * unit, (low + span) * unit)
    assert xs.low <= (low + 0.001) * unit and (low + span - 0.001) * unit <= xs.high
    assert 2 <= len(xs.ticks) <= 9 and list(xs.ticks) == sorted(xs.ticks)


@given(st.lists(st.tuples(st.floats(1, 99), st.floats(0, 100), st.integers(1, 40)), min_size=1, max_size=40))
def test_names_in_the_plot_never_overlap(spots: list[tuple[float, float, int]]) -> None:
    points = [charts.Point("n" * size, x, y, max(0, y - 9), min(100, y + 9), False) for x, y, size in spots]
    svg = charts.scatter([*points, charts.Point("", 100, 0, 0, 0, True)], label="")
    found = re.findall(
        r'class="name (\w+)" data-series="\d+"><text x="([\d.]+)%" y="([\d.]+)%" dx="\S+" dy="([-\d.]+)">(n+)', svg
    )
    boxes = []
    for side, x, y, dy, name in found:  # at the narrowest plot that shows them: 560 x 260 pixels
        width, at = 7 * len(name), 5.6 * float(x)
        left = {"start": at + 11, "end": at - 11 - width, "middle": at - width / 2}[side]
        boxes.append((left, left + width, 2.6 * float(y) + float(dy)))
    assert all(left >= -1 and right <= 561 for left, right, _ in boxes)
    for i, (left, right, y) in enumerate(boxes):
        assert not [one for one in boxes[:i] if one[0] < right and left < one[1] and abs(one[2] - y) < 12]


def test_compare_writes_a_report_of_what_it_recorded(tmp_path: Path) -> None:
    found = compare(counting(), [Pairs(), Pairs(block=4)], [task], limit=6, output=tmp_path / "new")
    text = Elements((tmp_path / "new" / "report.html").read_text()).text
    assert "Pairs(block=4)" in text and "Step by step" in text
    first = {(one.scheduler, one.prompt): one for one in found.outcomes}
    for one in found.recordings:  # what is drawn is what was measured
        assert one.passes == first[one.scheduler, 0].nfe == max(one.order)
        assert "".join(one.tokens) == first[one.scheduler, 0].text
    assert found.recordings[0].order[:2] == [1, 1]  # two per step
    assert found.recordings[0].snapshots[0].confidence == pytest.approx([1.0] * 12, abs=0.01)
    assert not found.recordings[1].snapshots


def test_a_block_causal_model_has_no_snapshots() -> None:
    """Asked about everything at once it would say other numbers than those that its blocks were decided by."""
    questions = collect(["sort"], limit=1, seed=0, gen_length=16)
    contender = Contender("threshold", load_scheduler("threshold"), "none", NoCache(), "threshold")
    (one,) = record(Run(load_model("tiny-causal"), [contender], (), Sampler(), 0, "eager"), questions)
    assert one.order and not one.snapshots


def test_snapshots_are_what_the_model_says_when_a_share_is_decided() -> None:
    asked = collect([task], limit=9, seed=0, gen_length=None)
    asked = [type(asked[0])(**{**vars(asked[0]), "prompts": ["9"]})]
    contender = Contender("pairs", Pairs(), "none", NoCache(), "pairs")
    (one,) = record(Run(counting(), [contender], (), Sampler(), 0, "eager"), asked)
    assert one.order == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0]
    assert [snapshot.decided for snapshot in one.snapshots] == [0, 0.4, 0.6, 0.8]
    assert [sum(value is None for value in snapshot.confidence) for snapshot in one.snapshots] == [0, 4, 6, 8]


def test_the_command_says_where_the_report_is(tmp_path: Path) -> None:
    command = [
        "compare",
        "--model",
        f"{HERE}:load",
        "--task",
        f"{HERE}:task",
        "--limit",
        "2",
        "--output",
        str(tmp_path),
    ]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0 and "report.html" not in result.stdout
    last = result.stderr.splitlines()[-1]
    assert last == f"Report: {tmp_path / 'report.html'}; prompt by prompt: {tmp_path / 'results.jsonl'}"


def test_a_report_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ConfigError, match=r"report\.html exists: give another folder"):
        compare(counting(), [Pairs()], [task], limit=2, output=tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine" and not (tmp_path / "results.jsonl").exists()


def test_a_report_that_cannot_be_written_leaves_nothing_half_done(tmp_path: Path) -> None:
    with pytest.raises(DllmError, match="what was measured is kept"):
        save(comparison(), tmp_path / "gone" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DllmError, match="cannot be written"):
        save(comparison(), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.extra
class TestInABrowser:
    """The page as people meet it."""

    @pytest.mark.parametrize("dark", [False, True])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_it_asks_for_nothing_complains_of_nothing_and_fits(self, browser: Browser, width: int, dark: bool) -> None:
        browser.open(hostile(), width=width, dark=dark)
        for summary in browser.find("summary"):
            browser.run("arguments[0].parentElement.open = true", summary)
        assert browser.requests() == [] and browser.problems() == []
        assert browser.run("return window.broken") is None
        assert browser.overflow() == 0
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark

    def test_forty_schedulers_with_long_names_fit_a_phone(self, browser: Browser) -> None:
        names = [f"adablock:threshold={i / 100},delimiter_threshold=0.3,block={i}" for i in range(38)]
        browser.open(comparison(("x" * 180, *names), n=4).to_html(), width=360)
        assert browser.overflow() == 0 and browser.problems() == []
        signs = {(one.get_attribute("class"), shape(browser, one)) for one in browser.find(".legend .key[class*=c]")}
        assert len(signs) == 39  # each told apart by colour and shape

    def test_columns_are_sorted_by_keyboard(self, browser: Browser) -> None:
        browser.open(comparison(("one", "two", "three", "four")).to_html())

        def rows() -> list[str]:
            return [row.text.strip() for row in browser.find(".sortable tbody code")]

        head = next(one for one in browser.find(".sortable th") if one.text.startswith("NFE"))
        browser.run("arguments[0].previousElementSibling.firstChild.focus()", head)
        browser.press("TAB", "ENTER")
        assert rows() == ["one", "two", "three", "four"] and head.get_attribute("aria-sort") == "descending"
        browser.press("SPACE")
        assert rows() == ["four", "three", "two", "one"] and head.get_attribute("aria-sort") == "ascending"
        assert browser.run("return document.querySelector('[role=status]').textContent").startswith("Sorted by NFE")
        browser.find(".sortable th button")[0].click()
        assert rows() == ["four", "one", "three", "two"] and head.get_attribute("aria-sort") is None

    def test_settings_open_by_keyboard(self, browser: Browser) -> None:
        browser.open(comparison().to_html())
        settings = browser.find(".sortable dl")[0]
        assert not settings.is_displayed()
        browser.run("arguments[0].focus()", browser.find(".sortable summary")[0])
        browser.press("ENTER")
        assert settings.is_displayed() and "block" in settings.text

    def test_pointing_at_a_scheduler_lights_it_up_and_at_a_position_reads_it_out(self, browser: Browser) -> None:
        browser.open(comparison().to_html())
        browser.point(browser.find(".legend li")[1])
        lit = {one.get_attribute("data-series") for one in browser.find("[data-series].on")}
        assert lit == {"1"} and browser.find("body.lit")
        browser.point(browser.find(".order .plot")[1])
        assert (
            browser.run("return document.querySelector('.readout').textContent") == "position 7: “b”, pass 4, 90 % sure"
        )

    def test_the_arrow_keys_read_out_what_the_pointer_does(self, browser: Browser) -> None:
        browser.open(comparison().to_html())
        browser.run("arguments[0].focus()", browser.find(".order .plot")[1])
        browser.press("ARROW_LEFT", *["ARROW_RIGHT"] * 7)
        readout = browser.find(".readout[role=status]")[0]
        assert readout.text == "position 7: “b”, pass 4, 90 % sure"
        browser.press(*["ARROW_RIGHT"] * 20)
        assert readout.text.startswith("position 14: ")  # the first EOS; what follows it is no answer

    def test_without_its_script_everything_is_there(self, browser: Browser) -> None:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.open(comparison().to_html())
            browser.find(".sortable summary")[0].click()
            assert browser.find(".sortable dl")[0].is_displayed()
            assert len(browser.find("svg.plot[role=img]")) == 1 + 3 + 3 + 2 * 5
            assert not browser.find("button")
        finally:
            browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    @pytest.mark.parametrize("dark", [False, True])
    def test_axe_finds_no_barrier(self, browser: Browser, dark: bool) -> None:
        browser.open(comparison().to_html(), width=390, dark=dark)
        for summary in browser.find("summary"):
            browser.run("arguments[0].parentElement.open = true", summary)
        assert browser.barriers() == []


def shape(browser: Browser, sign: object) -> str:
    return str(browser.run("return arguments[0].firstChild.getAttribute('d')", sign))
