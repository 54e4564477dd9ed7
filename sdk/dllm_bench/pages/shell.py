"""The frame of every page: one HTML file that asks nothing of the network and runs nothing but its own script.

Styles and scripts lie beside this file; a content security policy names them by digest, so that even markup that had
slipped in could not run. Inline `style` attributes do not work under it: use classes, SVG attributes or `data-`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from dllm_bench.pages.markup import Markup, join, tag

DATA = "data"  # id of the element that holds the page's data


def page(title: str, body: Markup, *, name: str, data: Any = None) -> str:
    """A whole page. `name`.css and `name`.js are its own style and script; `data` is plain data for the script."""
    style, script = _read("base.css") + _read(f"{name}.css"), _read(f"{name}.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    parts = [body, tag("script", Markup(script))]
    if data is not None:
        parts.insert(1, tag("script", Markup(_json(data)), type="application/json", id=DATA))
    return f"<!doctype html>\n{tag('html', head, tag('body', *parts), lang='en')}\n"


def _json(data: Any) -> str:
    """JSON that cannot end its element: `<` occurs in strings alone, and there it may be written as an escape."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _read(file: str) -> str:
    return files("dllm_bench.pages").joinpath(file).read_text(encoding="utf-8").strip() + "\n"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
