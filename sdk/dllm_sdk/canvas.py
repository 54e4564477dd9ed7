"""From what a user passes to the canvas: prompts, masks to generate, positions to fill in. Knows no scheduler.

Rows start at column 0 and differ in length; the columns past a row's end are dead: never fed, never open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from dllm_sdk.errors import ConfigError
from dllm_sdk.model import Model, whole

Prompt: TypeAlias = str | Sequence[int] | Tensor
Prompts: TypeAlias = Prompt | Sequence[Prompt]
OpenMask: TypeAlias = Sequence[bool] | Tensor


class Canvas(NamedTuple):
    """What decoding starts from."""

    tokens: Tensor  # int64 [B, L]  prompt ids, then the mask id; 0 on dead columns
    open: Tensor  # bool [B, L]  what is to be generated
    length: Tensor  # int64 [B]  the row's own length
    seed: Tensor  # int64 [B]
    real: Tensor  # bool [B]  False: the row only fills a place in the batch

    @property
    def has_holes(self) -> bool:
        """Whether a given position lies behind one that is to be generated."""
        own = torch.arange(self.open.shape[1], device=self.open.device) < self.length[:, None]
        return bool(((self.open.cumsum(1) > 0) & ~self.open & own).any())


class _Row(NamedTuple):
    tokens: Tensor
    open: Tensor
    seed: int


def build_canvas(
    model: Model,
    prompt: Prompts,
    *,
    gen_length: int | Sequence[int],
    open: OpenMask | Sequence[OpenMask] | None = None,
    samples: int = 1,
    seed: int = 0,
) -> Canvas:
    """One row per prompt and sample: the prompt, then `gen_length` masks.

    `open` marks prompt positions that are generated too (infilling; what stands there is ignored): bool, as long as
    the prompt; a list of them for a list of prompts. Sample i of a prompt has seed + i. Raises ConfigError.
    """
    if not hasattr(model, "mask_id"):
        got = repr(model) if isinstance(model, str) else type(model).__name__
        raise ConfigError(f"model must be one that load_model, wrap or wrap_hf returns, or the like, got {got}")
    with torch.device("cpu"):  # until they are stacked, whatever torch's default is
        rows = _rows(model, prompt, gen_length=gen_length, open=open, samples=samples, seed=seed)
        return _stack(rows, model.device)


def up_to_eos(written: Sequence[int], eos_ids: Sequence[int]) -> int:
    """How many of a row's generated tokens count: those up to and including the first EOS."""
    return next((place for place, token in enumerate(written, 1) if token in eos_ids), len(written))


def _rows(model: Model, prompt: Prompts, *, gen_length: Any, open: Any, samples: int, seed: int) -> list[_Row]:
    prompts = [_ids(model, p, f"prompt {i}") for i, p in enumerate(_as_list(prompt))]
    lengths = [whole("gen_length", one) for one in _each(gen_length, len(prompts))]
    opens = _opens(prompts, open, single=_is_single(prompt))
    if len(lengths) != len(prompts):
        raise ConfigError(f"gen_length has {len(lengths)} entries for {len(prompts)} prompts: give one, or one each")
    samples, seed = whole("samples", samples), whole("seed", seed)
    if samples < 1:
        raise ConfigError(f"samples must be >= 1, got {samples}")
    if not 0 <= seed <= 2**63 - samples:
        raise ConfigError(f"seed must be a whole number >= 0, and seed + samples at most 2**63, got {seed}")
    return [
        _row(model, ids, mask, gen_length=length, seed=seed + sample, name=f"prompt {i}")
        for i, (ids, mask, length) in enumerate(zip(prompts, opens, lengths, strict=True))
        for sample in range(samples)
    ]


def _each(gen_length: object, count: int) -> Iterable[object]:
    """One for each prompt. A tensor may be one number, and a text is no list of them."""
    several = isinstance(gen_length, Iterable) and getattr(gen_length, "ndim", 1) > 0
    return cast("Iterable[object]", gen_length) if several and not isinstance(gen_length, str) else [gen_length] * count


def _is_single(prompt: Prompts) -> bool:
    if isinstance(prompt, Tensor):
        return prompt.dim() < 2
    return isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Integral))


def _as_list(prompt: Prompts) -> list[Prompt]:
    if isinstance(prompt, Mapping) or not (isinstance(prompt, Sized) and hasattr(prompt, "__getitem__")):
        raise ConfigError(f"prompt must be a text, token ids, or a list of either, got {type(prompt).__name__}")
    prompts = [prompt] if _is_single(prompt) else list(prompt)
    if not prompts:
        raise ConfigError("prompt is an empty list: give a text, token ids, or a list of either")
    return prompts  # type: ignore[return-value]


def _ids(model: Model, prompt: Prompt, name: str) -> Tensor:
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise ConfigError(f"{name} is a text, but the model has no tokenizer: give token ids")
        prompt = model.tokenizer.encode(prompt)
        name = f"what the model's tokenizer makes of {name}"
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(0, 0)  # no flat list
    if ids.numel() == 0:
        ids = ids.long()
    fractions = ids.dtype.is_floating_point or ids.dtype.is_complex
    if ids.dim() != 1 or fractions or ids.dtype == torch.bool:
        raise ConfigError(f"{name} must be a text or a flat list of token ids, got {str(prompt)[:60]!r}")
    ids = ids.long().cpu()
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < model.vocab_size:
        raise ConfigError(f"{name} has token ids outside 0..{model.vocab_size - 1}: {int(ids.min())}..{int(ids.max())}")
    return ids


def _opens(prompts: list[Tensor], open: OpenMask | Sequence[OpenMask] | None, *, single: bool) -> list[Tensor]:
    if open is None:
        return [torch.zeros(len(ids), dtype=torch.bool) for ids in prompts]
    if not isinstance(open, Sized):
        raise ConfigError(f"open must be bools, one per prompt token, or a list of such masks, got {open!r}")
    try:
        masks = [torch.as_tensor(mask).cpu() for mask in ([open] if single else open)]
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"open must be bools, one per prompt token, or a list of such masks, got {open!r}") from None
    masks = [mask if mask.numel() else mask.bool() for mask in masks]
    if len(masks) != len(prompts):
        raise ConfigError(f"open has {len(masks)} masks for {len(prompts)} prompts: give one per prompt")
    for i, (ids, mask) in enumerate(zip(prompts, masks, strict=True)):
        if mask.shape != ids.shape or mask.dtype != torch.bool:
            raise ConfigError(
                f"open for prompt {i} must be {len(ids)} bools, one per prompt token, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
    return masks


def _row(model: Model, ids: Tensor, open: Tensor, *, gen_length: int, seed: int, name: str) -> _Row:
    if gen_length < 0 or (gen_length == 0 and not open.any()):
        raise ConfigError(f"gen_length must be >= 1 (or 0 with `open` positions to fill in), got {gen_length}")
    total = len(ids) + gen_length
    if model.max_length is not None and total > model.max_length:
        raise ConfigError(
            f"{name} has {len(ids)} tokens and asks for {gen_length} more, "
            f"but the model's context holds {model.max_length}: shorten one of them"
        )
    tokens = torch.cat([ids.masked_fill(open, model.mask_id), torch.full((gen_length,), model.mask_id)])
    return _Row(tokens, torch.cat([open, torch.ones(gen_length, dtype=torch.bool)]), seed)


def _stack(rows: list[_Row], device: torch.device) -> Canvas:
    tokens = pad_sequence([row.tokens for row in rows], batch_first=True)
    open = pad_sequence([row.open for row in rows], batch_first=True)
    length = torch.tensor([len(row.tokens) for row in rows])
    seed = torch.tensor([row.seed for row in rows])
    real = torch.ones(len(rows), dtype=torch.bool)
    return Canvas(tokens.to(device), open.to(device), length.to(device), seed.to(device), real.to(device))


def padded(canvas: Canvas, rows: int, width: int) -> Canvas:
    """The canvas with dead columns, and with copies of its first row that are not real, up to a size."""
    more, wider = rows - len(canvas.tokens), width - canvas.tokens.shape[1]
    grown = Canvas(*(torch.cat([part, part[:1].expand(more, *part.shape[1:])]) for part in canvas))
    real = grown.real & (torch.arange(rows, device=grown.real.device) < rows - more)
    return grown._replace(tokens=pad(grown.tokens, (0, wider)), open=pad(grown.open, (0, wider)), real=real)
