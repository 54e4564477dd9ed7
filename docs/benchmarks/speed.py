"""Writes speed.md from speed-*.json and layout.json: `python docs/benchmarks/speed.py`.

These files are what the commands on the page printed. The page shows it, beside the aims and with what it cannot show.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from dllm_bench import Speed
from dllm_bench.sheet import pipe_table
from dllm_bench.timing.clocks import Spread
from dllm_bench.timing.results import Race

HERE = Path(__file__).parent
AIMS = {
    ("none", "eager"): 1.15,
    ("prefix", "eager"): 1.15,
    ("dual", "eager"): 1.3,
    ("dual", "compile"): 1.6,
}

PAGE = """# What a step costs

`dllm-bench speed` measures the steps of a model, the tokens per second that follow, and races `generate` against a
loop written the way public research code is. This page is about a CPU; for a GPU there is [one
script](../how-to/gpu.md), and its figures are not in yet.

```text
{command}
```

{about}.

The machine is shared (a pass took {busy:.2f} times as long by the clock as by CPU time), so an absolute time means
little. What counts are ratios: both loops run in one process, in turn on the same prompts, and every prompt gives one
ratio of CPU times; those by the clock are in the JSON files beside this page.

## Against a research-style loop

{rule}, float32, one thread, random weights of the shape 10M (width 256, 8 layers, vocabulary 4,096), prompts of
{prompt} random ids, {gen} generated. {equal}

{races}

ms: of CPU time, medians; times as fast: the research-style loop's / ours, median over n prompts, with quartiles.
Compiled in: with what torch keeps of an earlier run on the disk; without it 26 to 37 s.
{verdict}

Of a block step's {step:.1f} ms the model's forward pass takes {forward:.1f}, the decision {decision:.1f}. The forward
pass is matrix products for the most part, of the same weights in both loops: 38 MB, read once per step and multiplied
with 32 rows. [Their layout](#layout-and-type-of-the-weights) decides how near that comes to the rate of a large product
(the last column under Steps); the rest is fewer operations, and fewer calls of Python between them.

Public figures beside them: Fast-dLLM's own loops took 60.5 (none), 32.9 (prefix) and 20.6 (dual) ms of CPU time per
call on a model of this shape, one thread of a shared two-core machine; they were measured elsewhere, so they say that
the stand-in is of the right kind, not how it compares.

On two shared Intel cores, measured on 2026-11-28 with weights in panels instead of packed, the four were 1.31, 1.69,
1.35 and 1.29.

On a noisier day, 2026-11-30, dual decoding on the AMD cores was 1.24 [1.17, 1.26] times as fast eagerly and 1.48 [1.37,
1.54] times with `compile`, below both aims (25 prompts; a large product ran at 90 GFLOP/s). Short runs of the code of
the day before, in turn with this, gave no more: eagerly 1.20 and 1.19 against 1.21 and 1.16, with `compile` 1.53 and
1.38 against 1.61 and 1.49.

### What the stand-in does

It runs the same weights, a batch of one, in torch's eager mode, and does what Fast-dLLM's code does at every call: the
output head on every fed position, a float64 softmax over all of them and the whole vocabulary, keys cached before
rotation and all of them rotated again in every layer, keys and values concatenated (prefix) or overwritten at
positions that a `nonzero` finds (dual), RMSNorm written out in float32, a threshold compared mask by mask with a
question to the host for each, and one more after every call; the prefix loop also drafts every fed position twice.

It decodes under `no_grad`, as that code does; ours in [inference mode](../explanation/running-a-step.md#one-step).
It leaves out what costs that code a little more: a bias that is sliced in every layer and never used, autocast contexts
around norms and rotations. And it suppresses the mask token, which public code does not. Attention is torch's own
kernel for both. Its weights lie as a checkpoint stores them. It was written from a description of that code, in
`sdk/dllm_bench/timing/research.py`.

## Layout and type of the weights

Forward passes with the head, on a canvas of {canvas} positions with keys and values kept, one thread, in turn; times as
fast as the model that `train` gives, float32 with each weight by itself, row by row. *frozen* is what `load_model`
gives: one product per input, its weights packed as oneDNN reads them where they are many. *int8 weights* is what
`int8:MODEL` gives, each weight converted to float32 before it is multiplied. Medians of {turns} turns, with quartiles.

{layouts}

This processor {multiplies}; `--dtype bfloat16` asks for it. Weights in
eight bits save memory here and cost time: they are [for a GPU](../how-to/gpu.md#weights-in-eight-bits). In both types
the tiny model writes other tokens here and there; what that does to the answers, on {limit} prompts:

{accuracy}

## Steps

When these were measured, the first step of a generation, which also sets everything up, counted among its kind (a
refresh), and operations and reads were the mean over all kinds of a cache. `dllm-bench speed` now leaves the first step
out, and counts kind by kind.

{steps}

## Tokens per second

{rates}
{notes}
"""


def main() -> None:
    """Write the page."""
    runs = {
        path.name: Speed.from_dict(json.loads(path.read_text("utf-8"))) for path in sorted(HERE.glob("speed-*.json"))
    }
    (HERE / "speed.md").write_text(page(runs), encoding="utf-8")


def page(runs: dict[str, Speed]) -> str:
    """The page's text; machine and shape are those of the first run."""
    first = next(iter(runs.values()))
    speed = replace(
        first,
        races=[one for run in runs.values() for one in run.races],
        steps=[one for run in runs.values() for one in run.steps],
        rates=[one for run in runs.values() for one in run.rates],
    )
    about = speed.environment
    tables = dict(section.split("\n\n", 1) for section in speed.to("md").split("\n\n**")[1:])
    layout = json.loads((HERE / "layout.json").read_text("utf-8"))
    block = next(one for one in speed.steps if (one.kind, one.backend) == ("block", "eager"))
    return PAGE.format(
        command="\n".join(
            [
                *(command(*run) for run in runs.items()),
                *(f"python docs/benchmarks/{name}.py" for name in ("layout", "speed")),
            ]
        ),
        about=f"Measured on {about['date'][:10]}, {about['cpus']} shared cores ({about['device_name']}), torch "
        f"{about['torch']}, threads: {about['threads']}; {rates_of(speed)}",
        rule=speed.races[0].rule.capitalize(),
        prompt=about["prompt_length"],
        gen=about["gen_length"],
        equal=equality(speed),
        races=races(speed),
        busy=median(one.step_ms.median / one.step_cpu_ms.median for one in speed.races),
        verdict=verdict(speed),
        step=block.ms.median,
        forward=block.forward_ms.median if block.forward_ms else nan,
        decision=block.decision_ms.median if block.decision_ms else nan,
        canvas=layout["canvas"],
        multiplies=f"multiplies bfloat16 in hardware ({layout['bfloat16'][0]})"
        if layout["bfloat16"]
        else "has no instruction for products of bfloat16",
        turns=layout["turns"],
        limit=layout["limit"],
        layouts=layouts(layout["passes"]),
        accuracy=accuracy(layout["accuracy"]),
        steps=body(tables, "Steps"),
        rates=body(tables, "Tokens per second"),
        notes="".join(f"\n- {note}" for run in runs.values() for note in run.notes if note.startswith("Left out")),
    )


def rates_of(speed: Speed) -> str:
    """What its machine could do."""
    moved, done = speed.ceilings.bytes_per_second / 1e9, speed.ceilings.flops_per_second / 1e9
    return f"a copy moved {moved:.1f} GB/s, a matrix product ran at {done:.0f} GFLOP/s"


def command(file: str, speed: Speed) -> str:
    """What was run."""
    about = speed.environment
    given = [("--model", about["model"]), ("--threads", about["threads"])]
    for option, setting in (("--backend", "backends"), ("--cache", "caches"), ("--batch-size", "batch_sizes")):
        given += [(option, one) for one in about[setting]]
    given += [("--rounds", about["rounds"]), ("--budget", f"{about['budget_s'] or float('inf'):g}")]
    text = " ".join(f"{name} {value}" for name, value in given)
    return f"dllm-bench speed {text} --format json > docs/benchmarks/{file}"


def equality(speed: Speed) -> str:
    """Whether the race is a fair one."""
    unequal = [f"{one.cache}, {one.backend}: {100 * one.equal:.0f} %" for one in speed.races if one.equal < 1]
    if not unequal:
        return "Tokens and number of forward passes (NFE) were equal for every prompt in every row."
    return f"Tokens and number of forward passes (NFE) were equal for every prompt but in {'; '.join(unequal)}."


def races(speed: Speed) -> str:
    """The table of the race, with the aims."""
    titles = ["cache, backend", "n", "NFE", "ms per pass", "research-style", "times as fast", "aim", "compiled in s"]
    rows = [
        [
            f"{one.cache}, {one.backend}",
            f"{one.speedup.n}",
            f"{one.nfe:.1f}",
            f"{one.step_cpu_ms.median:.1f}",
            f"{one.research_step_cpu_ms.median:.1f}",
            ratio(one.cpu_speedup),
            f"{aim(one):.2f}" if aim(one) else "-",
            f"{one.preparation_s:.0f}",
        ]
        for one in speed.races
    ]
    return "\n".join(pipe_table(titles, rows))


def layouts(passes: list[dict[str, Any]]) -> str:
    """What the layout and the type are worth."""
    titles = ["shape, what is computed", "ms as trained", "float32, frozen", "bfloat16, frozen", "int8 weights"]
    rows = []
    for one in passes:
        faster = ["{1:.2f} [{0:.2f}, {2:.2f}]".format(*ratios) for ratios in one["times_as_fast"].values()]
        rows.append([f"{one['shape']}, {one['kind']}", f"{one['ms']['trained']:.2f}", *faster])
    return "\n".join(pipe_table(titles, rows))


def accuracy(rows: list[dict[str, Any]]) -> str:
    """What the tiny model gets right in each type."""
    strict = "{accuracy:.1%} [{accuracy_low:.1%}, {accuracy_high:.1%}]"
    rows = sorted(rows, key=lambda row: row["scheduler"])
    shown = [[row["scheduler"], row["dtype"], strict.format(**row), f"{row['nfe']:.2f}"] for row in rows]
    return "\n".join(pipe_table(["scheduler", "type", "strict accuracy", "NFE"], shown))


def ratio(value: Spread) -> str:
    return f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"


def aim(one: Race) -> float | None:
    return AIMS.get((one.cache, one.backend))


def verdict(speed: Speed) -> str:
    """Which aims are met by CPU time."""
    aimed = [(one, aim(one)) for one in speed.races]
    met = [f"{one.cache}, {one.backend}" for one, low in aimed if low and one.cpu_speedup.median >= low]
    missed = [
        f"{one.cache}, {one.backend} ({one.cpu_speedup.median:.2f} of {low:.2f})"
        for one, low in aimed
        if low and one.cpu_speedup.median < low
    ]
    said = [f"met: {'; '.join(met)}"] * bool(met) + [f"missed: {'; '.join(missed)}"] * bool(missed)
    return f"The aims, by CPU time, are {', and '.join(said)}."


def body(tables: dict[str, str], name: str) -> str:
    """A table of `speed` in markdown with its legend."""
    return next((text.split("\n\n- ")[0] for head, text in tables.items() if head.startswith(name)), "Not measured.")


if __name__ == "__main__":
    main()
