"""The page of the study: tables and a picture. Called by `study.py page`; knows only what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from study import (
    ABLATION,
    BASE,
    BLOCKS,
    CACHED,
    CACHED_SPECS,
    CONFIDENCE,
    DELIMITER,
    ONE_TOKEN,
    POLICIES,
    SECOND,
    TASKS,
    THRESHOLDS,
    Measured,
    Setting,
    adablock,
    adaptive,
    fixed,
)

from dllm_bench.significance import bootstrap, mcnemar, wilson

Rows = Mapping[str, Measured]

FINDINGS = """
- **Confidence-adaptive blocks are the best policy here.** With threshold 0.7: 96.0 % strict in 3.4 passes, against
  93.2 % in as many passes for fixed blocks of 32 (+2.8 points [+1.7, +4.0]). Fixed blocks of 8 are as accurate (96.2
  %) but need 5.4 passes. Its own threshold hardly matters between 0.5 and 0.9.
- **All of that gain comes from one task.** `story` is the only one whose next line can be worded in several ways, so
  that drafts further right mix wordings: there, +13.0 points. On the four others neither adaptive policy differs from
  fixed blocks of 32 by more than chance explains, and wide blocks only save passes.
- **AdaBlock's delimiters do not pay here.** At equal block length, accuracy changes by -0.1, -0.5 and +1.4 points
  (lengths 8, 16, 32; all within chance) and passes rise from 5.4 to 6.1, from 4.0 to 5.7 and from 3.4 to 6.0. Fixed
  blocks of 8 are both more accurate and cheaper than any setting of length 16 or 32. The paper reports gains of up to
  5.3 points at equal throughput for LLaDA and Dream. Our lines are short (4 to 10 tokens on average) and a block that
  ends at each of them costs at least a pass per line; on a sure task a whole answer fits into one or two. The paper's
  effect may be seen on `story` in blocks of 32 (+5.5 [+0.0, +11.5], which chance can still explain); it shows on the
  model of a second seed, where blocks of 16 gain 1.6 points [0.2, 3.0].
- **The delimiter threshold is nearly no dial.** Line breaks are foreseen with either high or negligible confidence;
  between 0.1 and 0.9 nothing moves by more than 0.2 points, except in blocks of 32 (94.8 to 93.4 %).
- **Narrow blocks beat one token per step**: 96.3 % with blocks of 4 in 8.5 passes, 94.7 % with one token per step in
  38. In a wide block the surest token may be EOS at the far right, and every EOS fixes a little of the answer's
  length before its content is known. So begin 40 of 100 answers to `story` in blocks of 32, all of them in blocks of
  64, none in blocks of 8; and in blocks of 64, 10.5 of 17.9 passes commit EOS alone, which is why they take more
  passes than blocks of 32. The second seed does not repeat this: there, blocks of 4 are 1.1 points below one token per
  step [-2.5, +0.3].
- **Threshold 0.9 costs 1.5 points [0.5, 2.6] and saves eleven passes of twelve** (38.0 to 3.4). At 0.95 no loss can
  be shown; at 0.5 a sixth of the answers is lost.
- **Late commits fall and premature ones stay level** as blocks grow: 79 % to 0 % late, 2.7 % to 2.0 % premature. At
  block 32 they are 7.3 % and 2.4 %.
- **An exact cache for any block costs nothing that can be shown.** `tiny-causal` with its block cache stays within
  1.1 points of `tiny` without a cache under all five schedulers, every interval including zero, and feeds 19 to 51 %
  of the positions. On `tiny` the dual cache feeds 41 to 78 % and loses 2.2 to 10.0 points; the prefix cache loses up
  to 2.8.
- **Clean prefixes in training help narrow blocks and cost wide ones.** At 5,000 steps each, far from the end of
  training: without them -5.2 points in blocks of 4 and -4.7 under AdaBlock, but +3.8 in blocks of 32 and +6.8 in
  blocks of 64. In blocks of 32 and narrower, and under both adaptive policies, the model without them needs 14 to 31
  % more passes: less of what it sees in decoding is what it saw in training.
- **A seed changes more than most strategies do.** Trained again with seed 1, the model is 2.0 points worse with one
  token per step [0.3, 3.8], and 2.8 to 6.4 points with the others, nearly all of it in `story` and `expr`. What holds
  on both: confidence-adaptive blocks beat fixed ones of 32 (+4.0 points [+2.4, +5.6]; `story` +15.5, `expr` +4.5), and
  here also those of 8 (+1.6 [+0.5, +2.7]); blocks of 8 beat those of 32 (+2.4 [+0.7, +4.1]); threshold 0.9 loses to one
  token per step (-3.5 [-4.8, -2.2]) for eleven passes of twelve. The intervals on this page are over prompts alone.
"""  # what a person read in the numbers below; to be read again whenever they change


def table(rows: Rows, specs: Mapping[str, str], against: str | None) -> list[str]:
    """Accuracy with its interval, NFE, TPF, and the paired difference to the row `against`."""
    head = ["", "strict % [95 %]", "final answer %", "NFE", "TPF"]
    if against is not None:
        head.append(f"difference to {_name(specs, against)}, points [95 %]")
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for name, spec in specs.items():
        one = rows[spec]
        strict = one.pooled("strict")
        low, high = wilson(int(strict.sum()), len(strict))
        cells = [
            name,
            f"{100 * strict.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]",
            f"{100 * one.pooled('answer').mean():.1f}",
            f"{one.pooled('nfe').mean():.2f}",
            f"{one.tpf:.2f}",
        ]
        if against is not None:
            cells.append("" if spec == against else difference(strict, rows[against].pooled("strict")))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _name(specs: Mapping[str, str], spec: str) -> str:
    return next((name for name, one in specs.items() if one == spec), f"`{spec}`")


def difference(mine: np.ndarray, other: np.ndarray) -> str:
    """Points of accuracy with a paired bootstrap interval, marked where McNemar's p < 0.05."""
    low, high = bootstrap((mine.astype(float) - other)[:, None], lambda means: means[:, 0])
    p = mcnemar(int((other & ~mine).sum()), int((mine & ~other).sum()))
    mark = " *" if p < 0.05 else ""
    return f"{100 * (mine.mean() - other.mean()):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{mark}"


def by_task(rows: Rows, pairs: Mapping[str, tuple[str, str]]) -> list[str]:
    """Strict accuracy of one configuration minus another's, task by task."""
    lines = [f"| | {' | '.join(TASKS)} | all |", "| --- " + "| ---: " * (len(TASKS) + 1) + "|"]
    for name, (mine, other) in pairs.items():
        cells = [difference(rows[mine].strict[task], rows[other].strict[task]) for task in TASKS]
        cells.append(difference(rows[mine].pooled("strict"), rows[other].pooled("strict")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def passes_by_task(rows: Rows, specs: Mapping[str, str]) -> list[str]:
    """Strict accuracy and forward passes, task by task."""
    lines = [f"| strict %, NFE | {' | '.join(TASKS)} |", "| --- " + "| ---: " * len(TASKS) + "|"]
    for name, spec in specs.items():
        one = rows[spec]
        cells = [f"{100 * one.strict[task].mean():.1f}, {one.nfe[task].mean():.1f}" for task in TASKS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def caches(rows: Rows) -> list[str]:
    """Every model and cache, scheduler by scheduler, against `tiny` without a cache."""
    lines = [
        "| scheduler | model | cache | strict % [95 %] | NFE | fed | difference to `tiny`, none, points [95 %] |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for spec in CACHED_SPECS:
        first = rows[Setting(spec).name].pooled("strict")
        for model, cache in CACHED:
            one = rows[Setting(spec, model, cache).name]
            strict = one.pooled("strict")
            low, high = wilson(int(strict.sum()), len(strict))
            gained = "" if (model, cache) == CACHED[0] else difference(strict, first)
            lines.append(
                f"| `{spec}` | `{model}` | {cache} | {100 * strict.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}] | "
                f"{one.pooled('nfe').mean():.1f} | {one.pooled('fed').mean():,.0f} | {gained} |"
            )
    return [*lines, ""]


def two_models(rows: Rows, models: tuple[str, str], names: tuple[str, str]) -> list[str]:
    """Each block policy on one model and on another, which the page calls by `names`."""
    sides = " | ".join(f"{name}: strict % [95 %] | NFE" for name in names)
    lines = [
        f"| scheduler | {sides} | {names[1]} - {names[0]}, points [95 %] |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for spec in POLICIES:
        pair = [rows[Setting(spec, model).name] for model in models]
        cells = []
        for one in pair:
            strict = one.pooled("strict")
            low, high = wilson(int(strict.sum()), len(strict))
            cells += [
                f"{100 * strict.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                f"{one.pooled('nfe').mean():.1f}",
            ]
        change = difference(pair[1].pooled("strict"), pair[0].pooled("strict"))
        lines.append(f"| `{spec}` | {' | '.join(cells)} | {change} |")
    return [*lines, ""]


def rates(watches: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Late and premature commits by block length."""
    lines = ["| block | late % | premature % | tokens |", "| ---: | ---: | ---: | ---: |"]
    for block, one in sorted(watches.items()):
        lines.append(f"| {block} | {100 * one['late']:.1f} | {100 * one['premature']:.1f} | {one['tokens']:,} |")
    return [*lines, ""]


def band(watch: Mapping[str, Any]) -> str:
    """Confidence over the positions behind the first mask, by progress: median, and the band from 10 % to 90 %."""
    side, gap, left, top = 170, 30, 40, 30
    panels = []
    for index, (share, columns) in enumerate(watch["band"].items()):
        origin = left + index * (side + gap)
        points = [(origin + i * side / max(1, len(columns) - 1), values) for i, values in enumerate(columns)]

        def path(which: int, points: Sequence[tuple[float, list[float]]] = points) -> list[str]:
            return [f"{x:.1f},{top + (1 - values[which]) * side:.1f}" for x, values in points]

        panels.append(
            f'<rect x="{origin}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#d5dae0"/>'
            f'<polygon points="{" ".join(path(0) + path(2)[::-1])}" fill="#0b5fcc" opacity=".2"/>'
            f'<polyline points="{" ".join(path(1))}" fill="none" stroke="#0b5fcc" stroke-width="1.5"/>'
            f'<text x="{origin}" y="{top - 8}" font-weight="bold">{100 * float(share):.0f} % decoded</text>'
            f'<text x="{origin}" y="{top + side + 16}" fill="#57606a">0</text>'
            f'<text x="{origin + side}" y="{top + side + 16}" text-anchor="end" fill="#57606a">'
            f"{len(columns) - 1}</text>"
        )
    width, height = left + len(panels) * (side + gap), top + side + 44
    axis = "".join(
        f'<text x="{left - 6}" y="{top + (1 - at) * side + 4:.0f}" text-anchor="end" fill="#57606a">{at:g}</text>'
        for at in (0.0, 0.5, 1.0)
    )
    label = f'<text x="{left}" y="{height - 8}" fill="#57606a">positions behind the first mask</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11" fill="#1b1f24"><rect width="{width}" height="{height}" fill="#fff"/>'
        f"{axis}{label}{''.join(panels)}</svg>\n"
    )


Section = tuple[str, str, list[str]]  # title, what stands before the table, the table


def policies(rows: Rows) -> list[Section]:
    """What each dial does: the threshold, the block length, AdaBlock's delimiter threshold, confidence."""
    thresholds = {"1.01 (one token)": ONE_TOKEN} | {f"{t:g}": fixed(32, t) for t in THRESHOLDS}
    delimiters = {f"block {b}, {share:g}": adablock(b, share) for b in (8, 16, 32) for share in DELIMITER}
    return [
        (
            "Threshold",
            "Blocks of 32; every position at or above the threshold commits, and always the surest. The first row is "
            "one token per step.",
            table(rows, thresholds, ONE_TOKEN),
        ),
        ("Block length", "Threshold 0.9 in equal blocks.", table(rows, {f"{b}": fixed(b) for b in BLOCKS}, BASE)),
        (
            "AdaBlock: delimiter threshold",
            "Threshold 0.9; the block ends at a sure line break, else after the given number of positions. Differences "
            "are to threshold decoding with blocks of 32.",
            table(rows, delimiters, BASE),
        ),
        (
            "Confidence-adaptive blocks",
            "Blocks of 4 to 32 positions, as long as the run of drafts at or above the threshold; commits at 0.9.",
            table(rows, {f"{t:g}": adaptive(t) for t in CONFIDENCE}, BASE),
        ),
    ]


def where(rows: Rows) -> list[Section]:
    """On which tasks an adaptive block helps."""
    pairs = {f"adablock .3 - threshold, block {block}": (adablock(block, 0.3), fixed(block)) for block in (8, 16, 32)}
    pairs["confidence-adaptive .7 - threshold, block 32"] = (adaptive(0.7), fixed(32))
    specs = {"one token per step": ONE_TOKEN, **{f"threshold, block {block}": fixed(block) for block in BLOCKS}}
    specs |= {"adablock .3, block 16": adablock(16, 0.3), "confidence-adaptive .7": adaptive(0.7)}
    return [
        (
            "Where an adaptive block helps",
            "Strict accuracy minus that of threshold decoding in fixed blocks of the same length, in points; `*`: "
            "McNemar's p is below 0.05 (not corrected for the number of comparisons).",
            by_task(rows, pairs),
        ),
        ("Task by task", "", passes_by_task(rows, specs)),
    ]


def mechanism(rows: Rows, watches: Mapping[int, Mapping[str, Any]]) -> list[Section]:
    """Late and premature commits, caches and training, the volatility band."""
    return [
        (
            "Late and premature commits",
            "Threshold 0.9 in equal blocks, 200 prompts, the whole canvas looked at before every step. *Late*: a "
            "token that was at or above the threshold while its block was not yet open. *Premature*: one committed "
            "below the threshold, as the surest of its block. Shares of the tokens up to EOS. The terms are the "
            "AdaBlock paper's (arXiv:2509.26432), which reports 9.8 % late and 7.7 % premature for LLaDA-8B on GSM8K "
            "at block 32; its denominators were not available, so the levels need not compare.",
            rates(watches),
        ),
        (
            "A cache that is exact for any block",
            "In `tiny-causal` a position attends to its own block and earlier ones; it was trained on random "
            "partitions, from `tiny`'s weights on. So finished blocks never change and a cache of their keys is exact, "
            "whatever blocks a scheduler chooses: with it and without it the tokens are the same. *fed*: positions "
            "computed per prompt.",
            caches(rows),
        ),
        (
            "Clean prefixes in training",
            "Two further models, trained alike on the same samples and equally many tokens (the commands are in "
            "`study.py`): in one the answer's beginning is given in 60 % of the samples, as it is for `tiny`, in the "
            "other masks alone are drawn. One seed each.",
            two_models(rows, ABLATION, ("with", "without")),
        ),
        (
            "A second seed",
            "`tiny` trained once more by the same command with `--seed 1`; not shipped.",
            [
                *two_models(rows, ("tiny", SECOND), ("seed 0", "seed 1")),
                "Task by task, with seed 1:",
                "",
                *passes_by_task(rows, {spec: Setting(spec, SECOND).name for spec in POLICIES}),
            ],
        ),
        (
            "The volatility band",
            "Confidence over the positions behind the first mask, threshold 0.9, blocks of 32: the median, and the "
            "band from the 10 % to the 90 % quantile over the prompts.",
            ["![confidence behind the first mask](study-band.svg)", ""],
        ),
    ]


def write(rows: Rows, watches: Mapping[int, Mapping[str, Any]], *, weights: Mapping[str, str], limit: int) -> str:
    """The page as markdown."""
    models = ", ".join(f"`{digest}` of `{name}`" for name, digest in weights.items())
    text = [
        "# Block policies on the shipped models",
        "",
        f"Every number below is from `study.jsonl`: {limit:,} test prompts of five tasks ({', '.join(TASKS)}), greedy, "
        f"without a cache where none is named; weights {models}. "
        "`python docs/benchmarks/study.py measure` measures what is missing, "
        "`python docs/benchmarks/study.py page` writes this page. Brackets are 95 % intervals: Wilson's for a share, "
        "a paired bootstrap for a difference on the same prompts.",
        "",
        "## What was found",
        "",
        FINDINGS.strip(),
        "",
    ]
    for title, intro, lines in [*policies(rows), *where(rows), *mechanism(rows, watches)]:
        text += [f"## {title}", "", *([intro, ""] if intro else []), *lines]
    return "\n".join(text)
