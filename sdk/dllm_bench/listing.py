"""The text of `dllm-bench list`. Knows plug-ins as data, imports none."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import groupby

from dllm_bench.catalogue import Plugin
from dllm_bench.sheet import WIDTH


def listing(plugins: Sequence[Plugin]) -> str:
    """Plug-ins under the name of their kind, with where they come from, and what the long form knows below."""
    if not plugins:
        return "No plug-in is installed; from a checkout: pip install -e ."
    name = max(len(plugin.name) for plugin in plugins)
    owner = max(len(_owner(plugin)) for plugin in plugins)
    lines: list[str] = []
    for kind, group in groupby(plugins, key=lambda plugin: plugin.kind):
        lines += ["", f"{kind}s"] if lines else [f"{kind}s"]
        for plugin in group:
            lines.append(f"  {plugin.name:<{name}}  {_owner(plugin):<{owner}}  {plugin.target}")
            lines += [line for text in _details(plugin) for line in _wrap(text)]
    return "\n".join(lines)


def _wrap(text: str) -> list[str]:
    """Lines of at most WIDTH columns; what stands in square brackets, such as [B, L], is not torn apart."""
    whole = re.sub(r"\[[^]]*\]", lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    lines = textwrap.wrap(whole, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 8)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _owner(plugin: Plugin) -> str:
    return f"{plugin.distribution} {plugin.version}"


def _details(plugin: Plugin) -> list[str]:
    if plugin.error:
        return [f"broken: {plugin.error}"]
    lines = [plugin.summary] if plugin.summary else []
    if plugin.papers:
        lines.append(f"paper: {', '.join(plugin.papers)}")
    if plugin.needs is not None:
        lines.append(f"needs: {', '.join(plugin.needs) or 'nothing special'}")
    if plugin.may_need:
        lines[-1] += f"; with other fields: {', '.join(plugin.may_need)}"
    if plugin.state:
        lines.append(f"state: {plugin.state}")
    if plugin.fields:
        lines.append(f"fields: {', '.join(f'{name}={value}' for name, value in plugin.fields.items())}")
    return lines
