"""The pages of the bridges: their blocks run, the table of hosts is current, and every host can be refused in words."""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, load_scheduler
from dllm_sdk.bridges.block import Terms, open_block, step
from dllm_sdk.bridges.hosts import obstacle, scheduler_for
from dllm_sdk.elsewhere import ELSEWHERE, elsewhere
from dllm_sdk.rules import first
from tests.bridges import sglang_source
from tests.pages import agree, blocks, run_python

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.extra
@pytest.mark.parametrize(
    ("name", "needs", "count"),
    [("transformers", ["transformers"], 2), ("diffusers", ["transformers", "diffusers"], 2), ("gpu", ["torchao"], 1)],
)
def test_the_blocks_of_a_page_run(name: str, needs: list[str], count: int) -> None:
    """They are `py`, not `python`: the tests of all pages must not need an extra."""
    for needed in needs:
        pytest.importorskip(needed, reason=f"needs the package `{needed}`")
    page = DOCS / "how-to" / f"{name}.md"
    module = ModuleType("page")
    found = [block for block in blocks(page.read_text(encoding="utf-8")) if block.language == "py"]
    assert len(found) >= count
    for block in found:
        printed = run_python(block, page, module)
        assert agree(block, printed), f"{page.name}, line {block.line} prints\n{printed}"


@pytest.mark.extra
def test_the_yaml_of_the_page_starts_a_server(
    tmp_path: Path, sglang_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sglang_source.install(sglang_folder, monkeypatch)
    page = blocks((DOCS / "how-to" / "sglang.md").read_text(encoding="utf-8"))
    (yaml,) = [block for block in page if block.language == "yaml"]
    (command,) = [block.code for block in page if block.language == "bash"]
    assert yaml.title and "--dllm-algorithm DllmSDK" in command and f"--dllm-algorithm-config {yaml.title}" in command
    (tmp_path / yaml.title).write_text(yaml.code, encoding="utf-8")
    importlib.import_module("dllm_sdk.bridges.sglang").register()
    arguments = SimpleNamespace(
        dllm_algorithm="DllmSDK",
        dllm_algorithm_config=str(tmp_path / yaml.title),
        dllm_fdfo=True,
        model_path="m",
        revision=None,
        max_running_requests=8,
        model_config=SimpleNamespace(hf_config=SimpleNamespace(architectures=["LLaDA2MoeModelLM"])),
    )
    base = importlib.import_module("sglang.srt.dllm.algorithm.base")
    assert base.DllmAlgorithm.from_server_args(arguments).terms.scheduler.threshold == 0.85
    sglang_source.forget()


def test_the_table_of_hosts_is_current() -> None:
    script = runpy.run_path(str(DOCS / "reference" / "hosts.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run: python docs/reference/hosts.py"


@dataclass(frozen=True)
class Toy(Scheduler[Any]):
    """One position at a time, from the left; the fields break what a host relies on."""

    reads_length: bool = False
    stops: bool = False
    idles: bool = False
    shrinks: bool = False

    def init(self, tokens: Any, open: Any) -> Any:
        return (torch.zeros_like(tokens[:, 0]),)

    def plan(self, view: Any, state: Any) -> Any:
        return first(view.open, 4 - state[0] * self.shrinks), (state[0] + 1,)

    def select(self, view: Any, state: Any) -> Any:
        stop = view.step > 0 if self.stops else None
        commit = first(view.open, 1)
        if self.reads_length:
            commit = first(view.open, view.gen_length)
        return Decision(commit=commit & (not self.idles), stop=stop), state


def test_what_a_scheduler_does_not_declare_is_seen_in_the_rehearsal() -> None:
    assert obstacle(Toy(), 4) is None
    assert "its blocks change with its state" in str(obstacle(Toy(shrinks=True), 4))
    assert "takes the whole answer as one block" in str(obstacle(load_scheduler("p2"), 4))
    assert "its blocks are others (32 long at first)" in str(obstacle(load_scheduler("threshold"), 4))
    assert "reads how long the whole answer is" in str(obstacle(Toy(reads_length=True), 4))
    assert "needs eos_ids" in str(obstacle(Toy(stops=True), 4))
    assert obstacle(Toy(stops=True), 4, eos_ids=(1,)) is None
    with pytest.raises(ConfigError, match="eos_ids and seed must be whole numbers >= 0, got True"):
        scheduler_for("SGLang", "threshold", 32, seed=True)


class Hasty(Toy):
    revises, patience = True, "none"


def test_members_of_the_wrong_kind_are_named_by_hosts() -> None:
    with pytest.raises(ConfigError, match=r"Hasty\.patience must be a whole number from 1 to 10000, got 'none'"):
        scheduler_for("SGLang", "tests.bridges.test_pages:Hasty", 32)


def test_a_row_that_stops_is_filled_with_eos() -> None:
    tokens, nowhere = torch.full((1, 4), 7), torch.zeros(1, 4, dtype=torch.bool)
    logits = torch.zeros(1, 4, 8).index_fill(2, torch.tensor(3), 5.0)
    terms = Terms(Toy(stops=True), mask_id=7, eos_ids=(2,))
    done = step(terms, open_block(terms.scheduler, tokens, nowhere), tokens, logits)
    done = step(terms, done.block, done.tokens, logits)
    assert done.tokens.tolist() == [[3, 3, 2, 2]] and bool(done.block.closed)


def test_a_scheduler_that_idles_neither_hangs_nor_falls() -> None:
    tokens, nowhere = torch.full((1, 4), 7), torch.zeros(1, 4, dtype=torch.bool)
    terms = Terms(Toy(idles=True), mask_id=7)
    block = open_block(terms.scheduler, tokens, nowhere)
    for _ in range(4):
        with pytest.warns(RuntimeWarning, match="brought no fewer masks"):
            done = step(terms, block, tokens, torch.zeros(1, 4, 8))
        tokens, block = done.tokens, done.block
    assert bool(block.closed) and 7 not in tokens


@pytest.mark.parametrize("spec", ["pc-sampler:block=8,steps=4,background=[5, 1, 3, 2, 1, 4]", "p2:steps=6"])
def test_a_host_may_decode_on_another_device(spec: str) -> None:
    """Whatever a scheduler holds is there, too."""
    logits = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))

    def decoded(place: Callable[[Tensor], Tensor]) -> list[list[int]]:
        tokens = place(torch.full((2, 8), 5))
        terms = Terms(load_scheduler(spec), mask_id=5)
        block = open_block(terms.scheduler, tokens, torch.zeros_like(tokens, dtype=torch.bool))
        while not block.closed.all():
            done = step(terms, block, tokens, place(logits))
            block, tokens = done.block, done.tokens
        return tokens.tolist()

    wanted = decoded(lambda tensor: tensor)
    with elsewhere():
        assert decoded(lambda tensor: tensor.to(ELSEWHERE)) == wanted
