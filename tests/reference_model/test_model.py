"""The transformer: a store and hidden keys change nothing, and it computes what the public models compute."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import prune

from dllm_reference_model import products
from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_reference_model.store import Store

GOLDENS = Path(__file__).parents[1] / "data" / "goldens" / "models"
PLAIN = Config(vocab_size=50, mask_id=0, width=32, layers=3, heads=4, kv_heads=4, mlp_width=48, eos_ids=(1,))
GROUPED = Config(
    vocab_size=50, mask_id=0, width=32, layers=3, heads=4, kv_heads=2, mlp_width=48, qkv_bias=True, qk_norm=True,
    attention_scale=0.3, tied=True, shift=1, head_width=6, rope_base=100.0,
)  # fmt: skip
CONFIGS = [pytest.param(PLAIN, id="plain"), pytest.param(GROUPED, id="grouped")]


def random_model(config: Config) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).double().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.endswith("bias") or weight.ndim == 1:
            weight.normal_(1.0, 0.3)
    return model


def canvas(rows: int, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(50, (rows, length), generator=noise), torch.arange(length).expand(rows, length)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_protocol_attributes() -> None:
    model = Transformer(GROUPED)
    assert (model.mask_id, model.eos_ids, model.vocab_size, model.shift) == (0, (), 50, 1)
    assert (model.block_causal, model.max_length, model.tokenizer) == (False, 4096, None)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_store_gives_what_no_store_gives(config: Config) -> None:
    model, (tokens, positions) = random_model(config), canvas(2, 11)
    plain = model(tokens, positions)
    store = model.new_store(2, 12)
    visible = (torch.arange(12) < 11).expand(2, 1, 12)
    close(model(tokens, positions, store, visible), plain)
    # Feeding some lanes again, in any order, changes neither them nor the store.
    order = torch.tensor([[7, 2, 9], [0, 10, 4]])
    again = model(tokens.gather(1, order), order, store, visible)
    close(again, plain.gather(1, order[..., None].expand_as(again)))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_store_takes_keys_of_another_type_as_autocast_makes_them(frozen: bool) -> None:
    model, (tokens, positions) = random_model(PLAIN).float(), canvas(2, 11)
    model = model.freeze() if frozen else model
    plain = model(tokens, positions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(tokens, positions, model.new_store(2, 11))
    assert (found - plain).abs().max() <= 0.1 * plain.abs().max()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_poisoned_padding_slot_does_not_leak(config: Config) -> None:
    model, (tokens, positions) = random_model(config), canvas(2, 11)
    visible = (torch.arange(12) < 11).expand(2, 1, 12)
    plain = model(tokens, positions)
    store = model.new_store(2, 12)
    for layer in (*store.keys, *store.values):
        layer[:, -1] = 1e6
    wide = torch.cat([tokens, torch.full((2, 3), 9)], 1), torch.cat([positions, torch.full((2, 3), 11)], 1)
    close(model(*wide, store, visible)[:, :11], plain)


@pytest.mark.parametrize("config", CONFIGS)
def test_hidden_keys_and_other_rows_change_nothing(config: Config) -> None:
    model, (tokens, positions) = random_model(config), canvas(3, 14)
    lengths = torch.tensor([14, 9, 5])
    visible = torch.arange(14) < lengths[:, None]
    hidden = model(tokens, positions, None, visible[:, None])
    per_lane = model(tokens, positions, None, visible[:, None].expand(3, 14, 14))
    for row, length in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :length], positions[:1, :length])
        close(hidden[row, :length], alone[0])
        close(per_lane[row, :length], alone[0])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("mask", ["none", "keys", "queries"])
def test_some_lanes_alone_are_as_among_all(config: Config, mask: str) -> None:
    model, (tokens, positions) = random_model(config), canvas(2, 9)
    lanes, keys = torch.tensor([[8, 0, 3], [5, 5, 1]]), torch.arange(9) < torch.tensor([[9], [6]])
    causal = positions[:, None] <= positions[..., None]
    seen = {"none": None, "keys": keys[:, None], "queries": keys[:, None] & causal}[mask]
    stores = [model.new_store(2, 9) for _ in range(2)]
    whole, some = model(tokens, positions, stores[0], seen), model.forward_at(tokens, positions, stores[1], seen, lanes)
    close(some, whole[torch.tensor([[0], [1]]), lanes])
    close(stores[1].keys, stores[0].keys)
    close(stores[1].values, stores[0].values)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_causal_mask_makes_the_past_final(config: Config) -> None:
    model, (tokens, positions) = random_model(config), canvas(1, 12)
    block = torch.arange(12) // 5  # any partition would do
    causal = (block[:, None] >= block)[None]
    whole = model(tokens, positions, None, causal)
    store = model.new_store(1, 13)
    for number in range(3):
        lanes = (block == number).nonzero()[:, 0][None]
        seen = torch.cat([block <= number, torch.tensor([False])])[None, None]
        close(model(tokens.gather(1, lanes), lanes, store, seen), whole[:, lanes[0]])


def test_grouped_keys_equal_repeated_keys() -> None:
    grouped, wide = random_model(GROUPED), random_model(GROUPED)
    state = grouped.state_dict()
    for name in list(state):
        if name.split(".")[-2] in ("key", "value"):
            heads = state[name].unflatten(0, (2, 6))
            state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    fields = {**GROUPED.__dict__, "kv_heads": 4}
    wide = Transformer(Config(**fields)).double()
    wide.load_state_dict(state)
    tokens, positions = canvas(2, 7)
    close(grouped(tokens, positions), wide(tokens, positions).detach())


def test_positions_matter_only_relative_to_each_other() -> None:
    model, (tokens, positions) = random_model(GROUPED), canvas(2, 9)
    close(model(tokens, positions), model(tokens, positions + 37))
    assert not torch.allclose(model(tokens, positions), model(tokens, positions * 2))


def test_keep_moves_rows_to_the_front_and_put_writes() -> None:
    model, (tokens, positions) = random_model(PLAIN), canvas(4, 6)
    store = model.new_store(4, 7)
    model(tokens, positions, store)
    before = [layer.clone() for layer in (*store.keys, *store.values)]
    part = Store(*(tuple(torch.ones_like(layer[:2]) for layer in layers) for layers in store))
    store.put(torch.tensor([3, 1]), part)
    for old, mine in zip(before, (*store.keys, *store.values), strict=True):
        close(mine, torch.stack([old[0], torch.ones_like(old[0]), old[2], torch.ones_like(old[0])]))
    kept = store.keep(torch.tensor([0, 2, 3]))
    for old, mine, moved in zip(before, (*store.keys, *store.values), (*kept.keys, *kept.values), strict=True):
        close(moved, torch.stack([old[0], old[2], torch.ones_like(old[0])]))
        assert moved.data_ptr() == mine.data_ptr()  # no second store


WIDE = Config(
    vocab_size=700, mask_id=0, width=96, layers=2, heads=6, kv_heads=2, mlp_width=344, qkv_bias=True
)  # fmt: skip


@pytest.mark.parametrize("config", [*CONFIGS, pytest.param(WIDE, id="wide")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_frozen_model_computes_the_same_from_the_same_parameters(config: Config, dtype: torch.dtype) -> None:
    model, (tokens, positions) = random_model(config).to(dtype), canvas(2, 9)
    wanted, before = model.head(model(tokens, positions)), {k: v.clone() for k, v in model.state_dict().items()}
    frozen = model.freeze()
    assert frozen is model and frozen.frozen
    found = model.head(model(tokens, positions))
    bound = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="packed on x86-64 only")
@pytest.mark.parametrize("config", [*CONFIGS, pytest.param(WIDE, id="wide")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the second is not packed by every processor
def test_packed_weights_compute_the_same_and_are_copied(
    config: Config, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (tokens, positions) = random_model(config).to(dtype), canvas(2, 9)
    wanted, before = model.head(model(tokens, positions)), {k: v.clone() for k, v in model.state_dict().items()}
    monkeypatch.setattr(products, "PACKED_ABOVE", 0)
    model.freeze()
    assert dtype == torch.bfloat16 or all(layer.laid_out.down.packed for layer in model.layers)
    found = model.head(model(tokens, positions))
    assert (found - wanted).abs().max() <= {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype] * wanted.abs().max()
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(tokens, positions) - model(tokens, positions)).abs().max() == 0
    for copied in (deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert copied.frozen and copied.head(copied(tokens, positions)).equal(found)
    if dtype == torch.float32:  # another process gets the parameters once, in memory that outlives the pickle
        assert len(pickle.dumps(model)) < 1.2 * len(pickle.dumps(deepcopy(model).train()))
    moved = []
    for one in (model, deepcopy(model).train()):  # what lies before the weights, such as a soft prompt, has a gradient
        shift = torch.zeros(config.width, dtype=dtype, requires_grad=True)
        one.embed.register_forward_hook(lambda module, given, found, shift=shift: found + shift)
        one(tokens, positions).square().sum().backward()
        moved.append(shift.grad)
    assert moved[0] is not None
    assert (moved[0] - moved[1]).abs().max() <= {torch.float32: 1e-3, torch.bfloat16: 0.2}[dtype] * moved[1].abs().max()
    model.train().requires_grad_(True)(tokens, positions).sum().backward()
    assert model.layers[0].attention.query.weight.grad is not None


@pytest.mark.parametrize("config", CONFIGS)
def test_a_frozen_model_stays_frozen_where_it_is_moved_or_loaded(config: Config) -> None:
    model, (tokens, positions) = random_model(config).float().freeze().double(), canvas(2, 9)
    close(model(tokens, positions), random_model(config).float().double()(tokens, positions))
    other = random_model(config)
    for weight in other.layers[0].mlp.parameters():
        weight.mul_(0.5)
    for assign in (False, True):
        changed = deepcopy(model)
        changed.load_state_dict(other.state_dict(), assign=assign)
        close(changed(tokens, positions), other(tokens, positions))
        layer = changed.layers[0]
        assert layer.laid_out.gate_and_up.weight.data_ptr() == layer.mlp.gate.weight.data_ptr()  # nothing is held twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_frozen_model_lies_in_shared_memory_where_it_was_put(dtype: torch.dtype) -> None:
    model, (tokens, positions) = random_model(PLAIN).to(dtype).freeze(), canvas(2, 9)
    wanted = model(tokens, positions)
    assert all(weight.is_shared() for weight in model.share_memory().parameters())
    assert model(tokens, positions).equal(wanted)


def test_a_frozen_model_gives_gradients_where_they_are_asked_for_and_takes_other_modules() -> None:
    model, (tokens, positions) = random_model(PLAIN).float().freeze(), canvas(2, 9)
    before = model(tokens, positions)
    model.requires_grad_(True)(tokens, positions).sum().backward()  # not even `train` was called
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "unembed" not in name)
    model.layers[0].mlp.gate = torch.nn.Linear(32, 48, bias=False)
    changed = model.train()(tokens, positions)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(model.freeze()(tokens, positions), changed.detach())


@pytest.mark.parametrize("place", ["gate", "up"])
def test_a_map_of_another_kind_is_kept_as_it_is(place: str) -> None:
    model, (tokens, positions) = random_model(PLAIN), canvas(2, 9)
    setattr(model.layers[0].mlp, place, torch.nn.Linear(32, 48, dtype=torch.float64))  # with a bias, unlike the other
    wanted = model(tokens, positions)
    close(model.freeze()(tokens, positions), wanted)


def test_what_is_hooked_on_a_map_is_done_where_the_model_is_frozen() -> None:
    model, (tokens, positions) = random_model(PLAIN), canvas(2, 9)
    prune.l1_unstructured(model.layers[0].mlp.down, "weight", 0.5)
    model.layers[1].mlp.down.register_forward_hook(lambda module, given, found: 2 * found)
    out = model.layers[1].attention.out
    out.forward = lambda x: 2 * torch.nn.functional.linear(x, out.weight)  # as a library may replace it
    wanted = model(tokens, positions)
    close(model.freeze()(tokens, positions), wanted)
    moved = model.float()  # what is pruned is made anew only where the map is called
    torch.testing.assert_close(moved(tokens, positions).double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_optimizer_made_before_goes_on_after_a_freeze(dtype: torch.dtype) -> None:
    model, (tokens, positions) = random_model(PLAIN).to(dtype).train().requires_grad_(True), canvas(2, 9)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.freeze().train().requires_grad_(True)
    before = model.layers[0].mlp.up.weight.clone()
    model(tokens, positions).sum().backward()
    optimizer.step()
    assert not model.layers[0].mlp.up.weight.equal(before)


def test_a_head_alone_can_be_trained() -> None:
    model, (tokens, positions) = random_model(PLAIN).float().freeze(), canvas(2, 9)
    model.unembed.weight.requires_grad_(True)
    with torch.no_grad():
        hidden = model(tokens, positions)
    model.head(hidden).sum().backward()
    assert model.unembed.weight.grad is not None


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("frozen", [False, True])
def test_rows_may_share_positions_and_sizes_may_be_zero(config: Config, frozen: bool) -> None:
    model, (tokens, positions) = random_model(config).float(), canvas(3, 7)
    model = model.freeze() if frozen else model
    hidden = model(tokens, positions)
    torch.testing.assert_close(model(tokens, positions[:1]), hidden)
    assert model(tokens[:0], positions[:0]).shape == hidden[:0].shape
    logits = model.head(hidden)
    torch.testing.assert_close(model.head(hidden[1, 2]), logits[1, 2])
    for some in (hidden[:0], hidden[:, :0], hidden[0, :0]):
        assert model.head(some).shape == (*some.shape[:-1], config.vocab_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_was_frozen_in_inference_mode_can_be_trained(dtype: torch.dtype) -> None:
    model, (tokens, positions) = random_model(PLAIN).to(dtype), canvas(2, 9)
    with torch.inference_mode():
        model.freeze()
    model.train().requires_grad_(True)(tokens, positions).sum().backward()
    assert model.layers[0].attention.query.weight.grad is not None


def test_a_frozen_model_can_be_trained_again() -> None:
    model, (tokens, positions) = random_model(PLAIN).float().freeze(), canvas(2, 9)
    before = model(tokens, positions)
    model.train().requires_grad_(True)
    assert not model.frozen
    model(tokens, positions).sum().backward()
    query = model.layers[0].attention.query.weight
    assert query.grad is not None and query.grad.abs().max() > 0
    with torch.no_grad():
        query -= 0.1
    assert not torch.allclose(model.freeze()(tokens, positions), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_stays_half_and_near(dtype: torch.dtype) -> None:
    model, (tokens, positions) = random_model(GROUPED), canvas(2, 9)
    exact = model.head(model(tokens, positions))
    low = model.to(dtype)
    logits = low.head(low(tokens, positions, low.new_store(2, 9)))
    assert logits.dtype == dtype
    assert (logits.double() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "width must be >= 1, got 0"),
        ("heads", 3, "heads must divide width 32, got 3"),
        ("kv_heads", 3, "kv_heads must divide heads 4, got 3"),
        ("head_width", 5, "head_width must be even, got 5"),
        ("mask_id", 50, r"token ids must be in 0..49, got 50"),
        ("eos_ids", (0,), "mask_id must not be one of eos_ids, got 0"),
        ("shift", 2, "shift must be 0 or 1, got 2"),
        ("rope_base", 0.0, "rope_base must be > 0, got 0.0"),
        ("attention_scale", -1.0, "attention_scale must be >= 0, got -1.0"),
    ],
)
def test_a_bad_config_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**{**PLAIN.__dict__, "head_width": 0, field: value})


OUTER = {
    "llada": {
        "model.transformer.wte.weight": "embed.weight",
        "model.transformer.ln_f.weight": "norm.weight",
        "model.transformer.ff_out.weight": "unembed.weight",
    },
    "Dream": {
        "model.embed_tokens.weight": "embed.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "unembed.weight",
    },
}
INNER = {
    "llada": "attn_norm:attention_norm q_proj:attention.query k_proj:attention.key v_proj:attention.value "
    "attn_out:attention.out ff_norm:mlp_norm ff_proj:mlp.gate up_proj:mlp.up ff_out:mlp.down",
    "Dream": "input_layernorm:attention_norm self_attn.q_proj:attention.query self_attn.k_proj:attention.key "
    "self_attn.v_proj:attention.value self_attn.o_proj:attention.out post_attention_layernorm:mlp_norm "
    "mlp.gate_proj:mlp.gate mlp.up_proj:mlp.up mlp.down_proj:mlp.down",
}


def public_model(folder: Path) -> Transformer:
    """A tiny model in a public layout, by name maps that live only in this test."""
    found = json.loads((folder / "config.json").read_text())
    kind = found["model_type"]
    names = {"width": "d_model", "layers": "n_layers", "heads": "n_heads", "kv_heads": "n_kv_heads"}
    names |= {"mlp_width": "mlp_hidden_size"}
    if kind == "Dream":
        names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
        names |= {"kv_heads": "num_key_value_heads", "mlp_width": "intermediate_size"}
    sizes = {ours: found[theirs] for ours, theirs in names.items()}
    config = Config(
        vocab_size=found["vocab_size"],
        mask_id=found["mask_token_id"],
        rope_base=found["rope_theta"],
        norm_eps=found["rms_norm_eps"],
        qkv_bias=kind == "Dream",
        shift=int(kind == "Dream"),
        **sizes,
    )
    inner, state = dict(pair.split(":") for pair in INNER[kind].split()), {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name not in OUTER[kind]:
            layer, _, rest = name.split("layers." if kind == "Dream" else "blocks.")[1].partition(".")
            part, _, what = rest.rpartition(".")
            state[f"layers.{layer}.{inner[part]}.{what}"] = tensor
        else:
            state[OUTER[kind][name]] = tensor
    model = Transformer(config)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["llada-a", "llada-b", "dream-a"])
def test_forward_equals_the_public_implementation(name: str) -> None:
    model, items = public_model(GOLDENS / name), load_file(GOLDENS / name / "forward.safetensors")
    checked = 0
    for key, wanted in items.items():
        item, what = key.split(".")
        if what != "logits":
            continue
        checked += 1
        if item in ("prefix", "dual"):
            cached, window = items[f"{item}.cache_ids"], items[f"{item}.window_ids"]
            store = model.new_store(1, cached.shape[1])
            model(cached, torch.arange(cached.shape[1])[None], store)
            hidden = model(window, torch.arange(18, 18 + window.shape[1])[None], store)
        else:
            tokens = items[f"{item}.input_ids"]
            visible = items.get(f"{item}.attention_mask", torch.ones_like(tokens)).bool()
            # A lane that sees nothing has no defined output: let the padding lanes see themselves.
            mask = visible[:, None] | torch.eye(tokens.shape[1], dtype=torch.bool)
            hidden = model(tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None, mask)[visible]
            wanted = wanted[visible]
        torch.testing.assert_close(model.head(hidden), wanted, rtol=0, atol=1e-4)
    assert checked == (7 if name == "dream-a" else 8)
