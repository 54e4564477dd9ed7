"""The bridge to diffusers: a real LLaDA2Pipeline with our schedulers, and its scheduler in our loop."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dllm_sdk import ConfigError, NoCache, combine, generate, load_model, load_scheduler, load_task
from dllm_sdk.testing import check_scheduler
from dllm_strategies import BlockRefinement
from dllm_strategies.presets import diffusers_llada2
from tests.bridges.sglang_source import extra, in_range
from tests.bridges.twins import Counted, twin

try:
    import diffusers
except ImportError:
    diffusers = None

pytestmark = pytest.mark.extra
SIZE, LENGTH = 8, 32


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    for name in ("diffusers", "transformers"):
        pytest.importorskip(name, reason=f"needs the extra `{name}`")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("tiny", dtype="float64")


@pytest.fixture(scope="module")
def prompts(model: Any) -> torch.Tensor:
    """Two of one length, which is no multiple of the block."""
    texts = load_task("sort").prompts("test", 2, seed=0)
    return torch.tensor([model.tokenizer.encode(text)[:6] for text in texts])


@pytest.fixture(scope="module")
def module(model: Any) -> Counted:
    return Counted(twin(model), model.mask_id)


def piped(module: Counted, prompts: torch.Tensor, scheduler: Any, **options: Any) -> tuple[list[list[int]], int]:
    """Tokens of the whole canvas, and forward passes, of a real pipeline."""
    pipe = diffusers.LLaDA2Pipeline(module, scheduler)
    pipe.set_progress_bar_config(disable=True)
    module.forwards = 0
    arguments = {"gen_length": LENGTH - prompts.shape[1], "mask_token_id": module.mask_id, "output_type": "seq"}
    output = pipe(input_ids=prompts, **{"editing_threshold": None, "block_length": SIZE, **arguments, **options})
    return torch.cat([prompts, output.sequences], 1).tolist(), module.forwards


def natively(model: Any, prompts: torch.Tensor, scheduler: Any, **options: Any) -> Any:
    """Our own loop on the same canvas."""
    options = {"cache": NoCache(suffix=False), "stop_at_eos": False, **options}
    return generate(model, list(prompts), scheduler, gen_length=LENGTH - prompts.shape[1], **options)


def in_its_blocks(spec: str) -> Any:
    """A scheduler of ours with the blocks of the pipeline."""
    scheduler = load_scheduler(spec)
    if isinstance(scheduler, BlockRefinement):
        return scheduler
    return combine(plan=BlockRefinement(block=SIZE), select=scheduler)


@pytest.mark.parametrize(
    "spec",
    [
        "threshold:block=8,threshold=0.7",
        pytest.param("klass:block=8,steps=8", marks=pytest.mark.slow),
        "block-refinement:block=8,steps=9,threshold=0.6,edit_threshold=0.2",
        "threshold:block=8+p2:steps=5,eta=1.5",
    ],
    ids=["stateless", "stateful", "edit", "remask"],
)
def test_tokens_and_passes_are_those_of_our_own_loop(
    model: Any, module: Counted, prompts: torch.Tensor, spec: str
) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    ours = natively(model, prompts, in_its_blocks(spec.partition("+")[2] or spec))
    tokens, _ = piped(module, prompts, DllmScheduler(spec, SIZE))  # a batch: rows neither wait for nor see each other
    assert tokens == [row.tolist() for row in ours.tokens]
    for row in range(2):
        tokens, forwards = piped(module, prompts[row : row + 1], DllmScheduler(spec, SIZE))
        assert tokens == [ours.tokens[row].tolist()] and forwards == ours.nfe[row]


def test_ids_in_a_spec_are_those_of_our_own_loop(model: Any, module: Counted, prompts: torch.Tensor) -> None:
    """A host does not say how many tokens it has; which of them a scheduler asks for is the caller's word."""
    from dllm_sdk.bridges.diffusers import DllmScheduler

    spec = f"fixed-block:block=8,steps=4,defer=[{', '.join(map(str, range(100, 300)))}]"
    tokens, _ = piped(module, prompts, DllmScheduler(spec, SIZE))
    assert tokens == [row.tolist() for row in natively(model, prompts, in_its_blocks(spec)).tokens]


def test_it_stops_at_eos_where_our_loop_does(model: Any, module: Counted, prompts: torch.Tensor) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    spec, row = "threshold:block=8", prompts[:1]
    eos = model.eos_ids[0]
    longer = 2 * LENGTH - row.shape[1]
    ours = generate(model, list(row), in_its_blocks(spec), gen_length=longer, cache=NoCache(suffix=False))
    tokens, forwards = piped(module, row, DllmScheduler(spec, SIZE), eos_token_id=eos, gen_length=longer)
    end = tokens[0].index(eos, row.shape[1])
    assert tokens[0][: end + 1] == ours.tokens[0].tolist()[: end + 1] and forwards == ours.nfe[0]


@pytest.mark.parametrize(("threshold", "editing"), [(0.6, None), (0.6, 0.2)], ids=["masks", "edits"])
def test_its_scheduler_is_our_block_refinement(
    model: Any, module: Counted, prompts: torch.Tensor, threshold: float, editing: float | None
) -> None:
    from dllm_sdk.bridges.diffusers import FromDiffusers

    fields = {"block_length": SIZE, "num_inference_steps": 6, "threshold": threshold, "editing_threshold": editing}
    theirs = diffusers.BlockRefinementScheduler(**fields)
    gen_length = LENGTH - prompts.shape[1]
    preset = diffusers_llada2(gen_length=gen_length, **fields)
    ours = natively(model, prompts, preset["scheduler"])
    bridged = natively(model, prompts, FromDiffusers(theirs))
    assert [row.tolist() for row in bridged.tokens] == [row.tolist() for row in ours.tokens]
    assert bridged.nfe == ours.nfe
    for row in range(2):
        options = {key: value for key, value in fields.items() if key != "block_length"}
        tokens, forwards = piped(module, prompts[row : row + 1], theirs, **options)
        assert tokens == [ours.tokens[row].tolist()]
        assert forwards >= ours.nfe[row]  # theirs looks once more at a block that is full


@pytest.mark.slow
@pytest.mark.parametrize("editing", [None, 0.3])
def test_its_scheduler_keeps_our_protocol(editing: float | None) -> None:
    from dllm_sdk.bridges.diffusers import FromDiffusers

    check_scheduler(FromDiffusers(diffusers.BlockRefinementScheduler(6, 4, 0.6, editing)), examples=8)


def test_a_pipeline_is_saved_and_loaded_with_its_scheduler(tmp_path: Path, model: Any, prompts: torch.Tensor) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    scheduler = DllmScheduler("threshold:block=8,threshold=0.7", 8, eos_ids=(1,), seed=3)
    diffusers.LLaDA2Pipeline(twin(model), scheduler).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert written["scheduler"] == "threshold:block=8,threshold=0.7" and written["block_length"] == 8
    loaded = DllmScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert dict(loaded.config).items() >= {"seed": 3, "block_length": 8}.items()
    pipe = diffusers.LLaDA2Pipeline.from_pretrained(tmp_path, scheduler=loaded)
    again, _ = piped(Counted(pipe.model.double(), model.mask_id), prompts, pipe.scheduler)
    first, _ = piped(Counted(twin(model), model.mask_id), prompts, scheduler)
    assert again == first


def test_a_scheduler_is_made_anew_from_its_config() -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    first = DllmScheduler("threshold:block=8", 8)
    again = DllmScheduler.from_config(first.config, seed=3)
    assert dict(again.config) == dict(first.config) | {"seed": 3}
    assert diffusers.BlockRefinementScheduler.from_config(first.config).config.block_length == 8


def test_sampling_repeats_by_seed(module: Counted, prompts: torch.Tensor) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    drawn = [
        piped(module, prompts, DllmScheduler("threshold:block=8", 8, seed=seed), temperature=2.0)[0]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_block_draws_its_own_numbers(model: Any, prompts: torch.Tensor) -> None:
    """A module that prefers nothing writes what is drawn, so blocks that drew alike would read alike."""
    from dllm_sdk.bridges.diffusers import DllmScheduler

    flat = twin(model)
    torch.nn.init.zeros_(flat.model.norm.weight)
    tokens, _ = piped(
        Counted(flat, model.mask_id), prompts[:1], DllmScheduler("fixed-block:block=8,steps=2", 8), temperature=1.0
    )
    assert len({tuple(tokens[0][start : start + SIZE]) for start in range(SIZE, LENGTH, SIZE)}) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("threshold:block=16", 8), r"its blocks are others \(16 long at first\)"),
        (("adablock:delimiters=[5]",), "diffusers cannot run 'adablock.*looking ahead"),
        (("swordsman",), "looking ahead"),
        (("dcd",), "moves its block at every step"),
        (("saber:block=8", 8), "remembers earlier blocks"),
        (("remdm", 8), "takes the whole answer as one block"),
        (("treshold",), "did you mean 'threshold'"),
        (("threshold", 0), "the block must be a whole number >= 1, got 0"),
        ((None,), "must be a SPEC"),
    ],
)
def test_what_it_refuses_at_construction(arguments: tuple[Any, ...], words: str) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler

    with pytest.raises((ConfigError, LookupError), match=words):
        DllmScheduler(*arguments)


def test_what_it_refuses_when_called(module: Counted, prompts: torch.Tensor) -> None:
    from dllm_sdk.bridges.diffusers import DllmScheduler, FromDiffusers

    scheduler = DllmScheduler("threshold:block=8", 8)
    with pytest.raises(ConfigError, match="called with block_length=16, but its scheduler was made for 8"):
        piped(module, prompts, scheduler, block_length=16)
    with pytest.raises(ConfigError, match="leave top_k and generator out"):
        piped(module, prompts, scheduler, top_k=3)
    with pytest.raises(ConfigError, match="takes a BlockRefinementScheduler, got DllmScheduler"):
        FromDiffusers(scheduler)
    with pytest.raises(ConfigError, match=r"num_inference_steps must be <= block_length \(4\)"):
        FromDiffusers(diffusers.BlockRefinementScheduler(4, 8))


def test_the_interface_is_the_one_we_were_written_for() -> None:
    """Fails when a version in the extra's range changes what the pipeline asks of a scheduler."""
    assert in_range("diffusers"), f"the extra allows {extra('diffusers')}, installed is {diffusers.__version__}"
    theirs = diffusers.BlockRefinementScheduler
    source = inspect.getsource(diffusers.LLaDA2Pipeline.__call__)
    asked = {name for name in dir(theirs) if f"self.scheduler.{name}" in source}
    assert asked == {"set_timesteps", "step", "check_eos_finished", "check_block_should_continue", "config"}
    expected = {
        "set_timesteps": "num_inference_steps device block_length",
        "step": "model_output timestep sample mask_token_id temperature top_p top_k sampling_method threshold "
        "editing_threshold minimal_topk prompt_mask generator return_dict",
        "check_eos_finished": "cur_x sampled_tokens final_transfer finished eos_token_id mask_token_id prompt_length",
        "check_block_should_continue": "step_idx masks_remaining editing_enabled editing_transfer_index post_steps "
        "max_post_steps finished",
    }
    for name, parameters in expected.items():
        assert [p for p in inspect.signature(getattr(theirs, name)).parameters if p != "self"] == parameters.split()
    output = importlib.import_module("diffusers.schedulers.scheduling_block_refinement").BlockRefinementSchedulerOutput
    fields = "prev_sample transfer_index editing_transfer_index sampled_tokens sampled_probs pred_logits"
    assert list(output.__dataclass_fields__) == fields.split()


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "dllm_sdk.bridges.diffusers", raising=False)
    with pytest.raises(ImportError, match=r"dllm-sdk\[diffusers\]"):
        importlib.import_module("dllm_sdk.bridges.diffusers")
