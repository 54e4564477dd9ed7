"""Every scheduler that is registered: it keeps the protocol, and it compiles."""

from __future__ import annotations

import math
import runpy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dllm_sdk import ConfigError, Scheduler, View, Wrapper, decode, generate, load_scheduler, registry
from dllm_sdk.binding import bind
from dllm_sdk.compiling import Compiler
from dllm_sdk.testing import ToyModel, check_scheduler
from dllm_strategies import (
    BACD,
    DCD,
    DSB,
    KLASS,
    P2,
    SDAR,
    AdaBlock,
    BlockRefinement,
    ConfidenceAdaptive,
    CreditDecoding,
    Dilated,
    DInferHierarchical,
    DInferThreshold,
    Dream,
    DreamOrigin,
    DreamThreshold,
    EarlyEOS,
    EBSampler,
    Factor,
    FirstAlone,
    FixedBlock,
    Frechet,
    LocalLeap,
    PCSampler,
    Prophet,
    RandomOrder,
    ReMDM,
    Saber,
    SchED,
    StreamingDLLM,
    Swordsman,
    Threshold,
)

NAMES = list(registry.available("scheduler"))
FIELDS = {  # short blocks, so that what passes from one to the next is seen too; the others as they come
    "adablock": ["", 'delimiters="\\n",block=5,threshold=0.5,delimiter_threshold=0.2,window=0.5'],
    "bacd": ["block=6,low=0.3"],
    "block-refinement": ["block=6,steps=4,threshold=0.6", "block=6,steps=4,threshold=0.6,edit_threshold=0.3"],
    "confidence-adaptive": ["threshold=0.3,min_block=1,max_block=5,commit_threshold=0.5"],
    "credit-decoding": ["block=6,threshold=0.6,kept=2"],
    "dilated": ["block=9"],
    "dinfer-hierarchical": ["block=9,low=0.2"],
    "dinfer-threshold": ["block=6"],
    "dream": ['steps=9,rule="entropy",block=6,start=1', 'steps=7,rule="topk_margin"'],
    "dream-origin": ["steps=7", "steps=4,block=5"],
    "dream-threshold": ["steps=6,threshold=0.6"],
    "eb-sampler": ["block=7,budget=0.5"],
    "factor": ["block=7,factor=1.5", "block=7,factor=1.5,commit_last=true"],
    "fixed-block": ["block=4,steps=2", "block=6,steps=3,defer=[0, 1]"],
    "frechet": ["block=7"],
    "klass": ["block=6,steps=4,threshold=0.5,divergence=0.5,history=1,kept=3"],
    "local-leap": ["block=7,threshold=0.7,relaxed=0.4,radius=2"],
    "pc-sampler": ["block=6,steps=4"],
    "random-order": ["block=6,steps=4"],
    "sdar": ["", 'block=6,steps=4,rule="entropy_bounded"', 'block=6,steps=4,rule="sequential"'],
    "streaming-dllm": ["block=6,threshold=0.6"],
    "threshold": ["block=6,threshold=0.6"],
}
SPECS = [f"{name}:{fields}".rstrip(":") for name in NAMES for fields in FIELDS.get(name, [""])]


@pytest.mark.parametrize("spec", SPECS)
def test_every_scheduler_keeps_the_protocol(spec: str) -> None:
    check_scheduler(load_scheduler(spec), examples=8)


DEFAULTS = [
    AdaBlock("\n", 32, 0.9, 0.3, 0.25), BACD(32, 0.6, 0.9), BlockRefinement(32, 32, 0.95, 0.0, 16),
    ConfidenceAdaptive(0.7, 4, 32, 0.9), CreditDecoding(32, 0.9, 0.7, 0.2, 0.8, 4), DCD(32, math.inf, 0.9),
    Dilated(32, 2), DInferHierarchical(32, 0.9, 0.4), DInferThreshold(32, 0.9), Dream(512, "entropy", 0, 0),
    DreamOrigin(512, 0), DreamThreshold(512, 0.9), DSB(32, "const", 0.9), EarlyEOS(Threshold(), ()),
    EBSampler(32, 0.1), Factor(32, 1.0, False), FixedBlock(32, 32, ()), Frechet(32, 0.25),
    KLASS(32, 32, 0.9, 0.01, 2, 64), LocalLeap(32, 0.9, 0.75, 4), P2(32, 1.0), PCSampler(32, 32, 0.25, 10.0, ()),
    Prophet(FixedBlock(), 7.5, 5.0, 2.5), RandomOrder(32, 32), ReMDM("cap", 32, 0.008, 0.55, 0.05, 0.9), Saber(256, 2),
    SchED(FixedBlock(), 7.5, 2.5, "linear", 4.0), SDAR(4, 4, "low_confidence_dynamic", 0.85, 0.35),
    StreamingDLLM(32, 0.9, 0.3), Swordsman(0.5, 4, 32, 0.9), Threshold(32, 0.9),
]  # fmt: skip
MAY_BE_0 = {"Dream.block", "Dream.start", "DreamOrigin.block", "KLASS.history", "LocalLeap.radius"}


def test_a_scheduler_that_is_given_nothing_has_the_published_numbers() -> None:
    assert [type(one)() for one in DEFAULTS] == DEFAULTS
    assert {type(one) for one in DEFAULTS} >= {type(load_scheduler(name)) for name in FIELDS}


@pytest.mark.parametrize("scheduler", DEFAULTS, ids=lambda one: type(one).__name__)
def test_a_number_of_the_wrong_kind_or_size_is_named(scheduler: Scheduler) -> None:
    name = type(scheduler).__name__
    for item in fields(scheduler):
        wrong: dict[type, tuple[Any, ...]] = {int: (1.5, True, "4", -1, 0), float: (math.nan, True, "4", -1)}
        for value in wrong.get(type(getattr(scheduler, item.name)), ()):
            if value != 0 or f"{name}.{item.name}" not in MAY_BE_0:
                with pytest.raises(ConfigError, match=f"^{name}: {item.name} must be a .*, got {value!r}"):
                    replace(scheduler, **{item.name: value})


def test_a_wrapped_scheduler_keeps_the_protocol() -> None:
    check_scheduler(FirstAlone(Dream(5, "maskgit_plus", 6)), examples=8)


@pytest.mark.parametrize("spec", ["adablock", "dsb", "klass:block=6,steps=4", "p2"])
def test_a_wrapper_that_changes_nothing_changes_nothing(spec: str) -> None:
    model, prompts, inner = ToyModel(5).build(), [[1, 2], [3]], load_scheduler(spec)
    alone, wrapped = (generate(model, prompts, one, gen_length=[40, 36], trace=True) for one in (inner, Wrapper(inner)))
    assert alone.trace and wrapped.trace
    assert all(mine.diff(other) is None for mine, other in zip(wrapped.trace, alone.trace, strict=True))
    assert Wrapper(inner).fits == inner.fits


def test_a_wrapper_of_no_scheduler_is_refused() -> None:
    with pytest.raises(ConfigError, match="FirstAlone: inner must be a scheduler, got 'dream'"):
        FirstAlone("dream")  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS)
def test_the_type_that_torch_makes_tensors_of_changes_nothing(spec: str) -> None:
    model, prompts = ToyModel(1).build(), [[1 + i % 5] * (i % 4) for i in range(8)]
    wanted = generate(model, prompts, load_scheduler(spec), gen_length=48).tokens
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = generate(model, prompts, load_scheduler(spec), gen_length=48).tokens
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, wanted))


def test_every_setting_of_the_benchmark_page_loads() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "benchmarks" / "strategies.py"))
    specs = script["specs"]()
    assert script["SETTINGS"].keys() <= set(NAMES) and specs[0] == script["FIRST"] and len(set(specs)) == len(specs)
    for spec in specs:
        load_scheduler(spec)


def test_the_fields_are_of_registered_schedulers() -> None:
    assert FIELDS.keys() <= set(NAMES)


@dataclass(frozen=True)
class Recorder(Wrapper):
    """Another scheduler, and what it was asked."""

    asked: list[tuple[str, View, Any]] = field(default_factory=list)

    def plan(self, view: View, state: Any) -> Any:
        self.asked.append(("plan", view, state))
        return self.inner.plan(view, state)

    def select(self, view: View, state: Any) -> Any:
        self.asked.append(("select", view, state))
        return self.inner.select(view, state)


def leaves(tree: Any) -> list[Any]:
    """A nested tuple, flat."""
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_compiles(name: str) -> None:
    torch._dynamo.reset()
    model = ToyModel(5).build()
    recorder = Recorder(bind(load_scheduler(name), model))
    for _ in decode(model, [[1, 2], [3]], recorder, gen_length=[40, 36]):
        pass
    first = {method: (method, *rest) for method, *rest in reversed(recorder.asked)}
    last = {method: (method, *rest) for method, *rest in recorder.asked}
    compiler = Compiler("eager")
    for method, view, state in [*first.values(), *last.values()]:
        plain = getattr(recorder.inner, method)
        wanted, got = leaves(plain(view, state)), leaves(compiler(method, method, partial(plain), view, state))
        assert not compiler.obstacles and len(wanted) == len(got)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
