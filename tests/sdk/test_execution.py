"""How a step is run: no host read inside, the same tokens from every backend, and what cannot be compiled."""

from __future__ import annotations

import gc
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dllm_reference_model import products
from dllm_reference_model.config import Config
from dllm_reference_model.model import Transformer
from dllm_sdk import (
    BlockCache,
    ConfigError,
    Decision,
    DualCache,
    Generation,
    NoCache,
    PrefixCache,
    Sampler,
    Scheduler,
    SchedulerError,
    decode,
    execution,
    generate,
    graphs,
    load_scheduler,
)
from dllm_sdk.caching import Cache
from dllm_sdk.compiling import Compiler
from dllm_sdk.elsewhere import ELSEWHERE, Uncrossed, elsewhere
from dllm_sdk.registry import available
from dllm_sdk.rules import first, top_k
from dllm_sdk.testing import Report, ToyModel, ToyTokenizer

PROMPTS, LENGTHS = [[1, 2, 3, 4, 5], [6], [7, 8]], [9, 20, 3]


def transformer(*, block_causal: bool = False, heads: int = 2, shift: int = 0) -> Transformer:
    torch.manual_seed(3)
    config = Config(
        vocab_size=14, mask_id=13, width=16, layers=2, heads=heads, kv_heads=2, mlp_width=16, eos_ids=(12,),
        block_causal=block_causal, shift=shift,
    )  # fmt: skip
    return Transformer(config, ToyTokenizer()).eval().requires_grad_(False)


def answers(model: Any, scheduler: Scheduler[Any], cache: Cache, **options: Any) -> Generation:
    return generate(model, PROMPTS, scheduler, gen_length=LENGTHS, cache=cache, **options)


def told(generation: Generation) -> Any:
    tokens = [row.tolist() for row in generation.tokens]
    return tokens, generation.nfe, generation.refreshes, generation.fed, generation.extra


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Traced and guarded as ever, but run without inductor, whose code takes seconds to build."""
    made = Compiler("eager")
    monkeypatch.setattr(execution, "compiler", made)
    return made


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a frozen model packs its weights however few they are."""
    monkeypatch.setattr(products, "PACKED_ABOVE", 0)


@pytest.fixture
def capturing(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Graphs without a GPU: what would be recorded is run again, on the same tensors in the same places."""
    monkeypatch.setattr(graphs, "_apart", nullcontext)
    monkeypatch.setattr(graphs, "_record", lambda run, pool: run)
    monkeypatch.setattr(execution, "check_runs", lambda backend, model: None)
    return compiler


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Forbids copies and host reads within what a runner is asked to run; how often it was asked."""
    inner, seen = getattr(execution.Runner, name), []

    def watched(*args: Any) -> Any:
        seen.append(name)
        with Uncrossed():
            return inner(*args)

    monkeypatch.setattr(execution.Runner, name, watched)
    return seen


@pytest.mark.parametrize("name", available("scheduler"))
def test_a_step_stays_on_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing inside is read on the host, or comes from it, and the tokens are those of the CPU."""
    few = ":steps=8" if name in ("p2", "remdm") else ""  # of the steps that they take whatever the model says
    model, scheduler = transformer(shift=1), load_scheduler(name + few)

    def found() -> list[Any]:
        options = [(NoCache(), 0.5), (DualCache(refresh_every=3), 0.0)]
        given = {"gen_length": [3, 6, 2], "sampler": Sampler(0.5, top_p=0.9)}
        return [told(generate(model, PROMPTS, scheduler, cache=one, guidance=by, **given)) for one, by in options]

    wanted = found()
    steps, plans = watch(monkeypatch, "step"), watch(monkeypatch, "call")
    with elsewhere():
        model.to(ELSEWHERE)
        assert found() == wanted
    assert steps and bool(plans) == (scheduler.horizon(6) == 0)  # without logits it plans before the step


@pytest.mark.parametrize(
    ("cache", "block_causal"), [(NoCache(), False), (PrefixCache(), False), (DualCache(), False), (BlockCache(), True)]
)
def test_a_captured_step_stays_on_its_device(
    cache: Cache, block_causal: bool, capturing: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(run: Callable[[], None], pool: list[Any]) -> Callable[[], None]:
        def replay() -> None:
            with Uncrossed():
                run()
            replayed.append(run)

        return replay

    replayed: list[Any] = []
    monkeypatch.setattr(graphs, "_record", record)
    # What is compiled runs as it is written: elsewhere is no device that code can be made for.
    monkeypatch.setattr(Compiler, "__call__", lambda self, what, key, function, *tensors: function(*tensors))
    model, scheduler = transformer(block_causal=block_causal, heads=4), load_scheduler("threshold:block=6")
    wanted = told(answers(model, scheduler, cache))
    with elsewhere():
        model.to(ELSEWHERE)
        assert [told(answers(model, scheduler, cache, backend="graph")) for _ in range(3)] == [wanted] * 3
    assert replayed


CASES = [
    ("threshold:block=6,threshold=0.6", DualCache(), {}),
    pytest.param("adablock:delimiters=[0],block=5,delimiter_threshold=0.1", PrefixCache(), {}, marks=pytest.mark.slow),
    pytest.param(
        "block-refinement:block=6,steps=4,threshold=0.6",
        NoCache(),
        {"sampler": Sampler(0.7), "guidance": 0.5},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("spec", "cache", "options"), CASES, ids=lambda x: str(x)[:12])
@pytest.mark.parametrize("backend", ["compile", "graph"])
@pytest.mark.usefixtures("packing")
def test_every_backend_writes_the_same(
    capturing: Compiler, backend: Any, spec: str, cache: Cache, options: Any
) -> None:
    model, scheduler = transformer(heads=4).freeze(), load_scheduler(spec)
    wanted = answers(model, scheduler, cache, **options)
    start = time.perf_counter()
    found = [answers(model, scheduler, cache, backend=backend, **options)]
    assert max(found[0].seconds) + found[0].preparation <= time.perf_counter() - start
    found += [answers(model, scheduler, cache, backend=backend, **options) for _ in range(1 + (backend == "graph"))]
    assert all(told(one) == told(wanted) for one in found)
    assert found[0].preparation > 0 and found[-1].preparation == 0 == wanted.preparation
    assert not capturing.obstacles and all(made.graphs == 1 for made in capturing.made.values())


@dataclass(frozen=True)
class Plain(Scheduler):
    """Blocks of four, one token per step."""

    def plan(self, view, state):
        return first(view.open, 4), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, 1)), state


class ReadsOnTheHost(Plain):
    def select(self, view, state):
        if view.confidence.max() > 2:  # the line
            return Decision(view.open), state
        return super().select(view, state)


class ReadsInPlan(Plain):
    def plan(self, view, state):
        return first(view.open, int(view.gen_length.min()) * 0 + 4), state  # the line


class Gathers(Plain):
    def select(self, view, state):
        view.confidence[view.open].sort()  # the line
        return super().select(view, state)


@dataclass(frozen=True)
class Tabled(Plain):
    """A threshold per token; the table is no part of a comparison."""

    threshold: Tensor = field(default_factory=lambda: torch.zeros(14), compare=False, repr=False)

    def select(self, view, state):
        best = top_k(view.open, view.confidence, 1)
        return Decision(best | (view.open & (view.confidence > self.threshold[view.draft]))), state


def test_graphs_of_schedulers_that_differ_in_a_table_are_two(capturing: Compiler) -> None:
    model, tables = transformer(), [torch.zeros(14), torch.ones(14)]

    def decoded(table: Tensor, **options: Any) -> Any:
        return told(generate(model, [[1, 2]], Tabled(table), gen_length=8, stop_at_eos=False, **options))

    wanted = [decoded(table) for table in tables]
    assert wanted[0] != wanted[1]
    for table, tokens in zip(tables, wanted, strict=True):
        for _ in range(3):  # compiled, captured, replayed
            assert decoded(table, backend="graph") == tokens
    tables[0].fill_(1)
    assert decoded(tables[0], backend="graph") == wanted[1]


@dataclass(frozen=True)
class Uncompared(Plain):
    """A threshold that is no part of a comparison: a number, or the first tensor of several."""

    threshold: Any = field(default=0.0, compare=False, repr=False)

    def select(self, view, state):
        least = self.threshold[0] if isinstance(self.threshold, tuple | list) else self.threshold
        best = top_k(view.open, view.confidence, 1)
        return Decision(best | (view.open & (view.confidence > least))), state


@pytest.mark.parametrize("holding", [float, lambda one: (torch.tensor(one),), lambda one: [torch.tensor(one)]])
def test_graphs_of_schedulers_that_differ_in_what_is_not_compared_are_two(
    holding: Callable[[float], Any], capturing: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compiler, "__call__", lambda self, what, key, function, *tensors: function(*tensors))
    model = transformer()
    for threshold in (Uncompared(holding(0.0)), Uncompared(holding(1.0))):
        wanted = told(generate(model, [[1, 2]], threshold, gen_length=8))
        for _ in range(3):  # run, captured, replayed
            assert told(generate(model, [[1, 2]], threshold, gen_length=8, backend="graph")) == wanted


def test_graphs_of_another_guidance_are_others(capturing: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiler, "__call__", lambda self, what, key, function, *tensors: function(*tensors))
    model, options = transformer(), {"gen_length": 20, "stop_at_eos": False}
    for guidance in (0.5, 50.0):
        wanted = told(generate(model, [[1, 2]], Plain(), guidance=guidance, **options))
        for _ in range(3):  # run, captured, replayed
            assert told(generate(model, [[1, 2]], Plain(), guidance=guidance, backend="graph", **options)) == wanted


class Shifts(Plain):
    """How many commit is said two steps before; what is said moves on from field to field."""

    def init(self, tokens, open):
        return torch.full_like(tokens[:, 0], 3), torch.ones_like(tokens[:, 0])

    def select(self, view, state):
        later, now = state
        return Decision(top_k(view.open, view.confidence, now)), (now % 3 + 1, later)


@pytest.mark.parametrize("cache", [NoCache(), DualCache()])
def test_a_captured_state_may_move_from_field_to_field(cache: Cache, capturing: Compiler) -> None:
    """Rows stay where the graphs find them: what becomes another field is not written over before it is read."""
    model = transformer()
    wanted = told(answers(model, Shifts(), cache))
    assert [told(answers(model, Shifts(), cache, backend="graph")) for _ in range(3)] == [wanted] * 3


def test_what_moves_within_the_rows_is_read_before_it_is_written_over() -> None:
    """As when a step that was not captured yet hands back fields of rows that were."""
    home = tuple(torch.full((3,), float(i)) for i in range(3))
    first, second, third = home
    graphs.move_into(home, (second, first, third))
    assert [one[0].item() for one in home] == [1.0, 0.0, 2.0]


def test_a_step_is_copied_for_those_who_look(capturing: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    model, call = transformer(), {"gen_length": 6, "stop_at_eos": False, "backend": "graph"}
    inner, copied = execution.Capturing.own, []
    monkeypatch.setattr(execution.Capturing, "own", lambda self, tree: copied.append(1) or inner(self, tree))
    seen: list[Any] = []
    wanted = generate(model, [1, 2], Plain(), on_step=seen.append, **call)
    assert len(seen) == wanted.nfe[0] == len(copied)  # the last one once, too, though two look
    assert [one.nfe.item() for one in seen] == list(range(1, len(seen) + 1))
    copied.clear()
    assert told(generate(model, [1, 2], Plain(), **call)) == told(wanted)
    assert len(copied) == 1  # the last one, with what is left of the row


@pytest.mark.parametrize("cache", [NoCache(), DualCache()])
def test_two_calls_at_once_have_graphs_of_their_own(cache: Cache, capturing: Compiler) -> None:
    """A graph writes its rows where it wrote them before, and between two steps they are a call's own."""
    model, call = transformer(), {"gen_length": 6, "cache": cache, "stop_at_eos": False, "backend": "graph"}
    prompts, scheduler = [[1, 2], [3, 4]], Plain()

    def tokens(steps: Any) -> Any:
        return [step.tokens.tolist() for step in steps]

    alone = [tokens(decode(model, prompt, scheduler, **call)) for prompt in prompts for _ in range(3)][2::3]
    for _ in range(3):  # compiled, captured, replayed
        pairs = zip(*(decode(model, prompt, scheduler, **call) for prompt in prompts), strict=True)
        assert [list(one) for one in zip(*map(tokens, pairs), strict=True)] == alone
    made = len(execution._fixed[model].graphs)
    decode(model, [1, 2], scheduler, **call)  # one that is never begun takes no place
    assert tokens(decode(model, [1, 2], scheduler, **call)) == alone[0]
    assert len(execution._fixed[model].graphs) == made


def test_threads_that_compile_at_once_do_not_take_each_other_for_an_obstacle(compiler: Compiler) -> None:
    model, scheduler, start = transformer(), Plain(), Barrier(2)
    wanted, found = told(generate(model, [1, 2], scheduler, gen_length=8)), []

    def run() -> None:
        start.wait()
        found.append(told(generate(model, [1, 2], scheduler, gen_length=8, backend="compile")))

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 2 and not compiler.obstacles


@pytest.mark.parametrize("threaded", [False, True])
def test_what_others_compile_meanwhile_is_not_ones_own_preparation(compiler: Compiler, threaded: bool) -> None:
    model, scheduler, others = transformer(), Plain(), []
    generate(model, [1, 2], scheduler, gen_length=8, backend="compile")

    def other() -> None:
        others.append(generate(model, [1, 2], scheduler, gen_length=40, backend="compile"))

    def meanwhile(step: Any) -> None:
        thread = Thread(target=other)
        if threaded:
            thread.start()
            thread.join()
        else:
            other()

    found = generate(model, [1, 2], scheduler, gen_length=8, backend="compile", on_step=meanwhile)
    assert found.preparation == 0 < others[0].preparation


@pytest.mark.parametrize("backend", ["compile", "graph"])
def test_settings_of_torch_have_code_of_their_own(capturing: Compiler, backend: Any) -> None:
    """What was compiled or captured under autocast is not what runs without, and neither is an obstacle."""
    model = transformer()
    for times in (1, 2, 3):  # the second call shows whether it need be compiled again, and captures
        for setting in (nullcontext(), torch.device("cpu"), torch.autocast("cpu", torch.bfloat16)):
            with setting:
                generate(model, [1, 2], Plain(), gen_length=1, backend=backend)
        made = len(execution._fixed[model].graphs if backend == "graph" else capturing.made)
        assert made == 3 * (2 if backend == "graph" else 3) and not capturing.obstacles, times


def test_a_graph_keeps_its_scheduler_and_not_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is read at the address that was recorded, though nobody else has the scheduler any more."""
    monkeypatch.setattr(graphs, "_apart", nullcontext)
    monkeypatch.setattr(graphs, "_record", lambda run, pool: run() or (lambda: None))
    model, scheduler = transformer(), Tabled()
    function = partial(lambda model, rows: (rows[0] + 1,), model)
    graph = graphs.Captured(function, (torch.ones(3),), [], ("step", scheduler))
    alive = [weakref.ref(one) for one in (scheduler.threshold, model)]
    del function, model, scheduler
    gc.collect()
    assert [one() is None for one in alive] == [False, True]
    assert graph()[0].tolist() == [2.0] * 3


class Prints(Plain):
    def select(self, view, state):
        print("", end="")  # the line
        return super().select(view, state)


@dataclass(frozen=True)
class Counts(Plain):
    seen: list = field(default_factory=list)

    def select(self, view, state):
        self.seen.append(0)  # the line
        return Decision(top_k(view.open, view.confidence, 1 + 0 * len(self.seen))), state


class Uploads(Plain):
    """Sends a table to the device at every step."""

    def select(self, view, state):
        rarity = torch.tensor([0.1] * 14, device=view.open.device)  # the line
        return Decision(top_k(view.open, view.confidence + 0 * rarity[view.draft], 1)), state


OBSTACLES = [ReadsOnTheHost, ReadsInPlan, Gathers, Prints, Counts]


@pytest.mark.parametrize(
    ("strategy", "backend"),
    [
        (ReadsOnTheHost, "compile"),
        *(pytest.param(one, "compile", marks=pytest.mark.slow) for one in OBSTACLES[1:]),
        *(pytest.param(one, "graph", marks=pytest.mark.slow) for one in OBSTACLES),
    ],
)
def test_what_cannot_be_compiled_runs_as_it_is_with_one_warning(
    capturing: Compiler, backend: Any, strategy: type[Plain]
) -> None:
    model = transformer()
    wanted = answers(model, Plain(), DualCache())
    scheduler = strategy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [answers(model, scheduler, DualCache(), backend=backend) for _ in range(3)]
    assert all(told(one) == told(wanted) for one in found)
    (warning,) = [str(one.message) for one in caught if one.category is RuntimeWarning]
    assert "the decision of a step is not compiled but run as it is" in warning
    assert __file__ in warning and "test_execution.py" in warning
    assert len(set(capturing.obstacles.values())) == 1


@pytest.mark.parametrize("strategy", [Plain, *OBSTACLES, Uploads])
def test_the_kit_says_whether_a_strategy_compiles_and_where_not(strategy: type[Plain]) -> None:
    found = Report("", 0, [], strategy()).obstacle
    if strategy is Plain:
        assert found is None
        return
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = int(str(found).split(f"{__file__}:")[1].split(":")[0])
    assert "the line" in source[number - 1] and strategy.__name__ in "".join(source[number - 6 : number])


def test_a_graph_needs_a_gpu_and_a_backend_a_name() -> None:
    with pytest.raises(ConfigError, match="this model is on cpu: load it on a CUDA device, or take backend 'compile'"):
        answers(transformer(), Plain(), NoCache(), backend="graph")
    with pytest.raises(ConfigError, match="backend must be one of eager, compile, graph, got 'fast'"):
        answers(transformer(), Plain(), NoCache(), backend="fast")


def test_a_model_that_offers_nothing_to_compile_runs_as_it_is(compiler: Compiler) -> None:
    model = ToyModel(5).build()
    wanted = generate(model, [[1, 2], [3]], Plain(), gen_length=[9, 5])
    found = generate(model, [[1, 2], [3]], Plain(), gen_length=[9, 5], backend="compile")
    assert told(found) == told(wanted) and compiler.made and not compiler.obstacles


def test_models_of_equal_code_share_it_and_keep_their_weights(compiler: Compiler) -> None:
    one, other = (transformer().freeze() for _ in range(2))
    other.layers[0].mlp.up.weight.normal_(generator=torch.Generator().manual_seed(1))
    other.freeze()
    options = {"gen_length": 9, "cache": DualCache(), "stop_at_eos": False}
    wanted = [told(generate(model, [[1, 2]], Plain(), **options)) for model in (one, other)]
    assert wanted[0] != wanted[1]
    made = set()
    for model, tokens in zip((one, other), wanted, strict=True):
        assert told(generate(model, [[1, 2]], Plain(), **options, backend="compile")) == tokens
        made.add(len(compiler.made))
    assert not compiler.obstacles and len(made) == 1


def test_named_state_keeps_its_fields(compiler: Compiler) -> None:
    class Counted(NamedTuple):
        steps: Tensor  # int64 [B]
        blocks: Tensor  # int64 [B]

    class Counting(Plain):
        def init(self, tokens, open):
            return Counted(torch.zeros_like(tokens[:, 0]), torch.zeros_like(tokens[:, 0]))

        def plan(self, view, state):
            return Plain.plan(self, view, ())[0], state._replace(blocks=state.blocks + 1)

        def select(self, view, state):
            commit = top_k(view.open, view.confidence, 1 + (state.steps + state.blocks) % 3)
            return Decision(commit), state._replace(steps=state.steps + 1)

    wanted = answers(transformer(), Counting(), DualCache())
    assert told(answers(transformer(), Counting(), DualCache(), backend="compile")) == told(wanted)
    assert compiler.made and not compiler.obstacles


def test_an_error_of_the_strategy_stays_its_own(compiler: Compiler) -> None:
    @dataclass(frozen=True)
    class WrongDtype(Plain):
        def select(self, view, state):
            return Decision(view.open.long()), state

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SchedulerError, match=r"Decision.commit must be torch.bool"):
            answers(transformer(), WrongDtype(), NoCache(), backend="compile")


def test_sizes_come_in_a_few_buckets() -> None:
    run = execution.Compiling(transformer())
    assert [run.rows(n) for n in (0, 1, 2, 3, 5, 8, 9)] == [0, 1, 2, 4, 8, 8, 16]
    assert [run.lanes(n) for n in (1, 16, 17, 33, 65, 96, 97, 129, 200)] == [16, 16, 32, 64, 96, 96, 128, 192, 256]
    assert len({run.lanes(n) for n in range(1, 4097)}) == 15


def test_keys_are_hidden_only_where_lengths_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor | None] = []
    forward = Transformer.forward

    def watched(self: Transformer, *given: Any) -> Tensor:
        masks.append(given[3])
        return forward(self, *given)

    monkeypatch.setattr(Transformer, "forward", watched)
    for cache in (NoCache(), PrefixCache(), DualCache()):
        generate(transformer(), [[1, 2], [3, 4]], Plain(), gen_length=6, cache=cache, stop_at_eos=False)
    assert masks and all(mask is None for mask in masks)  # the fast kernels take no mask
    masks.clear()
    answers(transformer(), Plain(), DualCache())
    assert masks[0] is not None


@pytest.mark.slow
def test_nothing_is_compiled_twice_for_any_strategy_cache_or_prompt(compiler: Compiler) -> None:
    model, noise = transformer(), torch.Generator().manual_seed(0)
    caches: tuple[Cache, ...] = (NoCache(), PrefixCache(), DualCache())
    for i, name in enumerate(available("scheduler")):  # with one cache each: all of them take minutes
        for _ in range(2):
            lengths = torch.randint(1, 12, (3,), generator=noise).tolist()
            prompts = [torch.randint(13, (length,), generator=noise) for length in lengths]
            options: dict[str, Any] = {"gen_length": 20, "cache": caches[i % 3], "stop_at_eos": False}
            wanted = generate(model, prompts, load_scheduler(name), **options)
            found = generate(model, prompts, load_scheduler(name), **options, backend="compile")
            assert told(found) == told(wanted)
    assert not compiler.obstacles and all(made.graphs == 1 for made in compiler.made.values())


@pytest.mark.slow
def test_fifty_prompts_after_warm_up_compile_nothing(compiler: Compiler) -> None:
    model, noise, options = transformer(), torch.Generator().manual_seed(1), {"gen_length": 12, "backend": "compile"}
    scheduler, cache = load_scheduler("threshold:block=6,threshold=0.5"), DualCache()
    for _ in range(2):
        for _ in range(25):
            prompt = torch.randint(13, (int(torch.randint(1, 20, (1,), generator=noise)),), generator=noise)
            last = generate(model, prompt, scheduler, cache=cache, **options)
    assert last.preparation == 0


@pytest.mark.parametrize("place", ["layers.1", "layers.1.mlp.down"])
def test_what_is_hooked_on_a_model_is_done_under_every_backend(compiler: Compiler, place: str) -> None:
    model, options = transformer().freeze(), {"gen_length": 9, "stop_at_eos": False}
    plain = told(generate(model, [[1, 2]], Plain(), **options, backend="compile"))
    for factor in (-3, 0.1):
        hook = model.get_submodule(place).register_forward_hook(
            lambda module, given, found, by=factor: by * found.roll(1, -1)
        )
        wanted = told(generate(model.freeze(), [[1, 2]], Plain(), **options))
        with pytest.warns(RuntimeWarning, match="not compiled but run as it is: the model has hooks"):
            found = told(generate(model, [[1, 2]], Plain(), **options, backend="compile"))
        assert found == wanted != plain
        hook.remove()
    assert told(generate(model.freeze(), [[1, 2]], Plain(), **options, backend="compile")) == plain
    assert not compiler.obstacles


def test_graphs_refuse_a_model_with_hooks() -> None:
    for code, words in [((), ""), (None, "would pass over the hooks of this model")]:
        model: Any = SimpleNamespace(device=torch.device("cuda"), code=code)
        with pytest.raises(ConfigError, match=words) if words else nullcontext():
            execution.check_runs("graph", model)


def test_a_replaced_map_has_code_of_its_own_wherever_it_is(compiler: Compiler) -> None:
    for layer in (0, 1):
        model = transformer()
        model.layers[layer].mlp.down = torch.nn.Sequential(model.layers[layer].mlp.down)
        wanted = told(generate(model.freeze(), [[1, 2]], Plain(), gen_length=1))
        assert told(generate(model, [[1, 2]], Plain(), gen_length=1, backend="compile")) == wanted
    assert not compiler.obstacles


def test_one_row_that_refreshes_and_one_of_two_run_the_same_code(compiler: Compiler) -> None:
    """Their lanes are as many; they must lie in memory alike."""
    model, scheduler = transformer(), load_scheduler('sdar:block=8,steps=8,rule="sequential"')
    options: dict[str, Any] = {"cache": DualCache(), "backend": "compile", "stop_at_eos": False}
    generate(model, [[5] * 40], scheduler, gen_length=8, **options)
    generate(model, [[5] * 40, [5] * 43], scheduler, gen_length=16, **options)
    assert not compiler.obstacles and all(made.graphs == 1 for made in compiler.made.values())


@dataclass(frozen=True)
class Holds(Plain):
    """Revises, and stops at a step that depends on the row while it holds the block."""

    revises = True

    def plan(self, view, state):
        return view.open, state

    def select(self, view, state):
        last = view.gen_length % 7
        again = view.committed & (view.step > last)[:, None]
        return Decision(view.open, remask=again, hold=view.step >= 0, stop=view.step == last), state


@pytest.mark.parametrize("backend", ["compile", "graph"])
def test_a_row_that_stopped_while_it_held_its_block_is_done(capturing: Compiler, backend: Any) -> None:
    model, options = ToyModel(eos=False).build(), {"gen_length": [8, 9, 10, 5]}
    wanted = generate(model, [[1], [2], [3], [4]], Holds(), **options)
    assert told(generate(model, [[1], [2], [3], [4]], Holds(), **options, backend=backend)) == told(wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of inductor's own
@pytest.mark.parametrize(
    ("laid_out", "backend"),
    [("trained", "inductor"), ("frozen", "inductor"), ("packed", "inductor"), ("packed", "eager")],
)
def test_compiled_steps_write_the_same(laid_out: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "compiler", Compiler(backend))
    if laid_out == "packed":
        monkeypatch.setattr(products, "PACKED_ABOVE", 0)
    model, scheduler = transformer(), load_scheduler("threshold:block=6,threshold=0.6")
    model = model if laid_out == "trained" else model.freeze()
    wanted = answers(model, scheduler, DualCache())
    assert told(answers(model, scheduler, DualCache(), backend="compile")) == told(wanted)
    assert not execution.compiler.obstacles
    with torch.profiler.profile() as seen:
        answers(model, scheduler, DualCache(), backend="compile")
    called = {event.key for event in seen.key_averages()}
    # What inductor compiles calls oneDNN itself, without the operation that stands for it in the traced code.
    assert ("mkldnn::_linear_pointwise" in called) == (laid_out == "packed")
    assert ("dllm::packed_product" in called) == (backend == "eager")
