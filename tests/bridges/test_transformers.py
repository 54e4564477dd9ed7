"""The bridge to transformers: modules as models of ours, folders on the command line, our decoding in `generate`."""

from __future__ import annotations

import inspect
import json
import string
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from dllm_bench import speed
from dllm_bench.cli import cli
from dllm_bench.environment import fingerprint
from dllm_sdk import ConfigError, ModelError, Sampler, Trace, generate, load_model, load_scheduler, load_task, registry
from dllm_sdk.bridges.transformers import as_custom_generate, wrap_hf
from tests.bridges.sglang_source import extra, in_range
from tests.bridges.twins import twin

try:
    import transformers
except ImportError:
    transformers = None

pytestmark = pytest.mark.extra
SPECIAL = ["[PAD]", "[MASK]", "[EOS]", "[UNK]"]


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    pytest.importorskip("transformers", reason="needs the extra `transformers`")


def tokenizer() -> Any:
    """One token per character."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    words = {word: i for i, word in enumerate([*SPECIAL, *string.printable])}
    fast = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = Split(Regex("."), "isolated")
    names = dict(zip(("pad_token", "mask_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **names)


def masked_lm(family: str) -> Any:
    """A random masked language model whose predictions are peaked to different degrees."""
    sizes = {
        "vocab_size": len(SPECIAL) + len(string.printable),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    if family == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).double().eval()
    none = {"bos_token_id": None, "eos_token_id": 2, "cls_token_id": None, "sep_token_id": None}
    config = transformers.ModernBertConfig(**sizes, **none, local_attention=16, attn_implementation="sdpa")
    return transformers.ModernBertForMaskedLM(config).double().eval()


@pytest.fixture(scope="module", params=["modernbert", pytest.param("bert", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked LM in the format of pretrained ones."""
    path = tmp_path_factory.mktemp(request.param)
    masked_lm(request.param).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", dtype="float64")


@pytest.fixture(scope="module")
def prompts(tiny: Any) -> list[list[int]]:
    texts = load_task("sort").prompts("test", 3, seed=0)
    return [tiny.tokenizer.encode(text)[: 10 - 2 * i] for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", list(registry.available("scheduler")))
def test_every_shipped_strategy_decodes_a_masked_lm(folder: Path, name: str) -> None:
    model = load_model(f"hf:{folder}")
    texts = ["a=1; ", "x, y"]
    answer = generate(model, texts, load_scheduler(name), gen_length=[10, 12])
    for text, row, length, nfe in zip(texts, answer.tokens, (10, 12), answer.nfe, strict=True):
        assert row[: len(text)].tolist() == model.tokenizer.encode(text) and len(row) == len(text) + length
        assert model.mask_id not in row and 1 <= nfe <= 64
    alone = generate(model, texts[0], load_scheduler(name), gen_length=10)
    assert torch.equal(alone.tokens[0], answer.tokens[0]) and alone.nfe[0] == answer.nfe[0]


def test_positions_that_begin_behind_the_padding_leave_less_room() -> None:
    """RoBERTa's table has as many places fewer for tokens than its config says."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.RobertaConfig(**sizes, vocab_size=12, max_position_embeddings=10, pad_token_id=1)
    model = wrap_hf(transformers.RobertaForMaskedLM(config).eval(), mask_id=3)
    assert model.max_length == 8
    assert len(generate(model, [5, 6], load_scheduler("threshold"), gen_length=6).tokens[0]) == 8
    with pytest.raises(ConfigError, match="context holds 8"):
        generate(model, [5, 6], load_scheduler("threshold"), gen_length=7)


class Codec:
    """The tokenizer of the model in the box, called as transformers' are."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize("spec", ["threshold:block=8", "adablock", "early-eos", "saber:block=8"])
def test_the_same_weights_give_the_same_tokens(tiny: Any, prompts: list[list[int]], spec: str) -> None:
    scheduler = load_scheduler(spec)
    ours = generate(tiny, prompts, scheduler, gen_length=20)
    theirs = generate(wrap_hf(twin(tiny), Codec(tiny.tokenizer)), prompts, scheduler, gen_length=20)
    assert [row.tolist() for row in theirs.tokens] == [row.tolist() for row in ours.tokens]
    assert theirs.nfe == ours.nfe and theirs.text == ours.text


class Shifted(torch.nn.Module):
    """A module that predicts the next position."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.config, self.device = module, module.config, module.device

    def forward(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=self.module(**inputs).logits.roll(-1, 1))


def test_shifted_logits(tiny: Any, prompts: list[list[int]]) -> None:
    scheduler = load_scheduler("threshold:block=8")
    ours = generate(tiny, prompts, scheduler, gen_length=20)
    theirs = generate(wrap_hf(Shifted(twin(tiny)), shift=1), prompts, scheduler, gen_length=20)
    assert [row.tolist() for row in theirs.tokens] == [row.tolist() for row in ours.tokens] and theirs.nfe == ours.nfe


def padded(prompts: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """A batch as a tokenizer makes it for generate(): padding on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": seen}


@pytest.mark.parametrize("spec", ["threshold:block=8", "confidence-adaptive"])
def test_generate_with_our_decoding(tiny: Any, prompts: list[list[int]], spec: str) -> None:
    scheduler, module, batch = load_scheduler(spec), twin(tiny), padded(prompts, pad=1)
    ours = generate(tiny, prompts, scheduler, gen_length=20)
    steps: list[Any] = []
    decoding = as_custom_generate(scheduler, on_step=steps.append)
    output = module.generate(**batch, custom_generate=decoding, max_new_tokens=20, return_dict_in_generate=True)
    assert output.sequences[:, 10:].tolist() == [row[-20:].tolist() for row in ours.tokens]
    assert output.sequences[:, :10].tolist() == batch["input_ids"].tolist()
    assert output.nfe == ours.nfe and len(steps) == max(ours.nfe)
    assert torch.equal(module.generate(**batch, custom_generate=decoding, max_new_tokens=20), output.sequences)


def test_generate_draws_samples(tiny: Any, prompts: list[list[int]]) -> None:
    scheduler, sampler = load_scheduler("threshold:block=8"), Sampler(temperature=2.0)
    ours = generate(tiny, prompts[:2], scheduler, gen_length=20, samples=3, sampler=sampler, seed=5)
    decoding = as_custom_generate(scheduler, sampler=sampler, seed=5)
    drawn = twin(tiny).generate(
        **padded(prompts[:2], pad=1),
        custom_generate=decoding,
        max_new_tokens=20,
        num_return_sequences=3,
        do_sample=True,
    )
    assert drawn[:, 10:].tolist() == [row[-20:].tolist() for row in ours.tokens]
    assert len({tuple(row) for row in drawn.tolist()}) > 2  # two prompts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"do_sample": True}, r"do_sample without a sampler: as_custom_generate\(..., sampler="),
        ({"num_beams": 3}, "num_beams=3: a strategy has no beams"),
        ({"repetition_penalty": 1.3}, "RepetitionPenaltyLogitsProcessor: give processors to the Sampler"),
        ({"max_time": 3.0}, "MaxTimeCriteria: .* a row ends at EOS or at its length"),
    ],
)
def test_what_generate_cannot_hand_on(tiny: Any, options: dict[str, Any], words: str) -> None:
    decoding = as_custom_generate(load_scheduler("threshold"))
    with pytest.raises(ConfigError, match=words):
        twin(tiny).generate(torch.tensor([[2, 3]]), custom_generate=decoding, max_new_tokens=4, **options)


def test_a_number_is_known_by_the_weights_of_the_module() -> None:
    module = masked_lm("bert").bfloat16()
    model = wrap_hf(module, tokenizer())
    before = fingerprint(model, "hf")
    assert before["dtype"] == "bfloat16" and before["parameters"] == sum(one.numel() for one in module.parameters())
    about = speed(model, budget=1e-9, gen_length=8).environment
    assert (about["dtype"], about["parameters"]) == ("bfloat16", before["parameters"])
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert len(before["model_sha256"]) == 64 and fingerprint(model, "hf")["model_sha256"] != before["model_sha256"]
    module.unread = torch.nn.Parameter(torch.empty(1, device="meta"))
    assert fingerprint(model, "hf")["model_sha256"] is None


def test_compare_on_a_folder(folder: Path) -> None:
    command = ["compare", "--model", f"hf:{folder}", "--limit", "2", "--task", "sort", "--format", "json"]
    done = CliRunner().invoke(cli, [*command, "--scheduler", "threshold"])
    assert done.exit_code == 0, done.output
    assert "threshold" in done.stdout


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "has no readable config.json"),
        ("{", "has no readable config.json"),
        ("[]", "holds no named architecture"),
        ({"architectures": ["GPT2LMHeadModel"]}, "holds GPT2LMHeadModel, not a ...ForMaskedLM"),
        ({"architectures": ["XForMaskedLM"], "auto_map": {"AutoModel": "code.X"}}, "brings its own code"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "cannot be loaded as a masked LM"),
        ({"architectures": ["XForMaskedLM"], "model_type": "unheard-of"}, "cannot be loaded as a masked LM"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, config: Any, words: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        load_model(f"hf:{tmp_path}")
    done = CliRunner().invoke(cli, ["compare", "--model", f"hf:{tmp_path}", "--task", "sort", "--limit", "1"])
    assert done.exit_code == 2 and str(tmp_path) in done.output and "Traceback" not in done.output


def test_pickles_are_never_read(tmp_path: Path) -> None:
    module = masked_lm("bert")
    module.config.architectures = ["BertForMaskedLM"]
    module.config.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded as a masked LM"):
        load_model(f"hf:{tmp_path}")


def test_missing_tensors_are_not_made_up(tmp_path: Path) -> None:
    masked_lm("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    missing = len(tensors) - len(kept)
    with pytest.raises(ConfigError, match=rf"lacks {missing} of the model's tensors, such as bert\.encoder\.layer\.1"):
        load_model(f"hf:{tmp_path}")


def test_no_folder_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="give hf:FOLDER"):
        load_model("hf")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "neither tokenizer nor config names one mask token"),
        ({"mask_id": 104}, r"token ids in 0\.\.103, got 104"),
        ({"mask_id": 1, "eos_ids": [1]}, "mask_id must not be one of eos_ids, got 1"),
        ({"mask_id": 1, "shift": 2}, "shift must be 0 or 1, got 2"),
        ({"mask_id": 1, "max_length": 8.5}, "max_length must be a whole number, got 8.5"),
    ],
)
def test_what_wrap_hf_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wrap_hf(masked_lm("bert"), **options)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_numbers_of_other_kinds_are_ids_of_a_module(kind: Any, tmp_path: Path) -> None:
    model = wrap_hf(masked_lm("bert"), mask_id=kind(1), eos_ids=kind([2, 3]))
    answer = generate(model, [4], load_scheduler("threshold"), gen_length=2, trace=True)
    answer.trace[0].save(tmp_path / "trace")
    assert Trace.load(tmp_path / "trace").about["eos_ids"] == [2, 3]


def test_what_is_no_module_is_said() -> None:
    with pytest.raises(ConfigError, match="takes a Hugging Face module with a config, got str"):
        wrap_hf("bert-base-uncased")
    config = transformers.BertConfig(vocab_size=9)
    broken = SimpleNamespace(config=config, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="takes a Hugging Face module"):
        wrap_hf(broken, mask_id=1)


def test_a_module_in_training_mode_is_refused(tiny: Any) -> None:
    module = masked_lm("bert").train()
    with pytest.raises(ConfigError, match=r"BertForMaskedLM is in training mode, .* call its eval\(\) first"):
        wrap_hf(module, mask_id=1)
    wrap_hf(module.eval(), mask_id=1)
    decoding = as_custom_generate(load_scheduler("threshold"))
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM is in training mode"):
        twin(tiny).train().generate(torch.tensor([[2, 3]]), custom_generate=decoding, max_new_tokens=4)


def test_a_module_without_a_head_is_said() -> None:
    module = masked_lm("bert").bert
    with pytest.raises(ModelError, match=r"BertModel must return logits of shape \(1, 3, 104\), got BaseModelOutput"):
        generate(wrap_hf(module, mask_id=1), [4], load_scheduler("threshold"), gen_length=2)


def test_too_long_a_canvas_is_said() -> None:
    with pytest.raises(ConfigError, match="256"):
        generate(wrap_hf(masked_lm("bert"), mask_id=1), [4], load_scheduler("threshold"), gen_length=256)


def test_the_interface_is_the_one_we_were_written_for(tiny: Any) -> None:
    """Fails when a version in the extra's range changes how `generate` calls a decoding of ours."""
    installed = transformers.__version__
    assert in_range("transformers"), f"the extra allows {extra('transformers')}, installed is {installed}"
    assert "custom_generate" in inspect.signature(transformers.GenerationMixin.generate).parameters
    handed: dict[str, Any] = {}

    def custom_generate(model: Any, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        handed.update(others)
        return input_ids

    twin(tiny).generate(torch.tensor([[2, 3]]), custom_generate=custom_generate, max_new_tokens=4)
    assert {"logits_processor", "stopping_criteria", "generation_config", "attention_mask"} <= handed.keys()
    config = handed["generation_config"]
    assert config.max_length == 6 and config.eos_token_id == 1 and not config.do_sample
    assert {type(item).__name__ for item in handed["stopping_criteria"]} == {"MaxLengthCriteria", "EosTokenCriteria"}


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"dllm-sdk\[transformers\]"):
        load_model(f"hf:{folder}")
