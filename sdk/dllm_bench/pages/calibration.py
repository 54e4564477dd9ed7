"""The page of a calibration: accuracy against forward passes for every setting, and how far confidence can be trusted.

Reads a calibration and writes markup; every number in it was computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from dllm_bench.calibration import render
from dllm_bench.calibration.found import Calibration
from dllm_bench.calibration.reliability import Bin
from dllm_bench.pages import charts, figures
from dllm_bench.pages.markup import Markup, join, tag
from dllm_bench.pages.shell import page
from dllm_bench.sheet import counted


def page_of(found: Calibration) -> str:
    """The page, as text."""
    title = render.title(found)
    said = (tag("p", text) for text in render.remarks(found))
    main = tag(
        "main",
        tag("header", tag("h1", "A scheduler calibrated"), tag("p", title, class_="muted")),
        tag("section", tag("h2", "Verdict", id="verdict"), *said, class_="verdict", aria_labelledby="verdict"),
        _front(found),
        _reliability(found),
        _table(found),
        figures.section("Definitions", *(tag("p", text) for text in render.definitions(found))),
    )
    return page(f"dllm-bench: {title}", main, name="report")


def _front(found: Calibration) -> Markup:
    """Every setting in the plane, on the calibration prompts; the reference is far to the right of them."""
    reference, *tried = found.settings
    points = [
        charts.Point(one.name, one.calibration.nfe, 100 * one.calibration.accuracy, None, None, one.front)
        for one in tried
    ]
    score = reference.calibration
    far = f"{100 * score.accuracy:.1f} % with {score.nfe:.1f} passes"
    caption = f"The table below has the signs. Not shown, the reference {found.reference}: {far}."
    return figures.plane(found.quality, points, caption)


def _reliability(found: Calibration) -> Markup:
    drafts = found.reliability
    errors = f"before: error {100 * drafts.error_before:.1f} points; after: error {100 * drafts.error_after:.1f} points"
    return figures.section(
        "Reliability of confidence",
        tag(
            "p",
            "Drafts that had to wait, by tenths of confidence: how many of them were written in the end. On the line "
            "the model is as often right as it is sure. Circles: as the model says; squares: recalibrated (isotonic).",
        ),
        tag(
            "figure",
            tag("p", "written in the end, %", class_="title muted"),
            tag("div", diagram([drafts.before, drafts.after], label=errors), class_="frame"),
            tag("p", "confidence, %", class_="title muted right"),
        ),
    )


def diagram(series: Sequence[Sequence[Bin]], *, label: str) -> Markup:
    """A reliability diagram: one sign per series and tenth that holds drafts, around the diagonal."""
    both = charts.scale(0, 100)
    lines = [tag("line", x1="0", x2="100%", y1=both.up(y), y2=both.up(y), class_="grid") for y in both.ticks]
    texts = [tag("text", charts.number(y), x="-8", y=both.up(y), dy="4", class_="end muted") for y in both.ticks]
    feet = [tag("text", charts.number(x), x=both.at(x), y="100%", dy="18", class_="middle muted") for x in both.ticks]
    signs = [
        tag(
            "g",
            tag(
                "title",
                f"{counted(one.count, 'draft')}: {100 * one.confidence:.1f} % sure, {100 * one.stays:.1f} % stay",
            ),
            tag("svg", charts.mark(i), x=both.at(100 * one.confidence), y=both.up(100 * one.stays), class_="at"),
            class_=charts.colour(i),
        )
        for i, bins in enumerate(series)
        for one in bins
        if one.count
    ]
    diagonal = tag("line", x1="0", y1="100%", x2="100%", y2="0", class_="front")
    return tag("svg", *lines, *texts, *feet, diagonal, *signs, class_="plot tall", role="img", aria_label=label)


def _table(found: Calibration) -> Markup:
    """All settings, with the signs that they have in the plane; the reference comes first, and is not in it."""
    rows = [
        (join(*([] if i < 0 else [charts.key(i), " "]), render.role(one)), render.cells(found, one))
        for i, one in enumerate(found.settings, -1)
    ]
    titles = ["setting", *render.titles(found)]
    table = figures.table("All settings", titles, rows, start=-1, class_="sortable")
    return figures.section("All settings", table, tag("p", class_="unseen", role="status"))
