"""transformers: any Hugging Face module as a model of ours, and our decoding as `model.generate(custom_generate=...)`.

    model = wrap_hf(AutoModelForMaskedLM.from_pretrained(...), tokenizer)
    load_model("hf:FOLDER")
    hf_model.generate(ids, custom_generate=as_custom_generate(scheduler), max_new_tokens=64)

It runs our own loop, so every scheduler works; without a cache, since a module's own one is for causal models. Needs
the extra `transformers`. Knows no architecture: a module is tokens and an attention mask in, logits out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dllm_sdk.decoding import Step
from dllm_sdk.errors import ConfigError
from dllm_sdk.generation import generate
from dllm_sdk.model import check_eval, check_ids, checked_logits, whole
from dllm_sdk.sampling import Sampler
from dllm_sdk.scheduler import Scheduler

_HUGE = 10**9  # a tokenizer without a limit says 10**30


class HFTokenizer:
    """A Hugging Face tokenizer without the special tokens that it would add; those a text spells are read."""

    def __init__(self, tokenizer: Any) -> None:
        """Keep it."""
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text


@dataclass(frozen=True)
class HFModel:
    """A Hugging Face module as a model of ours; made by `wrap_hf`."""

    module: Any = field(repr=False)
    mask_id: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    shift: int
    max_length: int | None
    tokenizer: HFTokenizer | None = field(repr=False)
    block_causal: bool = field(default=False, init=False)
    reads_positions: bool = field(default=False, init=False)

    @property
    def device(self) -> torch.device:
        """The module's."""
        device: torch.device = self.module.device
        return device

    def forward(self, tokens: Tensor, positions: Tensor, store: Any, key_mask: Tensor | None) -> Tensor:
        """The module's logits [B, Q, V]. Rows start at column 0, so its own positions are right; dead ones masked."""
        seen = torch.ones_like(tokens) if key_mask is None else key_mask[:, 0].long()
        output = self.module(input_ids=tokens, attention_mask=seen)
        logits = getattr(output, "logits", output)
        return checked_logits(type(self.module).__name__, logits, tokens, self.vocab_size)

    def head(self, hidden: Tensor) -> Tensor:
        """The module already gave logits."""
        return hidden

    def new_store(self, rows: int, slots: int) -> Any:
        """Its keys and values are not ours to store."""
        raise ConfigError(
            "a Hugging Face module has no keys and values that we could cache: take cache none, that is NoCache()"
        )


def wrap_hf(
    model: Any,
    tokenizer: Any = None,
    *,
    mask_id: int | None = None,
    eos_ids: Sequence[int] | None = None,
    shift: int = 0,
    max_length: int | None = None,
) -> HFModel:
    """Make a model of a Hugging Face module `(input_ids, attention_mask) -> logits`, such as a masked LM or a dLLM.

    It must attend in both directions. `shift` 1: its logits at i predict token i + 1 (models grown from a causal one).
    What is not given comes from the tokenizer and from the module's config: the mask id, EOS ids (none: rows never stop
    early) and the longest canvas. Raises ConfigError where no mask id is found or an argument is out of its range, and
    for a module in training mode.
    """
    config = getattr(model, "config", None)
    if config is None or not callable(model):
        raise ConfigError(
            f"wrap_hf takes a Hugging Face module with a config, got {type(model).__name__}; else: wrap()"
        )
    check_eval(model)
    vocab_size = int(config.get_text_config().vocab_size)
    masks = _ids(mask_id, getattr(tokenizer, "mask_token_id", None), getattr(config, "mask_token_id", None))
    if len(masks) != 1:
        where = "put mask_token_id into config.json"
        raise ConfigError(f"neither tokenizer nor config names one mask token: give mask_id, or {where}")
    generation = getattr(model, "generation_config", None)
    ends = _ids(
        eos_ids,
        getattr(generation, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    check_ids(masks[0], ends, vocab_size, shift)
    mask, ends = index(masks[0]), tuple(map(index, ends))  # numpy's numbers could not be told in a trace
    longest = _longest(model, tokenizer) if max_length is None else whole("max_length", max_length)
    codec = None if tokenizer is None else HFTokenizer(tokenizer)
    return HFModel(model, mask, vocab_size, ends, shift, longest, codec)


def _longest(model: Any, tokenizer: Any) -> int | None:
    """The longest canvas that config, tokenizer and the module's positions have room for; None: no limit is known."""
    limits = [getattr(model.config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    for name, part in model.named_modules() if isinstance(model, nn.Module) else ():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            limits.append(part.num_embeddings - part.padding_idx - 1)  # as RoBERTa's, which begin behind the padding's
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < _HUGE), default=None)


def _ids(*sources: int | Iterable[int] | None) -> tuple[int, ...]:
    """The ids of the first source that has any. A tensor may be one number."""
    for source in sources:
        if source is not None:
            several = isinstance(source, Iterable) and getattr(source, "ndim", 1) > 0
            return tuple(cast("Iterable[int]", source)) if several else (cast(int, source),)
    return ()


def load(path: str | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> HFModel:
    """`hf:FOLDER`: a masked LM in the format of `save_pretrained`, with its tokenizer; the entry point of this name.

    Only safetensors and JSON are read, no code of the folder is run, and nothing is fetched. `dtype` None: as stored.
    Raises ConfigError for a folder that holds something else.
    """
    if not path:
        raise ConfigError("hf needs a folder of a masked language model: give hf:FOLDER")
    folder = Path(path)
    _check_folder(folder)
    try:
        from transformers import AutoModelForMaskedLM, AutoTokenizer
    except ImportError as error:
        raise ConfigError(f"hf:{path} needs the package transformers: pip install 'dllm-sdk[transformers]'") from error
    closed: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    options = {"dtype": dtype or "auto", "use_safetensors": True, "output_loading_info": True, **closed}
    try:
        module, info = AutoModelForMaskedLM.from_pretrained(folder, **options)
        has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer = AutoTokenizer.from_pretrained(folder, **closed) if has_tokenizer else None
    except Exception as error:  # the library raises all sorts for a torn or foreign folder
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folder} cannot be loaded as a masked LM ({type(error).__name__}: {reason})") from error
    if info["missing_keys"]:  # the library would go on with random numbers
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise ConfigError(f"{folder} lacks {len(info['missing_keys'])} of the model's tensors, such as {some}")
    return wrap_hf(module.to(device).eval(), tokenizer)


def _check_folder(folder: Path) -> None:
    """Say what is wrong with a folder before the library guesses."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} has no readable config.json ({error}): give a folder of save_pretrained"
        ) from error
    config = config if isinstance(config, dict) else {}
    if "auto_map" in config:
        raise ConfigError(
            f"{folder} brings its own code (auto_map in config.json), which is never run here: load it yourself, and "
            "hand the module to wrap_hf"
        )
    names = config.get("architectures") or []
    if not any(str(name).endswith("MaskedLM") for name in names):
        raise ConfigError(
            f"{folder} holds {', '.join(map(str, names)) or 'no named architecture'}, not a ...ForMaskedLM: load it "
            "yourself, and hand the module to wrap_hf with its shift and mask_id"
        )


def as_custom_generate(
    scheduler: Scheduler[Any],
    *,
    tokenizer: Any = None,
    mask_id: int | None = None,
    shift: int = 0,
    sampler: Sampler = Sampler(),  # noqa: B008  frozen
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> Callable[..., Any]:
    """Our decoding as the `custom_generate` of `model.generate`, which hands it prompts, lengths and EOS.

    It returns what `generate` would: ids [B, prompt + max_new_tokens], padding on the left as it came, or, with
    `return_dict_in_generate`, an object with `sequences` and `nfe`, a list. How tokens are drawn is the sampler's
    alone: `do_sample=True` needs one with a temperature, and `num_return_sequences` draws that many samples, with seed,
    seed + 1, ... transformers drops `streamer`: use `on_step`. Raises ConfigError for what a strategy cannot honour:
    beams, logits processors, stopping criteria of one's own, other inputs of the model.
    """

    def custom_generate(
        model: Any,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,  # a parameter that `generate` does not expect here would be handed over twice
    ) -> Any:
        _check_request(generation_config, sampler, [*logits_processor, *stopping_criteria], model_kwargs)
        eos = _ids(generation_config.eos_token_id)
        wrapped = wrap_hf(model, tokenizer, mask_id=mask_id, eos_ids=eos, shift=shift)
        seen = model_kwargs.get("attention_mask")
        real = torch.ones_like(input_ids) if seen is None else seen
        samples = generation_config.num_return_sequences or 1  # generate() has repeated the prompts already
        prompts = [ids[mask.bool()] for ids, mask in zip(input_ids[::samples], real[::samples], strict=True)]
        new = generation_config.max_length - input_ids.shape[1]
        options: dict[str, Any] = {"samples": samples, "sampler": sampler, "seed": seed, "on_step": on_step}
        answer = generate(wrapped, prompts, scheduler, gen_length=new, **options)
        tails = torch.stack([row[len(row) - new :] for row in answer.tokens]).to(input_ids.device)
        sequences = torch.cat([input_ids, tails], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        from transformers.utils import ModelOutput

        return ModelOutput(sequences=sequences, nfe=answer.nfe)

    return custom_generate


_INPUTS = {"attention_mask", "position_ids", "use_cache", "past_key_values", "cache_position", "logits_to_keep"}
_OWN = {"MaxLengthCriteria", "EosTokenCriteria"}  # what generate() adds by itself; the loop does both
_DRAWING = {"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"}  # and with do_sample; the sampler's part


def _check_request(config: Any, sampler: Sampler, hooks: Sequence[Any], inputs: dict[str, Any]) -> None:
    """Raise ConfigError for what was asked of `model.generate` and would be left undone."""
    foreign = sorted({type(hook).__name__ for hook in hooks} - _OWN - _DRAWING)
    if config.do_sample and not sampler.temperature:
        problem = "do_sample without a sampler: as_custom_generate(..., sampler=Sampler(temperature=...))"
    elif (config.num_beams or 1) > 1:
        problem = f"num_beams={config.num_beams}: a strategy has no beams"
    elif foreign:
        problem = f"{', '.join(foreign)}: give processors to the Sampler; a row ends at EOS or at its length"
    elif inputs.keys() - _INPUTS:
        problem = f"{', '.join(sorted(inputs.keys() - _INPUTS))}: only input_ids and attention_mask reach the model"
    else:
        return
    raise ConfigError(f"as_custom_generate cannot honour {problem}")
