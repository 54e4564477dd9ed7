"""What happened to a row at every step: replay it, compare it, save it.

A trace is data: the canvas as it was given and, per step, what was computed and what was done with it. `recorder` makes
it of the loop's `Step`s, which carry all of it anyway, so a run without a trace does nothing for it. Knows no loop and
no model; its file format is in docs/reference/trace-format.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dllm_sdk.canvas import up_to_eos
from dllm_sdk.errors import ConfigError
from dllm_sdk.writing import write_whole

SCHEMA = "dllm-trace/1"
End: TypeAlias = Literal["open", "held", "full", "eos", "stop"]
ENDS: tuple[End, ...] = ("open", "held", "full", "eos", "stop")
"""What became of the block with a step. It goes on: with masks (open), or without, since the scheduler holds it (held).
It ended: no mask is left (full), the row ended before that at an EOS (eos), or because the scheduler said so (stop)."""
OPEN, COMMITTED, COMMIT, REMASK, EDIT = 1, 2, 4, 8, 16  # bits of Trace.flags
WRITES = COMMIT | EDIT


class TraceStep(NamedTuple):
    """One step of one row. W positions were computed: the block's, and those ahead of it that `plan` asked for."""

    number: int  # from 1: the row's NFE after the step
    block: int  # number of the block, from 1
    position: Tensor  # int64 [W]  ascending
    draft: Tensor  # int64 [W]
    confidence: Tensor  # float16 [W]
    open: Tensor  # bool [W]  masks of the block
    committed: Tensor  # bool [W]  committed in the block before; only if the scheduler revises
    commit: Tensor  # bool [W]
    remask: Tensor  # bool [W]
    edit: Tensor  # bool [W]
    written: Tensor  # int64 [W]  what commit and edit wrote; the draft elsewhere
    margin: Tensor  # float16 [W]  likeliest token minus the second where something was written; 0 elsewhere
    end: End  # what became of the block
    refresh: bool  # whether a cache was recomputed
    fed: int  # positions computed


class Parting(NamedTuple):
    """Where two traces part."""

    step: int  # the first one that differs, from 1
    what: Literal["block", "commit", "remask", "edit", "token", "end"]
    position: int | None  # the lowest one that differs; None if nothing but the end does
    margin: float | None  # how near it was, see `Trace.diff`


@dataclass(frozen=True, eq=False)
class Trace:
    """One row, step by step: N canvas positions, S steps, C computed positions in all steps, K tokens written.

    `trace[i]` is a `TraceStep`, `len(trace)` the row's NFE. A row has the same trace alone and in any batch.
    """

    tokens: Tensor  # int64 [N]  the canvas before the first step
    open: Tensor  # bool [N]  what is to be generated
    offsets: Tensor  # int64 [S + 1]  step i computed entries offsets[i]:offsets[i + 1]
    position: Tensor  # int64 [C]
    draft: Tensor  # int64 [C]
    confidence: Tensor  # float16 [C]  to 0.0005 near 1
    flags: Tensor  # uint8 [C]  the bits OPEN, COMMITTED, COMMIT, REMASK, EDIT
    written: Tensor  # int64 [K]  what commits and edits wrote, in the order of the entries
    margin: Tensor  # float16 [K]  probability of the likeliest token there minus that of the second
    end: Tensor  # uint8 [S]  index into ENDS
    refresh: Tensor  # bool [S]
    fed: Tensor  # int64 [S]
    about: dict[str, Any]  # plain data: mask_id, fill, scheduler, seed, ...; texts of tokens by id, if known

    def __repr__(self) -> str:
        """What it is a trace of, in a line."""
        return f"Trace({self.about.get('scheduler')}: {len(self)} steps, {int(self.open.sum())} positions)"

    def __len__(self) -> int:
        """How many steps."""
        return len(self.end)

    def __getitem__(self, index: int) -> TraceStep:
        """Step `index` (from 0; negative from the end). Raises IndexError."""
        index = range(len(self))[index]
        entries, mine = (slice(*bounds[index : index + 2]) for bounds in (self._entries, self._writes))
        flags = self.flags[entries]
        wrote = (flags & WRITES) > 0
        open, committed, commit, remask, edit = ((flags & bit) > 0 for bit in (OPEN, COMMITTED, COMMIT, REMASK, EDIT))
        return TraceStep(
            number=index + 1,
            block=self._blocks[index],
            position=self.position[entries],
            draft=self.draft[entries],
            confidence=self.confidence[entries],
            open=open,
            committed=committed,
            commit=commit,
            remask=remask,
            edit=edit,
            written=self.draft[entries].masked_scatter(wrote, self.written[mine]),
            margin=self.margin.new_zeros(len(flags)).masked_scatter(wrote, self.margin[mine]),
            end=ENDS[int(self.end[index])],
            refresh=bool(self.refresh[index]),
            fed=int(self.fed[index]),
        )

    # Counted once for all steps: to count anew for each would take the square of their number.
    @cached_property
    def _entries(self) -> list[int]:
        """The offsets."""
        return self.offsets.tolist()

    @cached_property
    def _writes(self) -> list[int]:
        """The same for `written` and `margin`: step i wrote entries [i]:[i + 1] of them."""
        until = ((self.flags & WRITES) > 0).cumsum(0)
        return torch.cat([until.new_zeros(1), until])[self.offsets].tolist()

    @cached_property
    def _blocks(self) -> list[int]:
        """The number of each step's block."""
        full = (self.end == ENDS.index("full")).long()
        return (1 + full.cumsum(0) - full).tolist()

    def __iter__(self) -> Iterator[TraceStep]:
        """Every step."""
        return (self[index] for index in range(len(self)))

    def replay(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The tokens, int64 [N], and which of them are masks, bool [N]: before the first step and after each."""
        tokens, masked = self.tokens.clone(), self.open.clone()
        yield tokens.clone(), masked.clone()
        for step in self:
            wrote = step.commit | step.edit
            tokens[step.position[wrote]] = step.written[wrote]
            tokens[step.position[step.remask]] = self.about["mask_id"]
            masked[step.position[wrote]], masked[step.position[step.remask]] = False, True
            if step.number == len(self) and masked.any():  # the row ended before it was full
                tokens[masked] = self.about["fill"]
                masked.fill_(False)
            yield tokens.clone(), masked.clone()

    def canvas(self, steps: int | None = None) -> Tensor:
        """The tokens after so many steps (None: all), int64 [N]. Raises ConfigError."""
        steps = len(self) if steps is None else steps
        if not 0 <= steps <= len(self):
            raise ConfigError(f"steps must be from 0 to {len(self)}, the steps of the trace, got {steps}")
        return next(islice(self.replay(), steps, None))[0]

    @property
    def generated(self) -> int:
        """The number of tokens generated, up to and including the first EOS."""
        return up_to_eos(self.canvas()[self.open].tolist(), self.about.get("eos_ids", ()))

    def order(self) -> Tensor:
        """The step, from 1, whose commit stands at each position, int64 [N]; 0 where nothing was committed."""
        order = torch.zeros_like(self.tokens)
        for step in self:
            order[step.position[step.commit]] = step.number
            order[step.position[step.remask]] = 0
        return order

    def diff(self, other: Trace) -> Parting | None:
        """Where another trace of the same canvas parts from this one; None if it never does.

        The margin says how near it was. For a token it is the probability of the likeliest minus that of the second,
        the smaller one of the two traces. For a position that only one of them has in its block, commits, remasks or
        edits, it is the difference between the two traces' confidences there: if both followed the same rule, the
        threshold or rank between them is nearer than that, and 0 says that the same number was decided differently.
        None where only one of them computed the position. Raises ConfigError for another canvas.
        """
        if not (torch.equal(self.tokens, other.tokens) and torch.equal(self.open, other.open)):
            raise ConfigError("the traces start from different canvases: trace the same prompt and gen_length")
        for mine, theirs in zip(self, other, strict=False):
            parting = _part(mine, theirs)
            if parting is not None:
                return parting
        shorter = min(len(self), len(other))
        return None if len(self) == len(other) else Parting(shorter + 1, "end", None, None)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; whole numbers as narrow as they fit. Raises OSError."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "about"]
        tensors = {name: _narrow(getattr(self, name)) for name in names}
        write_whole(path, save(tensors, {"schema": SCHEMA, "about": json.dumps(self.about, ensure_ascii=False)}))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote. Raises ConfigError for any other file, or a damaged one."""
        if not os.path.isfile(path):
            raise ConfigError(f"there is no trace file {path}")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path} is no trace, or a damaged one: {error}") from None
        if metadata.get("schema") != SCHEMA:
            found = metadata.get("schema", "no schema at all")
            raise ConfigError(f"{path} holds {found}, and this version reads {SCHEMA}: record the trace again")
        try:
            wide = {name: value.long() if value.dtype in _WHOLE else value for name, value in tensors.items()}
            trace = cls(**wide, about=json.loads(metadata["about"]))
            problem = _problem(trace)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # a field too many or too few, or of a kind
            problem = f"{type(error).__name__}: {error}"
        if problem:
            raise ConfigError(f"{path} is a damaged trace: {problem}")
        return trace


def to_flags(open: Tensor, committed: Tensor, commit: Tensor, remask: Tensor, edit: Tensor) -> Tensor:
    """Bool tensors of one shape as the bits of `Trace.flags`, int64."""
    return open * OPEN + committed * COMMITTED + commit * COMMIT + remask * REMASK + edit * EDIT


def _part(mine: TraceStep, theirs: TraceStep) -> Parting | None:
    """Where two steps from equal canvases differ."""
    sets: Sequence[tuple[Literal["block", "commit", "remask", "edit"], Tensor, Tensor]] = (
        ("block", mine.open | mine.committed, theirs.open | theirs.committed),
        ("commit", mine.commit, theirs.commit),
        ("remask", mine.remask, theirs.remask),
        ("edit", mine.edit, theirs.edit),
    )
    for what, left, right in sets:
        differing = set(mine.position[left].tolist()) ^ set(theirs.position[right].tolist())
        if differing:
            position = min(differing)
            seen = [dict(zip(s.position.tolist(), s.confidence.tolist(), strict=True)) for s in (mine, theirs)]
            both = all(position in one for one in seen)
            return Parting(mine.number, what, position, abs(seen[0][position] - seen[1][position]) if both else None)
    left, right = mine.commit | mine.edit, theirs.commit | theirs.edit
    other = mine.written[left] != theirs.written[right]
    if other.any():
        at = int(other.nonzero()[0, 0])
        near = min(float(mine.margin[left][at]), float(theirs.margin[right][at]))
        return Parting(mine.number, "token", int(mine.position[left][at]), near)
    return None if mine.end == theirs.end else Parting(mine.number, "end", None, None)


_WHOLE = (torch.int16, torch.int32, torch.int64)
_KINDS = {  # of the fields that are not int64
    "open": torch.bool,
    "refresh": torch.bool,
    "flags": torch.uint8,
    "end": torch.uint8,
    "confidence": torch.float16,
    "margin": torch.float16,
}


def _narrow(tensor: Tensor) -> Tensor:
    """int64 as the narrowest type of _WHOLE that holds it; anything else as it is."""
    if tensor.dtype != torch.int64:
        return tensor.contiguous()
    top = int(tensor.abs().max()) if len(tensor) else 0
    return tensor.to(next(kind for kind in _WHOLE if top <= torch.iinfo(kind).max))


def _problem(trace: Trace) -> str | None:
    """What is wrong with data that was read, if anything is."""
    for item in dataclasses.fields(trace):
        kind = _KINDS.get(item.name, torch.int64)
        if item.name != "about" and getattr(trace, item.name).dtype != kind:
            return f"{item.name} holds {getattr(trace, item.name).dtype}, not {kind}"
    steps, entries, length = len(trace.end), len(trace.position), len(trace.tokens)
    sizes = {"open": length, "offsets": steps + 1, "refresh": steps, "fed": steps, "draft": entries, "flags": entries}
    sizes |= {"confidence": entries, "written": int(((trace.flags & WRITES) > 0).sum()), "margin": len(trace.written)}
    for name, size in sizes.items():
        if getattr(trace, name).shape != (size,):
            return f"{name} has shape {list(getattr(trace, name).shape)}, not [{size}]"
    if int(trace.offsets[0]) != 0 or int(trace.offsets[-1]) != entries or bool((trace.offsets.diff() < 0).any()):
        return "offsets do not cut the entries into steps"
    if bool(((trace.position < 0) | (trace.position >= length)).any()):
        return "a position lies outside the canvas"
    if bool((trace.end >= len(ENDS)).any()):
        return "a block ended in an unknown way"
    if not isinstance(trace.about, dict):
        return "about is no object"
    if not isinstance(trace.about.get("mask_id"), int) or not isinstance(trace.about.get("fill"), int | None):
        return "mask_id or fill is missing"
    return None
