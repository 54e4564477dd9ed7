"""A result on paper: a title, tables and sentences, set for a terminal or as markdown; rows as JSON lines or CSV.

Every module of forms says what stands on the sheet of its result; how that is set is decided here. Knows no result.
"""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH = 100
_GAP = "  "
_NARROWEST_NAME = 16  # a longer spec is broken over lines

Style = Callable[[str], str]


class Table(NamedTuple):
    """Rows of cells, each with a name to its left."""

    corner: str  # what the names are
    titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    of_specs: bool = False  # the names are SPECs: code in markdown
    name: str = ""  # in markdown, where there are several tables
    legend: str = ""  # what its columns mean


class Sheet(NamedTuple):
    """A result in words and cells."""

    title: str  # what ran on what
    tables: Sequence[Table]
    remarks: Sequence[str]  # what the numbers say, and what to know about the run
    definitions: Sequence[str] = ()  # what the columns mean
    details: Sequence[Table] = ()  # for a terminal alone


def as_table(sheet: Sheet, *, heading: Style = str, note: Style = str, rule: str = "-") -> str:
    """Aligned columns, at most 100 wide, with what they mean below."""
    lines = wrap(sheet.title)
    for table in (*sheet.tables, *sheet.details):
        lines += ["", *_grid(table, heading, rule), *map(note, wrap(table.legend))]
    lines.append("")
    for text in sheet.remarks:
        lines += wrap(text)
    for text in sheet.definitions:
        lines += map(note, wrap(text))
    return "\n".join(lines)


def as_markdown(sheet: Sheet) -> str:
    """Pipe tables with their notes below, as they go into an issue or a notebook."""
    lines = [sheet.title, ""]
    for table in sheet.tables:
        rows = [[_code(name) if table.of_specs else name, *cells] for name, cells in table.rows]
        lines += [f"**{table.name}**", ""] if table.name else []
        lines += [*pipe_table([table.corner, *table.titles], rows), ""]
        lines += [table.legend, ""] if table.legend else []
    return "\n".join([*lines, *(f"- {text}" for text in (*sheet.remarks, *sheet.definitions))])


def wrap(text: str) -> list[str]:
    """A sentence in lines of the page's width."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _grid(table: Table, heading: Style, rule: str) -> list[str]:
    """Names to the left, numbers to the right; a name too long for the page goes over several lines."""
    widths = [max(map(len, column)) for column in zip(table.titles, *(cells for _, cells in table.rows), strict=True)]
    room = max(_NARROWEST_NAME, WIDTH - sum(widths) - len(_GAP) * len(widths))
    wrapped = [_break(name, room) for name, _ in table.rows]
    width = max(len(table.corner), *(len(part) for parts in wrapped for part in parts))

    def line(first: str, rest: Sequence[str]) -> str:
        return _GAP.join([f"{first:<{width}}", *(f"{cell:>{w}}" for cell, w in zip(rest, widths, strict=True))])

    head = line(table.corner, table.titles)
    lines = [heading(head), rule * len(head)]
    for parts, (_, cells) in zip(wrapped, table.rows, strict=True):
        lines += [line(parts[0], cells), *parts[1:]]
    return lines


def _break(name: str, width: int) -> list[str]:
    """A spec in pieces of at most `width`, cut behind its separators where that works."""
    lines = [""]
    for piece in re.findall(r"[^:,+/]*[:,+/]?", name):
        if len(lines[-1]) + len(piece) > width and lines[-1].strip():
            lines.append("  ")
            piece = piece.lstrip()
        lines[-1] += piece
        while len(lines[-1]) > width:  # one piece alone is too long
            lines[-1:] = [lines[-1][:width], "  " + lines[-1][width:]]
    return lines


def pipe_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, the first column to the left and numbers to the right."""
    rule = ["---", *("---:" for _ in titles[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (titles, rule, *rows)]


def _code(name: str) -> str:
    """A name in a cell of a pipe table."""
    plain = name.replace("|", "\\|").replace("`", "'")
    return f"`{plain}`"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON object per row and line."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def csv_lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """A head and a line per row; columns: `names`, then all that a row has, as they appear.

    A dict or list is JSON in one cell; what a row does not have is empty.
    """
    columns = dict.fromkeys([*names, *(name for row in rows for name in row)])
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def counted(number: float, what: str, plural: str = "") -> str:
    """1 prompt, 2 prompts, 0.5 points."""
    return f"{f'{number:g}' if isinstance(number, float) else number} {what if number == 1 else plural or what + 's'}"


def percent(share: float | None) -> str:
    """A share with one digit, without its sign; - for None."""
    return "-" if share is None else f"{100 * share:.1f}"
