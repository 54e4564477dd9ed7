"""What gpu.sh runs: tests that need CUDA, `speed` for six models, `compare`; each a process of its own.

    python docs/benchmarks/gpu.py metadata FOLDER       lets an uninstalled checkout find its own plug-ins
    python docs/benchmarks/gpu.py run --budget 480      the cells, the important first

Each cell has a share of what is left of the budget; when it is used up the cell is interrupted, and `speed` then prints
what it has. results.json is written anew after every cell, log.txt holds what the cells said on stderr.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click

ROOT = Path(__file__).parents[2]
BENCH = ("-c", "from dllm_bench.cli import main; main()")
NEEDED = ("torch", "numpy", "safetensors", "tokenizers", "einops", "click", "hypothesis", "typing_extensions")
LAST_WORDS_S = 10  # for a cell that was interrupted to say what it has
START_S = 15  # for importing torch, loading a model and warming up the device, out of a cell's share


class Cell(NamedTuple):
    """One thing to run."""

    name: str
    share: float  # of the budget; what a cell leaves over goes to those after it
    arguments: tuple[str, ...]
    budgeted: bool = False  # takes --budget itself
    needs: str = ""  # a package without which it is left out


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Behind docs/benchmarks/gpu.sh."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def metadata(folder: Path) -> None:
    """Write to FOLDER what an installation would say of this checkout: its name, version and entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"dllm_sdk-{project['version']}.dist-info"
    info.mkdir(parents=True)
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    groups = project["entry-points"] | {"console_scripts": project["scripts"]}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@main.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--budget", default=480.0, show_default=True, help="Seconds in all.")
@click.option("--small", is_flag=True, help="Tiny shapes and few prompts: does the script itself work?")
@click.option("--cell", "names", multiple=True, help="Only this one of the cells; repeat it for several.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("gpu-results"), show_default=True)
def run(device: str, budget: float, small: bool, names: tuple[str, ...], output: Path) -> None:
    """Run the cells and keep what they find in the folder OUTPUT."""
    end = time.monotonic() + budget
    if not (small or device.startswith("cuda")):
        raise click.UsageError(f"--device {device} is for trying the script out: add --small, or take --device cuda")
    todo = list(cells(device, small=small))
    known = [cell.name for cell in todo]
    if unknown := sorted({*names} - {*known}):
        raise click.UsageError(f"there is no cell {unknown[0]!r}: --cell takes {', '.join(known)}")
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise click.ClickException(f"these packages are missing, install them first: {', '.join(absent)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"--output {output} cannot be written: {error.strerror}") from error
    found: dict[str, Any] = {"machine": machine(), "budget_s": budget, "device": device, "cells": []}
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        for result in results([cell for cell in todo if cell.name in (names or known)], end, log):
            found["cells"].append(result)
            found["seconds"] = round(budget - (end - time.monotonic()), 1)
            write(output / "results.json", found)
            click.echo(f"{result['name']}: {result['outcome']} after {result['seconds']:.0f} s")
    failed = [cell["name"] for cell in found["cells"] if cell["outcome"].startswith("failed")]
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed: see {output / 'log.txt'}")


def cells(device: str, *, small: bool) -> Iterator[Cell]:
    """What to run, the important first."""
    on_gpu = device.startswith("cuda")
    options = "-v --durations=20 -p no:cacheprovider -W default -m gpu"  # -v: what is interrupted says how far it came
    tests = ("-m", "pytest", *options.split(), str(ROOT / "tests" / "gpu"))
    yield Cell("tests", 60, tests, needs="pytest")
    sizes = ("--prompt-length", "16", "--gen-length", "32", "--rounds", "1") if small else ()
    every = ("eager", "compile", "graph") if on_gpu else ("eager",)  # what is compiled for one serves the other
    dtype = ("--dtype", "bfloat16") if on_gpu else ("--threads", "1")
    common = ("--device", device, *dtype, *sizes)

    def repeated(option: str, values: Iterable[str]) -> tuple[str, ...]:
        return tuple(item for value in values for item in (option, value))

    def speed(
        name: str,
        model: str,
        share: float,
        caches: str,
        batches: str,
        *others: str,
        backends: Sequence[str] = every,
        needs: str = "",
    ) -> Cell:
        model = f"{model.rpartition(':')[0]}:tiny" if small and ":" in model else model
        several = batches.split()[: 1 if small else None]
        given = ("speed", "--model", model, *common, *others, *repeated("--backend", backends))
        given = (*given, *repeated("--cache", caches.split()), *repeated("--batch-size", several))
        return Cell(
            f"speed-{name}", share, (*BENCH, *given, "--format", "json", "--traceback"), budgeted=True, needs=needs
        )

    forced = ("--rule", "forced")
    yield speed("3M", "random:3M", 70, "dual none", "1 8 64", *forced)
    yield speed("LLaDA-8B", "random:LLaDA-8B", 110, "dual", "1 8 64", *forced)
    yield speed("tiny-eager", "tiny", 30, "dual", "1 8 64", backends=every[:1])
    yield speed("tiny", "tiny", 80, "dual", "1 8")  # 20 functions to compile before its first adaptive rate
    yield speed("100M", "random:100M", 50, "dual none", "1 8 64", *forced)
    yield speed("30M", "random:30M", 40, "dual", "1 8 64", *forced)
    yield speed("1B", "random:1B", 50, "dual", "1 8 64", *forced)
    limit = "5" if small else "500"
    tiny = ("compare", "--limit", limit, "--batch-size", "64", "--device", device, "--format", "json", "--traceback")
    yield Cell("compare-tiny", 30, (*BENCH, *tiny))
    yield speed("LLaDA-8B-others", "random:LLaDA-8B", 60, "none prefix", "1", *forced)
    yield speed("3M-prefix", "random:3M", 30, "prefix", "1", *forced)
    yield speed("int8-LLaDA-8B", "int8:random:LLaDA-8B", 90, "dual", "1 8", *forced, needs="torchao")


def results(left: list[Cell], end: float, log: TextIO) -> Iterator[dict[str, Any]]:
    """One result per cell; nothing is begun after `end`, on the monotonic clock."""
    while left:
        cell, left = left[0], left[1:]
        shares = cell.share + sum(one.share for one in left if not missing(one))
        seconds = (end - time.monotonic() - LAST_WORDS_S) * cell.share / shares
        if missing(cell):
            yield {"name": cell.name, "outcome": f"left out, {cell.needs} is not installed", "seconds": 0.0}
        elif seconds < 1:
            yield {"name": cell.name, "outcome": "left out, the budget is used up", "seconds": 0.0}
        else:
            yield ran(cell, seconds, log)


def missing(cell: Cell) -> bool:
    """Whether the package is missing without which the cell is left out."""
    return bool(cell.needs) and find_spec(cell.needs) is None


def ran(cell: Cell, seconds: float, log: TextIO) -> dict[str, Any]:
    """Run a cell for at most so long."""
    budget = ("--budget", f"{max(seconds - START_S, seconds / 2):.1f}") if cell.budgeted else ()
    command = (sys.executable, "-u", *cell.arguments, *budget)  # what it has said outlasts a kill
    print(f"== {cell.name}", file=log, flush=True)
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT) as process:
        outcome = ""
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            outcome = "interrupted, its time was up"
            process.send_signal(signal.SIGINT)
            try:
                out, _ = process.communicate(timeout=LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
    if not outcome:
        outcome = "done" if process.returncode == 0 else f"failed with exit code {process.returncode}"
    took = round(time.monotonic() - start, 1)
    return {"name": cell.name, "outcome": outcome, "seconds": took, "command": list(command[1:]), "found": parsed(out)}


def parsed(text: str) -> Any:
    """JSON where it is JSON, else its lines."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.splitlines()


def machine() -> dict[str, Any]:
    """What is known of the machine without importing torch; the cells say the rest."""
    query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    found = shutil.which("nvidia-smi") and subprocess.run(command, capture_output=True, text=True, check=False).stdout
    gpus = found.splitlines() if found else []
    return {"gpus": gpus, "gpu_fields": query, "python": platform.python_version(), "cpus": os.cpu_count()}


def write(path: Path, found: Any) -> None:
    """Whole or not at all: a kill leaves the file of the cell before."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
