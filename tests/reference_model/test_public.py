"""Public checkpoints give the recorded logits, and every way to spoil a folder gives one sentence that says where."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.check_goldens import recorded
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from dllm_reference_model import load
from dllm_reference_model.checkpoint import CheckpointError
from dllm_reference_model.load import dream as load_dream
from dllm_reference_model.load import llada as load_llada
from dllm_reference_model.model import Transformer
from dllm_reference_model.prompts import dream_chat, llada_chat
from dllm_reference_model.public import INDEX

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
MANIFEST = json.loads((GOLDENS / "manifest.json").read_text(encoding="utf-8"))
LOADERS = {"llada": load_llada, "dream": load_dream}
SINGLE = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Spoil = Callable[[Path], object]


def golden(name: str) -> Path:
    return GOLDENS / str(MANIFEST["models"][name]["folder"])


def loaded(folder: Path, name: str, **options: Any) -> Transformer:
    return LOADERS[MANIFEST["models"][name]["kind"]](folder, **options)


def shard(folder: Path, parts: int = 3) -> None:
    """Turn a folder with one file into one with an index, tensors dealt out in turn."""
    tensors = load_file(folder / SINGLE)
    names = [f"model-{part + 1:05}-of-{parts:05}.safetensors" for part in range(parts)]
    places = {tensor: names[number % parts] for number, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: tensors[tensor] for tensor in places if places[tensor] == name}, folder / name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))
    (folder / SINGLE).unlink()


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden("llada-b"), tmp_path / "llada"))


@pytest.fixture
def dream(tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden("dream-a"), tmp_path / "dream"))


# Recorded logits


@pytest.mark.parametrize(
    ("name", "item"),
    [(name, item) for name, entry in MANIFEST["forward"].items() for item in entry["items"]],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_recorded_logits(name: str, item: dict[str, Any]) -> None:
    found, wanted = recorded(loaded(golden(name), name), item, load_file(GOLDENS / MANIFEST["forward"][name]["file"]))
    assert found.shape == wanted.shape and wanted.numel()
    assert (found - wanted).abs().max() < MANIFEST["forward"][name]["tolerance"] == 1e-4


@pytest.mark.parametrize("name", MANIFEST["models"])
def test_what_the_config_says(name: str) -> None:
    entry, model = MANIFEST["models"][name], loaded(golden(name), name)
    assert (model.mask_id, model.vocab_size) == (entry["mask_token_id"], entry["vocab_size"])
    assert model.shift == int(entry["logits_shifted"]) and model.eos_ids == (entry.get("eos_token_id", 445),)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert model.tokenizer is None and model.dtype == torch.float32


# Files, types, tying


@pytest.mark.parametrize("name", MANIFEST["models"])
def test_shards_are_the_same_model(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden(name), tmp_path / name))
    shard(folder)
    one, many = loaded(golden(name), name), loaded(folder, name)
    assert many.config == one.config
    for key, tensor in one.state_dict().items():
        assert torch.equal(many.state_dict()[key], tensor)


def test_types(llada: Path) -> None:
    exact = load_llada(llada).state_dict()
    short = load_llada(llada, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(short[name], exact[name].bfloat16()) for name in exact)
    change(llada, {name: tensor.bfloat16() for name, tensor in load_file(llada / SINGLE).items()})
    assert load_llada(llada).dtype == torch.bfloat16
    assert load_llada(llada, dtype=torch.float64).dtype == torch.float64
    change(llada, {NORM: load_file(llada / SINGLE)[NORM].float()})  # one type is no longer stored, but can be given
    assert {tensor.dtype for tensor in load_llada(llada, dtype=torch.float32).state_dict().values()} == {torch.float32}


def test_a_tied_head(llada: Path) -> None:
    remove(llada, HEAD)
    config(weight_tying=True)(llada)
    model = load_llada(llada)
    assert torch.equal(model.head(torch.eye(64)), model.embed.weight.T)


def test_sizes_left_out(llada: Path) -> None:
    wanted = load_llada(llada).config
    config(embedding_size=None, mlp_hidden_size=None, mlp_ratio=2)(llada)
    assert load_llada(llada).config == wanted
    config(vocab_size=193)(llada)  # embedding_size is vocab_size rounded up
    config(embedding_size=200)(llada)
    assert load_llada(llada).config == wanted


def test_biases_of_llada(llada: Path) -> None:
    config(include_qkv_bias=True)(llada)
    with pytest.raises(CheckpointError, match=r"no tensor model.transformer.blocks.0.q_proj.bias, expected .* \[64\]"):
        load_llada(llada)


def test_an_unused_window_is_none(dream: Path) -> None:
    config(sliding_window=4096, use_sliding_window=False)(dream)
    load_dream(dream)


# Token ids and the tokenizer


def words(**special: int) -> dict[str, Any]:
    names = {"mask": "<|mdm_mask|>", "eos": "<|endoftext|>", "eot": "<|eot_id|>"}
    added = {str(index): {"content": names[name], "special": True} for name, index in special.items()}
    return {"mask_token": names["mask"], "eos_token": {"content": names["eos"]}, "added_tokens_decoder": added}


def test_token_ids_from_the_files(llada: Path) -> None:
    (llada / "tokenizer_config.json").write_text(json.dumps(words(mask=198, eos=188, eot=189)))
    model = load_llada(llada)
    assert (model.mask_id, model.eos_ids) == (199, (190, 189))  # config.json comes first, EoT is another end
    config(mask_token_id=None, eos_token_id="absent")(llada)
    model = load_llada(llada)
    assert (model.mask_id, model.eos_ids) == (198, (188, 189))
    (llada / "generation_config.json").write_text('{"mask_token_id": 197, "eos_token_id": [187, 186]}')
    model = load_llada(llada)
    assert (model.mask_id, model.eos_ids) == (197, (187, 186, 189))


def test_token_ids_from_the_caller(llada: Path) -> None:
    config(mask_token_id=None, eos_token_id=None)(llada)
    model = load_llada(llada, mask_id=5, eos_ids=[7, 6])
    assert (model.mask_id, model.eos_ids) == (5, (7, 6))
    assert load.llada(str(llada), mask_id=5, eos_ids=()).eos_ids == ()
    with pytest.raises(CheckpointError, match="mask_token_id is null, expected one token id, or the argument mask_id"):
        load_llada(llada, eos_ids=())
    with pytest.raises(CheckpointError, match="eos_token_id is null, expected a token id, or the argument eos_ids"):
        load_llada(llada, mask_id=5)


def tokenizer(*vocabulary: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=vocabulary[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<|eot_id|>"])
    return made


def test_a_tokenizer(llada: Path) -> None:
    tokenizer("one", "two").save(str(llada / "tokenizer.json"))
    model = load_llada(llada)
    assert model.tokenizer is not None and model.eos_ids == (190, 2)
    assert model.tokenizer.encode("two one<|eot_id|>") == [1, 0, 2]
    assert model.tokenizer.decode([1, 2, 0, 199]) == "two one"


# Spoiled folders

HEAD, NORM = "model.transformer.ff_out.weight", "model.transformer.ln_f.weight"
KEY = "model.transformer.blocks.1.k_proj.weight"
BIAS = "model.layers.0.self_attn.k_proj.bias"
FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"


def config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v != "absent"}))

    return spoil


def index(**changes: Any) -> Spoil:
    """Put tensors of the index elsewhere; dots of a name are written as __."""

    def spoil(folder: Path) -> None:
        found = json.loads((folder / INDEX).read_text())
        places = found["weight_map"] | {name.replace("__", "."): place for name, place in changes.items()}
        found["weight_map"] = {name: place for name, place in places.items() if place != "absent"}
        (folder / INDEX).write_text(json.dumps(found))

    return spoil


def moved(place: Any) -> Spoil:
    return index(**{KEY.replace(".", "__"): place})


def home(folder: Path, name: str) -> Path:
    """The file that holds a tensor."""
    if (folder / SINGLE).exists():
        return folder / SINGLE
    return folder / str(json.loads((folder / INDEX).read_text())["weight_map"].get(name, FIRST))


def change(folder: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        path = home(folder, name)
        found = {key: value.clone() for key, value in load_file(path).items()}  # not views of what is overwritten
        save_file(found | {name: tensor}, path)


def remove(folder: Path, name: str) -> None:
    path = home(folder, name)
    found = {key: value.clone() for key, value in load_file(path).items() if key != name}
    save_file(found, path)


def put(name: str, tensor: Tensor) -> Spoil:
    return lambda folder: change(folder, {name: tensor})


def raw(name: str, edit: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


def text(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content)


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def only_pickles(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def swap(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)


def header(path: Path, old: bytes, new: bytes) -> None:
    """Tamper with a header of a file, keeping its length."""
    found = path.read_bytes()
    assert old in found and len(old) == len(new)
    path.write_bytes(found.replace(old, new, 1))


BARE = "expected the bare name of a .safetensors file"
ONLY = "nothing else is supported"
SPOILED: dict[str, tuple[Spoil, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config cut": (raw("config.json", lambda b: b[:99]), "config.json is not JSON"),
    "config binary": (raw("config.json", lambda b: b"\xff" + b), "config.json is not JSON"),
    "config a list": (text("config.json", "[1]"), r"config.json holds \[1\], expected a JSON object"),
    "config too deep": (text("config.json", "[" * 99_999), "config.json is not JSON"),
    "a long number": (text("config.json", "[" + "1" * 9_999 + "]"), "config.json is not JSON"),
    "other family": (config(model_type="gpt2\n"), r'model_type is "gpt2\\n", expected "llada", ' + ONLY),
    "no size": (config(d_model="absent"), "config.json has no field d_model, expected a whole number"),
    "size as text": (config(d_model="64"), 'd_model is "64", expected a whole number'),
    "size true": (config(n_layers=True), "n_layers is true, expected a whole number"),
    "size 0": (config(n_heads=0), "n_heads is 0, expected a whole number in 1.."),
    "size enormous": (config(d_model=2**40), "d_model is 1099511627776, expected a whole number in 1.."),
    "size large": (
        config(d_model=2**28),
        r"tensor .* has shape \[64\], expected \[268435456\]",
    ),
    "a billion layers": (config(n_layers=10**8), "has too few tensors for the 100000000 layers of config.json"),
    "bad heads": (config(n_heads=3), "config.json: heads must divide width 64, got 3"),
    "bad kv heads": (config(n_kv_heads=3), "config.json: kv_heads must divide heads 4, got 3"),
    "small embedding": (config(embedding_size=99), "embedding_size is 99, expected at least vocab_size, 200"),
    "eps as text": (config(rms_norm_eps="1e-5"), 'rms_norm_eps is "1e-5", expected a number above 0'),
    "eps negative": (config(rms_norm_eps=-1), "rms_norm_eps is -1, expected a number above 0"),
    "theta infinite": (config(rope_theta=float("inf")), "rope_theta is Infinity, expected a number above 0"),
    "theta nan": (config(rope_theta=float("nan")), "rope_theta is NaN, expected a number above 0"),
    "theta huge": (config(rope_theta=10**400), "rope_theta is 1000.*, expected a number above 0"),
    "no mask": (config(mask_token_id="absent"), "config.json has no field mask_token_id, .* argument mask_id"),
    "mask as text": (config(mask_token_id="<mask>"), 'mask_token_id is "<mask>", expected a token id'),
    "two masks": (config(mask_token_id=[1, 2]), r"mask_token_id is \[1, 2\], expected one token id"),
    "mask outside": (config(mask_token_id=200), r"config.json: token ids must be in 0\.\.199, got 200"),
    "no eos": (config(eos_token_id=[]), r"eos_token_id is \[\], expected .* argument eos_ids"),
    "eos is mask": (config(eos_token_id=199), "config.json: mask_id must not be one of eos_ids, got 199"),
    "gelu": (config(activation_type="gelu"), 'activation_type is "gelu", expected "silu", ' + ONLY),
    "alibi": (config(alibi=True), "alibi is true, expected false, " + ONLY),
    "alibi 0": (config(alibi=0), "alibi is 0, expected false"),
    "layer norm": (config(layer_norm_type="default"), 'layer_norm_type is "default", expected "rms"'),
    "no layer norm": (config(layer_norm_type="absent"), 'no field layer_norm_type, expected "rms"'),
    "block type": (config(block_type="sequential"), 'block_type is "sequential", expected "llama"'),
    "no rope": (config(rope=False), "rope is false, expected true"),
    "rope scaling": (config(rope_scaling={"type": "x" * 99}), r'rope_scaling is {"type": "x+\.\.\., expected null'),
    "short rope": (config(rope_full_precision=False), "rope_full_precision is false, expected true"),
    "q/k norm": (config(attention_layer_norm=True), "attention_layer_norm is true, expected false"),
    "biases": (config(include_bias=True), "include_bias is true, expected false"),
    "norm bias": (config(bias_for_layer_norm=True), "bias_for_layer_norm is true, expected null or false"),
    "scaled logits": (config(scale_logits=True), "scale_logits is true, expected false"),
    "one key head": (config(multi_query_attention=True), "multi_query_attention is true, expected null or false"),
    "block groups": (config(block_group_size=2), "block_group_size is 2, expected 1"),
    "embedding norm": (config(input_emb_norm=True), "input_emb_norm is true, expected false"),
    "window": (config(sliding_window=64), "sliding_window is 64, expected null"),
    "quantized": (config(quantization_config={}), "quantization_config is {}, expected null"),
    "tied": (config(weight_tying=True), f"has the tensor {HEAD}, but weight_tying in config.json is true"),
    "tied as text": (config(weight_tying="no"), 'weight_tying is "no", expected true or false'),
    "other width": (config(d_model=32), r"tensor .*.attn_norm.weight has shape \[64\], expected \[32\]"),
    "other vocabulary": (config(vocab_size=201, embedding_size=201), r"has shape \[200, 64\], expected \[201, 64\]"),
    "more layers": (config(n_layers=3), "has no tensor model.transformer.blocks.2.attn_norm.weight, expected one of"),
    "fewer layers": (
        config(n_layers=1),
        "has the tensor model.transformer.blocks.1.attn_norm.weight, which this config",
    ),
    "index cut": (raw(INDEX, lambda b: b[:-9]), "index.json is not JSON"),
    "index a list": (text(INDEX, "[]"), r"index.json holds \[\], expected a JSON object"),
    "index empty": (text(INDEX, "{}"), "index.json has no field weight_map, expected an object"),
    "map a list": (text(INDEX, '{"weight_map": ["x"]}'), r'weight_map is \["x"\], expected an object'),
    "shard a number": (moved(7), f"puts {KEY} into 7, {BARE}"),
    "shard above": (moved("../" + FIRST), rf"puts {KEY} into \"\.\./model.*\", {BARE}"),
    "shard below": (moved("sub/" + FIRST), BARE),
    "shard absolute": (moved("/etc/x.safetensors"), BARE),
    "shard on a drive": (moved("C:x.safetensors"), BARE),
    "shard by backslash": (moved("..\\x.safetensors"), BARE),
    "shard with a line": (moved("a\nb.safetensors"), rf'into "a\\nb.safetensors", {BARE}'),
    "shard a pickle's name": (moved("pytorch_model.bin"), BARE),
    "shard unknown": (moved("x.safetensors"), rf"x.safetensors does not exist, but .* puts {KEY} into it"),
    "tensor in another shard": (moved(SECOND), rf"has (no|the) tensor {KEY}, which {INDEX}"),
    "tensor not in the index": (moved("absent"), f"has the tensor {KEY}, which {INDEX} does not put into it"),
    "tensor only in the index": (index(more=FIRST), f"{FIRST} has no tensor more, which {INDEX} puts into it"),
    "tensor unknown": (
        both(put("a\nb", torch.ones(2)), index(**{"a\nb": FIRST})),
        r"has the tensor 'a\\nb', which this",
    ),
    "tensor twice": (
        lambda f: save_file(load_file(f / FIRST) | {KEY: torch.ones(2)}, f / FIRST),
        f"has the tensor {KEY}",
    ),
    "tensor missing": (lambda f: remove(f, KEY), f"has no tensor {KEY}, which {INDEX} puts into it"),
    "tensor nowhere": (
        both(lambda f: remove(f, KEY), moved("absent")),
        f"{INDEX} has no tensor {KEY}, expected one of",
    ),
    "head nowhere": (both(lambda f: remove(f, HEAD), index(**{HEAD.replace(".", "__"): "absent"})), "weight_tying in"),
    "wrong shape": (put(KEY, torch.ones(32, 63)), rf"tensor {KEY} has shape \[32, 63\], expected \[32, 64\]"),
    "turned": (put(KEY, torch.ones(64, 32)), rf"tensor {KEY} has shape \[64, 32\], expected \[32, 64\]"),
    "a scalar": (put(KEY, torch.tensor(1.0)), rf"tensor {KEY} has shape \[\], expected \[32, 64\]"),
    "wrong type": (put(KEY, torch.ones(32, 64).int()), f"tensor {KEY} is I32, expected one of F64"),
    "two types": (put(KEY, torch.ones(32, 64).half()), r"tensor .* is F\d\d, but .* is F\d\d: give the dtype"),
    "shard missing": (lambda f: (f / SECOND).unlink(), f"{SECOND} does not exist, but {INDEX} puts"),
    "shard cut": (raw(SECOND, lambda b: b[:-7]), f"{SECOND} is torn or not a safetensors file"),
    "shard longer": (raw(SECOND, lambda b: b + b"more"), f"{SECOND} is torn or not a safetensors file"),
    "shard empty": (raw(SECOND, lambda b: b""), f"{SECOND} is torn or not a safetensors file"),
    "shard text": (text(SECOND, "<html>\n" * 99), f"{SECOND} is torn or not a safetensors file"),
    "shard a pickle": (lambda f: torch.save({}, f / SECOND), f"{SECOND} is torn or not a safetensors file"),
    "shards exchanged": (swap, f"{FIRST} has no tensor .*, which {INDEX} puts into it"),
    "header shape": (lambda f: header(home(f, KEY), b"[32,64]", b"[64,64]"), "is torn or not a safetensors file"),
    "header turned": (
        lambda f: header(home(f, KEY), b"[32,64]", b"[64,32]"),
        r"has shape \[64, 32\], expected \[32, 64\]",
    ),
    "header type": (lambda f: header(home(f, KEY), b'"F32"', b'"I32"'), "is I32, expected one of F64"),
    "only pickles": (
        only_pickles,
        "has only pytorch_model.bin, a pickle, which is never read, expected model.safetens",
    ),
    "no weights": (lambda f: [p.unlink() for p in f.glob("*.safetensors*")], "has no weights, expected model.safeten"),
    "two lists": (lambda f: shutil.copy(golden("llada-b") / SINGLE, f), "has both model.safetensors and model.safet"),
    "tokenizer cut": (text("tokenizer.json", '{"version'), "tokenizer.json is not a tokenizer.json"),
    "tokenizer binary": (
        lambda f: (f / "tokenizer.json").write_bytes(b"\xff"),
        "tokenizer.json is not a tokenizer.json",
    ),
    "many words": (
        lambda f: tokenizer("<|eot_id|>", *map(str, range(200))).save(str(f / "tokenizer.json")),
        "has 201 tokens, expected",
    ),
    "names a list": (text("tokenizer_config.json", "[]"), r"tokenizer_config.json holds \[\], expected a JSON object"),
    "added a list": (text("tokenizer_config.json", '{"added_tokens_decoder": []}'), r"added_tokens_decoder is \[\]"),
    "eot outside": (
        text("tokenizer_config.json", json.dumps(words(eot=999))),
        r"token ids must be in 0\.\.199, got 999",
    ),
    "generation cut": (text("generation_config.json", "{"), "generation_config.json is not JSON"),
}
DREAM_SPOILED: dict[str, tuple[Spoil, str]] = {
    "llada": (config(model_type="llada"), 'model_type is "llada", expected "Dream"'),
    "gelu": (config(hidden_act="gelu"), 'hidden_act is "gelu", expected "silu"'),
    "window": (config(use_sliding_window=True), "use_sliding_window is true, expected false"),
    "window unsaid": (
        config(sliding_window=64, use_sliding_window="absent"),
        "sliding_window is 64, expected null, or",
    ),
    "rope scaling": (config(rope_scaling={"type": "yarn"}), 'rope_scaling is {"type": "yarn"}, expected null'),
    "head size": (config(head_dim=32), "head_dim is 32, expected hidden_size / num_attention_heads, 16"),
    "tied": (config(tie_word_embeddings=True), "has the tensor lm_head.weight, but tie_word_embeddings in config.json"),
    "no bias": (lambda f: remove(f, BIAS), rf"model.safetensors has no tensor {BIAS}, expected one of shape \[32\]"),
    "wrong bias": (put(BIAS, torch.ones(31)), rf"tensor {BIAS} has shape \[31\], expected \[32\]"),
    "other file": (
        lambda f: shutil.copy(golden("llada-b") / SINGLE, f),
        "has no tensor lm_head.weight, but tie_word_emb",
    ),
    "both types": (
        put(BIAS, torch.ones(32).bfloat16()),
        "is BF16, but .* is F32: give the dtype|is F32, but .* is BF16",
    ),
}


def refused(folder: Path, load: Callable[[Path], object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_gives_one_sentence(name: str, llada: Path) -> None:
    spoil, message = SPOILED[name]
    shard(llada)
    load_llada(llada)
    spoil(llada)
    refused(llada, load_llada, message)


@pytest.mark.parametrize("name", DREAM_SPOILED)
def test_a_spoiled_folder_of_dream(name: str, dream: Path) -> None:
    spoil, message = DREAM_SPOILED[name]
    spoil(dream)
    refused(dream, load_dream, message)


def test_any_flipped_byte_of_a_header_is_refused_or_harmless(llada: Path) -> None:
    path, wanted = llada / SINGLE, load_llada(llada).state_dict()
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for place in range(0, length, 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = load_llada(llada).state_dict()
        except CheckpointError as error:
            assert str(path) in str(error) and str(error).isprintable()
        else:
            assert found.keys() == wanted.keys()
            assert all(found[name].shape == wanted[name].shape for name in wanted)


# By name, and from the hub


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_a_name_needs_a_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} needs a checkpoint: give {name}:FOLDER, or {name}:hf:ORG/NAME@"):
        getattr(load, name)()


def test_a_folder_by_name(llada: Path, dream: Path) -> None:
    assert load.llada(str(llada)).revision is None
    assert load.dream(str(dream), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_from_the_hub(llada: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetched(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(llada.rename(llada.with_name(COMMIT)))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    model = load.llada("hf:org/some.name@v1.0", dtype=torch.float64)
    assert (model.revision, model.dtype) == (COMMIT, torch.float64)
    assert calls == [("org/some.name", {"revision": "v1.0", "allow_patterns": ["*.safetensors", "*.json"]})]


def test_the_hub_without_a_revision_or_a_commit(dream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, *, revision, allow_patterns: dream)
    assert load.dream("hf:org/name").revision is None


def test_a_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(name: str, **options: object) -> str:
        raise RuntimeError("404 Client Error\n\nRepository Not Found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", failed)
    with pytest.raises(CheckpointError, match=r"^hf:org/name@x cannot be fetched \(RuntimeError: 404 Client Error Rep"):
        load.llada("hf:org/name@x")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"needs the package huggingface_hub: pip install 'dllm-sdk\[hub\]'"):
        load.llada("hf:org/name@x")


@pytest.mark.parametrize(
    "name", ["name", "org/name/more", "org/na me", "org/name@", "/name", "../name\n", "org/name@a b"]
)
def test_a_bad_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match="a hub id is hf:ORG/NAME or hf:ORG/NAME@REVISION, got 'hf:"):
        load.llada("hf:" + name)


# Prompt formats

TALK = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": " Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "1 + 1?\n"},
]


def test_chat_of_llada() -> None:
    begin, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert llada_chat("Hi") == f"<|startoftext|>{begin}user{end}Hi<|eot_id|>{begin}assistant{end}"
    assert llada_chat(TALK) == (
        f"<|startoftext|>{begin}system{end}Be brief.<|eot_id|>{begin}user{end}Hi<|eot_id|>"
        f"{begin}assistant{end}Hello<|eot_id|>{begin}user{end}1 + 1?<|eot_id|>{begin}assistant{end}"
    )


def test_chat_of_dream() -> None:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert dream_chat("Hi") == f"{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert dream_chat(TALK) == (
        "<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\n Hi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n1 + 1?\n<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("chat", [llada_chat, dream_chat])
def test_bad_messages(chat: Callable[[Any], str]) -> None:
    for bad, message in (
        ([], "at least one message"),
        (["Hi"], "message 0 must be"),
        ([{"role": "user"}], "message 0 must be"),
        ([{"role": "user", "content": "Hi"}, {"role": "tool", "content": "1"}], "role of message 1 .* got 'tool'"),
    ):
        with pytest.raises(ValueError, match=message):
            chat(bad)


# Full width

MAKE = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
folder, shards = Path(sys.argv[1]), json.load(sys.stdin)
torch.manual_seed(0)
for name, tensors in shards.items():
    made = {key: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.04, 0.04) for key, shape in tensors.items()}
    for key, value in made.items():
        value += "norm" in key or "ln_f" in key
    save_file(made, folder / name)
"""
USE = """
import json, resource, sys, torch
from dllm_reference_model import load
from dllm_sdk import DualCache, generate
from dllm_strategies import FixedBlock
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = getattr(load, sys.argv[1])(sys.argv[2])
done = generate(model, list(range(100, 108)), FixedBlock(4, 2), gen_length=8, cache=DualCache(), stop_at_eos=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(tensor.nbytes for tensor in model.state_dict().values())
print(json.dumps([peak * 1024, before * 1024, size, str(model.dtype), len(done.tokens[0]), done.nfe[0]]))
"""
FULL = {  # the public configs, cut to two layers
    "llada": {
        "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 2, "mlp_hidden_size": 12288,
        "vocab_size": 126464, "embedding_size": 126464, "mask_token_id": 126336, "eos_token_id": 126081,
        "max_sequence_length": 4096, "rope_theta": 500000.0,
    },
    "dream": {
        "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 18944, "vocab_size": 152064, "mask_token_id": 151666, "eos_token_id": 151643,
        "max_position_embeddings": 131072, "rope_theta": 1000000.0,
    },
}  # fmt: skip
BLOCK = {
    "attn_norm": [4096], "ff_norm": [4096], "q_proj": [4096, 4096], "k_proj": [4096, 4096], "v_proj": [4096, 4096],
    "attn_out": [4096, 4096], "ff_proj": [12288, 4096], "up_proj": [12288, 4096], "ff_out": [4096, 12288],
}  # fmt: skip
LAYER = {
    "input_layernorm.weight": [3584], "post_attention_layernorm.weight": [3584],
    "self_attn.q_proj.weight": [3584, 3584], "self_attn.k_proj.weight": [512, 3584],
    "self_attn.v_proj.weight": [512, 3584], "self_attn.o_proj.weight": [3584, 3584],
    "self_attn.q_proj.bias": [3584], "self_attn.k_proj.bias": [512], "self_attn.v_proj.bias": [512],
    "mlp.gate_proj.weight": [18944, 3584], "mlp.up_proj.weight": [18944, 3584], "mlp.down_proj.weight": [3584, 18944],
}  # fmt: skip
SHARDS = {
    "llada": [
        {"model.transformer.wte.weight": [126464, 4096]},
        {f"model.transformer.blocks.{n}.{name}.weight": shape for n in (0, 1) for name, shape in BLOCK.items()},
        {"model.transformer.ln_f.weight": [4096], "model.transformer.ff_out.weight": [126464, 4096]},
    ],
    "dream": [
        {"model.embed_tokens.weight": [152064, 3584]},
        {f"model.layers.{n}.{name}": shape for n in (0, 1) for name, shape in LAYER.items()},
        {"model.norm.weight": [3584], "lm_head.weight": [152064, 3584]},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_two_layers_at_full_width(name: str, tmp_path: Path) -> None:
    shards = {f"model-0000{number}-of-00003.safetensors": part for number, part in enumerate(SHARDS[name], 1)}
    shutil.copy(golden(f"{name}-a") / "config.json", tmp_path)
    config(**FULL[name])(tmp_path)
    places = {tensor: file for file, tensors in shards.items() for tensor in tensors}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    try:
        command = [sys.executable, "-c", MAKE, str(tmp_path)]  # apart, since the peak of a process is its child's too
        subprocess.run(command, input=json.dumps(shards), text=True, check=True)
        command = [sys.executable, "-c", USE, name, str(tmp_path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        for path in tmp_path.glob("*.safetensors"):
            path.unlink()  # three gigabytes
    peak, before, size, dtype, length, nfe = json.loads(printed)
    print(f"{name}: peak {peak / 1e9:.2f} GB, {before / 1e9:.2f} before, model {size / 1e9:.2f} GB")
    assert (dtype, length, nfe) == ("torch.bfloat16", 16, 4)
    assert size > 2.8e9 and peak < 1.5 * size
