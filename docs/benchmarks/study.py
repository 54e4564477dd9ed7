"""Where adaptive blocks help and where they do not, on the shipped models.

    python docs/benchmarks/study.py measure     adds what is missing to study.jsonl, one line per configuration
    python docs/benchmarks/study.py page        writes study.md and its pictures from study.jsonl

Three models are not shipped: the two of the ablation, and `tiny` from another seed. Each is trained by a command, and
then measured from its folder:

    python -m dllm_reference_model.train --output RUNS/clean --steps 5000
    python -m dllm_reference_model.train --output RUNS/independent --steps 5000 --clean-prefix 0
    python -m dllm_reference_model.train --output RUNS/second --seed 1
    python docs/benchmarks/study.py measure --folder NAME=RUNS/NAME/model    once for each

A line holds, prompt by prompt, whether the answer was right and how many forward passes it took, so that any two
configurations can be compared in pairs. Lines of other weights are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from dllm_bench import compare
from dllm_bench.ahead import confidences
from dllm_bench.environment import fingerprint
from dllm_bench.memory import keep_freed_memory
from dllm_bench.pages.trace import Moment, Shown, moments
from dllm_sdk import generate, load_model, load_task
from dllm_strategies.threshold import Threshold

HERE = Path(__file__).parent
TASKS = ("expr", "record", "sort", "story", "trace")
BASE = "threshold:block=32,threshold=0.9"
ONE_TOKEN = "fixed-block:block=32,steps=32"
BLOCKS = (4, 8, 16, 32, 64)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
DELIMITER = (0.1, 0.3, 0.5, 0.7, 0.9)
CONFIDENCE = (0.3, 0.5, 0.7, 0.9)


def fixed(block: int, threshold: float = 0.9) -> str:
    return f"threshold:block={block},threshold={threshold}"


def adablock(block: int, delimiter_threshold: float) -> str:
    return f"adablock:block={block},delimiter_threshold={delimiter_threshold}"


def adaptive(threshold: float) -> str:
    return f"confidence-adaptive:threshold={threshold}"


SPECS = list(
    dict.fromkeys(
        [
            ONE_TOKEN,
            *(fixed(block) for block in BLOCKS),
            *(fixed(32, threshold) for threshold in THRESHOLDS),
            *(adablock(block, share) for block in (8, 16, 32) for share in DELIMITER),
            *(adaptive(threshold) for threshold in CONFIDENCE),
        ]
    )
)


class Setting(NamedTuple):
    """What is measured; `name` stands for it in the data."""

    spec: str
    model: str = "tiny"
    cache: str = "none"

    @property
    def name(self) -> str:
        """The scheduler alone, where model and cache are what they mostly are."""
        return self.spec if self[1:] == ("tiny", "none") else f"{self.model}, {self.cache}: {self.spec}"


CACHED = (("tiny", "none"), ("tiny", "prefix"), ("tiny", "dual"), ("tiny-causal", "none"), ("tiny-causal", "block"))
CACHED_SPECS = (ONE_TOKEN, fixed(32), fixed(8), adablock(16, 0.3), adaptive(0.7))
ABLATION = ("clean", "independent")  # trained with clean prefixes, and with independent masks alone
SECOND = "second"  # `tiny` from another seed
ELSEWHERE = (*ABLATION, SECOND)  # not shipped
POLICIES = (ONE_TOKEN, *(fixed(block) for block in reversed(BLOCKS)), adablock(16, 0.3), adaptive(0.7))
SETTINGS = list(
    dict.fromkeys(
        [
            *map(Setting, SPECS),
            *(Setting(spec, *where) for spec in CACHED_SPECS for where in CACHED),
            *(Setting(spec, model) for spec in POLICIES for model in ELSEWHERE),
        ]
    )
)


@dataclass(frozen=True)
class Measured:
    """One setting: an array per task, an entry per prompt."""

    strict: dict[str, np.ndarray]  # bool
    answer: dict[str, np.ndarray]  # bool
    nfe: dict[str, np.ndarray]
    fed: dict[str, np.ndarray]
    generated: dict[str, np.ndarray]

    def pooled(self, name: str) -> np.ndarray:
        """An array over all tasks."""
        return np.concatenate([getattr(self, name)[task] for task in TASKS])

    @property
    def tpf(self) -> float:
        """Tokens per forward pass."""
        return float(self.pooled("generated").sum() / self.pooled("nfe").sum())


@click.group()
def main() -> None:
    """The study of block policies on the shipped model."""


@main.command()
@click.option("--limit", default=1000, show_default=True, help="Prompts, in all tasks together.")
@click.option("--data", type=click.Path(path_type=Path), default=HERE / "study.jsonl", show_default=True)
@click.option("--only", multiple=True, help="What to measure, by its name in the data; default: all.")
@click.option("--model", "only_model", help="Measure this model alone; default: all.")
@click.option(
    "--folder", "folders", multiple=True, metavar="NAME=FOLDER", help="Where a model lies that is not shipped."
)
@click.option("--watch", default=200, show_default=True, help="Prompts whose confidences are watched step by step.")
def measure(
    *, limit: int, data: Path, only: Sequence[str], only_model: str | None, folders: Sequence[str], watch: int
) -> None:
    """Add what is missing; interrupt it and go on at will."""
    keep_freed_memory()
    where = {name: folder for name, _, folder in (text.partition("=") for text in folders)}
    if not set(where) <= set(ELSEWHERE) or not all(where.values()):
        raise click.UsageError(f"--folder takes {' or '.join(f'{name}=FOLDER' for name in ELSEWHERE)}, got {folders}")
    wanted = [one for one in SETTINGS if only_model in (None, one.model) and (not only or one.name in only)]
    wanted = [one for one in wanted if one.model not in ELSEWHERE or one.model in where]
    names = {one.model: f"tiny:{where[one.model]}" if one.model in where else one.model for one in wanted}
    models = {name: load_model(spec) for name, spec in names.items()}
    keys = {name: {"weights": _digest(model, name), "limit": limit} for name, model in models.items()}
    known = {line["name"] for line in _lines(data, keys)}
    for setting in wanted:
        name, model = setting.name, models[setting.model]
        if name not in known:
            found = compare(model, [setting.spec], caches=[setting.cache], limit=limit, batch_size=50)
            _append(data, {"name": name, "model": setting.model, **keys[setting.model], **_compact(found.outcomes)})
            row = found.rows[0]
            click.echo(f"{name}: {row.accuracy:.3f} strict, {row.nfe:.2f} NFE", err=True)
    for block in BLOCKS if not only and "tiny" in models else ():
        name = f"watch:{block}"
        if name not in known:
            _append(data, {"name": name, "model": "tiny", **keys["tiny"], **watched(models["tiny"], block, watch)})
            click.echo(name, err=True)


def _digest(model: Any, name: str) -> str:
    found: str = fingerprint(model, name)["model_sha256"]
    return found


def _lines(data: Path, keys: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What is measured already; a torn last line is not."""
    found = []
    for text in data.read_text(encoding="utf-8").splitlines() if data.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if any(line[name] != value for name, value in keys.get(line["model"], {}).items()):
            raise click.ClickException(f"{data} was measured with other weights or another limit: move it away")
        found.append(line)
    return found


def _append(data: Path, line: dict[str, Any]) -> None:
    torn = data.exists() and not data.read_text(encoding="utf-8").endswith("\n")
    with data.open("a", encoding="utf-8") as file:
        file.write("\n" * torn + json.dumps(line, separators=(",", ":")) + "\n")


def _compact(outcomes: Sequence[Any]) -> dict[str, Any]:
    """Per task and in the order of the prompts: digits for right and wrong, lists for counts."""
    line: dict[str, Any] = {"strict": {}, "answer": {}, "nfe": {}, "fed": {}, "generated": {}}
    for task in TASKS:
        mine = sorted((one for one in outcomes if one.task == task), key=lambda one: one.prompt)
        for name in ("strict", "answer"):
            line[name][task] = "".join(str(int(getattr(one, name))) for one in mine)
        for name in ("nfe", "fed", "generated"):
            line[name][task] = [getattr(one, name) for one in mine]
    return line


# What the AdaBlock paper looks at: the volatility band, late and premature commits.

_PROGRESS = (0.0, 0.25, 0.5, 0.75)
_AHEAD = 32  # positions behind the first mask that the band is shown for


def watched(model: Any, block: int, limit: int) -> dict[str, Any]:
    """Threshold decoding in fixed blocks, with the whole canvas looked at before every step.

    A token is late if, before the step that committed it, it was at or above the threshold and its block was not yet
    open; premature if it was committed below the threshold, as the surest of its block: what `dllm-bench trace` marks.
    Shares of generated tokens.
    """
    late, premature, total = 0, 0, 0
    band: dict[float, list[list[float]]] = {share: [[] for _ in range(_AHEAD)] for share in _PROGRESS}
    for name in TASKS:
        task = load_task(name)
        prompts = task.prompts("test", limit // len(TASKS), 0)
        run = generate(model, prompts, Threshold(block, 0.9), gen_length=task.gen_length, trace=True)
        for trace, tokens in zip(run.trace or [], run.tokens, strict=True):
            seen = list(moments(Shown("", trace, confidences(model, list(trace.replay())[:-1]))))
            start, end = len(tokens) - task.gen_length, len(tokens)
            ends = [at + 1 for at, token in enumerate(tokens.tolist()) if at >= start and token in model.eos_ids]
            generated = set(range(start, min([*ends, end])))
            late += len(generated & {at for moment in seen for at in moment.late})
            premature += len(generated & {at for moment in seen for at in moment.premature})
            total += len(generated)
            for share in _PROGRESS:
                _add(band[share], next((one for one in seen if one.masked[start:].float().mean() <= 1 - share), None))
    quantiles = {
        f"{share:g}": [
            [round(float(q), 4) for q in np.quantile(values, (0.1, 0.5, 0.9))] for values in columns if values
        ]
        for share, columns in band.items()
    }
    return {"late": late / total, "premature": premature / total, "tokens": total, "band": quantiles}


def _add(columns: list[list[float]], moment: Moment | None) -> None:
    """The confidences behind the first mask, where they are known."""
    if moment is not None:
        first = int(moment.masked.int().argmax())
        for column, value in zip(columns, moment.seen[first:].tolist(), strict=False):
            if not np.isnan(value):
                column.append(value)


# The page.


@main.command()
@click.option("--data", type=click.Path(path_type=Path), default=HERE / "study.jsonl", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=HERE / "study.md", show_default=True)
def page(data: Path, output: Path) -> None:
    """Write the page from the data."""
    from study_page import band, write  # beside this file

    lines = [json.loads(text) for text in data.read_text(encoding="utf-8").splitlines()]
    missing = {one.name for one in SETTINGS} - {line["name"] for line in lines}
    if missing:
        raise click.ClickException(
            f"{data} lacks {len(missing)} settings: measure {min(missing)!r} and the others first"
        )
    measured = {line["name"]: _measured(line) for line in lines if not line["name"].startswith("watch:")}
    watches = {int(line["name"][6:]): line for line in lines if line["name"].startswith("watch:")}
    weights = {line["model"]: line["weights"][:12] for line in lines}
    text = write(measured, watches, weights=weights, limit=lines[0]["limit"])
    output.write_text(text, encoding="utf-8")
    (output.parent / "study-band.svg").write_text(band(watches[32]), encoding="utf-8")


def _measured(line: dict[str, Any]) -> Measured:
    digits = {
        name: {task: np.array([c == "1" for c in text]) for task, text in line[name].items()}
        for name in ("strict", "answer")
    }
    counts = {name: {task: np.array(v) for task, v in line[name].items()} for name in ("nfe", "fed", "generated")}
    return Measured(**digits, **counts)


if __name__ == "__main__":
    main()
