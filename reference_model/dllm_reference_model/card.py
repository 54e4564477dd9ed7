"""Write the model card of a finished training run: `python -m dllm_reference_model.card RUN`.

Everything in it is read from the run's state or measured on the test split; it knows no way to say what was not done.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from dllm_reference_model import charts, checkpoint, tasks
from dllm_reference_model.calibration import Bin, expected_error, merged, reliability
from dllm_reference_model.data import Mix
from dllm_reference_model.evaluate import accuracy
from dllm_reference_model.model import Transformer
from dllm_reference_model.train import MODEL, STATE
from dllm_reference_model.trainer import Recipe

DECODERS = (  # title, threshold, block
    ("Threshold 0.9, blocks of 32", 0.9, 32),
    ("One token per step, blocks of 32", 1.01, 32),
    ("Threshold 0.9, blocks of 8", 0.9, 8),
)
_COUNTS = ("no tasks", "one task", "two tasks", "three tasks", "four tasks", "five tasks")

_TEXT = """# {name}

A masked-diffusion language model for judging decoding strategies: small enough to run anywhere, trained from scratch on
{tasks} whose answers are checked line by line. It knows these tasks and nothing else.

* **Model**: {parameters:.2f}M parameters, width {width}, {layers} layers, {heads} heads, SwiGLU, rotary positions,
  query and key norms, tied head; {attention} attention, logits not shifted; {vocab_size} tokens. Stored in bfloat16,
  computed in float32.
* **Data**: level 1 of the tasks of `dllm_reference_model.tasks`, generated without end; a prompt's split is a hash of
  its text, and only the train split is seen.
* **Recipe**: the LLaDA objective (arXiv:2502.09992) with an exact number of masks per sample;{given}
  {full:.0%} of the samples are filled with EOS to the full generation length; Muon and AdamW; short warm-up, linear
  decay over the last {decay:.0%}; what is shipped is the running mean of the weights (decay {average:g} per step).
* **SHA-256** of `model.safetensors`: `{digest}`

## Training

On CPU cores, {processes} processes of one thread each; on a busy machine the minutes say little.

{runs}{note}
## Accuracy

{n} test prompts per task (seed 0), generation length of the task. *Strict* counts an answer if every line is right,
*final answer* if the last one is. Forward passes are those of a row up to the block that holds its EOS. The standard
error of a share of {n} is at most {error:.3f}. Decoder: `python -m dllm_reference_model.evaluate`, equal blocks from
left to right; every position at or above the threshold commits, and always the surest.

{accuracy}
## Calibration

{n} test samples per task, masked as in training: the probability of the likeliest token at every masked position up to
the EOS, against whether the sample has that token there. ECE: the mean gap in ten bins, weighted by count
(arXiv:1706.04599). `python -m dllm_reference_model.card` measures it; the same numbers as a picture:

![reliability diagrams](calibration.svg)

{calibration}
## On the way

Validation split: the objective on {loss_samples} samples per task, and strict accuracy on {prompts} prompts per task,
threshold 0.9, blocks of 32. The picture shows the last run.

![loss and accuracy by tokens](curve.svg)

{curve}
## Limits

A strategy's accuracy here says how it handles a model that is sure in places and unsure in others; it says nothing
about natural language. Prompts other than those of the tasks give nonsense.
"""

_PREFIX = """
  in {clean_prefix:.0%} of the samples the answer's beginning, cut at any token, is given, as it is after a decoder's
  first block;"""

_BLOCKS = """
  blocks are lines in {line_ends:.0%} of the samples and end anywhere in the others, their typical length 1 to 32;
  a clean and a masked copy of the canvas train all blocks of a sample in one pass (arXiv:2503.09573), and both copies
  count as tokens;"""


def card(runs: list[Path], *, n: int, name: str, note: str = "") -> str:
    """The card of the model of the last of `runs`, each started from the one before; `note` stands below them."""
    model = checkpoint.load(runs[-1] / MODEL, dtype=None).float().eval()
    states = [_state(run) for run in runs]
    recipe = states[-1]["recipe"]
    known = [task for task in tasks.ALL if task.name in recipe["mix"]["weights"]]
    names = [task.name for task in known]
    bins = {task.name: reliability(model, task, Mix(**recipe["mix"]), n) for task in known}
    bins["all"] = merged(bins)
    (runs[-1] / MODEL / "calibration.svg").write_text(charts.diagrams(bins), encoding="utf-8")
    (runs[-1] / MODEL / "curve.svg").write_text(_picture(states[-1]["curve"], names), encoding="utf-8")
    return _TEXT.format(
        name=name,
        tasks=_COUNTS[len(known)],
        parameters=sum(weight.numel() for weight in model.parameters()) / 1e6,
        width=model.config.width,
        layers=model.config.layers,
        heads=model.config.heads,
        vocab_size=model.vocab_size,
        full=recipe["mix"]["full_length"],
        attention="block-causal" if model.block_causal else "bidirectional",
        decay=recipe["decay"],
        average=recipe["average"],
        given=(_BLOCKS if model.block_causal else _PREFIX).format(**recipe["mix"]),
        processes=recipe["processes"],
        runs="".join(map(_run, states)),
        note=f"{note}\n" if note else "",
        digest=hashlib.sha256((runs[-1] / MODEL / checkpoint.WEIGHTS).read_bytes()).hexdigest(),
        n=n,
        error=0.5 / n**0.5,
        accuracy="\n".join(_accuracy(model, known, n, decoder) for decoder in DECODERS),
        calibration=_calibration(bins),
        loss_samples=4 * states[-1]["curve"][-1]["prompts"],
        prompts=states[-1]["curve"][-1]["prompts"],
        curve=_curve(states, names),
    )


def _state(run: Path) -> dict[str, Any]:
    with checkpoint.opened(run / STATE) as file:
        return {name: json.loads(text) for name, text in file.metadata().items()}


def _run(state: dict[str, Any]) -> str:
    recipe, counters = state["recipe"], state["counters"]
    mix = ",".join(f"{name}={share:g}" for name, share in recipe["mix"]["weights"].items())
    options = "--block-causal " * recipe["block_causal"] + "--start FOLDER " * bool(recipe["start"])
    if recipe["processes"] != Recipe.processes:
        options += f"--processes {recipe['processes']} "
    if recipe["mix"]["clean_prefix"] != Mix.clean_prefix:
        options += f"--clean-prefix {recipe['mix']['clean_prefix']:g} "
    return (
        "```text\npython -m dllm_reference_model.train --output RUN "
        f"--steps {recipe['steps']} --seed {recipe['seed']} {options}\\\n    --mix {mix}\n```\n\n"
        f"{counters['tokens'] / 1e6:.1f}M tokens, {counters['seconds'] / 60:.0f} minutes.\n\n"
    )


def _accuracy(model: Transformer, known: list[tasks.Task], n: int, decoder: tuple[str, float, int]) -> str:
    title, threshold, block = decoder
    found = [accuracy(model, task, "test", n, threshold=threshold, block=block) for task in known]
    names = [*(task.name for task in known), "all"]
    rows = [*found, [sum(column) / len(found) for column in zip(*found, strict=True)]]
    lines = [f"| {name} | {a:.3f} | {s:.3f} | {p:.1f} |" for name, (a, s, p) in zip(names, rows, strict=True)]
    head = ["| task | final answer | strict | forward passes |", "| --- | --- | --- | --- |"]
    return "\n".join([f"### {title}", "", *head, *lines, ""])


def _calibration(bins: dict[str, list[Bin]]) -> str:
    """Per task: its ECE, and where confidence is at least 0.9, how many positions that are and how many are right."""
    lines = ["| task | positions | ECE | at 0.9 and above | of them right |", "| --- | --- | --- | --- | --- |"]
    for name, found in bins.items():
        total, last = sum(one.count for one in found), found[-1]
        share = last.count / total
        lines.append(f"| {name} | {total} | {expected_error(found):.3f} | {share:.1%} | {last.accuracy:.2%} |")
    return "\n".join([*lines, ""])


def _curve(states: list[dict[str, Any]], names: list[str]) -> str:
    """What was evaluated on the way; a run that was not trained on one of the tasks has no number for it."""
    lines = []
    for title, digits in (("loss", 3), ("strict", 2)):
        lines += [f"| {title}: run | step | tokens | {' | '.join(names)} |", "| --- " * (3 + len(names)) + "|"]
        for number, state in enumerate(states, 1):
            for at in state["curve"]:
                shares = " | ".join(f"{at[title][name]:.{digits}f}" if name in at[title] else "" for name in names)
                lines.append(f"| {number} | {at['step']} | {at['tokens'] / 1e6:.1f}M | {shares} |")
        lines.append("")
    return "\n".join(lines)


def _picture(curve: list[dict[str, Any]], names: list[str]) -> str:
    """Loss and strict accuracy by millions of tokens."""
    panels = {
        title: {name: [(at["tokens"] / 1e6, at[key][name]) for at in curve] for name in names}
        for title, key in (("validation loss", "loss"), ("strict accuracy", "strict"))
    }
    return charts.curves(panels, "million tokens")


def main() -> None:
    """Write the card of a run."""
    parser = argparse.ArgumentParser(prog="python -m dllm_reference_model.card", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folders of training, in their order")
    parser.add_argument("-n", type=int, default=500, help="test prompts per task (default: %(default)s)")
    parser.add_argument("--note", default="", help="what else happened, in a sentence")
    parser.add_argument("--name", default="tiny", help="title of the card (default: %(default)s)")
    args = parser.parse_args()
    if args.n < 1:
        parser.error(f"-n must be >= 1, got {args.n}")
    try:
        text = card(args.runs, n=args.n, name=args.name, note=args.note)
    except (checkpoint.CheckpointError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    (args.runs[-1] / MODEL / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
