"""A plain decoder and the accuracy it reaches: how good a checkpoint is, without any of the SDK.

`python -m dllm_reference_model.evaluate` prints the table of a model card. Equal blocks from left to right; in a block
every position at or above a threshold commits, and always the surest (Fast-dLLM, arXiv:2505.22618).
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_reference_model import tasks
from dllm_reference_model.model import Transformer
from dllm_reference_model.tasks import Task
from dllm_reference_model.tokenizer import Tokenizer


class Accuracy(NamedTuple):
    """Means over the prompts of one task."""

    answer: float  # last line right
    strict: float  # every line right
    nfe: float  # forward passes of a row, up to the block that holds its EOS


@torch.inference_mode()
def decode(
    model: Transformer, prompts: Sequence[Sequence[int]], gen_length: int, *, block: int = 32, threshold: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Generated ids [B, gen_length] and forward passes [B]; a threshold above 1 commits one token per step."""
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    starts = torch.tensor([len(prompt) for prompt in prompts])
    length = int(starts.max()) + gen_length
    tokens = torch.full((len(prompts), length), model.mask_id)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    position = torch.arange(length).expand_as(tokens)
    generated = position - starts[:, None]  # < 0 in the prompt
    visible = (generated < gen_length)[:, None]
    if model.block_causal:
        number = torch.where(generated < 0, 0, generated // block + 1)
        visible = visible & (number[:, None, :] <= number[:, :, None])
    passes, ended = torch.zeros(len(prompts), dtype=torch.int64), torch.zeros(len(prompts), dtype=torch.bool)
    for begin in range(0, gen_length, block):
        inside = (generated >= begin) & (generated < min(begin + block, gen_length))
        while (rows := ((tokens == model.mask_id) & inside).any(1) & ~ended).any():
            now = tokens[rows]
            logits = model.head(model(now, position[rows], None, visible[rows])).float()
            logits[..., model.mask_id] = -torch.inf
            sure, draft = logits.softmax(-1).max(-1)
            sure = sure.masked_fill(~(inside[rows] & (now == model.mask_id)), -1.0)
            commit = (sure >= threshold) | (position[rows] == sure.argmax(1, keepdim=True))
            tokens[rows] = torch.where(commit & (sure >= 0), draft, now)
            passes[rows] += 1
        ended |= ((tokens == model.eos_ids[0]) & inside).any(1)
    tokens[(tokens == model.mask_id)] = model.eos_ids[0]  # what an ended row never had to decide
    return tokens[(generated >= 0) & (generated < gen_length)].view(len(prompts), gen_length), passes


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text before the first EOS."""
    return tokenizer.decode(ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids)


def accuracy(
    model: Transformer, task: Task, split: str, n: int, *, seed: int = 0, block: int = 32, threshold: float = 0.9
) -> Accuracy:
    """How often the model is right on `n` prompts of a split."""
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError("a model needs the tokenizer of this package to be evaluated on its tasks")
    prompts, scores, passes = task.prompts(split, n, seed), [], 0
    for at in range(0, n, 128):
        part = prompts[at : at + 128]
        ids, steps = decode(
            model, [tokenizer.encode(p) for p in part], task.gen_length, block=block, threshold=threshold
        )
        scores += [task.check(p, text_of(row, tokenizer)) for p, row in zip(part, ids.tolist(), strict=True)]
        passes += int(steps.sum())
    right, strict = (sum(column) / n for column in zip(*scores, strict=True))
    return Accuracy(right, strict, passes / n)


def main() -> None:
    """Print the accuracy of a checkpoint."""
    from dllm_reference_model.load import tiny

    parser = argparse.ArgumentParser(prog="python -m dllm_reference_model.evaluate", description=__doc__)
    parser.add_argument("--model", metavar="FOLDER", help="checkpoint folder (default: the shipped tiny model)")
    parser.add_argument("--split", choices=tasks.SPLITS, default="test")
    parser.add_argument("-n", type=int, default=500, help="prompts per task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts (default: %(default)s)")
    parser.add_argument("--block", type=int, default=32, help="block length (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.9, help="above 1: one token per step (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        _table(tiny(args.model), args)
    except (ValueError, OSError) as error:  # what a checkpoint lacks, or a task
        parser.exit(1, f"{parser.prog}: {error}\n")


def _table(model: Transformer, args: argparse.Namespace) -> None:
    """Print a line per task as it is done, and their mean."""
    found = []
    print(f"| {args.n} {args.split} prompts each | final answer | strict | NFE |\n| --- | --- | --- | --- |")
    for task in tasks.ALL:
        one = accuracy(model, task, args.split, args.n, seed=args.seed, block=args.block, threshold=args.threshold)
        found.append(one)
        print(f"| {task.name} | {one.answer:.3f} | {one.strict:.3f} | {one.nfe:.1f} |", flush=True)
    mean = [sum(column) / len(found) for column in zip(*found, strict=True)]
    print(f"| all | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.1f} |")


if __name__ == "__main__":
    main()
