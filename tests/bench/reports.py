"""Comparisons for the tests of the report: made up, with names and texts that try to break out of the page."""

from __future__ import annotations

from dllm_bench import Comparison, Outcome
from dllm_bench.metrics import sum_up
from dllm_bench.results import Entrant, Recording, Snapshot

HOSTILE = (
    '</script><script>window.broken = "script"</script>',
    "<img src=x onerror=\"window.broken = 'img'\">",
    "\"'><svg onload=window.broken='svg'>&amp;&#60;",
    "two\nlines\tand \u202eright to left\u202c, שלום, 🙂🏳️‍🌈",
    "--></style><style>body { display: none }</style>",
)


def comparison(
    schedulers: tuple[str, ...] = ("one", "two", "three"),
    tasks: tuple[str, ...] = ("first", "second"),
    *,
    prompt: str = "1+1",
    scored: bool = True,
    n: int = 20,
) -> Comparison:
    """Scheduler i takes 1 + 39 // (i + 1) passes, in blocks of 8 and 4 + i, and is wrong on every (i + 2)th prompt."""
    entrants = [
        Entrant(name, "tests:Toy", {"block": 4 + i, "note": prompt}, "none", schedulers[0])
        for i, name in enumerate(schedulers)
    ]
    outcomes = [
        outcome(task, number, name, i, scored=scored)
        for task in tasks
        for number in range(n)
        for i, name in enumerate(schedulers)
    ]
    environment = {"model": "toy", "device": "cpu", "threads": 1, "batch_size": n, "seed": 0, "peak_rss_bytes": 2**20}
    prompts = {task: dict.fromkeys(range(n), prompt) for task in tasks}
    found = sum_up(entrants, outcomes, {**environment, "note": prompt}, [], prompts)
    recordings = [recording(task, name, i) for task in tasks for i, name in enumerate(schedulers[:12])]
    return Comparison(**{**vars(found), "recordings": recordings})


def outcome(task: str, number: int, scheduler: str, i: int, *, scored: bool = True) -> Outcome:
    right = (number + 1) % (i + 2) != 0 if scored else None
    return Outcome(
        task=task,
        prompt=number,
        scheduler=scheduler,
        cache="none",
        text="2",
        answer=right,
        strict=right,
        agreement=1 / (i + 1),
        nfe=1 + 39 // (i + 1),
        refreshes=0,
        fed=640,
        extra=0,
        generated=16,
        blocks=(8, 4 + i),
        seconds=(1 + number / 10) / (i + 1),
        batch=0,
        batch_lanes=700,
        batch_peak_bytes=None,
    )


def recording(task: str, scheduler: str, i: int) -> Recording:
    """Left to right, i + 1 positions per pass, sixteen in all; the last one behind EOS."""
    order = [1 + at // (i + 1) for at in range(15)]
    words = [HOSTILE[at % len(HOSTILE)] if at < 5 else "ab\n"[at % 3] for at in range(14)]
    return Recording(
        task=task,
        prompt=0,
        scheduler=scheduler,
        passes=order[-1],
        tokens=[*words, "", ""],
        order=[*order, 0],
        confidence=[0.9] * 15 + [0.0],
        block=[1] * 8 + [2] * 7 + [0],
        snapshots=(Snapshot(0.0, [0.99, 0.5, 0.05] * 5 + [0.5]), Snapshot(0.5, [None] * 7 + [0.4] * 9))
        if i == 0
        else (),
    )
