"""The page of a calibration: accuracy against forward passes for every setting, and how far confidence can be trusted.

Reads a calibration and writes markup; every number in it was computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from dllm_bench.calibration import render
from dllm_bench.calibration.found import Calibration
from dllm_bench.calibration.reliability import Bin
from dllm_bench.pages import charts
from dllm_bench.pages.figures import section
from dllm_bench.pages.markup import Markup, tag
from dllm_bench.pages.shell import page


def page_of(found: Calibration) -> str:
    """The page, as text."""
    title = render.title(found)
    texts = [*render.remarks(found), *render.definitions(found)]
    main = tag(
        "main",
        tag("header", tag("h1", "A scheduler calibrated"), tag("p", title, class_="muted")),
        tag("section", tag("h2", "Verdict", id="verdict"), *(tag("p", text) for text in texts), class_="verdict"),
        _front(found),
        _reliability(found),
        _table(found),
    )
    return page(f"dllm-bench: {title}", main, name="report")


def _front(found: Calibration) -> Markup:
    """Every setting in the plane, on the calibration prompts; the reference is far to the right of them."""
    reference, *tried = found.settings
    points = [
        charts.Point(one.name, one.calibration.nfe, 100 * one.calibration.accuracy, None, None, one.front)
        for one in tried
    ]
    best = ", ".join(f"{point.name} {point.y:.1f} % with {point.x:.1f} passes" for point in points if point.front)
    far = f"{100 * reference.calibration.accuracy:.1f} % with {reference.calibration.nfe:.1f} passes"
    return section(
        f"{found.quality} against forward passes".capitalize(),
        tag("p", charts.HOW_TO_READ),
        tag(
            "figure",
            tag("p", f"{found.quality}, %", class_="title muted"),
            tag("div", charts.scatter(points, label=f"The front: {best}."), class_="frame"),
            tag("p", "forward passes per prompt", class_="title muted right"),
            tag("figcaption", f"Not shown, the reference {found.reference}: {far}."),
        ),
    )


def _reliability(found: Calibration) -> Markup:
    drafts = found.reliability
    errors = (f"{name}: error {100 * error:.1f} points" for name, error in _errors(found))
    return section(
        "Reliability of confidence",
        tag(
            "p",
            "Drafts that had to wait, by tenths of confidence: how many of them were written in the end. On the line "
            "the model is as often right as it is sure. Circles: as the model says; squares: recalibrated (isotonic).",
        ),
        tag(
            "figure",
            tag("p", "written in the end, %", class_="title muted"),
            tag("div", diagram([drafts.before, drafts.after], label="; ".join(errors)), class_="frame"),
            tag("p", "confidence, %", class_="title muted right"),
        ),
    )


def _errors(found: Calibration) -> list[tuple[str, float]]:
    return [("before", found.reliability.error_before), ("after", found.reliability.error_after)]


def diagram(series: Sequence[Sequence[Bin]], *, label: str) -> Markup:
    """A reliability diagram: one sign per series and tenth that holds drafts, around the diagonal."""
    both = charts.scale(0, 100)
    lines = [tag("line", x1="0", x2="100%", y1=both.up(y), y2=both.up(y), class_="grid") for y in both.ticks]
    texts = [tag("text", charts.number(y), x="-8", y=both.up(y), dy="4", class_="end muted") for y in both.ticks]
    feet = [tag("text", charts.number(x), x=both.at(x), y="100%", dy="18", class_="middle muted") for x in both.ticks]
    signs = [
        tag(
            "g",
            tag("title", f"{one.count} drafts: {100 * one.confidence:.1f} % sure, {100 * one.stays:.1f} % stay"),
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
    """All settings."""
    head = tag("tr", *(tag("th", name, scope="col") for name in ["", *render.titles(found)]))
    rows = [
        tag("tr", tag("th", render.role(one), scope="row"), *(tag("td", cell) for cell in render.cells(found, one)))
        for one in found.settings
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return section("All settings", tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Settings"))
