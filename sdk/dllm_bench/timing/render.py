"""What a measurement of speed says, and its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dllm_bench.sheet import Sheet, Table, counted
from dllm_bench.timing.clocks import Spread
from dllm_bench.timing.results import DecisionCost, Race, Rate, Speed, StepCost


def sheet(speed: Speed) -> Sheet:
    """The tables that have rows."""
    found = (
        _races(speed.races),
        _steps(speed.steps, speed.environment),
        _rates(speed.rates),
        _decisions(speed.decisions),
    )
    return Sheet(title(speed), [one for one in found if one.rows], speed.notes)


def _races(races: Sequence[Race]) -> Table:
    titles = ("equal", "NFE", "ms / theirs", "CPU ms / theirs", "speed-up", "by CPU time", "prepare")
    rows = [
        (
            f"{one.cache}, {one.backend}",
            (
                f"{100 * one.equal:.0f} %",
                f"{one.nfe:.1f}" if one.nfe == one.research_nfe else f"{one.nfe:.1f} / {one.research_nfe:.1f}",
                f"{_ms(one.step_ms.median)} / {_ms(one.research_step_ms.median)}",
                f"{_ms(one.step_cpu_ms.median)} / {_ms(one.research_step_cpu_ms.median)}",
                _spread(one.speedup, "{:.2f}".format),
                _spread(one.cpu_speedup, "{:.2f}".format),
                f"{one.preparation_s:.1f}",
            ),
        )
        for one in races
    ]
    rule = races[0].rule if races else ""
    counts = sorted({one.speedup.n for one in races})
    prompts = " to ".join([*map(str, counts[:-1]), *(counted(n, "prompt") for n in counts[-1:])])
    legend = (
        f"{rule}; {prompts}, one at a time, both loops in turn. equal: prompts with the same tokens and NFE; "
        "ms: per forward pass, of the whole generation; speed-up: time of the research-style loop / ours, median over "
        "prompts [quartiles]; prepare: seconds of compiling and capturing, before."
    )
    return Table("cache, backend", titles, rows, name="Against a research-style loop", legend=legend)


def _steps(steps: Sequence[StepCost], about: Mapping[str, Any]) -> Table:
    on_gpu = str(about["device"]).startswith("cuda")
    started = "kernels" if on_gpu else "operations"
    titles = ("fed", "ms", "CPU ms", "forward", "decision", *(("busy",) if on_gpu else ()), started, "reads", "ceiling")
    rows = [
        (
            f"{one.kind}, {one.backend}, {one.batch_size}",
            (
                f"{one.fed:.0f}",
                _spread(one.ms),
                _ms(one.cpu_ms.median),
                _ms(one.forward_ms.median) if one.forward_ms else "-",
                _ms(one.decision_ms.median) if one.decision_ms else "-",
                *((_ms(one.busy_ms) if one.busy_ms else "-",) if on_gpu else ()),
                f"{one.kernels:.0f}" if one.kernels is not None else "-",
                f"{one.host_reads:.1f}" if one.host_reads is not None else "-",
                f"{100 * one.ceiling_share:.0f} % {one.bound}",
            ),
        )
        for one in steps
    ]
    busy = "busy: for how long something ran on the device; " if on_gpu else ""
    legend = (
        f"{about['steps']} steps per block of {about['block']}. fed: positions computed per row; ms: a whole step, "
        "median [quartiles] over generations; forward: the model's part, eagerly; decision: the step with a model that "
        f"costs nothing; {busy}{started} and host reads per step; ceiling: the least time for the products and "
        "attention at the rates above / the step."
    )
    return Table("step, backend, batch", titles, rows, name="Steps", legend=legend)


def _rates(rates: Sequence[Rate]) -> Table:
    rows = [
        (
            f"{one.work}, {one.cache}, {one.backend}, {one.batch_size}",
            (
                f"{one.nfe:.1f}",
                f"{one.tpf:.2f}",
                _spread(one.tokens_per_second, "{:,.0f}".format),
                f"{one.preparation_s:.1f}",
            ),
        )
        for one in rates
    ]
    legend = (
        "forced: a fixed number of passes on random ids, every token counted; adaptive: threshold decoding of the "
        "tasks' prompts up to EOS. NFE: forward passes per row; TPF: tokens per pass; prepare: seconds of compiling "
        "and capturing, before; 0 where that was done for a part above."
    )
    titles = ("NFE", "TPF", "tokens/s", "prepare")
    return Table("work, cache, backend, batch", titles, rows, name="Tokens per second", legend=legend)


def _decisions(decisions: Sequence[DecisionCost]) -> Table:
    rows = [
        (
            f"{one.scheduler}, {one.backend}, {one.batch_size}",
            (f"{one.nfe:.1f}", _spread(one.ms), _spread(one.cpu_ms)),
        )
        for one in decisions
    ]
    legend = (
        "A step with a model that costs nothing and gives random logits, without a cache, median [quartiles] over "
        "generations, all schedulers in turn: of a step of theirs, the part that is not the model's."
    )
    corner = "decisions of, backend, batch"
    return Table(corner, ("NFE", "ms", "CPU ms"), rows, name="Decisions", legend=legend)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _spread(value: Spread, show: Callable[[float], str] = _ms) -> str:
    return f"{show(value.median)} [{show(value.low)}, {show(value.high)}]"


def title(speed: Speed) -> str:
    """What ran on what, in a line."""
    about, found = speed.environment, speed.ceilings
    return (
        f"{about['model']}, {about['parameters'] / 1e6:,.1f}M parameters, {about['dtype']}; {about['device']} "
        f"({about['device_name']}), threads: {about['threads']}, torch {about['torch']}; "
        f"prompt {about['prompt_length']}, generated {about['gen_length']}; "
        f"copy {found.bytes_per_second / 1e9:,.1f} GB/s, matrix product {found.flops_per_second / 1e9:,.0f} GFLOP/s"
    )


def records(speed: Speed, *, flat: bool) -> list[dict[str, Any]]:
    """The measurements; `table` says of what kind each is. Flat: spreads as columns of their own."""
    kinds: dict[str, Sequence[Any]] = {
        "race": speed.races,
        "step": speed.steps,
        "rate": speed.rates,
        "decision": speed.decisions,
    }
    found = [{"table": kind} | asdict(one) for kind, rows in kinds.items() for one in rows]
    return [dict(_flat(one)) for one in found] if flat else found


def _flat(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Spreads as columns of their own, `ms_low` and so on."""
    return [
        (f"{name}_{part}" if part else name, cell)
        for name, value in record.items()
        for part, cell in (value.items() if isinstance(value, dict) else [("", value)])
    ]
