"""Every registered scheduler on the shipped model, in one table: `python docs/benchmarks/strategies.py --limit 500`.

Writes strategies.md beside itself. Settings follow the papers, with the number of steps cut to the length of the tasks'
answers; a scheduler that is registered and not named here runs with its defaults. With `--results` the page is written
anew from the results.jsonl of an earlier run, which `--output` keeps.
"""

from __future__ import annotations

from pathlib import Path

import click

from dllm_bench import Comparison, available, compare, read_results
from dllm_bench.results import Difference, Row

PAGE = Path(__file__).with_suffix(".md")
FIRST = "fixed-block"
SETTINGS = {
    "dream": ["steps=32", 'steps=32,rule="maskgit_plus"', 'steps=32,rule="topk_margin"'],
    "dream-origin": ["steps=32"],
    "dream-threshold": ["steps=8"],
    "fixed-block": ["", "steps=16"],
    "pc-sampler": ["steps=16"],
    "random-order": ["", "steps=16"],
    "sdar": ["", 'rule="low_confidence_static",steps=2', 'rule="entropy_bounded"'],
}
TEXT = """---
hide: [toc]
---

# Every strategy on the shipped model

{n} test prompts of {tasks}, greedy unless a strategy draws by itself; the same prompts for all. {machine}.

```text
python docs/benchmarks/strategies.py --limit {limit}
```

<div class="whole" markdown>

| strategy | accuracy | against `{first}` | NFE | tokens per pass | against `{first}` |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

</div>

- accuracy: % of prompts with every line right, and its 95 % Wilson interval; "against": the difference on the same
  prompts, in points and in tokens per forward pass, with its 95 % paired bootstrap interval.
- NFE: forward passes per prompt; tokens per pass: all tokens up to EOS / all passes. Rows are sorted by it.
- `{first}` is one token per pass; `fixed-block:steps=16` is two. Fields that are not written have their defaults, which
  the [table of strategies](../reference/strategies.md) has, with the papers.
- One model of 1.2M parameters on five made-up tasks: the order of the strategies on an 8B model can be another one.
"""


def specs() -> list[str]:
    """What is compared: the first one, then by name; of others' plug-ins nothing."""
    ours = [plugin.name for plugin in available() if (plugin.kind, plugin.distribution) == ("scheduler", "dllm-sdk")]
    names = sorted(ours, key=lambda name: (name != FIRST, name))
    return [f"{name}:{fields}".rstrip(":") for name in names for fields in SETTINGS.get(name, [""])]


def page(found: Comparison) -> str:
    """The page of a comparison."""
    differences = {one.scheduler: one for one in found.differences}
    rows = sorted(found.rows, key=lambda row: row.tpf)
    about = found.environment
    return TEXT.format(
        n=rows[0].n,
        tasks=", ".join(found.tasks),
        machine=f"Model {about['model_sha256'][:12]}, {about['dtype']}, seed {about['seed']}",
        limit=about["limit"],
        first=FIRST,
        rows="\n".join(line(row, differences.get(row.scheduler)) for row in rows),
    )


def line(row: Row, difference: Difference | None) -> str:
    """One row of the table."""
    accuracy = interval(row.accuracy, row.accuracy_low, row.accuracy_high, scale=100)
    gained = speed = ""
    if difference is not None:
        low, high = difference.accuracy_low, difference.accuracy_high
        gained = interval(difference.accuracy, low, high, scale=100, sign="+")
        speed = interval(difference.tpf, difference.tpf_low, difference.tpf_high, sign="+", digits=2)
    cells = [f"`{row.scheduler}`", accuracy, gained, f"{row.nfe:.1f}"]
    return "| " + " | ".join([*cells, f"{row.tpf:.2f}", speed]) + " |"


def interval(
    value: float | None, low: float | None, high: float | None, *, scale: float = 1, sign: str = "", digits: int = 1
) -> str:
    """As in "38.0 [33.9, 42.3]"."""
    if value is None or low is None or high is None:
        return "-"
    middle, left, right = (f"{scale * number:{sign}.{digits}f}" for number in (value, low, high))
    return f"{middle} [{left}, {right}]".replace(" ", "\u00a0")  # on one line


@click.command()
@click.option("--limit", default=500, show_default=True, help="Prompts in all tasks together.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--output", type=click.Path(), help="Folder that keeps results.jsonl.")
@click.option("--results", type=click.Path(exists=True), help="Such a folder: write its page, run nothing.")
@click.option("--page", "target", type=click.Path(), default=str(PAGE), help="Where the page goes.")
def main(*, limit: int, batch_size: int, device: str, output: str | None, results: str | None, target: str) -> None:
    """Compare all registered schedulers and write the page."""
    if results is not None:
        found = read_results(results)
    else:
        found = compare(schedulers=specs(), limit=limit, batch_size=batch_size, device=device, output=output)
    Path(target).write_text(page(found), encoding="utf-8")
    click.echo(target)


if __name__ == "__main__":
    main()
