"""Tasks: seeded, split by hash, checked exactly; importable without torch."""

import hashlib
import json
import subprocess
import sys
from random import Random

import pytest

from dllm_reference_model import tasks
from dllm_reference_model.tasks import Task

LEVELS = [pytest.param(type(task)(level), id=f"{task.name}-{level}") for task in tasks.ALL for level in (1, 2, 3)]


def test_tasks_load_without_torch() -> None:
    code = "import sys, dllm_reference_model.tasks; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("task", LEVELS)
def test_own_answers_are_right_and_repeatable(task: Task) -> None:
    one, two = ([task.sample(rng) for _ in range(100)] for rng in (Random(5), Random(5)))
    assert one == two
    for prompt, answer in one:
        assert prompt.endswith("\n") and not answer.endswith("\n")
        assert task.check(prompt, answer) == task.check(prompt, answer + "\n") == (True, True)


@pytest.mark.parametrize("task", LEVELS)
def test_every_corrupted_line_is_caught(task: Task) -> None:
    rng = Random(6)
    for _ in range(30):
        prompt, answer = task.sample(rng)
        lines = answer.split("\n")
        for at, line in enumerate(lines):
            last = at == len(lines) - 1
            for wrong in (line + "0", line[:-1], line.replace(line[-1], "x")):
                score = task.check(prompt, "\n".join([*lines[:at], wrong, *lines[at + 1 :]]))
                assert not score.strict and score.answer != last
            without = task.check(prompt, "\n".join(lines[:at] + lines[at + 1 :]))
            assert not without.strict and without.answer != last
            twice = task.check(prompt, "\n".join(lines[: at + 1] + lines[at:]))
            assert not twice.strict and twice.answer
    assert task.check(prompt, "") == (False, False)


@pytest.mark.parametrize("task", tasks.ALL, ids=lambda task: task.name)
def test_no_training_sample_is_a_held_out_prompt(task: Task) -> None:
    held_out = {prompt for split in ("validation", "test") for prompt in task.prompts(split, 400, seed=0)}
    rng = Random(7)
    seen = [task.sample(rng, "train")[0] for _ in range(2000)]
    assert len(held_out) == 800 and held_out.isdisjoint(seen)
    assert {tasks.split_of(prompt) for prompt in seen} == {"train"}  # so no seed and no count can make them meet
    assert {tasks.split_of(prompt) for prompt in task.prompts("test", 50, seed=1)} == {"test"}


def test_the_split_is_about_eight_to_one_to_one() -> None:
    rng = Random(8)
    found = [tasks.split_of(tasks.sort.draw(rng)) for _ in range(4000)]
    assert [round(found.count(split) / 400) for split in tasks.SPLITS] == [8, 1, 1]


@pytest.mark.parametrize("task", tasks.ALL, ids=lambda task: task.name)
def test_prompts_are_seeded_and_different(task: Task) -> None:
    once = task.prompts("test", 100, seed=3)
    assert once == task.prompts("test", 100, seed=3) and len(set(once)) == 100
    assert once != task.prompts("test", 100, seed=4)
    assert once[:10] == task.prompts("test", 10, seed=3)


def test_a_seed_gives_the_same_prompts_in_every_version() -> None:
    """Else the results of two versions could not be compared, and published numbers would be about other prompts."""
    found = [type(task)(level).prompts("test", 30, seed=0) for task in tasks.ALL for level in (1, 2, 3)]
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] == "bcb64a9732d6c7d7"


def test_a_story_accepts_every_wording() -> None:
    prompt = "story:Ann has 12 pens. Ben gives Ann 5 pens. Ann gives Ben 3 pens. How many pens has Ann?\n"
    first, gain, loss, final = tasks.story.lines(prompt)
    assert (len(first), len(gain), len(loss)) == (3, 4, 4) and final == ("#### 14",)
    assert all("12+5=17" in wording for wording in gain) and all("17-3=14" in wording for wording in loss)
    for one in first:
        for two in gain:
            for three in loss:
                assert tasks.story.check(prompt, "\n".join((one, two, three, *final))).strict


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("expr:3+(9-4)*2\n", "=3+5*2\n=3+10\n=13\n#### 13"),
        ("sort:34,7,92\n", "7|34,92\n34|92\n92|\n#### 7,34,92"),
        ("trace:c=3;a=c+9;h=a;e=a-c+1\n", "c=3\na=3+9=12\nh=12\ne=12-3+1=9+1=10\n#### 10"),
        (
            "story:Ann has 12 pens. Ben gives Ann 5 pens. Ann gives Ben 3 pens. How many pens has Ann?\n",
            "12 pens.\nWith the 5 new pens it is 12+5=17 in all.\nWithout those 3 pens it is only 17-3=14.\n#### 14",
        ),
        ("record:age=31;time=12:40;job=cook;tags=red+blue|job,time\n", "{\njob=cook\ntime=12:40\n}\n#### cook,12:40"),
    ],
)
def test_worked_examples(prompt: str, answer: str) -> None:
    task = next(task for task in tasks.ALL if prompt.startswith(task.name))
    assert task.check(prompt, answer) == (True, True)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'dev'"):
        tasks.expr.prompts("dev", 3, 0)
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        tasks.expr.prompts("test", 0, 0)
    with pytest.raises(ValueError, match="level must be 1, 2 or 3, got 4"):
        tasks.Sort(4)
    for task in tasks.ALL:
        for foreign in ("", "hello\n", *(f"{task.name}:{what}\n" for what in ("", "a=b|c", "1. 2. ", "1-5+9"))):
            with pytest.raises(ValueError, match=f"not a prompt of the task {task.name}"):
                task.check(foreign, "#### 1")
