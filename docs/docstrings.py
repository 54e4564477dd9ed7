"""A griffe extension: what our docstrings leave to the source, and their examples.

The comment behind a field is its documentation, as in `open: Tensor  # bool [B, L]  masks`: shape and meaning stand
there, beside the name, and are listed under the class. Lines with >>> become a block of code. Knows source lines, no
package. Needs the extra `docs`.
"""

from __future__ import annotations

import io
import re
import tokenize
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_ONLY_FOR_DOCTEST = re.compile(r" *# doctest: .*")


class Docstrings(griffe.Extension):
    """Fields and examples."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """List the fields of a class and what stands behind them."""
        fields = {name: comment(one.source) for name, one in cls.attributes.items() if not name.startswith("_")}
        lines = [f"    {name}: {text}" for name, text in fields.items() if text]
        if lines:
            about = cls.docstring.value if cls.docstring else ""
            cls.docstring = griffe.Docstring("\n".join([about, "", "Attributes:", *lines]), parent=cls)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Set examples as code."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_as_code, obj.docstring.value)


def _as_code(match: re.Match[str]) -> str:
    return f"```pycon\n{_ONLY_FOR_DOCTEST.sub('', match[0])}\n```"


def comment(source: str) -> str:
    """The comment at the end of a statement, without what only linters read; empty if there is none."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return "" if not found or found[-1].startswith("noqa") else found[-1]
