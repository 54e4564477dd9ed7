"""LLaDA's and Dream's public checkpoint folders, read into our own transformer.

`layouts` says what a folder's config.json and its tensor names mean; here they are read. Only JSON and safetensors are,
no pickle, and no code of the folder is run. Every name, shape and type is compared with the config before a tensor is
allocated. It knows no decoding and no download.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer

from dllm_reference_model.checkpoint import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    CheckpointError,
    Header,
    check_depth,
    check_names,
    check_tensor,
    existing,
    expected_shapes,
    printable,
    read_header,
    read_tensors,
)
from dllm_reference_model.config import Config
from dllm_reference_model.layouts import Fields, Given, Layout, shown
from dllm_reference_model.model import Transformer

INDEX = "model.safetensors.index.json"
GENERATION, WORDS = "generation_config.json", "tokenizer_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

Headers = dict[Path, Header]  # of each file


class PublicTransformer(Transformer):
    """A transformer from a public checkpoint."""

    revision: str | None = None  # the commit it was fetched from the hub with


class TextTokenizer:
    """A folder's tokenizer.json: text to token ids and back.

    `encode` adds no token, and reads special tokens where the text spells them, which a chat prompt relies on;
    `decode` leaves special tokens out.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        self.vocab_size: int = fast.get_vocab_size()
        self._fast = fast

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        try:
            return cls(FastTokenizer.from_str(path.read_text(encoding="utf-8")))
        except OSError:
            raise
        except Exception as error:  # the library raises bare Exception for any fault in the file
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is not a tokenizer.json ({reason})") from None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._fast.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def id_of(self, token: str) -> int | None:
        found: int | None = self._fast.token_to_id(token)
        return found


def load(
    layout: Layout, folder: Path, device: torch.device, dtype: torch.dtype | None, given: Given
) -> PublicTransformer:
    """A folder in a layout, straight to a device and dtype (None: as stored). Raises CheckpointError."""
    fields = Fields.read(existing(folder / CONFIG))
    fields.require(layout)
    tokenizer = TextTokenizer.load(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    config = _config(layout, fields, _special_ids(layout, fields, tokenizer, given))
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size} tokens, expected at most {CONFIG}'s {config.vocab_size}"
        )
    source, headers = _headers(folder)
    check_depth(source, config, sum(map(len, headers.values())))
    with torch.device("meta"):  # no memory, no initial values
        model = PublicTransformer(config, tokenizer)
    shapes = expected_shapes(model)
    ours = {_public_name(layout, name): name for name in shapes}
    _check(layout, source, headers, {name: shapes[ours[name]] for name in ours}, config.tied)
    if dtype is None:
        _check_one_type(headers)
    state = {
        ours[name]: tensor
        for path, header in headers.items()
        for name, tensor in read_tensors(path, header, device, dtype).items()
    }
    model.load_state_dict(state, assign=True)
    del state  # or `freeze` would hold most weights twice
    return model.freeze()


def _config(layout: Layout, fields: Fields, ids: tuple[int, tuple[int, ...]]) -> Config:
    sizes = layout.sizes(fields)
    tied = fields.flag(layout.tied)
    try:
        return Config(**sizes, tied=tied, mask_id=ids[0], eos_ids=ids[1])
    except ValueError as error:
        raise CheckpointError(f"{fields.path}: {error}") from None


def _special_ids(
    layout: Layout, config: Fields, tokenizer: TextTokenizer | None, given: Given
) -> tuple[int, tuple[int, ...]]:
    """mask_id and eos_ids: what the caller says, else the first file that names one."""
    generation = Fields.beside(config.path.with_name(GENERATION))
    words = Fields.beside(config.path.with_name(WORDS))

    def find(role: str) -> tuple[int, ...]:
        named = _token_id(words, words.found.get(f"{role}_token"), tokenizer)
        return config.token_ids(f"{role}_token_id") or generation.token_ids(f"{role}_token_id") or named

    masks = (given.mask_id,) if given.mask_id is not None else find("mask")
    if len(masks) != 1:
        raise config.error("mask_token_id", "one token id, or the argument mask_id")
    if given.eos_ids is not None:
        return masks[0], tuple(given.eos_ids)
    ends = find("eos")
    if not ends:
        raise config.error("eos_token_id", "a token id, or the argument eos_ids (empty: rows never stop early)")
    ends += _token_id(words, layout.turn_end, tokenizer)
    return masks[0], tuple(dict.fromkeys(ends))


def _token_id(words: Fields, token: Any, tokenizer: TextTokenizer | None) -> tuple[int, ...]:
    """The id of a special token, by its text: of tokenizer.json, else of tokenizer_config.json; empty if unknown."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        return ()
    found = None if tokenizer is None else tokenizer.id_of(text)
    if found is not None:
        return (found,)
    added = words.found.get("added_tokens_decoder", {})
    if not isinstance(added, dict):
        raise words.error("added_tokens_decoder", "an object")
    return tuple(
        int(key)
        for key, entry in added.items()
        if isinstance(entry, dict) and entry.get("content") == text and key.isdecimal() and len(key) < 10
    )[:1]


def _headers(folder: Path) -> tuple[Path, Headers]:
    """The file that lists all tensors, and the header of each file that holds some."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise CheckpointError(f"{folder} has both {WEIGHTS} and {INDEX}, expected one of them")
    if single.is_file():
        return single, {single: read_header(single)}
    if index.is_file():
        return index, _shards(index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    found = f"only {printable(pickles[0])}, a pickle, which is never read" if pickles else "no weights"
    raise CheckpointError(f"{folder} has {found}, expected {WEIGHTS} or {INDEX}")


def _shards(index: Path) -> Headers:
    """The header of every file that an index names, compared with what the index says about it."""
    fields = Fields.read(index)
    places = fields.found.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise fields.error("weight_map", "an object from tensor to file")
    headers: Headers = {}
    for tensor, name in places.items():
        if not _bare(name):
            raise CheckpointError(
                f"{index} puts {printable(tensor)} into {shown(name)}, expected the bare name of a .safetensors file"
            )
        path = index.with_name(name)
        if path not in headers:
            if not path.is_file():
                raise CheckpointError(f"{path} does not exist, but {INDEX} puts {printable(tensor)} into it")
            headers[path] = read_header(path)
        if tensor not in headers[path]:
            raise CheckpointError(f"{path} has no tensor {printable(tensor)}, which {INDEX} puts into it")
    for path, header in headers.items():
        for tensor in header:
            if places.get(tensor) != path.name:
                raise CheckpointError(f"{path} has the tensor {printable(tensor)}, which {INDEX} does not put into it")
    return headers


def _bare(name: Any) -> bool:
    """Whether a value is a file name on any system that nothing outside the folder can have."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and len(name) <= 200
        and name.isprintable()
        and not any(sign in name for sign in "/\\:")
    )


def _public_name(layout: Layout, ours: str) -> str:
    """Their name of one of our tensors: `layers.3.mlp.up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
    module, _, kind = ours.rpartition(".")
    parts = module.split(".")
    if parts[0] != "layers":
        return f"{layout.names[module]}.{kind}"
    number, parts[1] = parts[1], "*"
    return f"{layout.names['.'.join(parts)]}.{kind}".replace("*", number)


def _check(layout: Layout, source: Path, headers: Headers, expected: Mapping[str, tuple[int, ...]], tied: bool) -> None:
    """Names, shapes and types of all files against the config."""
    names = {name for header in headers.values() for name in header}
    head = layout.names["unembed"] + ".weight"
    if tied == (head in names):
        has, says = ("the", "true") if tied else ("no", "false")
        raise CheckpointError(f"{source} has {has} tensor {head}, but {layout.tied} in {CONFIG} is {says}")
    check_names(source, names, expected)
    for path, header in headers.items():
        for name, found in header.items():
            check_tensor(path, name, found, expected[name])


def _check_one_type(headers: Headers) -> None:
    """All tensors are stored in one type, so that `as stored` has a meaning."""
    first: tuple[str, str] | None = None
    for path, header in headers.items():
        for name, (_, kind) in header.items():
            first = first or (name, kind)
            if kind != first[1]:
                raise CheckpointError(
                    f"{path}: tensor {name} is {kind}, but {first[0]} is {first[1]}: give the dtype to convert all to"
                )
