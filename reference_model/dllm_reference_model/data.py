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
    parts: int = 4  # batches of a step: each has one length, so few tasks, whose gradient alone would be biased
    line_ends: float = 0.3  # block-causal: share of samples whose blocks are lines; the others' ends are random


@dataclass(frozen=True)
class Sample:
    """One canvas before masking."""

    prompt: list[int]
    answer: list[int]  # with its EOS
    length: int  # canvas: prompt, answer and EOS fill


@dataclass(frozen=True)
class Batch:
    """What one forward pass trains on. Every lane is a real token."""

    tokens: Tensor  # int64 [B, L]  some of the answer masked
    target: Tensor  # int64 [B, L]
    weight: Tensor  # float32 [B, L]  of the cross-entropy; 0 where nothing is masked
    positions: Tensor  # int64 [B, L]
    visible: Tensor | None = None  # bool [B, L, L]  which key a lane sees; None: every one


Counter = tuple[int, int]  # chunk, step in it


def batches(
    seed: int, mix: Mix, tokenizer: Tokenizer, start: Counter, *, block_causal: bool = False
) -> Iterator[tuple[Counter, list[Batch]]]:
    """The batches of every step from counter `start` on, without end, each with the counter that follows it."""
    chunk, at = start
    arrange = in_blocks if block_causal else masked
    while True:
        steps = _packed(seed, chunk, mix, tokenizer)
        for index in range(at, len(steps)):
            following = (chunk, index + 1) if index + 1 < len(steps) else (chunk + 1, 0)
            noise = torch.Generator().manual_seed(Random(f"mask/{seed}/{chunk}/{index}").getrandbits(63))
            yield following, [arrange(part, mix, tokenizer, noise) for part in steps[index]]
        chunk, at = chunk + 1, 0


def masked(samples: list[Sample], mix: Mix, tokenizer: Tokenizer, noise: torch.Generator) -> Batch:
    """The LLaDA objective (arXiv:2502.09992, eq. 3) with an exact number of masks per row.

    A row with F free positions masks k of them, k uniform in 1..F and spread evenly over the batch, each weighted
    F / k. The prompt is never masked. In a share of the rows an answer's beginning, cut at any token, is given too:
    that is what a decoder sees after its first block, and independent masks almost never show it.
    """
    clean, prompt = _clean(samples, tokenizer)
    rows, length = clean.shape
    answer = torch.tensor([len(sample.answer) for sample in samples])
    draw = torch.rand(2, rows, generator=noise)
    given = prompt + (draw[0] * answer).long() * (draw[1] < mix.clean_prefix)
    tokens, weight = _hidden(clean, given, tokenizer, noise)
    return Batch(tokens, clean, weight, torch.arange(length).expand_as(clean))


def in_blocks(samples: list[Sample], mix: Mix, tokenizer: Tokenizer, noise: torch.Generator) -> Batch:
    """The same masks for a block-causal model: each row in random blocks, all of which train in one pass.

    A canvas stands there twice, clean and masked (block diffusion, arXiv:2503.09573, section 3.2 and appendix B.6): a
    clean lane sees the clean lanes of its own and earlier blocks, a masked one the clean lanes of earlier blocks and
    the masked ones of its own. So one model is right for any partition that a scheduler chooses. The prompt is the
    first block.
    """
    clean, prompt = _clean(samples, tokenizer)
    rows, length = clean.shape
    block = _partition(clean, prompt, mix, tokenizer, noise)
    tokens, weight = _hidden(clean, prompt, tokenizer, noise)
    earlier, same = block[:, None, :] < block[:, :, None], block[:, None, :] == block[:, :, None]
    seen_by_clean = torch.cat([earlier | same, torch.zeros_like(same)], dim=2)
    seen_by_masked = torch.cat([earlier, same], dim=2)
    return Batch(
        torch.cat([clean, tokens], dim=1),
        torch.cat([clean, clean], dim=1),
        torch.cat([torch.zeros_like(weight), weight], dim=1),
        torch.arange(length).repeat(2).expand(rows, -1),
        torch.cat([seen_by_clean, seen_by_masked], dim=1),
    )


def _partition(clean: Tensor, prompt: Tensor, mix: Mix, tokenizer: Tokenizer, noise: torch.Generator) -> Tensor:
    """The number [B, L] of the block a position belongs to: 0 in the prompt; ends at line ends, or at random.

    A random partition draws one typical block length per row, from 1 to 32 evenly on a logarithmic scale, and ends a
    block at every position with one chance in that length.
    """
    rows, length = clean.shape
    line_end = clean == tokenizer.encode("\n")[0]
    typical = 32.0 ** torch.rand(rows, 1, generator=noise)
    at_random = torch.rand(rows, length, generator=noise) < 1 / typical
    by_line = torch.rand(rows, 1, generator=noise) < mix.line_ends
    ends = torch.where(by_line, line_end, at_random)
    at = torch.arange(length)
    ends = torch.where(at < prompt[:, None] - 1, False, ends | (at == prompt[:, None] - 1))
    return ends.cumsum(1) - ends.long()


def _clean(samples: list[Sample], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Canvases [B, L] filled with EOS, and prompt lengths [B]."""
    clean = torch.full((len(samples), max(sample.length for sample in samples)), tokenizer.eos_id)
    for row, sample in enumerate(samples):
        given = sample.prompt + sample.answer
        clean[row, : len(given)] = torch.tensor(given)
    return clean, torch.tensor([len(sample.prompt) for sample in samples])


def _hidden(clean: Tensor, given: Tensor, tokenizer: Tokenizer, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Canvases with masks behind the first `given` [B] positions, and the weight of every masked position."""
    rows, length = clean.shape
    free = length - given
    strata = (torch.randperm(rows, generator=noise) + torch.rand(rows, generator=noise)) / rows
    masks = 1 + (strata * free).long().clamp(max=free - 1)
    fixed = torch.arange(length) < given[:, None]
    order = torch.rand(rows, length, generator=noise).masked_fill(fixed, 2.0).argsort(dim=1).argsort(dim=1)
    hidden = order < masks[:, None]
    return clean.masked_fill(hidden, tokenizer.mask_id), hidden * (free / masks)[:, None] / free.sum()


def _packed(seed: int, chunk: int, mix: Mix, tokenizer: Tokenizer) -> list[list[list[Sample]]]:
    """A chunk of samples as steps of `mix.parts` batches, each of similar length and about equally many tokens."""
    rng = Random(f"samples/{seed}/{chunk}")
    by_name = {task.name: task for task in tasks.ALL}
    names, shares = zip(*mix.weights.items(), strict=True)
    drawn = rng.choices([by_name[name] for name in names], weights=shares, k=CHUNK)
    samples = sorted((sample(task, rng, mix, tokenizer) for task in drawn), key=lambda one: one.length)
    total = sum(one.length for one in samples)
    packed: list[list[Sample]] = [[] for _ in range(mix.parts * max(1, round(total / mix.tokens_per_step)))]
    before = 0
    for one in samples:
        packed[before * len(packed) // total].append(one)
        before += one.length
    rng.shuffle(packed)
    return [packed[at : at + mix.parts] for at in range(0, len(packed), mix.parts)]


def sample(task: tasks.Task, rng: Random, mix: Mix, tokenizer: Tokenizer, split: str = "train") -> Sample:
    """One prompt and answer as ids, with more or less room behind the answer."""
    prompt, answer = (tokenizer.encode(text) for text in task.sample(rng, split))
    answer.append(tokenizer.eos_id)
    if rng.random() < mix.full_length:
        return Sample(prompt, answer, len(prompt) + (task.gen_length if rng.random() < 0.8 else _LONG))
    return Sample(prompt, answer, len(prompt) + len(answer) + rng.randint(0, 7))
