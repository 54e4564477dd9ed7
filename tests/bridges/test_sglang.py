"""The bridge to SGLang, against SGLang's real source: same tokens, same passes, its YAML, its plug-in loader."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllm_sdk import ConfigError, NoCache, combine, generate, load_model, load_scheduler, load_task
from dllm_strategies import BlockRefinement
from tests.bridges import sglang_source
from tests.bridges.sglang_server import serve

pytestmark = pytest.mark.extra
SIZE, LENGTH = 8, 32


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("tiny", dtype="float64")


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[list[int]]:
    """Of different lengths, so that the first block holds some of the prompt."""
    texts = load_task("sort").prompts("test", 2, seed=0)
    return [model.tokenizer.encode(text)[:length] for text, length in zip(texts, (13, 6), strict=True)]


@pytest.fixture
def sglang(sglang_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package of algorithms, real, and our bridge imported into it."""
    sglang_source.install(sglang_folder, monkeypatch)
    yield SimpleNamespace(
        algorithm=importlib.import_module("sglang.srt.dllm.algorithm"),
        base=importlib.import_module("sglang.srt.dllm.algorithm.base"),
        config=importlib.import_module("sglang.srt.dllm.config").DllmConfig,
        plugins=importlib.import_module("sglang.srt.plugins"),
        bridge=importlib.import_module("dllm_sdk.bridges.sglang"),
    )
    sglang_source.forget()


def made(sglang: Any, name: str, yaml: dict[str, Any], *, fdfo: bool, size: int = SIZE, mask_id: int = 0) -> Any:
    """An algorithm as a server makes it once the YAML is read."""
    sglang.bridge.register()
    config = sglang.config(name, yaml, size, mask_id, max_running_requests=4, first_done_first_out_mode=fdfo)
    return sglang.algorithm.get_algorithm(config)


def natively(model: Any, prompts: list[list[int]], spec: str) -> Any:
    """Our own loop with the blocks that the server has."""
    scheduler = load_scheduler(spec)
    if not isinstance(scheduler, BlockRefinement):  # which has the server's blocks by itself
        scheduler = combine(plan=BlockRefinement(block=SIZE), select=scheduler)
    lengths = [LENGTH - len(prompt) for prompt in prompts]
    return generate(model, prompts, scheduler, gen_length=lengths, stop_at_eos=False, cache=NoCache(suffix=False))


def blocks(prompts: list[list[int]]) -> list[int]:
    """Blocks that a request generates in."""
    return [LENGTH // SIZE - len(prompt) // SIZE for prompt in prompts]


@pytest.mark.parametrize("fdfo", [True, False], ids=["fdfo", "sync"])
@pytest.mark.parametrize(
    "spec",
    [
        "credit-decoding:block=8",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("threshold:block=8", "fixed-block:block=8,steps=3")),
    ],
)
def test_tokens_and_passes_are_those_of_our_own_loop(
    sglang: Any, model: Any, prompts: list[list[int]], spec: str, fdfo: bool
) -> None:
    served = serve(
        model, made(sglang, "DllmSDK", {"scheduler": spec}, fdfo=fdfo), prompts, LENGTH, batch=2 if fdfo else 1
    )
    ours = natively(model, prompts, spec)
    assert [request.ids for request in served] == [row.tolist() for row in ours.tokens]
    # SGLang runs one forward more per block, which stores the block's final keys and decides nothing.
    decisions = [request.forwards - n for request, n in zip(served, blocks(prompts), strict=True)]
    assert decisions == ours.nfe
    assert sum(ours.nfe) < sum(LENGTH - len(prompt) for prompt in prompts)


@pytest.mark.parametrize("fdfo", [True, False], ids=["fdfo", "sync"])
@pytest.mark.parametrize(
    "spec",
    ["block-refinement:block=8,steps=9,threshold=0.6,edit_threshold=0.2", "threshold:block=8+p2:steps=5,eta=1.5"],
    ids=["edit", "remask"],
)
def test_edits_and_remasking_work_inside_a_block(
    sglang: Any, model: Any, prompts: list[list[int]], spec: str, fdfo: bool
) -> None:
    served = serve(
        model, made(sglang, "DllmSDK", {"scheduler": spec}, fdfo=fdfo), prompts, LENGTH, batch=3 if fdfo else 1
    )
    ours = natively(model, prompts, spec.partition("+")[2] or spec)
    assert [request.ids for request in served] == [row.tolist() for row in ours.tokens]
    for request, nfe, n in zip(served, ours.nfe, blocks(prompts), strict=True):
        assert nfe <= request.forwards <= nfe + n  # a last step that writes nothing already saw the final tokens


@pytest.mark.parametrize("fdfo", [True, False], ids=["fdfo", "sync"])
@pytest.mark.parametrize("threshold", [0.6, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.3, 0.95))])
def test_low_confidence_is_our_block_refinement(
    sglang: Any, model: Any, prompts: list[list[int]], threshold: float, fdfo: bool
) -> None:
    spec = f"block-refinement:block=8,steps=8,threshold={threshold}"
    theirs = serve(model, made(sglang, "LowConfidence", {"threshold": threshold}, fdfo=fdfo), prompts, LENGTH)
    ours = serve(model, made(sglang, "DllmSDK", {"scheduler": spec}, fdfo=fdfo), prompts, LENGTH)
    assert [(r.ids, r.forwards) for r in theirs] == [(r.ids, r.forwards) for r in ours]
    alone = natively(model, prompts, spec)
    assert [r.ids for r in theirs] == [row.tolist() for row in alone.tokens]
    if fdfo:
        assert [r.forwards - n for r, n in zip(theirs, blocks(prompts), strict=True)] == alone.nfe


@pytest.mark.parametrize("fdfo", [True, False], ids=["fdfo", "sync"])
@pytest.mark.parametrize("thresholds", [(0.4, 0.1), pytest.param((0.7, 0.4), marks=pytest.mark.slow)])
def test_joint_threshold_is_our_block_refinement_with_edits(
    sglang: Any, model: Any, prompts: list[list[int]], thresholds: tuple[float, float], fdfo: bool
) -> None:
    threshold, edit = thresholds
    yaml = {"threshold": threshold, "edit_threshold": edit, "max_post_edit_steps": 4}
    fields = f"block=8,steps=9,threshold={threshold},edit_threshold={edit},post_steps=4"
    theirs = serve(model, made(sglang, "JointThreshold", yaml, fdfo=fdfo), prompts, LENGTH)
    ours = serve(
        model, made(sglang, "DllmSDK", {"scheduler": f"block-refinement:{fields}"}, fdfo=fdfo), prompts, LENGTH
    )
    assert [(r.ids, r.forwards) for r in theirs] == [(r.ids, r.forwards) for r in ours]


@pytest.mark.parametrize("fdfo", [True, False], ids=["fdfo", "sync"])
def test_every_block_of_a_request_draws_its_own_numbers(sglang: Any, model: Any, fdfo: bool) -> None:
    """In the first pass over a block of masks, half of it commits by chance. Of 70 halves two may be the same."""
    seen: list[tuple[int, ...]] = []

    class Watched(sglang.bridge.DllmSDK):  # type: ignore[misc]
        def step(self, forward_batch: Any, full_logits: Any, states: list[Any]) -> list[bool]:
            fresh = bool((forward_batch.input_ids == self.mask_id).all())
            done: list[bool] = super().step(forward_batch, full_logits, states)
            if fresh:
                seen.append(tuple((forward_batch.input_ids != self.mask_id).nonzero()[:, 0].tolist()))
            return done

    config = sglang.config("Watched", {"scheduler": "random-order:block=8,steps=2"}, SIZE, 0, 4, fdfo)
    serve(model, Watched(config), [list(range(5, 13))], 7 * SIZE, batch=1)
    assert len(seen) == 6 and len(set(seen)) >= 4
    once = tuple(seen)
    serve(model, Watched(config), [list(range(5, 13))], 7 * SIZE, batch=1)
    assert tuple(seen) == once * 2


def test_a_server_reads_the_yaml(sglang: Any, tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("scheduler: \"early-eos:inner='threshold:block=4'\"\nblock_size: 4\neos_ids: [156892]\n")
    sglang.bridge.register()
    arguments = SimpleNamespace(
        dllm_algorithm="DllmSDK",
        dllm_algorithm_config=str(yaml),
        dllm_fdfo=True,
        model_path="m",
        revision=None,
        max_running_requests=8,
        model_config=SimpleNamespace(hf_config=SimpleNamespace(architectures=["LLaDA2MoeModelLM"])),
    )
    algorithm = sglang.base.DllmAlgorithm.from_server_args(arguments)
    assert isinstance(algorithm, sglang.bridge.DllmSDK) and algorithm.fdfo and algorithm.block_size == 4
    assert algorithm.terms.scheduler.eos == (156892,) and algorithm.mask_id == 156895


def test_sglangs_loader_finds_the_plug_in(sglang: Any) -> None:
    plugins = sglang.plugins.load_plugins_by_group(sglang.plugins.GENERAL_PLUGINS_GROUP)
    function, distribution = plugins["dllm-sdk"]
    assert distribution == "dllm-sdk" and "DllmSDK" not in sglang.algorithm.algo_name_to_cls
    function()
    assert sglang.algorithm.get_algorithm_cls("DllmSDK") is sglang.bridge.DllmSDK


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ({}, "has no key 'scheduler'"),
        ({"scheduler": "threshold:block=8", "treshold": 1}, "unknown key 'treshold'"),
        ({"scheduler": 3}, "must be a SPEC such as 'threshold:block=8', got 3"),
        ({"scheduler": "threshold"}, r"its blocks are others \(32 long at first\); that needs blocks of 8"),
        ({"scheduler": "threshold:block=8", "eos_ids": None}, "whole numbers >= 0, got None"),
        ({"scheduler": "threshold:block=8", "seed": "a"}, "whole numbers >= 0, got 'a'"),
        ({"scheduler": "treshold"}, "did you mean 'threshold'"),
        ({"scheduler": "threshold:blok=8"}, "did you mean 'block'"),
        ({"scheduler": "adablock:delimiters=[5],block=8"}, "looking ahead"),
        ({"scheduler": "confidence-adaptive"}, "looking ahead"),
        ({"scheduler": "dsb:block=8"}, "moves its block at every step"),
        ({"scheduler": "saber:block=8"}, "remembers earlier blocks"),
        ({"scheduler": "p2"}, "takes the whole answer as one block"),
        ({"scheduler": "fixed-block:block=8,defer=\"\\n\""}, "give token ids"),
        ({"scheduler": "threshold:block=8", "eos_ids": ["end"]}, "eos_ids and seed must be whole numbers >= 0"),
    ],
)  # fmt: skip
def test_what_a_server_refuses_when_it_starts(sglang: Any, yaml: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, LookupError), match=words):
        made(sglang, "DllmSDK", yaml, fdfo=True)


def test_the_interface_is_the_one_we_were_written_for(sglang_folder: Path, sglang: Any) -> None:
    """Fails when a version in the extra's range changes what the bridge overrides, reads or registers in."""
    (wheel,) = sglang_folder.parent.glob("sglang-*.whl")
    assert wheel.name.split("-")[1] in sglang_source.extra("sglang").specifier
    base = sglang.base.DllmAlgorithm
    expected = {
        "__init__": ["self", "config"],
        "init_step_state": ["self", "forward_batch"],
        "max_steps": ["self", "block_size"],
        "step": ["self", "forward_batch", "full_logits", "states"],
        "run": ["self", "model_runner", "forward_batch", "algo_states"],
        "_prompt_mask": ["self", "forward_batch"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(base, name)).parameters) == parameters, name
    with zipfile.ZipFile(wheel) as archive:  # which imports what needs a GPU
        source = ast.parse(archive.read("sglang/srt/model_executor/forward_batch_info.py"))
    (batch,) = [node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "ForwardBatch"]
    fields = {ast.unparse(node.target) for node in batch.body if isinstance(node, ast.AnnAssign)}
    assert fields >= {"batch_size", "input_ids", "positions"}
    assert type(sglang.algorithm.algo_name_to_cls) is dict
    assert sglang.plugins.GENERAL_PLUGINS_GROUP == "sglang.srt.plugins"


def test_a_moved_registry_is_said(sglang: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sglang.algorithm, "algo_name_to_cls")
    with pytest.raises(ImportError, match="keeps its algorithms elsewhere"):
        sglang.bridge.register()


def test_without_sglang_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sglang", None)
    with pytest.raises(ImportError, match=r"dllm-sdk\[sglang\]"):
        importlib.import_module("dllm_sdk.bridges.sglang")
