"""The bridge to torchao: models whose weights are held in eight bits, by name and in place."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from dllm_bench import compare
from dllm_bench.cli import cli
from dllm_bench.timing.counting import weigh
from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_sdk import ConfigError, DualCache, Scheduler, execution, generate, load_model, load_scheduler, wrap
from dllm_sdk.bridges.torchao import quantize
from dllm_sdk.compiling import Compiler, _inductor

PROMPTS = [[3, 4, 5], [6, 7]]


def small(**changes: Any) -> Transformer:
    """A model of two layers, frozen."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "mask_id": 39, "width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "mlp_width": 48}
    return Transformer(Config(**(sizes | changes))).freeze()


def tokens(model: Transformer, backend: Any = "eager") -> list[list[int]]:
    rule: Scheduler[Any] = load_scheduler("threshold:threshold=0.1,block=8")
    found = generate(model, PROMPTS, rule, gen_length=16, cache=DualCache(), stop_at_eos=False, backend=backend)
    return [row.tolist() for row in found.tokens]


@pytest.fixture
def torchao() -> None:
    pytest.importorskip("torchao", reason="needs the extra `int8`")


def needs_torchao(test: Any) -> Any:
    return pytest.mark.extra(pytest.mark.usefixtures("torchao")(test))


@needs_torchao
@pytest.mark.parametrize("tied", [False, True])
def test_every_map_is_held_in_eight_bits_within_half_a_step_of_its_scale(tied: bool) -> None:
    plain, model = small(tied=tied, qkv_bias=True), small(tied=tied, qkv_bias=True)
    assert quantize(model) is model
    before = dict(plain.named_modules())
    maps = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert len(maps) == 2 * 7 + (not tied)
    for name, module in maps.items():
        weight, held = before[name].weight, module.parametrizations.weight.original0
        assert (held.dtype, held.shape) == (torch.int8, weight.shape)
        scale = weight.abs().amax(1, keepdim=True) / 127.5
        assert ((module.weight.dequantize() - weight).abs() <= 0.501 * scale).all()
    kept = {name: one for name, one in model.state_dict().items() if "parametrizations" not in name}
    assert kept and all(torch.equal(one, plain.state_dict()[name]) for name, one in kept.items())


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_multiplies_with_the_quantized_weights(dtype: torch.dtype) -> None:
    plain, model = small().to(dtype), quantize(small().to(dtype))
    rounded = small().to(dtype)
    with torch.no_grad():
        for name, module in rounded.named_modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(model.get_submodule(name).weight.dequantize())
    rounded.freeze()
    ids, positions = torch.tensor([[3, 4, 5, 39]]), torch.arange(4)[None]
    logits = [one.head(one(ids, positions)).float() for one in (plain, model, rounded)]
    assert not torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[1], logits[2], atol=1e-5 if dtype == torch.float32 else 0.05, rtol=1e-2)


@needs_torchao
@pytest.mark.filterwarnings("default")  # of inductor's own
def test_plain_and_quantized_models_of_one_shape_are_compiled_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "compiler", Compiler())
    models = [small(), quantize(small()), quantize(small())]
    models[2].unembed.parametrizations.weight.original1.mul_(torch.linspace(0.5, 2, 40)[:, None])
    written = [tokens(model) for model in models]
    assert [tokens(model, "compile") for model in models] == written
    assert written[1] != written[2] and not execution.compiler.obstacles


@needs_torchao
def test_the_shipped_model_answers_as_before_and_says_what_it_is() -> None:
    found = {name: compare(name, ["confidence-adaptive"], tasks=["sort"], limit=20) for name in ("tiny", "int8:tiny")}
    assert [found[name].rows[0].accuracy for name in found] == [1.0, 1.0]
    about = {name: one.environment for name, one in found.items()}
    assert (about["tiny"]["dtype"], about["int8:tiny"]["dtype"]) == ("float32", "float32, int8")
    assert about["int8:tiny"]["model_sha256"] != about["tiny"]["model_sha256"]
    again = CliRunner().invoke(cli, ["compare", "--model", "int8:tiny", "--limit", "5", "--format", "json"])
    assert json.loads(again.stdout)["environment"]["model_sha256"] == about["int8:tiny"]["model_sha256"]


@needs_torchao
def test_a_map_that_shares_the_embedding_s_weight_keeps_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.module, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embed.weight

    model = quantize(Tied())
    assert model.head.weight is model.embed.weight and type(model.head) is nn.Linear
    assert model.module.parametrizations.weight.original0.dtype == torch.int8


@needs_torchao
def test_a_model_in_training_is_not_frozen_and_settings_of_the_process_stay() -> None:
    before = torch._inductor.config.save_config_portable()
    assert quantize(small().train()).training
    assert quantize(small()).frozen
    assert torch._inductor.config.save_config_portable() == before


def test_only_products_of_eight_bit_weights_are_searched_for() -> None:
    plain, held = torch.zeros(2), torch.zeros(2, dtype=torch.int8)
    assert "max_autotune_gemm" not in _inductor([plain, 3])["config_patches"]
    assert _inductor([plain, held])["config_patches"]["max_autotune_gemm"]


@needs_torchao
def test_a_weight_of_eight_bits_is_weighed_as_it_is_stored() -> None:
    model, x = quantize(small()), torch.randn(1, 4, 32)
    _, work = weigh(lambda: model.head(x))
    assert work.bytes == 4 * 32 * 4 + 32 * 40 + 4 * 40 * 4


@needs_torchao
def test_what_cannot_be_quantized_is_told() -> None:
    with pytest.raises(ConfigError, match=r"a CallableModel has no nn.Linear that could be quantized"):
        quantize(wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_id=4))
    with pytest.raises(ConfigError, match="or none any more"):
        quantize(quantize(small()))


def test_int8_needs_a_model_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="give int8:MODEL, such as int8:tiny"):
        load_model("int8")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"pip install 'dllm-sdk\[int8\]'"):
        load_model("int8:tiny")
