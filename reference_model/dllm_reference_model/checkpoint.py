"""Our checkpoint folder: config.json, model.safetensors and, if there is a tokenizer, tokenizer.json.

Only JSON and safetensors are ever read, so loading runs no code from the folder. Shapes in the header are compared with
the config before anything is allocated. It does not know other projects' layouts; `expected_shapes` is what a map from
their tensor names has to fill.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_reference_model.tokenizer import Tokenizer

FORMAT = "dllm-reference-model/1"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
LARGEST = 2**28  # of one size in a config: far beyond any model, far below what overflows
MOST = 1e12  # of any other number
Header = dict[str, tuple[tuple[int, ...], str]]  # tensor -> shape and stored type
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file or tensor, what was found and what fits."""


def save(model: Transformer, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder; each file is replaced whole, never left half written. dtype None: as the model is.

    Raises CheckpointError, before anything is written, for a model that could not be loaded: one whose maps were
    replaced by others, or hold their weights in eight bits.
    """
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    _check_state(state, model.config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, **asdict(model.config)}
    with replacing(folder / WEIGHTS) as path:
        save_file(state, path, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if isinstance(model.tokenizer, Tokenizer):
        with replacing(folder / TOKENIZER) as path:
            model.tokenizer.save(path)


def load(folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a checkpoint folder straight to a device and dtype (None: as stored), ready for decoding.

    Raises CheckpointError for a missing, torn or wrong file.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    tokenizer = _read_tokenizer(folder / TOKENIZER, config) if (folder / TOKENIZER).exists() else None
    weights = existing(folder / WEIGHTS)
    header = read_header(weights)
    check_depth(weights, config, len(header))
    with torch.device("meta"):  # no memory, no initial values
        model = Transformer(config, tokenizer)
    expected = expected_shapes(model)
    _check_header(weights, header, expected)
    model.load_state_dict(read_tensors(weights, expected, torch.device(device), dtype), assign=True)
    return model.freeze()


def _check_state(state: Mapping[str, Tensor], config: Config) -> None:
    """What `load` would ask of a file with these tensors."""
    with torch.device("meta"):
        expected = expected_shapes(Transformer(config))
    stored = {dtype: name for name, dtype in FLOATS.items()}
    header = {name: (tuple(one.shape), stored.get(one.dtype, str(one.dtype))) for name, one in state.items()}
    _check_header("the model", header, expected)


def _check_header(where: Path | str, header: Header, expected: Mapping[str, tuple[int, ...]]) -> None:
    check_names(where, header, expected)
    for name, shape in expected.items():
        check_tensor(where, name, header[name], shape)


def expected_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this config needs."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def read_config(path: Path) -> Config:
    """The config in a config.json of our own format."""
    found = read_json(existing(path), "a model config")
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise CheckpointError(f'{path} is not a config of this package, expected an object with "format": "{FORMAT}"')
    known = {field.name: field for field in fields(Config)}
    for name in found:
        if name not in known:
            raise CheckpointError(f"{path} has the unknown field {name!r}, expected only {', '.join(known)}")
    for name, field in known.items():
        if name in found:
            found[name] = _typed(path, name, found[name], field.type)
        elif field.default is MISSING:
            raise CheckpointError(f"{path} has no field {name!r}, which is needed")
    try:
        return Config(**found)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _typed(path: Path, name: str, value: Any, kind: Any) -> Any:
    """A JSON value as the config field's type."""
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    if kind == tuple[int, ...] and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    wanted = {bool: "true or false", int: f"a whole number up to {LARGEST}", float: f"a number up to {MOST:g}"}.get(
        kind, "a list of whole numbers"
    )
    raise CheckpointError(f"{path}: {name} is {value!r}, expected {wanted}")


def _read_tokenizer(path: Path, config: Config) -> Tokenizer:
    try:
        tokenizer = Tokenizer.load(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} tokens, expected at most the config's vocab_size {config.vocab_size}"
        )
    return tokenizer


def read_json(path: Path, wanted: str) -> Any:
    """What a JSON file holds; `wanted` says in the error what it should have been."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        raise CheckpointError(f"{path} is not JSON ({error}), expected {wanted}") from None


def read_header(path: Path) -> Header:
    """Shape and stored type of every tensor of a safetensors file; nothing is allocated."""
    with opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in found.items()}


def read_tensors(
    path: Path, names: Iterable[str], device: torch.device, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Tensors of a safetensors file, each straight to its device and type (None: as stored), one after another.

    On the CPU and as stored they are views of the file, which must not be written to while they are in use.
    """
    place = "cpu" if device.type == "cpu" else str(device)  # safetensors does not know cpu:0
    with opened(path, place) as file:
        return {name: file.get_tensor(name).to(dtype) for name in names}


def check_depth(path: Path, config: Config, tensors: int) -> None:
    """There are enough tensors, before that many layers are built, even without memory."""
    if config.layers > tensors:
        raise CheckpointError(f"{path} has too few tensors for the {config.layers} layers of {CONFIG}")


def check_names(where: Path | str, found: Iterable[str], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Every expected tensor is there and no other."""
    names = set(found)
    for name, shape in expected.items():
        if name not in names:
            raise CheckpointError(f"{where} has no tensor {name}, expected one of shape {list(shape)}")
    for name in sorted(names - expected.keys()):
        raise CheckpointError(f"{where} has the tensor {printable(name)}, which this config does not have")


def check_tensor(where: Path | str, name: str, found: tuple[tuple[int, ...], str], shape: tuple[int, ...]) -> None:
    """One tensor of a header has the shape that the config gives it, and a floating point type."""
    if found[0] != shape:
        raise CheckpointError(f"{where}: tensor {name} has shape {list(found[0])}, expected {list(shape)}")
    if found[1] not in FLOATS:
        raise CheckpointError(f"{where}: tensor {name} is {found[1]}, expected one of {', '.join(FLOATS)}")


def printable(name: str) -> str:
    """A name from a file as one short line, whatever is in it."""
    return name if name.isprintable() and len(name) <= 120 else repr(name[:120])


def existing(path: Path) -> Path:
    """The path, if it is a file."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, expected a checkpoint folder with {CONFIG} and {WEIGHTS}")
    return path


@contextmanager
def opened(path: Path, device: str = "cpu") -> Iterator[Any]:
    """A safetensors file to read from. Raises CheckpointError if it is none, OSError if there is none."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is torn or not a safetensors file ({reason})") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` in one step if nothing fails. Raises OSError."""
    draft = path.with_name(f".{path.name}.{token_hex(4)}")  # another name for every writer
    try:
        yield draft
        os.replace(draft, path)
    except SafetensorError as error:  # on a full disk, safetensors does not raise OSError
        raise OSError(f"{path} cannot be written ({error})") from None
    finally:
        draft.unlink(missing_ok=True)
