"""Text in, an SVG picture of it out, readable on light and dark pages.

dllm-bench compare | python docs/assets/picture.py '$ dllm-bench compare' > docs/assets/compare.svg
"""

from __future__ import annotations

import sys
from html import escape

STYLE = """
  rect { fill: #fbfbfa; stroke: #d4d4d0 }
  text { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #222 }
  .head { font-weight: bold } .note { fill: #6b6b66 }
  @media (prefers-color-scheme: dark) {
    rect { fill: #1c1e21; stroke: #3a3d42 } text { fill: #e4e4e0 } .note { fill: #9a9a94 }
  }
"""


def picture(command: str, text: str) -> str:
    """An SVG of a command and what it printed; the line above a rule is bold, what follows the last table is dim."""
    lines = [command, "", *text.rstrip().splitlines()]
    rules = [i for i, line in enumerate(lines) if line and set(line) <= set("─-")]
    ends = next((i for i in range(rules[-1], len(lines)) if not lines[i]), len(lines)) if rules else len(lines)
    width, height = 7.83 * max(map(len, lines)) + 32, 18 * len(lines) + 28
    rows = []
    for i, line in enumerate(lines):
        kind = "head" if i + 1 in rules or i == 0 else "note" if i > ends else ""
        rows.append(f'<text class="{kind}" x="16" y="{18 * i + 28}" xml:space="preserve">{escape(line)}</text>')
    label = escape(command.removeprefix("$ "), quote=True)
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="What {label} prints">'
    return "\n".join([head, f"<style>{STYLE}</style>", '<rect width="100%" height="100%" rx="8"/>', *rows, "</svg>"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: COMMAND | python docs/assets/picture.py '$ COMMAND' > FILE.svg")
    print(picture(sys.argv[1], sys.stdin.read()))
