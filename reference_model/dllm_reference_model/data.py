"""Training batches: which samples, how they are packed, what is masked. A pure function of the seed and two counters.

So a run that was killed goes on with exactly the batches it would have seen. It knows tasks and a tokenizer, no model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from dllm_reference_model import tasks
from dllm_reference_model.tokenizer import Tokenizer

CHUNK = 512  # samples that are drawn together, sorted by length and cut into batches
_LONG = 128  # generation length of a few samples, so that more room than the task asks for is nothing new


@dataclass(frozen=True)
class Mix:
    """What the training data are made of."""

    weights: Mapping[str, float]  # share of samples, by task name
    full_length: float = 0.15  # share of samples filled with EOS up to the full generation length
    clean_prefix: float = 0.6  # share of samples whose answer is given up to a random token
    tokens_per_step: int = 2560


@dataclass(frozen=True)
class Sample:
    """One canvas before masking."""

    prompt: list[int]
    answer: list[int]  # with its EOS
    length: int  # canvas: prompt, answer and EOS fill


@dataclass(frozen=True)
class Batch:
    """What one step trains on; every lane is a real token, so nothing has to be hidden."""

    noisy: Tensor  # int64 [B, L]  some of the answer masked
    clean: Tensor  # int64 [B, L]
    weight: Tensor  # float32 [B, L]  of the cross-entropy; 0 where nothing is masked

    def part(self, index: int, count: int) -> "Batch":
        """Every `count`-th row; the losses of the parts add up to the batch's."""
        return Batch(self.noisy[index::count], self.clean[index::count], self.weight[index::count])


Counter = tuple[int, int]  # chunk, batch in it


def batches(seed: int, mix: Mix, tokenizer: Tokenizer, start: Counter) -> Iterator[tuple[Counter, Batch]]:
    """Endless batches from counter `start` on, each with the counter that follows it."""
    chunk, at = start
    while True:
        packed = _packed(seed, chunk, mix, tokenizer)
        for index in range(at, len(packed)):
            following = (chunk, index + 1) if index + 1 < len(packed) else (chunk + 1, 0)
            noise = torch.Generator().manual_seed(Random(f"mask/{seed}/{chunk}/{index}").getrandbits(63))
            yield following, masked(packed[index], mix, tokenizer, noise)
        chunk, at = chunk + 1, 0


def masked(samples: list[Sample], mix: Mix, tokenizer: Tokenizer, noise: torch.Generator) -> Batch:
    """The LLaDA objective (arXiv:2502.09992, eq. 3) with an exact number of masks per row.

    A row with F free positions masks k of them, k uniform in 1..F and spread evenly over the batch, each weighted
    F / k. The prompt is never masked. In a share of the rows an answer's beginning, cut at any token, is given too:
    that is what a decoder sees after its first block, and independent masks almost never show it.
    """
    length = max(sample.length for sample in samples)
    rows = len(samples)
    clean = torch.full((rows, length), tokenizer.eos_id)
    for row, sample in enumerate(samples):
        given = sample.prompt + sample.answer
        clean[row, : len(given)] = torch.tensor(given)
    prompt = torch.tensor([len(sample.prompt) for sample in samples])
    answer = torch.tensor([len(sample.answer) for sample in samples])
    draw = torch.rand(3, rows, generator=noise)
    cut = (draw[0] * answer).long() * (draw[1] < mix.clean_prefix)
    free = length - prompt - cut
    strata = (torch.randperm(rows, generator=noise) + draw[2]) / rows
    masks = 1 + (strata * free).long().clamp(max=free - 1)
    fixed = torch.arange(length) < (prompt + cut)[:, None]
    order = torch.rand(rows, length, generator=noise).masked_fill(fixed, 2.0).argsort(dim=1).argsort(dim=1)
    hidden = order < masks[:, None]
    weight = hidden * (free / masks)[:, None] / free.sum()
    return Batch(clean.masked_fill(hidden, tokenizer.mask_id), clean, weight)


def _packed(seed: int, chunk: int, mix: Mix, tokenizer: Tokenizer) -> list[list[Sample]]:
    """A chunk of samples as batches of similar length, in random order."""
    rng = Random(f"samples/{seed}/{chunk}")
    samples = sorted((_sample(rng, mix, tokenizer) for _ in range(CHUNK)), key=lambda sample: sample.length)
    packed: list[list[Sample]] = [[]]
    for sample in samples:  # lengths grow, so the newest is the longest
        if packed[-1] and (len(packed[-1]) + 1) * sample.length > mix.tokens_per_step:
            packed.append([])
        packed[-1].append(sample)
    rng.shuffle(packed)
    return packed


def _sample(rng: Random, mix: Mix, tokenizer: Tokenizer) -> Sample:
    by_name = {task.name: task for task in tasks.ALL}
    task = by_name[rng.choices(list(mix.weights), weights=list(mix.weights.values()))[0]]
    prompt, answer = (tokenizer.encode(text) for text in task.sample(rng, "train"))
    answer.append(tokenizer.eos_id)
    if rng.random() < mix.full_length:
        return Sample(prompt, answer, len(prompt) + (task.gen_length if rng.random() < 0.8 else _LONG))
    return Sample(prompt, answer, len(prompt) + len(answer) + rng.randint(0, 7))
