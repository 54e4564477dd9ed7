"""The prompts of a run and how answers to them are scored: from a registered task, an object, or a FILE.jsonl.

Everything is read and checked before anything runs. Knows no scheduler and no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dllm_bench.files import brief, json_object, read_text
from dllm_sdk.errors import ConfigError, DllmError
from dllm_sdk.registry import available, check_task, load_task

FILE_GEN_LENGTH = 64  # tokens to generate for the prompts of a file, unless the user says otherwise


class Verdict(NamedTuple):
    """How good one answer is; None where nobody knows the right one."""

    answer: bool | None
    strict: bool | None


class Draw(NamedTuple):
    """Which prompts a registered task is asked for: the arguments of its `prompts`."""

    split: str
    n: int
    seed: int


@dataclass(frozen=True)
class Questions:
    """One task's share of a run."""

    name: str
    gen_length: int  # positions to generate per prompt
    prompts: Sequence[str]
    score: Callable[[int, str], Verdict]  # number of the prompt, text
    notes: Sequence[str] = ()

    def where(self, number: int) -> str:
        """What an error calls a prompt."""
        return f"task {self.name}, prompt {number}"


def collect(
    tasks: Sequence[Any] | None, *, limit: int, seed: int, gen_length: int | None, split: str = "test"
) -> list[Questions]:
    """`limit` prompts in all, spread evenly over the tasks (None: all that are registered). Raises DllmError.

    `split` is the one that registered tasks are asked for; a file has no splits.
    """
    if tasks is not None and (isinstance(tasks, str) or not isinstance(tasks, Iterable)):
        raise ConfigError(f"tasks must be a list, got {tasks!r}: put it in brackets")
    given = list(available("task")) if tasks is None else list(tasks)
    if not given:
        raise ConfigError("there is no task to run: give a name (dllm-bench list) or FILE.jsonl")
    if limit < len(given):
        listed = ", ".join(map(str, given))
        raise ConfigError(f"limit must be >= {len(given)}, one prompt for each of the tasks {listed}, got {limit}")
    shares = [limit // len(given) + (i < limit % len(given)) for i in range(len(given))]
    found = [
        _from_file(Path(task), share, gen_length)
        if is_file(task)
        else _from_task(task, Draw(split, share, seed), gen_length)
        for task, share in zip(given, shares, strict=True)
    ]
    names = [questions.name for questions in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"task {name} is given {names.count(name)} times: give each once")
    return found


def is_file(task: Any) -> bool:
    """Whether a task is given as a file of prompts."""
    return isinstance(task, Path) or (isinstance(task, str) and task.endswith((".jsonl", ".json")))


def _from_task(task: Any, draw: Draw, gen_length: int | None) -> Questions:
    given = f"task {task!r}"
    found: Any = load_task(task) if isinstance(task, str) else task
    check_task(task, found)
    length = found.gen_length if gen_length is None else gen_length
    if not isinstance(length, int) or length < 1:
        raise ConfigError(f"{given}: gen_length must be a whole number >= 1, got {length!r}")
    prompts, notes = _first(draw.n, _prompts(given, found, draw), str(found.name))

    def score(number: int, text: str) -> Verdict:
        verdict = found.check(prompts[number], text)
        if not (hasattr(verdict, "answer") and hasattr(verdict, "strict")):
            raise ConfigError(f"{given}: check must return an object with answer and strict, got {verdict!r}")
        answer, strict = (None if one is None else bool(one) for one in (verdict.answer, verdict.strict))
        return Verdict(answer, strict)

    return Questions(str(found.name), length, prompts, score, notes)


def _prompts(given: str, task: Any, draw: Draw) -> Sequence[str]:
    """What a task answers, checked."""
    try:
        prompts = task.prompts(*draw)
    except DllmError:
        raise
    except ValueError as error:  # how a task says that it has fewer prompts, or none for this seed
        raise ConfigError(f"{given}: {error}") from error
    if not isinstance(prompts, list | tuple) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ConfigError(f"{given}: prompts must return a list of texts, got {type(prompts).__name__}")
    if not prompts:
        raise ConfigError(f"{given} is empty: prompts returned none")
    return prompts


def _from_file(path: Path, n: int, gen_length: int | None) -> Questions:
    """The first `n` prompts of a file: one JSON object per line, with `prompt` and, if known, `answer`."""
    # Not by `splitlines`: a text in JSON may hold other ends of lines.
    lines = [(number, line) for number, line in enumerate(read_text(path, "task file").split("\n"), 1) if line.strip()]
    if not lines:
        raise ConfigError(f'task file {path} is empty: give one {{"prompt": ..., "answer": ...}} per line')
    questions = [_question(f"{path}, line {number}", line) for number, line in lines]  # all, so that no bad line hides
    prompts, notes = _first(n, [prompt for prompt, _ in questions], str(path))

    def score(number: int, text: str) -> Verdict:
        answer = questions[number][1]
        right = None if answer is None else text.strip() == answer.strip()
        return Verdict(right, right)

    return Questions(str(path), FILE_GEN_LENGTH if gen_length is None else gen_length, prompts, score, notes)


def _first(n: int, prompts: Sequence[str], name: str) -> tuple[Sequence[str], list[str]]:
    """The first n prompts, all that there are if these are fewer, and a note if there are more."""
    more = [f"{name}: the first {n} of {len(prompts)} prompts (--limit)."] if n < len(prompts) else []
    return prompts[:n], more


def _question(where: str, line: str) -> tuple[str, str | None]:
    entry = json_object(where, line, '{"prompt": "..."}')
    if "prompt" not in entry:
        raise ConfigError(f"{where} has no prompt, only {', '.join(map(repr, entry)) or 'an empty object'}")
    prompt, answer = entry["prompt"], entry.get("answer")
    if not isinstance(prompt, str):
        raise ConfigError(f"{where}: prompt must be a text, got {brief(prompt)}")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = json.dumps(answer)  # 42 is as good an answer as "42"
    if answer is not None and not isinstance(answer, str):
        raise ConfigError(f"{where}: answer must be a text or a number, got {brief(answer)}")
    return prompt, answer
