"""What only a CUDA device can show: graphs give the same tokens, and a step reads nothing back inside."""

from __future__ import annotations

import pytest
import torch

from dllm_bench.timing.counting import count
from dllm_bench.timing.research import decode_research, threshold_rule
from dllm_bench.timing.run import speed
from dllm_bench.timing.work import random_prompts
from dllm_sdk import Model, Sampler, execution, generate, load_cache, load_model, load_scheduler
from dllm_sdk.elsewhere import fetch
from dllm_sdk.execution import Backend
from tests.sdk.test_elsewhere import FAIL, STAY, there
from tests.sdk.test_execution import watch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # those of another torch are not ours
]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("tiny", device="cuda")


def decoded(
    model: Model, spec: str, cache: str, backend: Backend, sampler: Sampler | None = None
) -> tuple[list[list[int]], list[int]]:
    prompts, scheduler = random_prompts(model, 3, 20, seed=0), load_scheduler(spec)
    options = {"cache": load_cache(cache), "sampler": sampler or Sampler(), "stop_at_eos": False, "backend": backend}
    found = generate(model, prompts, scheduler, gen_length=48, **options)
    return [row.tolist() for row in found.tokens], found.nfe


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_research_style_loop_writes_the_same(model: Model, cache: str) -> None:
    (prompt,) = random_prompts(model, 1, 20, seed=0)
    scheduler = load_scheduler("threshold:block=16,threshold=0.9")
    ours = generate(model, prompt, scheduler, gen_length=48, cache=load_cache(cache), stop_at_eos=False)
    theirs = decode_research(model, prompt, threshold_rule(0.9), gen_length=48, block=16, cache=cache)
    assert ours.tokens[0].tolist() == theirs.tokens.tolist()
    assert ours.nfe == [theirs.nfe]


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_step_stays_on_the_device(model: Model, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `elsewhere` promises on a CPU."""
    steps = watch(monkeypatch, "step")
    for spec in ("threshold:block=16", "adablock:block=16,delimiters=[5, 6]"):
        assert decoded(model, spec, cache, "eager") and steps


NO_CAPTURE = ("compiled", "of the shape of another")  # compiling is no part of one; the other stays on the CPU


@pytest.mark.parametrize("name", [name for name in STAY if name not in NO_CAPTURE])
def test_what_stays_elsewhere_can_be_captured_here(name: str) -> None:
    x = fetch(there()).cuda()
    wanted = STAY[name](x.clone())
    graph, mine = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        found = STAY[name](mine)
    graph.replay()
    assert found.equal(wanted)


@pytest.mark.parametrize("name", FAIL)
def test_what_fails_elsewhere_fails_here(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        FAIL[name](fetch(there()).cuda())


def test_the_profiler_sees_kernels_and_reads() -> None:
    ones = torch.ones(100, 100, device="cuda")
    torch.cuda.synchronize()
    found = count(lambda: ((ones @ ones).sum().item(), ones.exp()), ones.device)
    assert found.kernels >= 3
    assert found.host_reads == 1


@pytest.mark.parametrize(
    ("backends", "caches", "size"),
    [
        (("eager", "graph"), ("dual",), 1),  # six functions to compile; with every cache, and batches of two, 28
        (("eager",), ("dual", "prefix", "none"), 2),
    ],
)
def test_speed_measures_every_backend(backends: tuple[Backend, ...], caches: tuple[str, ...], size: int) -> None:
    found = speed(
        "random:3M",
        backends=backends,
        caches=caches,
        batch_sizes=(size,),
        prompt_length=16,
        gen_length=32,
        rounds=2,
        rule="forced",
        budget=300,  # what is counted comes last
        device="cuda",
        dtype="bfloat16",
    )
    assert {one.backend for one in found.races} == set(backends)
    for one in found.steps:
        assert one.kernels
        assert one.host_reads is not None and one.host_reads < 3  # the table that the loop reads between two steps


# What compiles most comes last: its time may be up before.


@pytest.mark.parametrize("cache", ["dual", "none", "prefix"])
@pytest.mark.parametrize("backend", ["graph", "compile"])
def test_every_backend_writes_the_same(model: Model, cache: str, backend: Backend) -> None:
    for spec in ("threshold:block=16", "adablock:block=16,delimiters=[5, 6]", "fixed-block:block=16,steps=4"):
        assert decoded(model, spec, cache, backend) == decoded(model, spec, cache, "eager")
    assert not execution.compiler.obstacles


def test_what_draws_random_numbers_is_captured(model: Model) -> None:
    for spec, sampler in (("threshold:block=16", Sampler(0.7, top_p=0.9)), ("random-order", Sampler())):
        wanted = decoded(model, spec, "none", "eager", sampler)
        assert [decoded(model, spec, "none", "graph", sampler) for _ in range(3)] == [wanted] * 3
    assert not execution.compiler.obstacles
