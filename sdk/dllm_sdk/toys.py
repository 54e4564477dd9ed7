"""Random cases to test schedulers on: toy models whose logits are hashes, batches of rows, and how they are decoded.

Knows the loop, no property that should hold; `testing` checks those, and is where users import these names from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import torch
from hypothesis import strategies as st
from torch import Tensor

from dllm_sdk.binding import S, ids_in, with_ids
from dllm_sdk.decoding import decode
from dllm_sdk.model import CallableModel, wrap
from dllm_sdk.rules import hash_with, to_unit
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Scheduler


@dataclass(frozen=True)
class ToyModel:
    """A random model whose logits are hashes: exactly reproducible, alone and in any batch.

    `sees` says what a position's logits depend on: nothing but the position, the token to its left, or the whole row.
    The last two ids are EOS and the mask; id 0 is a newline.
    """

    seed: int = 0
    vocabulary: int = 8
    sees: Literal["position", "left", "row"] = "row"
    eos: bool = True
    shift: int = 0

    def logits(self, tokens: Tensor) -> Tensor:
        """int64 [n, L] -> float64 [n, L, V]; how peaked they are differs from position to position."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        key = hash_with(torch.tensor(self.seed), positions).expand(tokens.shape)
        if self.sees == "left":
            left = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
            key = hash_with(key, left)
        elif self.sees == "row":
            key = hash_with(key, hash_with(positions, tokens).sum(1, keepdim=True))
        peak = 10 ** (2.5 * to_unit(hash_with(key, 0)).double() - 1)
        words = torch.arange(1, self.vocabulary + 1, device=tokens.device)
        noise = to_unit(hash_with(key[..., None], words)).double()
        return peak[..., None] * (2 * noise - 1)

    def build(self, device: str | torch.device = "cpu") -> CallableModel:
        """As a model of the loop."""
        eos_ids = (self.vocabulary - 2,) if self.eos else ()
        return wrap(
            self.logits,
            mask_id=self.vocabulary - 1,
            vocab_size=self.vocabulary,
            eos_ids=eos_ids,
            shift=self.shift,
            device=device,
            tokenizer=ToyTokenizer(),
        )


class ToyTokenizer:
    """Id 0 is a newline, the others are letters."""

    def encode(self, text: str) -> list[int]:
        """One id per character."""
        return [0 if char == "\n" else ord(char) - 96 for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        """One character per id."""
        return "".join("\n" if i == 0 else chr(96 + i) for i in ids)


def with_toy_ids(scheduler: S) -> S:
    """A scheduler for toy models: every text and id of its fields becomes one of the four ids that all of them have."""

    def known(item: int | str) -> int:
        return item % 4 if isinstance(item, int) else 0 if item == "\n" else crc32(item.encode()) % 4

    return with_ids(scheduler, (), lambda field, value: tuple(map(known, ids_in(field, value))))


@dataclass(frozen=True)
class Row:
    """One row of a case: prompt ids, masks after it, and which prompt positions are open too."""

    prompt: tuple[int, ...]
    gen_length: int
    holes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """A batch on a toy model."""

    model: ToyModel
    rows: tuple[Row, ...]
    temperature: float = 0.0
    seed: int = 0


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 3, max_gen_length: int = 40) -> Case:
    """A hypothesis strategy for cases: mixed lengths, infilling, temperatures, models of every kind."""
    model = ToyModel(
        seed=draw(st.integers(0, 2**16)),
        vocabulary=draw(st.integers(4, 12)),
        sees=draw(st.sampled_from(["position", "left", "row"])),
        eos=draw(st.booleans()),
        shift=draw(st.integers(0, 1)),
    )
    rows = []
    for _ in range(draw(st.integers(1, max_rows))):
        prompt = draw(st.lists(st.integers(0, model.vocabulary - 1), max_size=4))
        length = draw(st.one_of(st.integers(1, min(8, max_gen_length)), st.integers(1, max_gen_length)))
        holes = draw(st.sets(st.sampled_from(range(len(prompt))), max_size=2)) if prompt else set()
        rows.append(Row(tuple(prompt), length, tuple(sorted(holes))))
    return Case(model, tuple(rows), draw(st.sampled_from([0.0, 0.0, 0.7])), draw(st.integers(0, 3)))


def run_case(scheduler: Scheduler[Any], case: Case) -> list[list[Any]]:
    """Decode a case: per row, what every step committed and wrote, and the canvas it ended with."""
    opens = [[i in row.holes for i in range(len(row.prompt))] for row in case.rows]
    steps = decode(
        case.model.build(),
        [list(row.prompt) for row in case.rows],
        scheduler,
        gen_length=[row.gen_length for row in case.rows],
        open=[torch.tensor(mask, dtype=torch.bool) for mask in opens],
        sampler=Sampler(temperature=case.temperature),
        seed=case.seed,
    )
    histories: list[list[Any]] = [[] for _ in case.rows]
    for step in steps:
        for i, row in enumerate(step.rows.tolist()):
            length = len(case.rows[row].prompt) + case.rows[row].gen_length
            changed = torch.stack([step.decision.commit[i], step.decision.remask[i], step.decision.edit[i]])
            histories[row].append((changed[:, :length].nonzero().tolist(), step.tokens[i, :length].tolist()))
    return histories
