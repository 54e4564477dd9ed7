"""A griffe extension: the comment behind a field is its documentation, as in `open: Tensor  # bool [B, L]  masks`.

Our NamedTuples and dataclasses say shape and meaning there, beside the name; this lists them under the class. Knows
source lines, no package. Needs the extra `docs`.
"""

from __future__ import annotations

import io
import tokenize
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Gives every class a list of its fields and what stands behind them."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for each class once its members are known."""
        fields = {name: comment(one.source) for name, one in cls.attributes.items() if not name.startswith("_")}
        lines = [f"    {name}: {text}" for name, text in fields.items() if text]
        if lines:
            about = cls.docstring.value if cls.docstring else ""
            cls.docstring = griffe.Docstring("\n".join([about, "", "Attributes:", *lines]), parent=cls)


def comment(source: str) -> str:
    """The comment at the end of a statement, without what only linters read; empty if there is none."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return "" if not found or found[-1].startswith("noqa") else found[-1]
