"""Checkpoints come back as they were, and every way to spoil one gives one sentence that names the file or tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dllm_reference_model import checkpoint
from dllm_reference_model.checkpoint import CheckpointError
from dllm_reference_model.config import Config
from dllm_reference_model.load import WEIGHTS
from dllm_reference_model.model import Transformer
from dllm_reference_model.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(WEIGHTS / "tokenizer.json")
CONFIG = Config(
    vocab_size=TOKENIZER.vocab_size, mask_id=0, eos_ids=(1,), width=16, layers=2, heads=2, kv_heads=1, mlp_width=24,
    qk_norm=True, qkv_bias=True,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint.save(Transformer(CONFIG, TOKENIZER), tmp_path / "model")
    return tmp_path / "model"


def test_what_is_saved_comes_back(folder: Path) -> None:
    torch.manual_seed(0)
    wanted, found = Transformer(CONFIG), checkpoint.load(folder)
    assert found.config == CONFIG and not found.training
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    assert found.tokenizer is not None and found.tokenizer.decode(found.tokenizer.encode("a=1")) == "a=1"


def test_dtypes(folder: Path) -> None:
    model = checkpoint.load(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    checkpoint.save(model, folder)
    assert checkpoint.load(folder).dtype == torch.bfloat16
    assert checkpoint.load(folder, dtype=torch.float64).dtype == torch.float64
    checkpoint.save(model, folder, dtype=torch.float16)
    assert checkpoint.load(folder).dtype == torch.float16


def test_a_cpu_may_have_a_number(folder: Path) -> None:
    assert checkpoint.load(folder, device="cpu:0").device.type == "cpu"


def test_a_tokenizer_is_optional(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert checkpoint.load(folder).tokenizer is None


@pytest.mark.parametrize("kind", [OSError, SafetensorError])  # the second from within safetensors
def test_a_failed_save_leaves_the_old_file(
    kind: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def full(state: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise kind("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(checkpoint.load(folder), folder)
    assert (folder / "model.safetensors").read_bytes() == before and len(list(folder.iterdir())) == 3


def test_two_who_save_into_one_folder_do_not_meet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, write, others = checkpoint.load(folder), save_file, [1]

    def in_between(state: dict[str, torch.Tensor], path: Path, **how: Any) -> None:
        write(state, path, **how)
        if others:
            others.pop()
            checkpoint.save(model, folder)

    monkeypatch.setattr(checkpoint, "save_file", in_between)
    checkpoint.save(model, folder)
    assert checkpoint.load(folder).config == CONFIG and len(list(folder.iterdir())) == 3


def test_what_could_not_be_loaded_is_not_saved(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    other = checkpoint.load(folder)
    other.layers[0].mlp.up = torch.nn.Sequential(other.layers[0].mlp.up)
    with pytest.raises(CheckpointError, match=r"^the model has no tensor layers.0.mlp.up.weight, expected one of"):
        checkpoint.save(other, folder)
    other = checkpoint.load(folder)
    other.embed = torch.nn.Embedding(500, 16)
    with pytest.raises(CheckpointError, match=r"the model: tensor embed.weight has shape \[500, 16\], expected \[420,"):
        checkpoint.save(other, folder)
    with pytest.raises(CheckpointError, match=r"the model: tensor .* is torch.float8_e4m3fn, expected one of F64, F32"):
        checkpoint.save(checkpoint.load(folder), folder, dtype=torch.float8_e4m3fn)
    assert (folder / "model.safetensors").read_bytes() == before


def config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v != "absent"}))

    return spoil


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return spoil


def raw(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


KEY = "layers.1.attention.key.weight"
SPOILED = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
    "config cut": (raw("config.json", lambda b: b[:40]), "config.json is not JSON"),
    "config binary": (raw("config.json", lambda b: b"\xff\xfe" + b), "config.json is not JSON"),
    "config a list": (raw("config.json", lambda b: b"[1]"), "config.json is not a config of this package"),
    "other format": (config(format="x"), "config.json is not a config of this package"),
    "unknown field": (config(depth=3), "config.json has the unknown field 'depth'"),
    "missing field": (config(width="absent"), "config.json has no field 'width'"),
    "text for a number": (config(width="16"), "width is '16', expected a whole number"),
    "true for a number": (config(layers=True), "layers is True, expected a whole number"),
    "number for a flag": (config(tied=1), "tied is 1, expected true or false"),
    "text for a float": (config(rope_base="big"), "rope_base is 'big', expected a number"),
    "nan": (config(rope_base=float("nan")), "rope_base is nan, expected a number up to 1e"),
    "number for a list": (config(eos_ids=1), "eos_ids is 1, expected a list of whole numbers"),
    "bad value": (config(heads=0), "config.json: heads must be >= 1, got 0"),
    "mask outside": (config(mask_id=9999), "token ids must be in 0..419, got 9999"),
    "too few words": (config(vocab_size=100), "tokenizer.json has 420 tokens, expected at most"),
    "other width": (config(width=32), r"tensor embed.weight has shape \[420, 16\], expected \[420, 32\]"),
    "a billion layers": (config(layers=10**8), "has too few tensors for the 100000000 layers of config.json"),
    "beyond any model": (config(width=2**62), f"width is {2**62}, expected a whole number up to 268435456"),
    "theta huge": (config(rope_base=10**400), "rope_base is 1000.*, expected a number up to 1e"),
    "theta infinite": (config(rope_base=float("inf")), "rope_base is inf, expected a number up to 1e"),
    "enormous": (config(mlp_width=2**28), r"tensor layers.0.mlp.gate.weight has shape \[24, 16\], expected"),
    "more layers": (config(layers=3), "has no tensor layers.2.attention_norm.weight"),
    "fewer layers": (config(layers=1), "has the tensor layers.1.attention.key.bias, which this config does not have"),
    "tied": (config(tied=True), "has the tensor unembed.weight, which this config does not have"),
    "weights cut": (raw("model.safetensors", lambda b: b[:-7]), "model.safetensors is torn or not a safetensors file"),
    "weights empty": (raw("model.safetensors", lambda b: b""), "model.safetensors is torn or not a safetensors file"),
    "weights text": (raw("model.safetensors", lambda b: b"hello" * 99), "is torn or not a safetensors file"),
    "a pickle": (lambda f: torch.save({}, f / "model.safetensors"), "is torn or not a safetensors file"),
    "missing tensor": (tensors(lambda t: t.pop(KEY)), f"has no tensor {KEY}, expected one of shape"),
    "extra tensor": (tensors(lambda t: t.update(more=torch.ones(2))), "has the tensor more, which this config"),
    "wrong shape": (tensors(lambda t: t.update({KEY: torch.ones(8, 15)})), rf"{KEY} has shape \[8, 15\], expected"),
    "wrong type": (tensors(lambda t: t.update({KEY: torch.ones(8, 16).int()})), f"{KEY} is I32, expected one of F64"),
    "tokenizer cut": (raw("tokenizer.json", lambda b: b[:90]), "tokenizer.json: not a tokenizer.json"),
    "tokenizer binary": (raw("tokenizer.json", lambda b: b"\xff" + b), "tokenizer.json"),
    "no mask token": (raw("tokenizer.json", lambda b: b.replace(b"[MASK]", b"[mask]")), r"no special token \[MASK\]"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_checkpoint_gives_one_sentence(name: str, folder: Path) -> None:
    spoil, message = SPOILED[name]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
