"""`dllm-bench speed`: the loop it races against is a fair one, and what it counts and prints is right."""

from __future__ import annotations

import ast
import csv
import json
import runpy
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product as pairs
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from dllm_bench import Speed, speed
from dllm_bench.cli import cli
from dllm_bench.timing import clocks
from dllm_bench.timing.ceilings import Ceilings, measure_ceilings
from dllm_bench.timing.clocks import Took, spread
from dllm_bench.timing.counting import Work, count, weigh
from dllm_bench.timing.races import Finish, _result
from dllm_bench.timing.research import CACHES, Rule, decode_research, quota_rule, threshold_rule
from dllm_bench.timing.steps import Rounds, rates
from dllm_bench.timing.work import of_kind, random_prompts
from dllm_reference_model import products
from dllm_reference_model.checkpoint import CheckpointError
from dllm_reference_model.model import Config, Transformer
from dllm_reference_model.products import laid_out
from dllm_reference_model.shapes import SHAPES, random_weights
from dllm_sdk import ConfigError, Model, ModelError, execution, generate, load_cache, load_model, load_scheduler
from dllm_sdk.canvas import Canvas, build_canvas
from dllm_sdk.compiling import Compiler
from tests.bench.toys import HERE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def small(*, tied: bool = False, sharpness: float = 3.0) -> Transformer:
    """Two layers with random weights; grouped queries, and every flag that the research-style loop must honour."""
    torch.manual_seed(0)
    config = Config(60, 59, 32, 2, 4, 2, 64, qk_norm=tied, tied=tied, attention_scale=0.3, rope_base=100.0)
    model = Transformer(config).requires_grad_(False)
    (model.embed if tied else model.unembed).weight *= sharpness
    return model


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def found() -> Speed:
    sizes = {"prompt_length": 8, "gen_length": 24, "block": 8, "steps": 2, "rounds": 2}
    return speed(small(), batch_sizes=(2,), **sizes, budget=1e6, threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [small(), small(tied=True), load_model("tiny")], ids=["grouped", "tied", "trained"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("threshold:block=16,threshold=0.2", threshold_rule(0.2)),
        ("fixed-block:block=16,steps=5", quota_rule(5)),
    ],
)
def test_the_research_style_loop_writes_the_same_in_as_many_passes(
    model: Model, cache: str, spec: str, rule: Rule
) -> None:
    for prompt in random_prompts(model, 2, 11, seed=3):
        scheduler = load_scheduler(spec)
        ours = generate(model, prompt, scheduler, gen_length=40, cache=load_cache(cache), stop_at_eos=False)
        theirs = decode_research(model, prompt, rule, gen_length=40, block=16, cache=cache)
        assert ours.tokens[0].tolist() == theirs.tokens.tolist()
        assert ours.nfe == [theirs.nfe]
        assert 3 <= theirs.nfe < 40


def test_random_weights_can_be_sure_and_never_draft_the_mask() -> None:
    model = random_weights("TINY")
    assert not (model.head(torch.randn(100, model.config.width)).argmax(-1) == model.mask_id).any()
    (prompt,) = random_prompts(load_model("random:tiny"), 1, 16, seed=0)
    steps = generate(model, prompt, load_scheduler("threshold:block=16"), gen_length=64).nfe
    assert steps[0] < 64
    with pytest.raises(CheckpointError, match="there is no shape '2M': give random:SHAPE with one of tiny, 3M"):
        random_weights("2M")


def test_shapes_have_the_size_of_their_names() -> None:
    sizes = {"3M": 3, "10M": 10, "30M": 30, "100M": 100, "1B": 1000, "LLaDA-8B": 8000}
    for name, millions in sizes.items():
        shape = SHAPES[name]
        per_layer = shape.width * (4 * shape.width + 3 * shape.mlp_width)
        parameters = shape.layers * per_layer + 2 * shape.vocab_size * shape.width
        assert 0.8 < parameters / (1e6 * millions) < 1.25, name


MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


@MODES
def test_work_counts_operations_and_bytes_of_products_and_attention(mode: Any) -> None:
    one, two = torch.ones(3, 4), torch.ones(4, 5)
    query, keys = torch.ones(1, 2, 6, 8), torch.ones(1, 2, 10, 8)
    for product in (lambda: (one @ two).relu(), lambda: torch.nn.functional.linear(one, two.T).relu()):
        with mode():
            result, work = weigh(product)
        assert result.shape == (3, 5)
        assert work == Work(2 * 3 * 4 * 5, 4 * (3 * 4 + 4 * 5 + 3 * 5))
    with mode():
        _, work = weigh(lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, keys))
    assert work.flops == 2 * 2 * 2 * 6 * 10 * 8
    assert work.bytes == 4 * (2 * query.numel() + 2 * keys.numel())


@MODES
def test_packed_weights_are_the_same_work(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, maps = torch.ones(3, 64), [torch.nn.Linear(64, 8), torch.nn.Linear(64, 16)]
    as_they_lie = laid_out(*maps)
    monkeypatch.setattr(products, "PACKED_ABOVE", 0)
    packed = laid_out(*maps)
    with mode():
        works = [weigh(partial(product, x))[1] for product in (as_they_lie, packed)]
    assert works[0].flops == works[1].flops == 2 * 3 * 64 * 24
    assert works[1].bytes == 4 * (3 * 64 + 64 * 24 + 24 + 3 * 24) == works[0].bytes


def test_the_slower_of_two_ceilings_counts() -> None:
    ceilings = Ceilings(bytes_per_second=10, flops_per_second=100, copied_bytes=1, product_size=1)
    assert ceilings.floor(Work(flops=100, bytes=20)) == (2, "memory")
    assert ceilings.floor(Work(flops=300, bytes=20)) == (3, "matrix")


def test_ceilings_are_bytes_and_operations_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm_bench.timing.ceilings.quickest", lambda *_: 2.0)
    assert measure_ceilings(CPU, torch.float32) == Ceilings(2.0**26, 2.0**30, copied_bytes=2**26, product_size=1024)


@pytest.mark.parametrize(
    ("reads", "action"),
    [
        (0, lambda x: (x + 1).view(2, 2).T.sum()),
        (1, lambda x: x.sum().item()),
        (1, lambda x: x.tolist()),
        (1, lambda x: bool((x > 0).any())),
        (1, lambda x: x[x > 0]),
        (1, lambda x: x.nonzero()),
        (2, lambda x: [int(x[0]), float(x[1])]),
    ],
)
@MODES
def test_host_reads_are_counted(mode: Any, reads: int, action: object) -> None:
    with mode():
        assert count(lambda: action(torch.ones(4)), CPU).host_reads == reads  # type: ignore[operator]


def test_views_are_no_operations() -> None:
    x = torch.ones(4, 4)
    assert count(lambda: x.view(2, 8).T[0], CPU).kernels == 0
    assert count(lambda: (x + 1) * 2, CPU).kernels == 2


def test_quartiles() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]).low == 2
    assert (spread([4.0, 1.0, 3.0]).median, spread([7.0]).high, spread([7.0]).n) == (3, 7, 1)


def test_steps_are_told_apart_by_what_they_compute(found: Speed) -> None:
    fed = {one.kind: one.fed for one in found.steps}
    assert fed == {"block": 8, "refresh": 32, "prefix": 16, "full": 32}  # prefix: 24, 16 and 8
    for one in found.steps:
        assert one.ms.low <= one.ms.median <= one.ms.high
        assert one.forward_ms is not None and 0 < one.forward_ms.median < one.ms.median
        assert one.decision_ms is not None
        assert one.host_reads is not None and 1 <= one.host_reads < 3
        assert 0 < one.ceiling_share < 1


def test_a_step_counts_with_its_kind_and_the_first_with_none() -> None:
    laps = [(True, 1), (True, 2), (False, 3), (False, 4)]
    assert (of_kind(laps, True), of_kind(laps, False)) == ([2], [3, 4])


def test_setting_up_is_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*given: Any, **named: Any) -> Canvas:
        time.sleep(0.3)
        return build_canvas(*given, **named)

    monkeypatch.setattr("dllm_bench.timing.work.build_canvas", slowly)
    sizes = {"prompt_length": 4, "gen_length": 16, "block": 8, "steps": 2, "rounds": 1}
    found = speed(small(), caches=("dual",), batch_sizes=(1,), **sizes, budget=1e6)  # type: ignore[arg-type]
    assert {one.kind for one in found.steps} == {"block", "refresh"}
    for one in found.steps:
        assert one.decision_ms is not None and max(one.ms.high, one.decision_ms.high) < 120


def test_races_are_fair_and_rates_add_up(found: Speed) -> None:
    assert [one.cache for one in found.races] == ["dual", "prefix", "none"]
    assert all(one.equal == 1 and one.nfe == one.research_nfe and one.speedup.n == 2 for one in found.races)
    for one in found.rates:
        assert (one.work, one.nfe, one.tpf, one.batch_size) == ("forced", 6, 4, 2)
    assert found.environment["threads"] == 1


def test_a_race_is_decided_round_by_round() -> None:
    track: Any = SimpleNamespace(jobs=[SimpleNamespace(cache="dual")], rule_name="sure")
    ours = [Finish(Took(1.0, 0.5), [1], 4), Finish(Took(2.0, 1.0), [1], 4)]
    research = [Finish(Took(4.0, 1.0), [1], 5), Finish(Took(4.0, 1.0), [1], 4)]
    found = _result(track, "eager", ours, research, 7.0)
    assert (found.equal, found.nfe, found.research_nfe, found.preparation_s) == (0.5, 4, 4.5, 7.0)
    medians = found.step_ms, found.step_cpu_ms, found.research_step_ms, found.research_step_cpu_ms
    assert [one.median for one in medians] == [375, 187.5, 900, 225]
    assert (found.speedup.median, found.cpu_speedup.median) == (3, 1.5)


@pytest.mark.parametrize(("stop_at_eos", "tpf", "rate"), [(False, 4, 18), (True, 2, 9)])
def test_a_rate_is_of_tokens_and_time_of_a_round(stop_at_eos: bool, tpf: float, rate: float) -> None:
    job: Any = SimpleNamespace(stop_at_eos=stop_at_eos, gen_length=[24, 24], cache="none", prompts=[[1], [1]])
    generation: Any = SimpleNamespace(nfe=[6, 6], generated=[20, 4])
    one, other = ([SimpleNamespace(found=generation, took=Took(wall, 1.0))] for wall in (2.0, 4.0))
    (found,) = rates("forced", job, {"eager": Rounds([one, other], 0.5)})  # type: ignore[list-item]
    assert (found.nfe, found.tpf, found.tokens_per_second.median, found.preparation_s) == (6, tpf, rate, 0.5)


def test_the_file_that_is_written_is_read(found: Speed) -> None:
    again = Speed.from_dict(json.loads(found.to("json")))
    assert again.races == found.races and again.steps == found.steps and again.rates == found.rates
    assert again.to("md") == found.to("md")
    with pytest.raises(ConfigError, match="no result of dllm-bench speed"):
        Speed.from_dict({"rows": []})


def test_every_format_holds_every_measurement(found: Speed) -> None:
    total = len(found.races) + len(found.steps) + len(found.rates)
    assert len(found.to("jsonl").splitlines()) == total
    rows = list(csv.DictReader(found.to("csv").splitlines()))
    assert len(rows) == total
    assert float(rows[0]["speedup_median"]) == found.races[0].speedup.median
    for format in ("table", "md"):
        text = found.to(format)  # type: ignore[arg-type]
        assert "dual, eager" in text and "block, eager, 2" in text and "forced, none, eager, 2" in text


def test_the_trained_model_decodes_real_prompts() -> None:
    sizes = {"prompt_length": 4, "gen_length": 8, "block": 8, "steps": 1, "rounds": 1}
    found = speed("tiny", batch_sizes=(8,), caches=("none",), **sizes, budget=float("inf"))  # type: ignore[arg-type]
    assert json.dumps(found.to_dict(), allow_nan=False)
    forced, adaptive = found.rates
    assert adaptive.work == "adaptive" and adaptive.tpf > 1.5 and adaptive.batch_size == 8
    assert forced.work == "forced" and forced.tpf == 8  # whatever it answers to random ids, EOS among it


def test_decisions_of_named_schedulers_are_measured() -> None:
    """As many steps as they take on random logits, and none of the model's work."""
    specs = ("fixed-block:block=8,steps=2", "fixed-block:block=8,steps=8")
    sizes = ["--batch-size", "2", "--cache", "none", "--prompt-length", "4", "--gen-length", "16", "--rounds", "2"]
    call = ["speed", "--model", "random:tiny", *sizes]
    result = run(*call, *(part for spec in specs for part in ("--scheduler", spec)), "--format", "json")
    assert result.exit_code == 0, result.output
    found = Speed.from_dict(json.loads(result.stdout))
    assert [(one.scheduler, one.nfe) for one in found.decisions] == [(specs[0], 4), (specs[1], 16)]
    assert all(one.ms.n == one.batch_size == 2 and one.ms.median > 0 for one in found.decisions)
    assert "decisions of, backend, batch" in str(found) and f"{specs[0]}, eager, 2" in found.to("md")
    assert found.environment["schedulers"] == list(specs)
    older = {name: value for name, value in found.to_dict().items() if name != "decisions"}
    assert not Speed.from_dict(older).decisions
    assert "did you mean 'threshold'" in run(*call, "--scheduler", "treshold").stderr


def test_the_budget_is_kept_and_what_is_left_out_is_named() -> None:
    result = run("speed", "--model", "random:tiny", "--budget", "0.001", "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["races"] == found["steps"] == found["rates"] == []
    assert "Left out, the budget of 0.001 s was used up: race, cache dual; " in found["notes"][-1]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (RuntimeError("CUDA error: not permitted\nmore of it"), "Error: RuntimeError: CUDA error: not permitted"),
        (ModelError("the logits are not finite"), "Error: the logits are not finite"),
    ],
)
def test_a_part_that_fails_costs_the_others_nothing(
    error: Exception, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("dllm_bench.timing.run.race", fails)
    sizes = ("--prompt-length", "4", "--gen-length", "8", "--rounds", "1", "--batch-size", "1", "--budget", "1e6")
    result = run("speed", "--model", "random:tiny", "--cache", "none", *sizes, "--format", "json")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    found = json.loads(result.stdout)
    assert found["races"] == [] and len(found["steps"]) == 1
    (note,) = [note for note in found["notes"] if note.startswith("race, cache none: failed")]
    said = str(error).splitlines()[0]
    assert f"failed, {type(error).__name__}: {said}, " in note and "test_speed.py" in note
    assert result.stderr.splitlines()[-1].startswith(ends)


def test_of_what_the_profiler_lists_kernels_and_reads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it names them on a GPU."""
    names = ("Memcpy DtoH (Device -> Pageable)", "Memset (Device)", "Context Sync", "Stream Sync", "Stream Wait Event")
    seen = [("CUDA", name, False) for name in ("sm90_gemm", "triton_poi_fused_add_0", *names)]
    seen += [("CPU", "cudaLaunchKernel", False), ("CUDA", "a range", True)]
    fields, lasts = ("device_type", "name", "is_user_annotation"), SimpleNamespace(elapsed_us=lambda: 250.0)
    events = [
        SimpleNamespace(**dict(zip(fields, (SimpleNamespace(name=kind), *rest), strict=True)), time_range=lasts)
        for kind, *rest in seen
    ]
    listed = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: listed)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert count(lambda: None, torch.device("cuda"))[:2] == (2, 1)
    monkeypatch.setattr("dllm_bench.timing.steps.count", lambda action, device: action() or count(action, CUDA))
    sizes = {"prompt_length": 4, "gen_length": 16, "block": 8, "steps": 4, "rounds": 1}
    found = speed(small(), caches=("dual",), batch_sizes=(1,), **sizes, budget=1e6)  # type: ignore[arg-type]
    block, refresh = found.steps
    assert block.kernels == 2 / 3 and refresh.kernels == 2  # three steps of a block, and the one that opens it
    assert block.busy_ms == pytest.approx(1 / 3) and refresh.busy_ms == 1  # of two kernels, a copy and a fill
    assert str(refresh.longest).startswith("0.2500 ms, 1 sm90_gemm; 0.2500 ms, 1 triton_poi")
    assert "busy" in str(replace(found, environment={**found.environment, "device": "cuda"}))


def test_what_is_timed_is_kept_where_the_profiler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm_bench.timing.steps.count", lambda action, device: 1 / 0)
    sizes = ("--prompt-length", "4", "--gen-length", "8", "--rounds", "1", "--batch-size", "1", "--budget", "1e6")
    result = run("speed", "--model", "random:tiny", "--cache", "none", *sizes, "--format", "json")
    assert result.exit_code == 1
    found = Speed.from_dict(json.loads(result.stdout))
    assert [one.kernels for one in found.steps] == [None] and found.rates
    assert "counts of steps, batch 1: failed, ZeroDivisionError" in found.notes[-1]


def test_a_share_ends_with_its_time_or_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    at = SimpleNamespace(now=1000.0, compiled=50.0)
    monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=lambda: at.now))
    deadline = clocks.Deadline(300.0, 3)
    said = []
    for moments in (((1099, 50), (1100, 50)), ((1249, 100), (1250, 100)), ((1299, 900), (1300, 900))):
        used_up = deadline.share(lambda: at.compiled)
        for at.now, at.compiled in moments:
            said.append(used_up())
    assert said == [False, True] * 3  # of 100 s, of 100 s and 50 of compiling, of the budget


def test_compiling_takes_nothing_from_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a part that compiles for longer than its share would measure a single round."""
    now, enough = 0.0, []

    def races(track: Any, backends: Any, asked: Any) -> list[Any]:
        nonlocal now
        for compiling, running in ((105, 10), (0, 80), (0, 120)):  # of a budget of 300 for three parts
            now += compiling + running
            execution.compiler.clock.seconds += compiling
            enough.append(asked())
        return []

    monkeypatch.setattr(execution, "compiler", Compiler("eager"))
    monkeypatch.setattr(
        clocks, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now, process_time=int)
    )
    monkeypatch.setattr("dllm_bench.timing.run.race", races)
    monkeypatch.setattr("dllm_bench.timing.run.measure_ceilings", lambda device, dtype: Ceilings(1.0, 1.0, 1, 1))
    found = speed("random:tiny", caches=("none",), batch_sizes=(1,), budget=300.0)
    assert enough == [False, False, True]  # the last, since the budget is used up
    assert (
        "Left out, the budget of 300 s was used up: steps, cache none, batch 1; counts of steps, batch 1."
        in found.notes[-1]
    )


def test_what_was_not_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Compiler("eager")
    made.obstacles["a decision"] = "mine.py:7: x.item() reads a tensor's value back to the host"
    monkeypatch.setattr(execution, "compiler", made)
    given = {"budget": 1e-9, "caches": ("none",), "batch_sizes": (1,)}
    notes = [speed("random:tiny", backends=(one,), **given).notes for one in ("eager", "compile")]  # type: ignore[arg-type]
    told = "Not compiled, but run as it is: mine.py:7: x.item() reads a tensor's value back to the host."
    assert [told in one for one in notes] == [False, True]


def test_a_model_that_is_not_the_references_is_measured_without_a_race() -> None:
    result = run(
        "speed",
        "--model",
        f"{HERE}:load",
        "--prompt-length",
        "4",
        "--gen-length",
        "8",
        "--rounds",
        "1",
        "--budget",
        "1e6",
    )
    assert result.exit_code == 0, result.output
    assert "No race: the research-style loop runs the weights of the reference transformer" in result.stdout
    assert "No adaptive rate: task expr, prompt 0: the tokenizer knows" in result.stdout
    assert "full, eager, 1" in result.stdout and "block, eager" not in result.stdout


@pytest.mark.usefixtures("heard")
def test_ctrl_c_keeps_what_was_measured_and_says_what_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Compiler("eager")
    made.obstacles["a decision"] = "mine.py:7: x.item() reads a tensor's value back to the host"
    monkeypatch.setattr(execution, "compiler", made)
    sizes = ("--prompt-length", "4", "--gen-length", "8", "--backend", "compile")
    call = ("speed", "--model", f"{HERE}:load_and_interrupt", *sizes)
    shown = run(*call)
    assert shown.exit_code == 130 and "matrix product" in shown.stdout
    assert shown.stderr.endswith("Interrupted; what was measured before is above.\n")
    result = run(*call, "--format", "json")
    assert result.exit_code == 130
    assert result.stderr.endswith("Interrupted; what was measured before is above.\n")
    *_, missing, as_written = json.loads(result.stdout)["notes"]
    assert missing == (
        "Interrupted, and not measured: steps, cache none, batch 1; counts of steps, batch 1; "
        "steps, cache none, batch 8; counts of steps, batch 8."
    )
    assert as_written.startswith("Not compiled, but run as it is: mine.py:7: x.item()")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "graph"], "backend 'graph' captures CUDA graphs, and this model is on cpu"),
        (["--block", "0"], "block must be a whole number >= 1, got 0"),
        (["--rounds", "-1"], "rounds must be a whole number >= 1, got -1"),
        (["--batch-size", "0"], "batch_sizes must be a whole number >= 1, got 0"),
        (["--batch-size", "2", "--batch-size", "2"], "batch_sizes has 2 twice: give each once"),
        (["--threads", "0"], "threads must be a whole number >= 1, got 0"),
        (["--budget", "0"], "budget must be a number of seconds above 0, got 0"),
        (["--budget", "nan"], "budget must be a number of seconds above 0, got nan"),
        (["--gen-length", "5000"], "but the model's context holds 4096: lower one of them"),
        (["--model", "random:2M"], "there is no shape '2M': give random:SHAPE with one of tiny, 3M, 10M"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--dtype", "int8"], "dtype must be a floating-point type of torch"),
        (["--dtype", "int8"], "got 'int8'; for weights in eight bits load int8:random:tiny"),
        (["--rule", "best"], "is not one of 'threshold', 'forced'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], says: str) -> None:
    result = run("speed", "--model", "random:tiny", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr and len(result.stderr.splitlines()) == 1 and not result.stdout


def test_a_cache_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cache must be one of dual, prefix, none, got 'block'"):
        speed("random:tiny", caches=("block",))


GPU = Path(__file__).parents[2] / "docs" / "benchmarks"


def test_the_page_is_what_its_files_say() -> None:
    generator = runpy.run_path(str(GPU / "speed.py"))
    runs = {
        path.name: Speed.from_dict(json.loads(path.read_text("utf-8"))) for path in sorted(GPU.glob("speed-*.json"))
    }
    assert len(runs) == 2
    assert generator["page"](runs) == (GPU / "speed.md").read_text(encoding="utf-8")
    endless = SimpleNamespace(environment={**next(iter(runs.values())).environment, "budget_s": None})
    assert " --budget inf " in generator["command"]("endless.json", endless)


def test_an_uninstalled_checkout_finds_its_plugins(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GPU / "gpu.py"), "metadata", str(tmp_path)], check=True)
    code = (
        f"from importlib.metadata import distributions; found = list(distributions(path=[{str(tmp_path)!r}]));"
        "print([(d.name, sorted(e.name for e in d.entry_points if e.group == 'dllm_sdk.models')) for d in found])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ((name, models),) = ast.literal_eval(printed)
    assert name == "dllm-sdk" and {"tiny", "llada", "dream", "random"} <= set(models)


def test_the_gpu_script_finds_packages_that_lie_elsewhere(tmp_path: Path) -> None:
    """Where nothing can be installed they are brought along: torchao, for instance."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(seen)!r}, 'a').close()")
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    subprocess.run([str(GPU / "gpu.sh"), "--help"], capture_output=True, env=env, check=True)
    assert seen.exists()


@pytest.mark.slow
def test_the_gpu_script_runs_end_to_end_on_a_cpu(tmp_path: Path) -> None:
    command = [str(GPU / "gpu.sh"), "--device", "cpu", "--budget", "300", "--small", "--output", str(tmp_path)]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
    cells = {cell["name"]: cell for cell in json.loads((tmp_path / "results.json").read_text())["cells"]}
    shapes = [f"speed-{name}" for name in ("3M", "LLaDA-8B", "tiny-eager", "tiny", "100M", "30M", "1B")]
    others = ["speed-LLaDA-8B-others", "speed-3M-prefix", "speed-int8-LLaDA-8B"]
    assert list(cells) == ["tests", *shapes, "compare-tiny", *others]
    assert cells.pop("speed-int8-LLaDA-8B")["outcome"] in ("done", "left out, torchao is not installed")
    assert {cell["outcome"] for cell in cells.values()} == {"done"}
    assert Speed.from_dict(cells["speed-3M"]["found"]).races
    assert {one.work for one in Speed.from_dict(cells["speed-tiny"]["found"]).rates} == {"forced", "adaptive"}


@pytest.mark.slow
def test_the_gpu_script_ends_with_its_budget_and_keeps_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "gpu.py"), "run", "--device", "cpu", "--small", "--budget", "25"]
    subprocess.run([*command, "--output", str(tmp_path)], check=False, timeout=100)
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert {cell["outcome"].split(",")[0] for cell in cells} & {"interrupted", "left out"}
    assert not (tmp_path / "results.part").exists()


def test_the_gpu_script_does_not_load_eight_billion_weights_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "gpu.py"), "run", "--device", "cpu", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "add --small" in done.stderr and not (tmp_path / "out").exists()
    done = subprocess.run([*command, "--small", "--cell", "speed-2M"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no cell 'speed-2M': --cell takes tests, speed-3M, speed-LL" in done.stderr


def test_the_gpu_script_measures_every_kind_of_step_with_every_backend() -> None:
    """What its cells ask for on a GPU, in a table of shapes."""
    cells = runpy.run_path(str(GPU / "gpu.py"))["cells"]("cuda", small=False)
    asked: dict[str, set[tuple[str, str, str]]] = {}
    for cell in cells:
        given = list(zip(cell.arguments, cell.arguments[1:], strict=False))
        values = {name: [value for key, value in given if key == f"--{name}"] for name in ("cache", "backend")}
        sizes = [value for key, value in given if key == "--batch-size"]
        for model in [value for key, value in given if key == "--model"]:
            asked.setdefault(model, set()).update(pairs(values["cache"], values["backend"], sizes))
    backends = ("eager", "compile", "graph")
    for shape in ("3M", "30M", "100M", "1B", "LLaDA-8B"):
        assert {*pairs(["dual"], backends, ["1", "8", "64"])} <= asked[f"random:{shape}"]
    for shape in ("3M", "LLaDA-8B"):
        assert {*pairs(["none", "prefix"], backends, ["1"])} <= asked[f"random:{shape}"]
    assert {*pairs(["dual"], backends, ["1", "8"]), ("dual", "eager", "64")} <= asked["tiny"]


def test_a_cell_of_the_gpu_script_that_must_be_killed_keeps_what_it_said(tmp_path: Path) -> None:
    script = runpy.run_path(str(GPU / "gpu.py"))
    script["ran"].__globals__["LAST_WORDS_S"] = 0.5
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('measured'); time.sleep(60)"
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        found = script["ran"](script["Cell"]("deaf", 1, ("-c", deaf)), 5, log)
    assert found["outcome"] == "interrupted, its time was up" and found["found"] == ["measured"]


def test_one_cell_of_the_gpu_script_alone(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "gpu.py"), "run", "--device", "cpu", "--small", "--budget", "11"]
    subprocess.run([*command, "--cell", "compare-tiny", "--output", str(tmp_path)], check=False, timeout=100)
    (cell,) = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert cell["name"] == "compare-tiny"
