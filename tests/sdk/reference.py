"""Decoding written in the plainest way: one row, Python lists, one rule at a time. What the loop is compared with."""

from __future__ import annotations

import math

import torch

from dllm_sdk.testing import ToyModel


def look(model: ToyModel, canvas: list[int]) -> tuple[list[int], list[float]]:
    """The likeliest token of every position, never the mask, and its float32 probability."""
    logits = model.logits(torch.tensor([canvas]))[0]
    rows = [logits[max(i - model.shift, 0)].float().tolist() for i in range(len(canvas))]
    drafts, confidences = [], []
    for row in rows:
        row[model.vocabulary - 1] = -math.inf
        draft = row.index(max(row))
        drafts.append(draft)
        scores = torch.tensor(row)  # float32, where several that are nearly certain are equally so
        confidences.append(float((scores[draft] - scores.logsumexp(0)).exp()))
    return drafts, confidences


def decode(model, prompt, gen_length, choose_block, choose_commits, *, stop_at_eos=True):
    """The canvas, the positions committed at each step, and the blocks.

    choose_block(masked, drafts, confidences) and choose_commits(masked_in_block, confidences, step) return positions.
    """
    mask, eos = model.vocabulary - 1, model.vocabulary - 2
    canvas = list(prompt) + [mask] * gen_length
    masked = list(range(len(prompt), len(canvas)))
    block, step, commits, blocks = [], 0, [], []
    while masked:
        drafts, confidences = look(model, canvas)
        if not block:
            block, step = choose_block(masked, drafts, confidences), 0
            blocks.append(list(block))
        chosen = choose_commits(block, confidences, step)
        for position in chosen:
            canvas[position] = drafts[position]
            masked.remove(position)
            block.remove(position)
        commits.append(sorted(chosen))
        step += 1
        ends = [i for i in range(len(prompt), len(canvas)) if canvas[i] == eos and i not in masked]
        if stop_at_eos and model.eos and ends and not [i for i in masked if i < ends[0]]:
            for position in masked:
                canvas[position] = eos
            break
    return canvas, commits, blocks


def best(positions, confidences, count):
    return sorted(positions, key=lambda i: (-confidences[i], i))[:count]


def fixed_block(block, steps):
    def commits(masked, confidences, step):
        return best(masked, confidences, math.ceil(len(masked) / max(steps - step, 1)))

    return (lambda masked, drafts, confidences: masked[:block]), commits


def threshold_commits(threshold):
    def commits(masked, confidences, step):
        return sorted({*best(masked, confidences, 1), *(i for i in masked if confidences[i] >= threshold)})

    return commits


def confidence_adaptive(threshold, min_block, max_block, commit_threshold):
    def block(masked, drafts, confidences):
        run = 0
        while run < len(masked) and confidences[masked[run]] >= threshold:
            run += 1
        return masked[: min(max(run, min_block), max_block)]

    return block, threshold_commits(commit_threshold)


def adablock(delimiters, block, threshold, delimiter_threshold, *, window, gen_length):
    def choose(masked, drafts, confidences):
        ends = [i for i in masked[: int(window * gen_length)] if drafts[i] in delimiters]
        if ends and confidences[best(ends, confidences, 1)[0]] >= delimiter_threshold:
            return masked[: masked.index(best(ends, confidences, 1)[0]) + 1]
        return masked[:block]

    return choose, threshold_commits(threshold)
