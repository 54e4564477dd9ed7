"""Train the tiny model: `python -m dllm_reference_model.train --output FOLDER`.

On a CPU, in two processes. The state is saved every few minutes; the same command goes on where a killed run stopped
and ends with the same weights. It knows no decoding strategy: a plain decoder of its own says how good the model is.
"""

import argparse
import dataclasses
import json
import sys
import time
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from dllm_reference_model import checkpoint, evaluate, tasks
from dllm_reference_model.data import batches, in_blocks, masked, sample
from dllm_reference_model.peers import Peers, together
from dllm_reference_model.tokenizer import Tokenizer
from dllm_reference_model.trainer import DRY, Recipe, Trainer, new_model, objective, read_state

STATE = "state.safetensors"
MODEL = "model"  # folder of the finished checkpoint, inside the output folder


def train(
    recipe: Recipe,
    output: Path,
    *,
    peers: Peers | None = None,
    stop_after: int | None = None,
    save_every: int = 250,
    evaluate_every: int = 1000,
    prompts: int = 40,
) -> Trainer:
    """Train, or go on training, until the recipe's last step or `stop_after`; the checkpoint goes to `output`/model."""
    trainer = Trainer(recipe, peers or Peers())
    output.mkdir(parents=True, exist_ok=True)
    state = output / STATE
    if state.exists():
        trainer.restore(state)
        _say(f"going on from step {trainer.step} of {recipe.steps}")
    last = min(recipe.steps, stop_after or recipe.steps)
    stream = batches(recipe.seed, recipe.mix, trainer.tokenizer, trainer.next, block_causal=recipe.block_causal)
    clock, losses = _Clock(trainer), list[float]()  # since they were last told
    while trainer.step < last:
        following, parts = next(stream)
        losses.append(float(trainer.update(parts)))
        trainer.next = following
        if trainer.peers.rank:
            continue  # the first process speaks, evaluates and saves
        if trainer.step % 50 == 0:
            _say(f"{clock.line()}  loss {fmean(losses):.4f}")
            losses.clear()
        if trainer.step % evaluate_every == 0 or trainer.step == recipe.steps:
            trainer.curve.append(_validate(trainer, prompts))
        if trainer.step % save_every == 0 or trainer.step == last:
            clock.count()
            trainer.save(state)
    if trainer.step == recipe.steps and not trainer.peers.rank:
        checkpoint.save(trainer.averaged, output / MODEL, dtype=torch.bfloat16)
        (output / "curve.json").write_text(json.dumps(trainer.curve, indent=1) + "\n", encoding="utf-8")
    return trainer


class _Clock:
    """Speed and time left; seconds of earlier runs count too."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.since = trainer, time.monotonic()
        self.first, self.tokens = trainer.step, trainer.tokens

    def count(self) -> None:
        now = time.monotonic()
        self.trainer.seconds += now - self.since
        self.since, self.first, self.tokens = now, self.trainer.step, self.trainer.tokens

    def line(self) -> str:
        trainer, passed = self.trainer, time.monotonic() - self.since
        speed = (trainer.tokens - self.tokens) / passed
        left = (trainer.recipe.steps - trainer.step) * passed / max(1, trainer.step - self.first)
        return (
            f"step {trainer.step}/{trainer.recipe.steps}  {trainer.tokens / 1e6:.2f}M tokens"
            f"  {speed:,.0f} tokens/s  {left / 60:.1f} min left"
        )


def _validate(trainer: Trainer, prompts: int) -> dict[str, Any]:
    """Loss and strict accuracy per task on the validation split."""
    model = trainer.averaged.eval()
    named = [task for task in tasks.ALL if task.name in trainer.recipe.mix.weights]
    loss = {task.name: _validation_loss(trainer, task, 4 * prompts) for task in named}
    strict = {task.name: evaluate.accuracy(model, task, "validation", prompts).strict for task in named}
    for title, found in (("loss", loss), ("strict", strict)):
        _say(f"validation, {title}: {'  '.join(f'{name} {value:.3f}' for name, value in found.items())}")
    return {"step": trainer.step, "tokens": trainer.tokens, "prompts": prompts, "loss": loss, "strict": strict}


@torch.inference_mode()
def _validation_loss(trainer: Trainer, task: tasks.Task, samples: int) -> float:
    """The objective on samples of one task, the same ones and the same masks every time."""
    rng, mix = Random(f"validation/{task.name}"), trainer.recipe.mix
    drawn = [sample(task, rng, mix, trainer.tokenizer, "validation") for _ in range(samples)]
    arrange = in_blocks if trainer.recipe.block_causal else masked
    return float(objective(trainer.averaged, arrange(drawn, mix, trainer.tokenizer, torch.Generator().manual_seed(0))))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Train, or go on where a killed run stopped."""
    parser = argparse.ArgumentParser(prog="python -m dllm_reference_model.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the state and the finished checkpoint")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="(default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=Recipe.processes, help="CPU cores; part of the result (default: %(default)s)"
    )
    parser.add_argument("--start", default="", metavar="FOLDER", help="checkpoint whose weights to start from")
    parser.add_argument("--mix", type=_mix, metavar="TASK=SHARE,...", help="shares of the tasks' samples")
    parser.add_argument(
        "--clean-prefix", type=_share, default=0.6, metavar="SHARE", help="of samples (default: %(default)s)"
    )
    parser.add_argument("--block-causal", action="store_true", help="blocks that see only themselves and earlier ones")
    parser.add_argument("--save-every", type=int, default=250, metavar="STEPS", help="(default: %(default)s)")
    parser.add_argument("--evaluate-every", type=int, default=1000, metavar="STEPS", help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="a few steps of a very small model: does it run?")
    args = parser.parse_args()
    for name in ("steps", "processes", "save_every", "evaluate_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be >= 1, got {getattr(args, name)}")
    own = [f"--{name}" for name in ("steps", "seed", "start") if getattr(args, name) != parser.get_default(name)]
    if args.dry_run and own:
        parser.error(f"--dry-run has its own recipe: give it without {', '.join(own)}")
    recipe = DRY if args.dry_run else Recipe(steps=args.steps, seed=args.seed, start=args.start)
    mix = dataclasses.replace(recipe.mix, weights=args.mix or recipe.mix.weights, clean_prefix=args.clean_prefix)
    recipe = dataclasses.replace(recipe, processes=args.processes, mix=mix, block_causal=args.block_causal)
    if args.processes > mix.parts:
        parser.error(f"--processes must be <= {mix.parts}, the parts of a step, got {args.processes}")
    options = {
        "save_every": args.save_every,
        "evaluate_every": args.evaluate_every,
        "prompts": 4 if args.dry_run else 40,
    }
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        if (args.output / STATE).exists():
            read_state(args.output / STATE, recipe)  # so that a wrong one is a sentence, not a crash
        if recipe.start:  # the same
            new_model(recipe, Tokenizer.build(samples=recipe.tokenizer_samples))
        together(recipe.processes, partial(train, **options), recipe, args.output)
    except (checkpoint.CheckpointError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def _mix(text: str) -> dict[str, float]:
    """`expr=0.5,sort=0.5` as a mapping."""
    names = {task.name for task in tasks.ALL}
    found = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        try:
            found[name] = float(share)
        except ValueError:
            found[name] = -1.0
        if name not in names or not 0 <= found[name] < float("inf"):
            raise argparse.ArgumentTypeError(f"expected TASK=SHARE with a task of {sorted(names)}, got {item!r}")
    if not any(found.values()):
        raise argparse.ArgumentTypeError(f"expected a share above 0, got {text!r}")
    return found


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text!r}")
    return share


if __name__ == "__main__":
    main()
